// Package blobtest is what every blobs.Store passes, and a store that fails on demand.
package blobtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"registry/blobs"

	"github.com/opencontainers/go-digest"
)

// Run tests the contract of blobs.Store on stores that open returns, each new and empty.
func Run(t *testing.T, open func(t *testing.T) blobs.Store) {
	for name, test := range map[string]func(*testing.T, *suite){
		"round trip": roundTrip, "cut back": cutBack, "missing": missing, "name used": nameUsed, "wrong size": wrongSize, "generations": generations,
		"open file outlives removal": outlive, "many at once": many, "listings": listings, "journal": journal, "hostile names": hostile, "check": check,
		"reading what is staged": readStaged,
		"adopt":                  adopt,
	} {
		t.Run(name, func(t *testing.T) { test(t, &suite{t, open(t)}) })
	}
	t.Run("identity", func(t *testing.T) { identities(t, open(t), open(t)) })
}

// wrapped is a store behind another one.
type wrapped struct{ blobs.Store }

func identities(t *testing.T, one, other blobs.Store) {
	for _, c := range []struct {
		a, b blobs.Store
		want bool
	}{{one, one, true}, {one, wrapped{one}, true}, {wrapped{wrapped{one}}, one, true}, {one, other, false}, {wrapped{one}, wrapped{other}, false}} {
		if same, err := blobs.Same(c.a, c.b); same != c.want || err != nil {
			t.Errorf("%T and %T: %v, %v", c.a, c.b, same, err)
		}
	}
	if id, err := one.Identity(); id == "" || err != nil {
		t.Errorf("%q, %v", id, err)
	}
}

type suite struct {
	t *testing.T
	blobs.Store
}

func id(n int) string { return fmt.Sprintf("%032x", n) }

func (s *suite) stage(id string, offset int64, content string) {
	s.t.Helper()
	w, err := s.Stage(s.t.Context(), id, offset)
	if err == nil {
		_, err = io.WriteString(w, content)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) commit(id string, content string, algs ...digest.Algorithm) blobs.Name {
	s.t.Helper()
	alg := append(algs, digest.Canonical)[0]
	name := blobs.Name{Digest: alg.FromString(content), Generation: id}
	stamp, err := s.Commit(s.t.Context(), id, name, int64(len(content)))
	if err != nil {
		s.t.Fatal(err)
	}
	if info, err := s.Stat(s.t.Context(), name); err != nil || info.Stamp != stamp || stamp == 0 || info.Size != int64(len(content)) {
		s.t.Errorf("stat says %+v, %v, commit said stamp %d", info, err, stamp)
	}
	return name
}

func (s *suite) want(name blobs.Name, content string) {
	s.t.Helper()
	f, info, err := s.Open(s.t.Context(), name)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer f.Close()
	if stat, err := s.Stat(s.t.Context(), name); err != nil || stat != info {
		s.t.Errorf("open says %+v, stat %+v, %v", info, stat, err)
	}
	if got, err := io.ReadAll(f); string(got) != content || err != nil {
		s.t.Errorf("%.40q, %v, want %.40q", got, err, content)
	}
}

func (s *suite) wantNotFound(err error) {
	s.t.Helper()
	if !errors.Is(err, blobs.ErrNotFound) {
		s.t.Errorf("%v, want ErrNotFound", err)
	}
}

func roundTrip(t *testing.T, s *suite) {
	for n, content := range []string{"", "x", strings.Repeat("0123456789", 1_000_000)} {
		for m, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			s.stage(id(10*n+m), 0, content)
			s.want(s.commit(id(10*n+m), content, alg), content)
		}
	}
}

func cutBack(t *testing.T, s *suite) {
	s.stage(id(1), 0, "hello, unrecorded")
	s.stage(id(1), 5, " world")
	s.want(s.commit(id(1), "hello world"), "hello world")
	s.stage(id(2), 0, "all of it")
	s.stage(id(2), 0, "")
	s.want(s.commit(id(2), ""), "")
}

// readStaged is for stores that can do that.
func readStaged(t *testing.T, s *suite) {
	store, ok := s.Store.(blobs.StagedReader)
	if !ok {
		t.Skip("not a StagedReader")
	}
	_, err := store.OpenStaged(t.Context(), id(1))
	s.wantNotFound(err)
	s.stage(id(1), 0, "hello")
	f, err := store.OpenStaged(t.Context(), id(1))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := func(content string) {
		t.Helper()
		got := make([]byte, len(content))
		if _, err := f.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) || string(got) != content {
			t.Errorf("%q, %v, want %q", got, err, content)
		}
	}
	want("hello")
	s.stage(id(1), 5, " world")
	want("hello world")
	s.commit(id(1), "hello world")
	want("hello world")
}

func missing(t *testing.T, s *suite) {
	_, err := s.Stage(t.Context(), id(1), 1)
	s.wantNotFound(err)
	s.stage(id(2), 0, "abc")
	_, err = s.Stage(t.Context(), id(2), 4)
	s.wantNotFound(err)
	name := blobs.Name{Digest: digest.FromString("x"), Generation: id(3)}
	_, err = s.Commit(t.Context(), id(3), name, 1)
	s.wantNotFound(err)
	_, _, err = s.Open(t.Context(), name)
	s.wantNotFound(err)
	_, err = s.Stat(t.Context(), name)
	s.wantNotFound(err)
	if err := errors.Join(s.Remove(t.Context(), name), s.Discard(t.Context(), id(3)), s.Discard(t.Context(), id(2)), s.Discard(t.Context(), id(2))); err != nil {
		t.Error(err)
	}
	_, err = s.Stage(t.Context(), id(2), 3)
	s.wantNotFound(err)
}

func nameUsed(t *testing.T, s *suite) {
	s.stage(id(1), 0, "first")
	name := s.commit(id(1), "first")
	s.stage(id(1), 0, "other")
	if _, err := s.Commit(t.Context(), id(1), name, 5); !errors.Is(err, blobs.ErrExists) {
		t.Errorf("%v, want ErrExists", err)
	}
	s.want(name, "first")
}

func wrongSize(t *testing.T, s *suite) {
	s.stage(id(1), 0, "content")
	name := blobs.Name{Digest: digest.FromString("content"), Generation: id(1)}
	if _, err := s.Commit(t.Context(), id(1), name, 8); err == nil {
		t.Error("8 of 7 bytes were committed")
	}
	_, _, err := s.Open(t.Context(), name)
	s.wantNotFound(err)
	s.stage(id(2), 0, "content, unrecorded")
	s.want(s.commit(id(2), "content"), "content")
}

func generations(t *testing.T, s *suite) {
	s.stage(id(1), 0, "same")
	s.stage(id(2), 0, "same")
	one, two := s.commit(id(1), "same"), s.commit(id(2), "same")
	if err := s.Remove(t.Context(), one); err != nil {
		t.Error(err)
	}
	_, _, err := s.Open(t.Context(), one)
	s.wantNotFound(err)
	s.want(two, "same")
}

func outlive(t *testing.T, s *suite) {
	s.stage(id(1), 0, "still here")
	name := s.commit(id(1), "still here")
	f, _, err := s.Open(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(f); string(got) != "still here" {
		t.Error(string(got), err)
	}
}

func many(t *testing.T, s *suite) {
	var wg sync.WaitGroup
	for n := range 64 {
		wg.Go(func() {
			content := fmt.Sprint("content ", n%8)
			w, err := s.Stage(t.Context(), id(n), 0)
			if err == nil {
				_, err = io.WriteString(w, content)
				err = errors.Join(err, w.Close())
			}
			if err == nil {
				_, err = s.Commit(t.Context(), id(n), blobs.Name{Digest: digest.FromString(content), Generation: id(n)}, int64(len(content)))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for n := range 64 {
		content := fmt.Sprint("content ", n%8)
		s.want(blobs.Name{Digest: digest.FromString(content), Generation: id(n)}, content)
	}
}

func listings(t *testing.T, s *suite) {
	want := map[blobs.Name]int64{}
	for n := range 30 {
		content := strings.Repeat("x", n)
		s.stage(id(n), 0, content)
		want[s.commit(id(n), content)] = int64(n)
	}
	s.stage(id(100), 0, "abc")
	var order []digest.Digest
	err := s.Names(t.Context(), "", func(name blobs.Name, info blobs.Info) error {
		if size, ok := want[name]; !ok || size != info.Size || info.Changed.IsZero() || info.Stamp == 0 {
			t.Errorf("%v %+v", name, info)
		}
		delete(want, name)
		order = append(order, name.Digest)
		return nil
	})
	if err != nil || len(want) != 0 {
		t.Errorf("%d names were not listed, %v", len(want), err)
	}
	if !slices.IsSortedFunc(order, func(a, b digest.Digest) int { return strings.Compare(a.String()[:9], b.String()[:9]) }) {
		t.Error("names come in another order:", order)
	}
	left := order[10:]
	err = s.Names(t.Context(), order[10], func(name blobs.Name, _ blobs.Info) error {
		left = slices.DeleteFunc(slices.Clone(left), func(d digest.Digest) bool { return d == name.Digest })
		if name.Digest.String()[:9] < order[10].String()[:9] {
			t.Error(name, "comes before", order[10])
		}
		return nil
	})
	if err != nil || len(left) != 0 {
		t.Error("not listed:", left, err)
	}
	staged := 0
	err = s.Staged(t.Context(), func(got string, info blobs.Info) error {
		if staged++; got != id(100) || info.Size != 3 {
			t.Errorf("%s %+v", got, info)
		}
		return nil
	})
	if err != nil || staged != 1 {
		t.Errorf("%d staged, %v", staged, err)
	}
	stop := errors.New("stop")
	if err := s.Names(t.Context(), "", func(blobs.Name, blobs.Info) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Names(ctx, "", func(blobs.Name, blobs.Info) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// hostile names must be errors: where names become paths, anything else writes where it likes.
func hostile(t *testing.T, s *suite) {
	good := digest.FromString("x")
	for _, bad := range []string{"", ".", "..", "../x", "..%2Fx", "/etc/passwd", strings.Repeat("a", 31), strings.Repeat("a", 33),
		strings.Repeat("A", 32), strings.Repeat("a", 31) + "/", strings.Repeat("a", 31) + "\x00", "../" + strings.Repeat("a", 29)} {
		if w, err := s.Stage(t.Context(), bad, 0); err == nil {
			w.Close()
			t.Errorf("staged %q", bad)
		}
		if err := s.Discard(t.Context(), bad); err == nil {
			t.Errorf("discarded %q", bad)
		}
		if err := s.Remove(t.Context(), blobs.Name{Digest: good, Generation: bad}); err == nil {
			t.Errorf("removed generation %q", bad)
		}
		if f, _, err := s.Open(t.Context(), blobs.Name{Digest: good, Generation: bad}); err == nil {
			f.Close()
			t.Errorf("opened generation %q", bad)
		}
	}
	for _, bad := range []digest.Digest{"", "sha256:", "sha256:../../x", "md5:d41d8cd98f00b204e9800998ecf8427e", digest.Digest(strings.ToUpper(good.String())), good + "\n"} {
		s.stage(id(1), 0, "x")
		if _, err := s.Commit(t.Context(), id(1), blobs.Name{Digest: bad, Generation: id(1)}, 1); err == nil {
			t.Errorf("committed digest %q", bad)
		}
		if _, _, err := s.Open(t.Context(), blobs.Name{Digest: bad, Generation: id(1)}); err == nil {
			t.Errorf("opened digest %q", bad)
		}
	}
}

func adopt(t *testing.T, s *suite) {
	adopter, ok := s.Store.(blobs.Adopter)
	if !ok {
		t.Skip("no blobs.Adopter")
	}
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(path string) *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	name := blobs.Name{Digest: digest.FromString("theirs"), Generation: id(1)}
	info, err := adopter.Adopt(t.Context(), open(path), name)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("the store is on another file system")
	}
	if stat, statErr := s.Stat(t.Context(), name); err != nil || statErr != nil || stat != info || info.Size != 6 || info.Stamp == 0 {
		t.Errorf("adopt says %+v, %v, stat %+v, %v", info, err, stat, statErr)
	}
	s.want(name, "theirs")
	if _, err := adopter.Adopt(t.Context(), open(path), name); !errors.Is(err, blobs.ErrExists) {
		t.Errorf("%v, want ErrExists", err)
	}
	if err := s.Remove(t.Context(), name); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); string(got) != "theirs" {
		t.Errorf("the file of the others is %q, %v", got, err)
	}
	// What is under the name by now is not what the caller opened.
	opened := open(path)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("others"), 0o600)); err != nil {
		t.Fatal(err)
	}
	name.Generation = id(2)
	if _, err := adopter.Adopt(t.Context(), opened, name); err == nil {
		t.Error("adopted a file that is not the one that was opened")
	}
	link := path + "-link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := adopter.Adopt(t.Context(), open(link), name); err == nil {
		t.Error("adopted a symbolic link")
	}
	_, err = s.Stat(t.Context(), name)
	s.wantNotFound(err)
	if _, err := adopter.Adopt(t.Context(), open(path), blobs.Name{Digest: name.Digest, Generation: "../x"}); err == nil {
		t.Error("adopted under a bad name")
	}
}

func check(t *testing.T, s *suite) {
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Staged(t.Context(), func(id string, _ blobs.Info) error { return fmt.Errorf("%s was left", id) }); err != nil {
		t.Error(err)
	}
}

func journal(t *testing.T, s *suite) {
	_, err := s.OpenJournal(t.Context())
	s.wantNotFound(err)
	want := func(want string) {
		t.Helper()
		r, err := s.OpenJournal(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); string(got) != want || err != nil {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	appendLines := func(size int64, lines string, wanted error) {
		t.Helper()
		if err := s.AppendJournal(t.Context(), size, []byte(lines)); !errors.Is(err, wanted) {
			t.Errorf("%v, want %v", err, wanted)
		}
	}
	appendLines(0, "one\n", blobs.ErrChanged)
	if err := s.ReplaceJournal(t.Context(), func(w io.Writer) error { _, err := io.WriteString(w, "one\n"); return err }); err != nil {
		t.Error(err)
	}
	appendLines(4, "two\n", nil)
	appendLines(4, "three\n", blobs.ErrChanged)
	want("one\ntwo\n")
	broken := errors.New("broken")
	err = s.ReplaceJournal(t.Context(), func(w io.Writer) error { _, err := io.WriteString(w, "half"); return errors.Join(err, broken) })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	want("one\ntwo\n")
	if err := s.ReplaceJournal(t.Context(), func(w io.Writer) error { _, err := io.WriteString(w, "new\n"); return err }); err != nil {
		t.Error(err)
	}
	appendLines(4, "four\n", nil)
	want("new\nfour\n")
	if err := s.Staged(t.Context(), func(id string, _ blobs.Info) error { return errors.New(id) }); err != nil {
		t.Error("left behind:", err)
	}
}
