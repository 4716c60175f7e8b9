package blobs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"registry/blobs"
	"registry/blobs/blobtest"

	"github.com/opencontainers/go-digest"
)

func TestDir(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blobs.Store { return openDir(t) })
}

// A Faulty store that has nothing to fail is a store like any other.
func TestFaultyWithoutFault(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blobs.Store { return &blobtest.Faulty{Store: openDir(t)} })
}

func TestModes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "new", "blobs")
	d, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	publishOne(t, d)
	err = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		want := os.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestForeignFilesAreNobodysBusiness(t *testing.T) {
	root := filepath.Join(t.TempDir(), "blobs")
	d, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := publishOne(t, d)
	shard := filepath.Join(root, "sha256", name.Digest.Encoded()[:2])
	for _, path := range []string{"README", "sha256/lost+found/x", "uploads/check-1", shard[len(root)+1:] + "/.hidden", shard[len(root)+1:] + "/" + name.Digest.Encoded()} {
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	if err := d.Names(t.Context(), "", func(blobs.Name, blobs.Info) error { n++; return nil }); n != 1 || err != nil {
		t.Error(n, err)
	}
	if err := d.Staged(t.Context(), func(id string, _ blobs.Info) error { return errors.New(id) }); err != nil {
		t.Error(err)
	}
}

// A store is the same by whatever path it was opened.
func TestIdentityOfPaths(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "blobs")
	d, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(top, "link")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	other, err := blobs.OpenExisting(link)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := blobs.Same(d, other); !same || err != nil {
		t.Error(same, err)
	}
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if _, err := blobs.Same(d, other); !errors.Is(err, blobs.ErrNotFound) {
		t.Errorf("stores that are gone were compared: %v", err)
	}
}

func publishOne(t testing.TB, d *blobs.Dir) blobs.Name {
	t.Helper()
	name := blobs.Name{Digest: digest.FromString("content"), Generation: strings.Repeat("5", 32)}
	stage, err := d.Stage(t.Context(), name.Generation, 0)
	if err == nil {
		_, err = stage.Write([]byte("content"))
		err = errors.Join(err, stage.Close())
	}
	if err == nil {
		_, err = d.Commit(t.Context(), name.Generation, name, 7)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

const traced = "BLOBS_TRACED_ROOT"

// TestSystemCalls traces one commit and compares the system calls with the order that makes it durable: the way to the
// file, the name, the bytes with it, and the directory where those did not bring it. Without any one of them, or in another order, a power cut
// at the wrong moment leaves an acknowledged blob without its bytes.
func TestSystemCalls(t *testing.T) {
	if root := os.Getenv(traced); root != "" {
		d, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		publishOne(t, d)
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	root := filepath.Join(t.TempDir(), "new", "blobs")
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(strace, "-f", "-y", "-o", log, "-e", "trace=mkdirat,mkdir,fsync,fdatasync,rename,renameat,renameat2,write",
		os.Args[0], "-test.run=^TestSystemCalls$")
	cmd.Env = append(os.Environ(), traced+"="+root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("strace cannot trace here: %v %s", err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	got := calls(string(text), filepath.Dir(filepath.Dir(root)))
	want := strings.Join([]string{
		"mkdir new", "fsync .", "mkdir new/blobs", "fsync new", "mkdir new/blobs/uploads", "fsync new/blobs",
		"write new/blobs/uploads/ID",
		"mkdir new/blobs/sha256", "fsync new/blobs", "mkdir new/blobs/sha256/SHARD", "fsync new/blobs/sha256",
		"rename new/blobs/sha256/SHARD/FILE", "fsync new/blobs/sha256/SHARD/FILE",
	}, "\n")
	if onlyFile, err := blobs.SyncsName(root); err != nil {
		t.Fatal(err)
	} else if !onlyFile {
		want += "\nfsync new/blobs/sha256/SHARD"
	}
	if got != want {
		t.Errorf("system calls:\n%s\n\nwant:\n%s", got, want)
	}
}

var (
	callLine = regexp.MustCompile(`(?m)^\d+ +(\w+)\((.*)\) += 0$|^\d+ +(write)\(\d+<([^>]*)>.* = \d+$`)
	quoted   = regexp.MustCompile(`"([^"]*)"|<([^>]*)>`)
	hash     = regexp.MustCompile(`[0-9a-f]{64}\.[0-9a-f]{32}`)
	uploadID = regexp.MustCompile(`[0-9a-f]{32}`)
	shard    = regexp.MustCompile(`sha256/[0-9a-f]{2}`)
)

// whole joins the two lines of each call that another thread's call or a signal came into.
func whole(trace string) string {
	begun := map[string]string{} // by thread
	var lines []string
	for line := range strings.Lines(trace) {
		line = strings.TrimSuffix(line, "\n")
		thread, _, _ := strings.Cut(line, " ")
		if call, cut := strings.CutSuffix(line, " <unfinished ...>"); cut {
			begun[thread] = call
			continue
		}
		if _, rest, ok := strings.Cut(line, " resumed>"); ok && begun[thread] != "" {
			line = begun[thread] + rest
			delete(begun, thread)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// calls reduces a trace to the successful calls below dir, with the last path of each: of a rename, its target.
func calls(trace, dir string) string {
	var list []string
	for _, m := range callLine.FindAllStringSubmatch(whole(trace), -1) {
		call, path := m[1], ""
		if m[3] != "" {
			call, path = m[3], m[4]
		}
		for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
			if p := q[1] + q[2]; strings.HasPrefix(p, dir) {
				path = p
			}
		}
		rel, ok := strings.CutPrefix(path, dir)
		if !ok {
			continue
		}
		rel = strings.TrimPrefix(rel, "/")
		if rel == "" {
			rel = "."
		}
		rel = hash.ReplaceAllString(rel, "FILE")
		rel = uploadID.ReplaceAllString(rel, "ID")
		rel = shard.ReplaceAllString(rel, "sha256/SHARD")
		list = append(list, strings.TrimRight(strings.TrimSuffix(call, "at"), "2")+" "+rel)
	}
	list = slices.Compact(list) // all shards are made at once
	return strings.ReplaceAll(strings.Join(list, "\n"), "renameat ", "rename ")
}

// TestLostWriteBack has the kernel report, while a large blob comes in, that it could not write a page. It reports that
// once: a writer that did not listen would be told later that everything is on the disk.
func TestLostWriteBack(t *testing.T) {
	if root := os.Getenv(traced); root != "" {
		d, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stage, err := d.Stage(t.Context(), strings.Repeat("5", 32), 0)
		for range 32 {
			if err == nil {
				_, err = stage.Write(make([]byte, 1<<20))
			}
		}
		if !errors.Is(err, blobs.ErrLost) || !errors.Is(err, blobs.ErrFull) {
			t.Error("the loss was not reported:", err)
		}
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	root := filepath.Join(t.TempDir(), "blobs")
	cmd := exec.Command(strace, "-f", "-o", "/dev/null", "-e", "trace=sync_file_range", "-e", "inject=sync_file_range:error=ENOSPC",
		os.Args[0], "-test.run=^TestLostWriteBack$")
	cmd.Env = append(os.Environ(), traced+"="+root)
	if out, err := cmd.CombinedOutput(); err != nil && strings.Contains(string(out), "FAIL") {
		t.Errorf("%s", out)
	} else if err != nil {
		t.Skipf("strace cannot trace here: %v %s", err, out)
	}
}
