package bundle_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server/bundle"
	"registry/server/registry"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// site is a registry on one side of the gap.
type site struct {
	*registry.Registry
	t    testing.TB
	root string // of its blobs
}

func newSite(t testing.TB, change ...func(*registry.Config)) *site {
	t.Helper()
	root := filepath.Join(t.TempDir(), "blobs")
	store, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := registry.Config{DB: dbtest.Open(t), Blobs: store}
	for _, c := range change {
		c(&cfg)
	}
	return &site{Registry: registry.New(cfg), t: t, root: root}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (s *site) blob(repo registry.RepoName, mediaType, text string) v1.Descriptor {
	s.t.Helper()
	d := digest.FromString(text)
	if err := s.PutBlob(context.Background(), repo, d, registry.Chunk{Body: strings.NewReader(text), Start: -1, Length: int64(len(text))}); err != nil {
		s.t.Fatal(err)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(text))}
}

// put pushes a manifest, under a tag unless that is empty.
func (s *site) put(repo registry.RepoName, tag string, manifest any) v1.Descriptor {
	s.t.Helper()
	text := must[[]byte](s.t)(json.Marshal(manifest))
	d := digest.FromBytes(text)
	p := registry.Put{Ref: registry.Reference{Digest: d}, Content: text}
	if tag != "" {
		p.Tags = []registry.Tag{registry.Tag(tag)}
	}
	must[registry.PutResult](s.t)(s.PutManifest(context.Background(), repo, p))
	var head struct{ MediaType string }
	json.Unmarshal(text, &head)
	return v1.Descriptor{MediaType: head.MediaType, Digest: d, Size: int64(len(text))}
}

var versioned = specs.Versioned{SchemaVersion: 2}

func (s *site) image(repo registry.RepoName, tag string, subject *v1.Descriptor, layers ...string) v1.Descriptor {
	s.t.Helper()
	m := v1.Manifest{Versioned: versioned, MediaType: v1.MediaTypeImageManifest, Subject: subject, Layers: []v1.Descriptor{}}
	m.Config = s.blob(repo, v1.MediaTypeImageConfig, fmt.Sprintf(`{"os":"linux","layers":%q}`, strings.Join(layers, ",")[:min(20, len(strings.Join(layers, ",")))]))
	for _, layer := range layers {
		m.Layers = append(m.Layers, s.blob(repo, v1.MediaTypeImageLayer, layer))
	}
	return s.put(repo, tag, m)
}

func (s *site) index(repo registry.RepoName, tag string, children ...v1.Descriptor) v1.Descriptor {
	s.t.Helper()
	return s.put(repo, tag, v1.Index{Versioned: versioned, MediaType: v1.MediaTypeImageIndex, Manifests: children})
}

func (s *site) all() iter.Seq2[bundle.Image, error] {
	return func(yield func(bundle.Image, error) bool) {
		for _, repo := range s.repos() {
			for _, tag := range s.tags(repo) {
				if !yield(bundle.Image{Repo: repo, Tag: tag.Name}, nil) {
					return
				}
			}
		}
	}
}

func (s *site) repos() (list []registry.RepoName) {
	names, _, err := s.Repositories(context.Background(), registry.Page{Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, name := range names {
		list = append(list, registry.RepoName(name))
	}
	return list
}

func (s *site) tags(repo registry.RepoName) []registry.TagInfo {
	infos, _, err := s.TagInfos(context.Background(), repo, registry.Page{Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	return infos
}

// state is everything that clients see: tags, manifests, blobs and referrers of every repository.
func (s *site) state() map[string]string {
	s.t.Helper()
	state := map[string]string{}
	for _, repo := range s.repos() {
		for _, tag := range s.tags(repo) {
			state[fmt.Sprintf("%s:%s", repo, tag.Name)] = string(tag.Digest)
		}
		i := must[registry.Inventory](s.t)(s.Inventory(context.Background(), repo))
		for _, d := range i.Manifests {
			m := must[registry.Manifest](s.t)(s.Manifest(context.Background(), repo, registry.Reference{Digest: d}))
			state[fmt.Sprintf("%s@%s", repo, d)] = m.MediaType + " " + string(m.Content)
			refs, err := s.Referrers(context.Background(), repo, d, "", registry.Page{Limit: 1000})
			if err != nil {
				s.t.Fatal(err)
			}
			state[fmt.Sprintf("referrers of %s@%s", repo, d)] = strings.Join(refs.Descriptors, "\n")
		}
		for _, d := range i.Blobs {
			b := must[*registry.Blob](s.t)(s.Blob(context.Background(), repo, d))
			state[fmt.Sprintf("%s blob %s", repo, d)] = string(must[[]byte](s.t)(io.ReadAll(b)))
			b.Close()
		}
	}
	return state
}

// export returns the bundle of everything.
func (s *site) export(opt bundle.ExportOptions) []byte {
	s.t.Helper()
	var out bytes.Buffer
	must[bundle.ExportReport](s.t)(bundle.Export(context.Background(), s.Registry, s.all(), opt, &out))
	return out.Bytes()
}

func (s *site) importBytes(content []byte, opt bundle.ImportOptions) (bundle.ImportReport, error) {
	path := filepath.Join(s.t.TempDir(), "b.tar")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return bundle.Import(context.Background(), s.Registry, []string{path}, opt)
}

func (s *site) receipt() *bundle.Receipt {
	s.t.Helper()
	var out bytes.Buffer
	names := func(yield func(string, error) bool) {
		for _, repo := range s.repos() {
			if !yield(string(repo), nil) {
				return
			}
		}
	}
	if err := bundle.WriteReceipt(context.Background(), s.Registry, names, &out); err != nil {
		s.t.Fatal(err)
	}
	return must[*bundle.Receipt](s.t)(bundle.ReadReceipt(&out))
}

// sample is an index of two platforms with a signature under a tag, an SBOM with a signature of its own, and a chart.
func sample(s *site) {
	amd, arm := s.image("team/app", "", nil, "base", "amd64"), s.image("team/app", "", nil, "base", "arm64")
	amd.Platform, arm.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}, &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
	index := s.index("team/app", "v1", amd, arm)
	sbom := s.image("team/app", "", &index, "sbom")
	s.image("team/app", "", &sbom, "signature of the sbom")
	s.image("team/app", "", &arm, "signature of arm64")
	s.image("team/app", "sha256-"+index.Digest.Encoded()+".sig", nil, "cosign")
	s.image("charts/app", "0.1.0", nil, "chart", "base")
}

func TestRoundTrip(t *testing.T) {
	here, there := newSite(t), newSite(t)
	sample(here)
	content := here.export(bundle.ExportOptions{})
	if again := here.export(bundle.ExportOptions{}); !bytes.Equal(content, again) {
		t.Error("the second export has other bytes")
	}
	dry, err := there.importBytes(content, bundle.ImportOptions{DryRun: true})
	if err != nil || len(there.state()) > 0 {
		t.Fatalf("a dry run wrote %v, %v", there.state(), err)
	}
	report := must[bundle.ImportReport](t)(there.importBytes(content, bundle.ImportOptions{}))
	if diff := cmp.Diff(here.state(), there.state()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(dry, report); diff != "" {
		t.Errorf("the dry run said something else: %s", diff)
	}
	if again := there.export(bundle.ExportOptions{}); !bytes.Equal(content, again) {
		t.Error("the export of the import has other bytes")
	}
	if again := must[bundle.ImportReport](t)(there.importBytes(content, bundle.ImportOptions{})); again.Stored+again.Mounted > 0 {
		t.Errorf("the second import stored blobs again: %+v", again)
	}
}

// TestReferrers exports one tag: what refers to it, at any depth, and the tags made of its digest go with it.
func TestReferrers(t *testing.T) {
	here := newSite(t)
	sample(here)
	v1 := func(yield func(bundle.Image, error) bool) { yield(bundle.Image{Repo: "team/app", Tag: "v1"}, nil) }
	var with, without bytes.Buffer
	must[bundle.ExportReport](t)(bundle.Export(t.Context(), here.Registry, v1, bundle.ExportOptions{}, &with))
	must[bundle.ExportReport](t)(bundle.Export(t.Context(), here.Registry, v1, bundle.ExportOptions{NoReferrers: true}, &without))
	for content, want := range map[*bytes.Buffer][2]int{&with: {2, 7}, &without: {1, 3}} {
		report := must[bundle.ImportReport](t)(newSite(t).importBytes(content.Bytes(), bundle.ImportOptions{}))
		if got := [2]int{report.Tags, report.Manifests}; got != want {
			t.Errorf("%v tags and manifests, want %v", got, want)
		}
	}
}

// TestRandomRoundTrip sends what chance has made across the gap, in one bundle and then as what changed.
func TestRandomRoundTrip(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			here, there := newSite(t), newSite(t)
			populate(here, r, 12, func(i int) int { return i })
			must[bundle.ImportReport](t)(there.importBytes(here.export(bundle.ExportOptions{}), bundle.ImportOptions{}))
			if diff := cmp.Diff(here.state(), there.state()); diff != "" {
				t.Fatal(diff)
			}
			populate(here, r, 4, func(int) int { return r.IntN(15) }) // some tags move
			must[bundle.ImportReport](t)(there.importBytes(here.export(bundle.ExportOptions{Have: there.receipt()}), bundle.ImportOptions{}))
			if diff := cmp.Diff(reached(here), reached(there)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// reached is the state without what moved tags have left behind, which stays where it is.
func reached(s *site) map[string]string {
	fresh := newSite(s.t)
	must[bundle.ImportReport](s.t)(fresh.importBytes(s.export(bundle.ExportOptions{}), bundle.ImportOptions{}))
	return fresh.state()
}

// populate pushes n things that every export reaches.
func populate(s *site, r *rand.Rand, n int, tags func(i int) int) {
	repos := []registry.RepoName{"a", "b/c", "b/c/d"}
	layer := func() string { return strings.Repeat(fmt.Sprint("layer ", r.IntN(8)), 1+r.IntN(2000)) }
	for i := range n {
		repo := repos[r.IntN(len(repos))]
		tag := fmt.Sprint("t", tags(i))
		switch r.IntN(3) {
		case 0:
			s.image(repo, tag, nil, layer(), layer())
		case 1:
			s.index(repo, tag, s.image(repo, "", nil, layer()), s.index(repo, "", s.image(repo, "", nil, layer())))
		case 2:
			subject := s.image(repo, tag, nil, layer())
			subject = s.image(repo, "", &subject, layer())
			s.image(repo, "", &subject, layer())
			s.image(repo, "sha256-"+subject.Digest.Encoded()+".att", nil, layer())
		}
	}
}

func TestDifferential(t *testing.T) {
	here, there := newSite(t), newSite(t)
	big := strings.Repeat("0123456789", 300_000)
	here.image("app", "v1", nil, big, "one")
	must[bundle.ImportReport](t)(there.importBytes(here.export(bundle.ExportOptions{}), bundle.ImportOptions{}))
	here.image("app", "v2", nil, big, "two")
	here.image("other", "v1", nil, big)

	// Where the receiver's app is private its content goes to other with its bytes.
	private := here.export(bundle.ExportOptions{Have: there.receipt()})
	if len(private) < len(big) {
		t.Errorf("a bundle of %d bytes wants private content by its digest", len(private))
	}
	must[bundle.ImportReport](t)(there.importBytes(private, bundle.ImportOptions{DryRun: true}))
	if err := there.SetPublic(t.Context(), "app", true); err != nil {
		t.Fatal(err)
	}
	content := here.export(bundle.ExportOptions{Have: there.receipt()})
	if len(content) > 30_000 {
		t.Errorf("a changed layer of 3 bytes took %d bytes", len(content))
	}
	empty := newSite(t)
	_, err := empty.importBytes(content, bundle.ImportOptions{})
	var missing bundle.MissingError
	if !errors.As(err, &missing) || len(missing) != 5 {
		t.Errorf("without the base: %v", err)
	}
	if n := files(t, empty.root); n > 0 || len(empty.state()) > 0 {
		t.Errorf("a refused import left %d files and %v", n, empty.state())
	}
	report := must[bundle.ImportReport](t)(there.importBytes(content, bundle.ImportOptions{}))
	if report.Mounted != 2 || report.Bytes != 3 {
		t.Errorf("the large layer and the configuration were not mounted: %+v", report)
	}
	if diff := cmp.Diff(here.state(), there.state()); diff != "" {
		t.Error(diff)
	}
}

// files counts what is stored or staged.
func files(t *testing.T, root string) (n int) {
	err := filepath.WalkDir(root, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && e.Name() != ".lock" {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// entries takes a tar apart.
func entries(t *testing.T, content []byte) (list []entry) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		list = append(list, entry{*h, string(text)})
	}
}

type entry struct {
	tar.Header
	text string
}

func join(t *testing.T, list []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range list {
		e.Size = int64(len(e.text))
		e.Format = tar.FormatUnknown
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func file(name, text string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, text}
}

// TestHostile imports archives that are not what they should be: each is refused, nothing is visible, and nothing is
// written beside the blobs.
func TestHostile(t *testing.T) {
	here := newSite(t)
	sample(here)
	good := here.export(bundle.ExportOptions{})
	hex := strings.Repeat("a", 64)
	with := func(more ...entry) []byte { return join(t, append(entries(t, good), more...)) }
	link := func(kind byte, name, target string) entry {
		return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target}, ""}
	}
	change := func(fn func(*entry)) []byte {
		list := entries(t, good)
		for i := range list {
			fn(&list[i])
		}
		return join(t, list)
	}
	// The same without the file that says what has to be there, as another tool's layout.
	single := newSite(t)
	single.image("team/app", "v1", nil, "layer")
	plain := single.export(bundle.ExportOptions{})
	foreign := func(more ...entry) []byte {
		list := slices.DeleteFunc(entries(t, plain), func(e entry) bool { return e.Name == "bundle.json" })
		return join(t, append(list, more...))
	}
	if _, err := newSite(t).importBytes(foreign(), bundle.ImportOptions{}); err != nil {
		t.Fatalf("the layout without anything hostile: %v", err)
	}
	for name, content := range map[string][]byte{
		"foreign, dots":     foreign(file("../x", "x")),
		"foreign, absolute": foreign(file("/etc/passwd", "x")),
		"foreign, dots in":  foreign(file("blobs/../../x", "x")),
		"foreign, out":      foreign(link(tar.TypeSymlink, "latest", "../../etc/passwd")),
		"foreign, hard out": foreign(link(tar.TypeLink, "latest", "/etc/passwd")),
		"foreign, to blob":  foreign(link(tar.TypeLink, "blobs/sha256/"+strings.Repeat("0", 64), "blobs/sha256/"+hex)),
		"foreign, dangling": foreign(link(tar.TypeLink, "blobs/sha256/"+strings.Repeat("0", 64), strings.Repeat("1", 64)+".tar")),
		"foreign, loop":     foreign(link(tar.TypeLink, strings.Repeat("1", 64)+".tar", strings.Repeat("1", 64)+".tar")),
		"foreign, other":    foreign(file("blobs/sha256/"+digest.FromString("layer").Encoded(), "other")),
		"foreign, device":   foreign(link(tar.TypeChar, "null", "")),
		"foreign, link":     foreign(link(tar.TypeSymlink, "blobs/sha256/"+hex, "/etc/passwd")),
		"foreign, hardlink": foreign(link(tar.TypeLink, "blobs/sha256/"+hex, "index.json")),
		"foreign, twice":    foreign(file("./oci-layout", `{"imageLayoutVersion":"1.0.0"}`)),
		"empty":             {},
		"not a tar":         []byte(strings.Repeat("hello ", 1000)),
		"truncated":         good[:len(good)/2],
		"truncated early":   good[:700],
		"cut at a member":   good[:512*4],
		"zstd bomb header":  {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0},
		"gzip of nothing":   {0x1f, 0x8b, 8, 0},
		"absolute":          with(file("/etc/passwd", "x")),
		"dots":              with(file("../x", "x")),
		"dots inside":       with(file("blobs/sha256/../../x", "x")),
		"dots to a file":    with(file("blobs/../index.json", "{}")),
		"backslash":         with(file(`blobs\sha256\x`, "x")),
		"NUL":               with(file("blobs/sha256/"+hex[:63]+"\u2028", "x")),
		"unknown name":      with(file("README", "x")),
		"short digest":      with(file("blobs/sha256/"+hex[:10], "x")),
		"upper case digest": with(file("blobs/sha256/"+strings.ToUpper(hex), "x")),
		"other algorithm":   with(file("blobs/md5/"+hex[:32], "x")),
		"duplicate":         with(file("index.json", `{"schemaVersion":2}`)),
		"duplicate with ./": with(file("./index.json", `{"schemaVersion":2}`)),
		"symbolic link":     with(link(tar.TypeSymlink, "blobs/sha256/"+hex, "/etc/passwd")),
		"link as layer":     with(link(tar.TypeSymlink, hex+"/layer.tar", "../../../etc/passwd")),
		"link outside":      with(link(tar.TypeSymlink, hex+"/layer.tar", "/"+hex+"/layer.tar")),
		"hard link":         with(link(tar.TypeLink, "blobs/sha256/"+hex, "index.json")),
		"device":            with(link(tar.TypeChar, "blobs/sha256/"+hex, "")),
		"fifo":              with(link(tar.TypeFifo, "blobs/sha256/"+hex, "")),
		"directory as file": with(file("blobs", "x")),
		"file as directory": with(link(tar.TypeDir, "index.json2/", "")),
		"extra blob":        with(file("blobs/sha256/"+hex, "x")),
		"sparse":            sparse(t, hex),
		"sparse, old":       oldSparse(hex),
		"lying size":        lyingSize(t, good),
		"flipped manifest":  change(func(e *entry) { e.text = strings.Replace(e.text, `"schemaVersion":2`, `"schemaVersion":1`, 1) }),
		"flipped layer":     change(func(e *entry) { e.text = strings.Replace(e.text, "arm64", "arm65", 1) }),
		"only the layer":    change(func(e *entry) { flip(e, "base") }),
		"longer layer":      change(func(e *entry) { lengthen(e, "base") }),
		"other version":     change(func(e *entry) { e.text = strings.Replace(e.text, `"version": 1`, `"version": 2`, 1) }),
		"repository name":   change(func(e *entry) { e.text = strings.Replace(e.text, `"team/app"`, `"../../x"`, 1) }),
		"deep JSON":         join(t, []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", strings.Repeat("[", 100_000))}),
		"no index":          join(t, []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)}),
		"no layout":         join(t, []entry{file("index.json", `{"schemaVersion":2,"manifests":[]}`)}),
		"no blob":           layout(t, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.Digest("sha256:" + hex), Size: 3}),
		"bad digest":        layout(t, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: "sha256:../../x", Size: 3}),
		"docker traversal":  join(t, []entry{file("manifest.json", `[{"Config":"../../etc/passwd","RepoTags":["a:b"],"Layers":["/etc/shadow"]}]`)}),
	} {
		t.Run(name, func(t *testing.T) {
			there := newSite(t)
			dir := filepath.Join(t.TempDir(), "work")
			tmp := filepath.Join(dir, "tmp")
			if err := os.MkdirAll(tmp, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "b.tar")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			report, err := bundle.Import(t.Context(), there.Registry, []string{path}, bundle.ImportOptions{Tmp: tmp})
			if err == nil {
				t.Fatalf("imported: %+v", report)
			}
			t.Log(err)
			if strings.HasPrefix(name, "sparse") && !strings.Contains(err.Error(), "is a sparse file") {
				t.Error("not refused for its holes")
			}
			if state := there.state(); len(state) > 0 {
				t.Errorf("visible: %v", slices.Collect(maps.Keys(state)))
			}
			if n := files(t, dir); n != 1 {
				t.Errorf("%d files beside the archive", n-1)
			}
		})
	}
}

func flip(e *entry, text string) {
	if e.text == text {
		e.text = "x" + text[1:]
	}
}

func lengthen(e *entry, text string) {
	if e.text == text {
		e.text += "x"
	}
}

// layout is a layout of another tool that names one manifest.
func layout(t *testing.T, d v1.Descriptor) []byte {
	d.Annotations = map[string]string{v1.AnnotationRefName: "a:b"}
	text := must[[]byte](t)(json.Marshal(v1.Index{Versioned: versioned, Manifests: []v1.Descriptor{d}}))
	return join(t, []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", string(text))})
}

// sparse is a file of a terabyte in a kilobyte, as PAX has them.
func sparse(t *testing.T, hex string) []byte {
	records := "GNU.sparse.major=1\nGNU.sparse.minor=0\nGNU.sparse.name=blobs/sha256/" + hex + "\nGNU.sparse.realsize=1000000000000\n"
	var body strings.Builder
	for line := range strings.Lines(records) {
		n := len(line) + 4 // with its own length, of two or three digits
		if n > 99 {
			n++
		}
		for len(fmt.Sprintf("%d %s", n, line)) != n {
			n--
		}
		fmt.Fprintf(&body, "%d %s", n, line)
	}
	head := rawHeader("x", 'x', int64(body.Len()))
	padded := body.String() + strings.Repeat("\x00", (512-body.Len()%512)%512)
	data := "0\n" + strings.Repeat("\x00", 510)
	return []byte(head + padded + rawHeader("GNUSparseFile.0/x", '0', int64(len(data))) + data + strings.Repeat("\x00", 1024))
}

// oldSparse is the same as old GNU tar has them.
func oldSparse(hex string) []byte {
	h := []byte(rawHeader("blobs/sha256/"+hex[:60], 'S', 0))
	copy(h[257:], "ustar  \x00")
	copy(h[483:], "77777777777\x00")
	checksum(h)
	return append(h, make([]byte, 1024)...)
}

// lyingSize is a member that says it has more than the archive does.
func lyingSize(t *testing.T, good []byte) []byte {
	h := slices.Clone(good[:512])
	copy(h[124:], "77777777777\x00")
	checksum(h)
	return append(h, good[512:]...)
}

func rawHeader(name string, kind byte, size int64) string {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	checksum(h)
	return string(h)
}

func checksum(h []byte) {
	copy(h[148:156], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
}
