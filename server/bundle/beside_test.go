package bundle_test

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"sync"
	"testing"

	"registry/server/bundle"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// onFirstWrite calls do before the first byte.
type onFirstWrite struct {
	io.Writer
	do sync.Once
	fn func()
}

func (w *onFirstWrite) Write(p []byte) (int, error) {
	w.do.Do(w.fn)
	return w.Writer.Write(p)
}

// A bundle has the images that were there when they were planned, whatever goes before that and after it.
func TestExportBesideDeletions(t *testing.T) {
	here := newSite(t)
	gone := here.image("app", "gone", nil, "one")
	signature := here.image("app", "", &gone, "signature of gone")
	moved := here.image("app", "moved", nil, "two")
	kept := here.index("app", "kept", here.image("app", "", nil, "three"), here.image("app", "", nil, "four"))
	remove := func(list ...digest.Digest) {
		for _, d := range list {
			if err := here.DeleteManifest(t.Context(), "app", d); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := must[[]bundle.Image](t)(collect(here.all()))
	var now digest.Digest
	images := func(yield func(bundle.Image, error) bool) {
		remove(gone.Digest, moved.Digest) // after the tags were listed
		now = here.image("app", "moved", nil, "five").Digest
		for _, image := range list {
			if !yield(image, nil) {
				return
			}
		}
	}
	var out bytes.Buffer
	to := &onFirstWrite{Writer: &out, fn: func() { remove(kept.Digest, now) }} // after all was planned
	report, err := bundle.Export(t.Context(), here.Registry, images, bundle.ExportOptions{}, to)
	if err != nil || report.Tags != 2 || report.Manifests != 4 {
		t.Fatalf("%+v, %v", report, err)
	}
	there := newSite(t)
	must[bundle.ImportReport](t)(there.importBytes(out.Bytes(), bundle.ImportOptions{}))
	for tag, want := range map[registry.Tag]digest.Digest{"kept": kept.Digest, "moved": now} {
		m, err := there.StatManifest(t.Context(), "app", registry.Reference{Tag: tag})
		if err != nil || m.Digest != want {
			t.Errorf("%s: %s, %v; want %s", tag, m.Digest, err, want)
		}
	}
	if _, err := there.StatManifest(t.Context(), "app", registry.Reference{Digest: signature.Digest}); !registry.ManifestUnknown.Is(err) {
		t.Errorf("the signature of what is gone: %v", err)
	}
}

func collect(images iter.Seq2[bundle.Image, error]) (list []bundle.Image, err error) {
	for image, err := range images {
		if err != nil {
			return nil, err
		}
		list = append(list, image)
	}
	return list, nil
}

// Every bundle that is made beside pushes, moves and deletions can be imported.
func TestExportBesidePushes(t *testing.T) {
	here := newSite(t)
	here.image("app", "stays", nil, "stays")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			child := here.image("app", "", nil, fmt.Sprint("layer ", i))
			index := here.index("app", "moves", child)
			signature := here.image("app", "", &index, fmt.Sprint("signature ", i))
			for _, d := range []digest.Digest{signature.Digest, index.Digest, child.Digest}[:i%4] {
				if err := here.DeleteManifest(t.Context(), "app", d); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	for range 30 {
		content := here.export(bundle.ExportOptions{})
		must[bundle.ImportReport](t)(newSite(t).importBytes(content, bundle.ImportOptions{DryRun: true}))
	}
	close(stop)
	<-done
}
