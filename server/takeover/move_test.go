//go:build unix

package takeover_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"registry/server/gc"
	"registry/server/registry"
	"registry/server/takeover"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// blobs are the digests that have a file in the directory.
func (s *storage) blobs() (list []digest.Digest) {
	s.t.Helper()
	files, err := os.ReadDir(s.path("blobs/sha256"))
	for _, shard := range files {
		hashes, bad := os.ReadDir(s.path("blobs/sha256", shard.Name()))
		if err = bad; err != nil {
			break
		}
		for _, hash := range hashes {
			if d := digest.NewDigestFromEncoded(digest.SHA256, hash.Name()); has(s, d) {
				list = append(list, d)
			}
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

func has(s *storage, d digest.Digest) bool {
	_, err := os.Stat(s.path(dataOf(d)))
	return err == nil
}

// has says whether the directory has the bytes of a blob, or the registry has under any name.
func (r *target) has(s *storage, d digest.Digest) bool {
	r.t.Helper()
	if has(s, d) {
		return true
	}
	repos, _, err := r.Repositories(r.t.Context(), registry.Page{Limit: 1000})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, repo := range repos {
		name := registry.RepoName(repo)
		if r.read(name, d) == nil {
			return true
		}
		if _, err := r.Manifest(r.t.Context(), name, registry.Reference{Digest: d}); err == nil {
			return true
		}
	}
	return false
}

// What cannot be taken keeps everything it has left in the directory, and nothing is lost when what was moved is collected.
func TestMoveLosesNothing(t *testing.T) {
	schema1 := func(s *storage, repo string) {
		layer := s.layer(repo, "layer of an image of schema 1")
		s.raw(repo, "old", `{"schemaVersion":1,"name":"x","fsLayers":[{"blobSum":"`+string(layer.Digest)+`"}]}`, digest.SHA256)
	}
	remove := func(s *storage, d digest.Digest) {
		if err := os.Remove(s.path(dataOf(d))); err != nil {
			s.t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(*storage){
		"schema 1":                   func(s *storage) { schema1(s, "odd") },
		"schema 1 beside a good one": func(s *storage) { schema1(s, "app") },
		"schema 1 without layer links": func(s *storage) {
			schema1(s, "odd")
			if err := os.RemoveAll(s.path("repositories/odd/_layers")); err != nil {
				s.t.Fatal(err)
			}
			s.layer("app", "layer of an image of schema 1")
		},
		"one of two layers missing": func(s *storage) {
			s.image("half", "v1", "half")
			remove(s, digest.FromString("layer of half"))
		},
		"index without a child": func(s *storage) {
			child := s.image("multi", "", "child")
			s.index("multi", "v1", child, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1})
		},
		"bad name":              func(s *storage) { s.image("BAD", "v1", "bad") },
		"layer without image":   func(s *storage) { s.layer("loose", "layer that no manifest needs") },
		"folder that is a file": func(s *storage) { s.image("odd", "v1", "odd"); s.write("x", "repositories/odd/inner/_layers/sha256") },
	} {
		t.Run(name, func(t *testing.T) {
			s, r := newStorage(t), newTarget(t, registry.SparseNone)
			want := s.fill()
			damage(s)
			before := s.blobs()
			report, _ := r.take(s, takeover.Options{Move: true})
			if _, err := gc.Collect(t.Context(), r.Registry, gc.Options{Force: true}); err != nil {
				t.Fatal(err)
			}
			for _, d := range before {
				if !r.has(s, d) {
					t.Errorf("%s is nowhere", d)
				}
			}
			images := r.images()
			maps.DeleteFunc(images, func(name string, _ digest.Digest) bool { return want[name] == "" })
			if d := cmp.Diff(want, images); d != "" {
				t.Error(d)
			}
			if report.Findings > 0 && report.Kept == 0 && report.Removed > 0 {
				t.Errorf("%+v", report)
			}
		})
	}
}

// What everything was taken of goes, also if something else in the directory could not be.
func TestMoveRemovesWhatWasTaken(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseNone)
	s.fill()
	s.raw("odd", "old", `{"schemaVersion":1,"name":"x"}`, digest.SHA256)
	report, found := r.take(s, takeover.Options{Move: true})
	if !slices.Equal(found, []string{"manifest odd", "tag odd:old"}) || report.Removed == 0 {
		t.Errorf("%+v %v", report, found)
	}
	if has(s, digest.FromString("layer of base")) {
		t.Error("a layer that was taken is still there")
	}
}

// A link in the directory is no right to content of this registry: only bytes are.
func TestPrivateStaysPrivate(t *testing.T) {
	const secret = "secret layer"
	d := digest.FromString(secret)
	link := func(s *storage) { s.link(d, "repositories/evil/_layers/sha256", d.Encoded()) }
	image := func(s *storage) { // which needs it, without a link
		m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: s.layer("evil", "{}"), Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: d, Size: int64(len(secret))}}}
		m.SchemaVersion = 2
		s.manifest("evil", "v1", m)
	}
	for name, test := range map[string]struct {
		repo  registry.RepoName // that has the blob here
		opt   takeover.Options
		make  func(*storage)
		found []string
	}{
		"link":                    {"team/private", takeover.Options{}, link, []string{"blob evil"}},
		"link, copy":              {"team/private", takeover.Options{Copy: true}, link, []string{"blob evil"}},
		"manifest":                {"team/private", takeover.Options{}, image, []string{"blob evil", "manifest evil", "tag evil:v1"}},
		"other bytes":             {"team/private", takeover.Options{}, func(s *storage) { link(s); s.write("secret_layer", dataOf(d)) }, []string{"blob evil"}},
		"its bytes":               {"team/private", takeover.Options{}, func(s *storage) { s.layer("evil", secret) }, nil},
		"its bytes, of another's": {"team/private", takeover.Options{}, func(s *storage) { s.layer("a", secret); link(s) }, nil},
		"the same repository":     {"evil", takeover.Options{}, image, nil},
		"public":                  {"public", takeover.Options{}, image, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := newStorage(t), newTarget(t, registry.SparseNone)
			if err := r.put(test.repo, secret); err != nil {
				t.Fatal(err)
			}
			if test.repo == "public" {
				if err := r.SetPublic(t.Context(), test.repo, true); err != nil {
					t.Fatal(err)
				}
			}
			s.write("", "repositories/evil/_uploads/x")
			test.make(s)
			for _, dry := range []bool{true, false} {
				opt := test.opt
				opt.DryRun = dry
				if _, found := r.take(s, opt); !slices.Equal(found, test.found) {
					t.Errorf("dry run %v: %q, want %q", dry, found, test.found)
				}
			}
			if has := r.read("evil", d) == nil; has != (test.found == nil) {
				t.Errorf("evil has the private layer: %v", has)
			}
		})
	}
}

func (r *target) put(repo registry.RepoName, content string) error {
	return r.PutBlob(r.t.Context(), repo, digest.FromString(content), registry.Chunk{Body: strings.NewReader(content), Start: -1, Length: -1})
}
