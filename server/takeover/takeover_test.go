//go:build unix

package takeover_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server/check"
	"registry/server/registry"
	"registry/server/takeover"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// storage is a directory as distribution writes it.
type storage struct {
	t   *testing.T
	dir string // with docker in it
}

func newStorage(t *testing.T) *storage { return &storage{t, t.TempDir()} }

func (s *storage) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir, "docker/registry/v2"}, parts...)...)
}

func (s *storage) write(content string, parts ...string) {
	s.t.Helper()
	path := s.path(parts...)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

func dataOf(d digest.Digest) string {
	return filepath.Join("blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

func (s *storage) link(d digest.Digest, folder ...string) {
	s.write(d.String(), append(folder, "link")...)
}

func (s *storage) layer(repo, content string) v1.Descriptor {
	d := digest.FromString(content)
	s.write(content, dataOf(d))
	s.link(d, "repositories", repo, "_layers", d.Algorithm().String(), d.Encoded())
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(content))}
}

func (s *storage) manifest(repo, tag string, manifest any) v1.Descriptor {
	s.t.Helper()
	content, err := json.Marshal(manifest)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.raw(repo, tag, string(content), digest.SHA256)
}

func (s *storage) raw(repo, tag, content string, algorithm digest.Algorithm) v1.Descriptor {
	d := algorithm.FromString(content)
	s.write(content, dataOf(d))
	s.link(d, "repositories", repo, "_manifests/revisions", d.Algorithm().String(), d.Encoded())
	if tag != "" {
		s.link(d, "repositories", repo, "_manifests/tags", tag, "current")
		s.link(d, "repositories", repo, "_manifests/tags", tag, "index", d.Algorithm().String(), d.Encoded())
	}
	return v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: d, Size: int64(len(content))}
}

// image is one with a config, a layer of its own and one that all images share.
func (s *storage) image(repo, tag, name string, change ...func(*v1.Manifest)) v1.Descriptor {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: s.layer(repo, `{"name":"`+name+`"}`)}
	m.SchemaVersion = 2
	m.Layers = []v1.Descriptor{s.layer(repo, "layer of "+name), s.layer(repo, "shared")}
	for _, c := range change {
		c(&m)
	}
	return s.manifest(repo, tag, m)
}

func (s *storage) index(repo, tag string, children ...v1.Descriptor) v1.Descriptor {
	i := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: children}
	i.SchemaVersion = 2
	return s.manifest(repo, tag, i)
}

// fill makes images of every kind, which all have to arrive.
func (s *storage) fill() map[string]digest.Digest {
	amd, arm := s.image("team/multi", "", "amd"), s.image("team/multi", "", "arm")
	base := s.image("app", "v1", "base")
	s.image("app", "", "signature", func(m *v1.Manifest) { m.Subject = &base; m.ArtifactType = "application/x-signature" })
	untyped := func(m *v1.Manifest) { m.MediaType = "" }
	outside := v1.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: digest.FromString("elsewhere"), Size: 9}
	s.write("stays", "repositories/app/_uploads/0b6c/data")
	return map[string]digest.Digest{
		"app:v1":          base.Digest,
		"app/inner:v1":    s.image("app/inner", "v1", "inner").Digest,
		"team/multi:v1":   s.index("team/multi", "v1", s.index("team/multi", "", amd), arm).Digest,
		"untyped:v1":      s.image("untyped", "v1", "untyped", untyped).Digest,
		"long:v1":         s.raw("long", "v1", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`, digest.SHA512).Digest,
		"foreign:v1":      s.image("foreign", "v1", "foreign", func(m *v1.Manifest) { m.Layers = append(m.Layers, outside) }).Digest,
		"a/b/c/d/e/f:1.0": s.image("a/b/c/d/e/f", "1.0", "deep").Digest,
	}
}

type target struct {
	*registry.Registry
	t *testing.T
}

func newTarget(t *testing.T, sparse registry.Sparse) *target {
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &target{registry.New(registry.Config{DB: dbtest.Open(t), Blobs: store, Sparse: sparse}), t}
}

// take runs a take-over and returns what it found, each as "kind repository:tag".
func (r *target) take(s *storage, opt takeover.Options) (takeover.Report, []string) {
	r.t.Helper()
	var found []string
	opt.Dir, opt.Found = s.dir, func(f takeover.Finding) {
		found = append(found, strings.TrimRight(f.Kind+" "+f.Repository+":"+f.Tag, ":"))
	}
	report, err := takeover.Run(r.t.Context(), r.Registry, opt)
	if err != nil {
		r.t.Fatal(err)
	}
	if int(report.Findings) != len(found) {
		r.t.Errorf("%d findings are counted, %d came", report.Findings, len(found))
	}
	slices.Sort(found)
	return report, slices.Compact(found)
}

// images pulls every tagged image whole and returns them.
func (r *target) images() map[string]digest.Digest {
	r.t.Helper()
	all := map[string]digest.Digest{}
	repos, _, err := r.Repositories(r.t.Context(), registry.Page{Limit: 1000})
	for _, repo := range repos {
		var tags []string
		if err == nil {
			tags, _, err = r.Tags(r.t.Context(), registry.RepoName(repo), registry.Page{Limit: 1000})
		}
		for _, tag := range tags {
			m, pullErr := r.pull(registry.RepoName(repo), registry.Reference{Tag: registry.Tag(tag)})
			if pullErr != nil {
				r.t.Errorf("%s:%s: %v", repo, tag, pullErr)
			}
			all[repo+":"+tag] = m
		}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func (r *target) pull(repo registry.RepoName, ref registry.Reference) (digest.Digest, error) {
	m, err := r.Manifest(r.t.Context(), repo, ref)
	if err != nil {
		return "", err
	}
	var doc struct {
		Config            *v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if err := json.Unmarshal(m.Content, &doc); err != nil {
		return "", err
	}
	for _, child := range doc.Manifests {
		if _, err := r.pull(repo, registry.Reference{Digest: child.Digest}); err != nil {
			return "", err
		}
	}
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	for _, layer := range doc.Layers {
		if strings.Contains(layer.MediaType, "foreign") {
			continue
		}
		if err := r.read(repo, layer.Digest); err != nil {
			return "", fmt.Errorf("%s: %w", layer.Digest, err)
		}
	}
	return m.Digest, nil
}

func (r *target) read(repo registry.RepoName, d digest.Digest) error {
	b, err := r.Blob(r.t.Context(), repo, d)
	if err != nil {
		return err
	}
	defer b.Close()
	v := d.Verifier()
	if _, err := io.Copy(v, b); err != nil {
		return err
	}
	if !v.Verified() {
		return errors.New("wrong bytes")
	}
	return nil
}

// tree is everything in the directory: names, modes, times and contents.
func (s *storage) tree() map[string]string {
	all := map[string]string{}
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		info, statErr := e.Info()
		if err = errors.Join(err, statErr); err == nil {
			all[path[len(s.dir):]] = fmt.Sprintf("%v %v %x", info.Mode(), info.ModTime().UnixNano(), sha256.Sum256(content))
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func TestEverythingArrives(t *testing.T) {
	for name, opt := range map[string]takeover.Options{"link": {}, "copy": {Copy: true}, "read": {ReadData: true}} {
		t.Run(name, func(t *testing.T) {
			s, r := newStorage(t), newTarget(t, registry.SparseNone)
			want := s.fill()
			before := s.tree()
			dry := opt
			dry.DryRun = true
			dryReport, found := r.take(s, dry)
			if len(found) != 0 || len(r.images()) != 0 {
				t.Error("a dry run found", found, "and took", r.images())
			}
			report, found := r.take(s, opt)
			if len(found) != 0 {
				t.Error(found)
			}
			if report.Tags != dryReport.Tags || report.Manifests != dryReport.Manifests || report.Repositories != dryReport.Repositories {
				t.Errorf("took %+v, the dry run said %+v", report, dryReport)
			}
			if d := cmp.Diff(want, r.images()); d != "" {
				t.Error(d)
			}
			list, err := r.Referrers(t.Context(), "app", want["app:v1"], "", registry.Page{Limit: 10})
			if err != nil || len(list.Descriptors) != 1 {
				t.Errorf("referrers: %+v, %v", list, err)
			}
			again, found := r.take(s, opt)
			if again.Blobs != 0 || again.Manifests > 0 || again.Before != report.Manifests || len(found) != 0 {
				t.Errorf("the second run took %+v, %v", again, found)
			}
			if d := cmp.Diff(before, s.tree()); d != "" {
				t.Error("the directory is not as it was:", d)
			}
			if report, err := check.Run(t.Context(), r.Registry, check.Options{ReadData: true}); err != nil || report.Findings > 0 {
				t.Errorf("check: %+v, %v", report, err)
			}
		})
	}
}

func TestFolders(t *testing.T) {
	s := newStorage(t)
	want := s.fill()
	for _, folder := range []string{"", "docker", "docker/registry", "docker/registry/v2"} {
		r := newTarget(t, registry.SparseNone)
		r.take(&storage{t, filepath.Join(s.dir, folder)}, takeover.Options{})
		if folder != "docker" && len(r.images()) != len(want) {
			t.Errorf("%q: %v", folder, r.images())
		}
	}
	_, err := takeover.Run(t.Context(), nil, takeover.Options{Dir: t.TempDir()})
	if !errors.Is(err, takeover.ErrNoLayout) {
		t.Error(err)
	}
}

func TestMove(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseNone)
	want := s.fill()
	s.write("unreferenced", dataOf(digest.FromString("unreferenced")))
	report, found := r.take(s, takeover.Options{Move: true})
	if len(found) != 0 || report.Removed == 0 {
		t.Errorf("%+v %v", report, found)
	}
	// Its manifests stay: their bytes are in the database.
	for path := range s.tree() {
		if strings.Contains(path, "_layers") || strings.Contains(path, "_manifests") {
			t.Error("left:", path)
		}
	}
	if _, err := os.Stat(s.path(dataOf(digest.FromString("unreferenced")))); err != nil {
		t.Error("what was not taken was removed:", err)
	}
	if d := cmp.Diff(want, r.images()); d != "" {
		t.Error(d)
	}
}

// A run that is ended at any moment leaves whole images, and the next one brings the rest.
func TestResume(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseNone)
	want := s.fill()
	for steps := range 12 {
		ctx, cancel := context.WithCancel(t.Context())
		opt := takeover.Options{Dir: s.dir, Progress: func(takeover.Report) {
			if steps--; steps < 0 {
				cancel()
			}
		}}
		takeover.Run(ctx, r.Registry, opt)
		cancel()
		r.images()
	}
	r.take(s, takeover.Options{})
	if d := cmp.Diff(want, r.images()); d != "" {
		t.Error(d)
	}
}

func TestDamage(t *testing.T) {
	layer := digest.FromString("layer of base")
	replace := func(content string, parts ...string) func(*storage, digest.Digest) {
		return func(s *storage, _ digest.Digest) { s.write(content, parts...) }
	}
	remove := func(parts ...string) func(*storage, digest.Digest) {
		return func(s *storage, _ digest.Digest) {
			if err := os.Remove(s.path(parts...)); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	layerLink := "repositories/app/_layers/sha256/" + layer.Encoded() + "/link"
	tagLink := "repositories/app/_manifests/tags/v1/current/link"
	revision := func(d digest.Digest) string {
		return "repositories/app/_manifests/revisions/sha256/" + d.Encoded() + "/link"
	}
	lost := []string{"blob app", "manifest app", "tag app:v1"}
	for name, test := range map[string]struct {
		opt    takeover.Options
		damage func(s *storage, base digest.Digest)
		want   []string
		kept   bool // app:v1 is taken all the same, and can be pulled
	}{
		"layer missing":         {takeover.Options{}, remove(dataOf(layer)), lost, false},
		"layer empty":           {takeover.Options{}, replace("", dataOf(layer)), lost, false},
		"layer cut":             {takeover.Options{}, replace("layer", dataOf(layer)), lost, false},
		"layer longer":          {takeover.Options{}, replace("layer of base and more", dataOf(layer)), lost, false},
		"layer flipped, read":   {takeover.Options{ReadData: true}, replace("layer of bbse", dataOf(layer)), lost, false},
		"layer flipped, copied": {takeover.Options{Copy: true}, replace("layer of bbse", dataOf(layer)), lost, false},
		"layer link empty":      {takeover.Options{}, replace("", layerLink), []string{"link app"}, true},
		"layer link wrong":      {takeover.Options{}, replace(digest.FromString("x").String(), layerLink), []string{"link app"}, true},
		"layer link missing":    {takeover.Options{}, remove(layerLink), nil, true},
		"tag empty":             {takeover.Options{}, replace("", tagLink), []string{"link app:v1"}, false},
		"tag is garbage":        {takeover.Options{}, replace("sha256:../../etc", tagLink), []string{"link app:v1"}, false},
		"tag to nowhere":        {takeover.Options{}, replace(digest.FromString("x").String(), tagLink), []string{"tag app:v1"}, false},
		"tag missing":           {takeover.Options{}, remove(tagLink), nil, false},
		"revision link empty":   {takeover.Options{}, func(s *storage, d digest.Digest) { s.write("", revision(d)) }, []string{"link app"}, true},
		"revision deleted":      {takeover.Options{}, func(s *storage, d digest.Digest) { remove(revision(d))(s, d) }, []string{"tag app:v1"}, false},
		"manifest missing":      {takeover.Options{}, func(s *storage, d digest.Digest) { remove(dataOf(d))(s, d) }, []string{"manifest app", "tag app:v1"}, false},
		"manifest changed":      {takeover.Options{}, func(s *storage, d digest.Digest) { s.write("{}", dataOf(d)) }, []string{"manifest app", "tag app:v1"}, false},
		"manifest is huge": {takeover.Options{}, func(s *storage, d digest.Digest) { s.write(strings.Repeat(" ", 5<<20), dataOf(d)) },
			[]string{"manifest app", "tag app:v1"}, false},
		"manifest is a pipe": {takeover.Options{}, func(s *storage, d digest.Digest) {
			remove(dataOf(d))(s, d)
			if err := syscall.Mkfifo(s.path(dataOf(d)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"manifest app", "tag app:v1"}, false},
		"schema 1": {takeover.Options{}, func(s *storage, _ digest.Digest) {
			s.raw("app", "old", `{"schemaVersion":1,"name":"x"}`, digest.SHA256)
		},
			[]string{"manifest app", "tag app:old"}, true},
		"size is a lie": {takeover.Options{}, func(s *storage, _ digest.Digest) {
			s.image("untyped", "v1", "untyped", func(m *v1.Manifest) { m.MediaType = ""; m.Layers[0].Size++ })
		}, nil, true},
		"child missing": {takeover.Options{}, func(s *storage, _ digest.Digest) {
			s.index("app", "multi", v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1})
		}, []string{"manifest app", "tag app:multi"}, true},
		"bad repository name": {takeover.Options{}, func(s *storage, _ digest.Digest) { s.image("BAD", "v1", "bad") }, []string{"name BAD"}, true},
		"bad tag":             {takeover.Options{}, func(s *storage, _ digest.Digest) { s.image("app", "a b", "bad") }, []string{"name app:a b"}, true},
		"bad digest":          {takeover.Options{}, replace("x", "repositories/app/_layers/sha256/zz/link"), []string{"link app"}, true},
		"link out of it": {takeover.Options{}, func(s *storage, _ digest.Digest) {
			other := newStorage(s.t)
			other.image("x", "v1", "outside")
			if err := os.Symlink(other.path("repositories/x"), s.path("repositories/evil")); err != nil {
				s.t.Fatal(err)
			}
		}, []string{"folder evil"}, true},
		"data links out of it": {takeover.Options{}, func(s *storage, _ digest.Digest) {
			outside := filepath.Join(s.t.TempDir(), "data")
			if err := errors.Join(os.WriteFile(outside, []byte("layer of base"), 0o600), os.Remove(s.path(dataOf(layer))), os.Symlink(outside, s.path(dataOf(layer)))); err != nil {
				s.t.Fatal(err)
			}
		}, lost, false},
		"manifests folder is a file": {takeover.Options{}, replace("x", "repositories/odd/_manifests"), []string{"folder odd"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, r := newStorage(t), newTarget(t, registry.SparseNone)
			want := s.fill()
			test.damage(s, want["app:v1"])
			dry := test.opt
			dry.DryRun = true
			_, before := r.take(s, dry)
			report, found := r.take(s, test.opt)
			if d := cmp.Diff(test.want, found); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(found, before); d != "" {
				t.Error("the dry run found something else:", d)
			}
			if !test.kept {
				delete(want, "app:v1")
			}
			if name == "size is a lie" {
				want["untyped:v1"] = r.images()["untyped:v1"]
			}
			if d := cmp.Diff(want, r.images()); d != "" {
				t.Error(d)
			}
			again, _ := r.take(s, test.opt)
			if again.Manifests > 0 || again.Findings != report.Findings {
				t.Errorf("the second run took %+v, the first %+v", again, report)
			}
		})
	}
}

// Bytes that were flipped and not read when they were taken are found by the first pull, which does not get them.
func TestFlippedIsNotServed(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseNone)
	want := s.fill()
	s.write("layer of bbse", dataOf(digest.FromString("layer of base")))
	r.take(s, takeover.Options{})
	if _, err := r.pull("app", registry.Reference{Tag: "v1"}); !registry.BlobUnknown.Is(err) {
		t.Error(err)
	}
	// The healed directory heals the registry.
	s.write("layer of base", dataOf(digest.FromString("layer of base")))
	r.take(s, takeover.Options{})
	if d := cmp.Diff(want, r.images()); d != "" {
		t.Error(d)
	}
}

func TestSparse(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseAll)
	s.fill()
	if err := os.Remove(s.path(dataOf(digest.FromString("layer of base")))); err != nil {
		t.Fatal(err)
	}
	report, found := r.take(s, takeover.Options{Sparse: registry.SparseAll})
	if d := cmp.Diff([]string{"blob app"}, found); d != "" || report.Tags != 7 {
		t.Error(d, report)
	}
	// The layer comes later.
	s.layer("app", "layer of base")
	if _, found := r.take(s, takeover.Options{Sparse: registry.SparseAll}); len(found) != 0 {
		t.Error(found)
	}
	if len(r.images()) != 7 {
		t.Error(r.images())
	}
}

func TestGlob(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseNone)
	s.fill()
	r.take(s, takeover.Options{Repo: "{app,app/**}"})
	if got := slices.Sorted(maps.Keys(r.images())); !slices.Equal(got, []string{"app/inner:v1", "app:v1"}) {
		t.Error(got)
	}
}

// A tag that was pushed here since points at what was pushed.
func TestTagsStay(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseNone)
	want := s.fill()
	r.take(s, takeover.Options{})
	newer := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"a":"b"}}`)
	result, err := r.PutManifest(t.Context(), "app", registry.Put{Ref: registry.Reference{Tag: "v1"}, Content: newer})
	if err != nil {
		t.Fatal(err)
	}
	if _, found := r.take(s, takeover.Options{}); !slices.Equal(found, []string{"kept app:v1"}) {
		t.Error(found)
	}
	want["app:v1"] = result.Digest
	if d := cmp.Diff(want, r.images()); d != "" {
		t.Error(d)
	}
}

type otherRegistry map[string]digest.Digest

func (o otherRegistry) Tags(_ context.Context, repo string) (tags []string, err error) {
	for name := range o {
		if r, tag, _ := strings.Cut(name, ":"); r == repo {
			tags = append(tags, tag)
		}
	}
	return tags, nil
}

func (o otherRegistry) Digest(_ context.Context, repo, tag string) (digest.Digest, error) {
	return o[repo+":"+tag], nil
}

func TestCompare(t *testing.T) {
	s, r := newStorage(t), newTarget(t, registry.SparseNone)
	other := otherRegistry(s.fill())
	r.take(s, takeover.Options{})
	compare := func() (found []string) {
		t.Helper()
		n, err := takeover.Compare(t.Context(), r.Registry, other, takeover.Options{Dir: s.dir, Found: func(f takeover.Finding) { found = append(found, f.Repository+":"+f.Tag) }})
		if err != nil || n < 7 {
			t.Error(n, err)
		}
		slices.Sort(found)
		return found
	}
	if found := compare(); len(found) != 0 {
		t.Error(found)
	}
	other["app:v1"], other["app:new"] = digest.FromString("moved"), digest.FromString("new")
	delete(other, "untyped:v1")
	if found := compare(); !slices.Equal(found, []string{"app:new", "app:v1", "untyped:v1"}) {
		t.Error(found)
	}
}
