package bundle_test

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry/server/bundle"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// What real tools write: names that mean nothing, what is there twice, links within.
func TestOddArchives(t *testing.T) {
	single := newSite(t)
	image := single.image("team/app", "v1", nil, "layer")
	plain := slices.DeleteFunc(entries(t, single.export(bundle.ExportOptions{})), func(e entry) bool { return e.Name == "bundle.json" })
	hex := digest.FromString("layer").Encoded()
	isLayer := func(e entry) bool { return e.Name == "blobs/sha256/"+hex }
	link := func(kind byte, name, target string) entry {
		return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target}, ""}
	}
	with := func(more ...entry) []byte { return join(t, append(slices.Clone(plain), more...)) }
	linked := func(kind byte, target string) []byte {
		list := slices.DeleteFunc(slices.Clone(plain), isLayer)
		return join(t, append(list, file(hex+".tar", "layer"), link(kind, "blobs/sha256/"+hex, target)))
	}
	mark := slices.Clone(plain)
	for i := range mark {
		if mark[i].Name == "index.json" {
			mark[i].text = "\ufeff" + mark[i].text
		}
	}
	for name, content := range map[string][]byte{
		"files that mean nothing": with(file("README.md", "x"), file("etc/passwd", "x"), link(tar.TypeSymlink, "latest", "index.json"), file("a b", "x")),
		"of macOS":                with(file("._index.json", "x"), file("blobs/sha256/._"+hex, "x"), file(".DS_Store", "x")),
		"a blob twice":            with(plain[slices.IndexFunc(plain, isLayer)]),
		"everything twice":        with(plain...),
		"blob is a hard link":     linked(tar.TypeLink, hex+".tar"),
		"blob is a symbolic link": linked(tar.TypeSymlink, "../../"+hex+".tar"),
		"byte order mark":         join(t, mark),
		"of git archive":          join(t, append([]entry{{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}, ""}}, plain...)),
	} {
		there := newSite(t)
		if _, err := there.importBytes(content, bundle.ImportOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m, err := there.Manifest(t.Context(), "team/app", registry.Reference{Tag: "v1"}); err != nil || m.Digest != image.Digest {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		if _, err := there.StatBlob(t.Context(), "team/app", digest.FromString("layer")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A layout in a directory may have its blobs in a store beside it, and nowhere else.
func TestLinkedLayouts(t *testing.T) {
	single := newSite(t)
	single.image("team/app", "v1", nil, "layer")
	plain := slices.DeleteFunc(entries(t, single.export(bundle.ExportOptions{})), func(e entry) bool { return e.Name == "bundle.json" })
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		link  func(base, blob string) string // what a blob of the layout in base is; "" for a file
		taken bool
	}{
		"inside":   {func(base, blob string) string { write(base+"/layout/pool/"+blob, ""); return "../../pool/" + blob }, true},
		"beside":   {func(base, blob string) string { write(base+"/pool/"+blob, ""); return "../../../pool/" + blob }, true},
		"absolute": {func(base, blob string) string { write(base+"/pool/"+blob, ""); return base + "/pool/" + blob }, false},
		"further out": {func(base, blob string) string {
			write(filepath.Dir(base)+"/pool/"+blob, "")
			return "../../../../pool/" + blob
		}, false},
		"system's files": {func(string, string) string { return "/etc/hostname" }, false},
		"dangling":       {func(string, string) string { return "nothing" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			base := filepath.Join(t.TempDir(), "base")
			for _, e := range plain {
				blob, isBlob := strings.CutPrefix(e.Name, "blobs/sha256/")
				if !isBlob {
					write(base+"/layout/"+e.Name, e.text)
					continue
				}
				at := base + "/layout/blobs/sha256/" + blob
				target := test.link(base, blob)
				if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(target, at)); err != nil {
					t.Fatal(err)
				}
				for _, pool := range []string{base + "/layout/pool/", base + "/pool/", filepath.Dir(base) + "/pool/"} {
					if _, err := os.Stat(pool + blob); err == nil {
						write(pool+blob, e.text)
					}
				}
			}
			there := newSite(t)
			_, err := bundle.Import(t.Context(), there.Registry, []string{base + "/layout"}, bundle.ImportOptions{})
			if taken := err == nil; taken != test.taken || err != nil && !errors.Is(err, bundle.ErrInvalid) {
				t.Errorf("%v", err)
			}
		})
	}
}
