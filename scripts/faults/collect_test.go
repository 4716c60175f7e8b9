//go:build linux

package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// On a disk without a free byte things can be deleted, and the collector makes room: beside a server, and alone. Nothing
// else would.
func TestCollectionOnAFullDisk(t *testing.T) {
	needsMounts(t)
	for name, disk := range map[string]func(*testing.T) string{
		"tmpfs": func(t *testing.T) string { return tmpfs(t, 30*mib, 0) },
		"ext4":  func(t *testing.T) string { return ext4(t, filepath.Join(t.TempDir(), "image"), 40*mib) },
	} {
		for _, alone := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", alone ", alone), func(t *testing.T) {
				t.Parallel()
				dir := disk(t)
				s := &server{t: t, db: filepath.Join(dir, "reg.db"), blobs: filepath.Join(dir, "blobs")}
				s.startOnce()
				kept, deleted := &pusher{server: s, book: &book{}, repo: "a"}, &pusher{server: s, book: &book{}, repo: "a"}
				var images []image
				for i := range 60 {
					p := []*pusher{kept, deleted}[i%2]
					images = append(images, randomImage(fmt.Sprint("t", i), 100_000))
					if err := p.pushAlone(images[i]); err != nil {
						t.Fatal(err)
					}
				}
				remove := func() {
					t.Helper()
					for n, i := range images {
						if n%2 == 0 {
							continue
						}
						if err := deleted.remove(deleted.digestPath(manifest(i.config, i.layer)), deleted.manifestPath(i.tag)); err != nil {
							t.Fatal("a full disk keeps what is deleted:", err)
						}
					}
				}
				f := filler{dir}
				if alone {
					remove()
				}
				f.takeRest(t)
				if err := deleted.pushAlone(randomImage("more", 100_000)); !isRefusal(err) {
					t.Fatal("the disk is not full:", err)
				}
				if alone {
					s.end(os.Interrupt)
					f.takeRest(t)
				} else {
					remove()
				}
				if report := collect(t, s); report.Blobs != 60 {
					t.Errorf("%+v", report)
				}
				if alone {
					s.start()
				}
				s.check(kept.book, "after the collection")
				if err := kept.pushAlone(randomImage("more", 100_000)); err != nil {
					t.Error("there is room again:", err)
				}
			})
		}
	}
}

// pushAlone pushes an image without mounting anything elsewhere.
func (p *pusher) pushAlone(i image) error {
	for _, content := range []string{i.layer, i.config} {
		if err := p.single(content); err != nil {
			return err
		}
	}
	return p.tag(i.tag, manifest(i.config, i.layer))
}

type collection struct{ Blobs, Bytes int64 }

func collect(t *testing.T, s *server) (c collection) {
	t.Helper()
	cmd := exec.Command(binary, "gc", "--db", s.db, "--blobs", s.blobs, "--grace", "0", "--force", "--untagged-after", "0", "--json")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &c)
	}
	if err != nil {
		t.Fatal("the collector failed:", err)
	}
	return c
}
