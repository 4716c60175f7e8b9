package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"registry/db/dbtest"
	"registry/server/bundle"
	"registry/server/gc"
	"registry/server/registry"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// write makes the bundle of everything as files and returns their directory.
func (s *site) write(split int64) (dir string) {
	s.t.Helper()
	dir = s.t.TempDir()
	out := must[*bundle.Output](s.t)(bundle.Create(filepath.Join(dir, "b.tar"), split, nil))
	must[bundle.ExportReport](s.t)(bundle.Export(context.Background(), s.Registry, s.all(), bundle.ExportOptions{}, out))
	must[[]bundle.Part](s.t)(out.Commit())
	return dir
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	return must[[]string](t)(filepath.Glob(pattern))
}

func TestParts(t *testing.T) {
	here := newSite(t)
	sample(here)
	whole := here.export(bundle.ExportOptions{})
	dir := here.write(7_001)
	parts := glob(t, filepath.Join(dir, "b.tar.0*"))
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	var pieces []byte
	for _, part := range parts {
		pieces = append(pieces, must[[]byte](t)(os.ReadFile(part))...)
	}
	if !bytes.Equal(pieces, whole) {
		t.Error("the parts are not the pieces of the whole")
	}
	problems := func(paths []string) []string {
		return must[bundle.VerifyReport](t)(bundle.Verify(t.Context(), paths, bundle.VerifyOptions{})).Problems
	}
	refused := func(paths []string) {
		t.Helper()
		there := newSite(t)
		if _, err := bundle.Import(t.Context(), there.Registry, paths, bundle.ImportOptions{}); !errors.Is(err, bundle.ErrInvalid) {
			t.Errorf("import: %v", err)
		}
		if len(there.state()) > 0 {
			t.Error("something is visible")
		}
	}
	if found := problems(parts); len(found) > 0 {
		t.Error(found)
	}
	backwards := slices.Clone(parts)
	slices.Reverse(backwards)
	there := newSite(t)
	must[bundle.ImportReport](t)(bundle.Import(t.Context(), there.Registry, backwards, bundle.ImportOptions{}))
	if diff := cmp.Diff(here.state(), there.state()); diff != "" {
		t.Error(diff)
	}

	if found := problems(parts[:2]); len(found) != len(parts)-2 || !strings.Contains(found[0], "b.tar.003 is missing") {
		t.Error(found)
	}
	refused(parts[1:])
	second := must[[]byte](t)(os.ReadFile(parts[1]))
	change := func(content []byte, want string) {
		t.Helper()
		if err := os.WriteFile(parts[1], content, 0o600); err != nil {
			t.Fatal(err)
		}
		if found := problems(parts); len(found) != 1 || !strings.Contains(found[0], want) || !strings.Contains(found[0], "b.tar.002") {
			t.Errorf("%q", found)
		}
	}
	change(second[:100], "has 100 bytes instead of 7001")
	refused(parts)
	flipped := slices.Clone(second)
	flipped[len(flipped)/2] ^= 1
	change(flipped, "is damaged")

	// Without the list beside them a part is damaged where a digest is wrong.
	if err := os.Remove(filepath.Join(dir, "b.tar.parts.json")); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 500, 600, 1100, 3000, 6000} {
		flipped := slices.Clone(second)
		flipped[at] ^= 1
		os.WriteFile(parts[1], flipped, 0o600)
		found := problems(parts)
		_, err := bundle.Import(t.Context(), newSite(t).Registry, parts, bundle.ImportOptions{})
		if (err == nil) != (len(found) == 0) {
			t.Errorf("byte %d: import says %v, verify %v", at, err, found)
		}
	}
	if found := problems(append(slices.Clone(parts[:1]), parts[2:]...)); len(found) != 1 || found[0] != "part 002 is missing" {
		t.Errorf("%q", found)
	}
}

// TestFlippedBits imports a bundle with each of many bits wrong: it is refused, or it was a bit that means nothing, such
// as padding, and everything is as it should be.
func TestFlippedBits(t *testing.T) {
	here, there := newSite(t), newSite(t)
	sample(here)
	good := here.export(bundle.ExportOptions{})
	want := here.state()
	const flips = 60
	same := 0
	for at := 0; at < len(good); at += len(good)/flips + 1 {
		bad := slices.Clone(good)
		bad[at] ^= 0x10
		_, err := there.importBytes(bad, bundle.ImportOptions{})
		if state := there.state(); err != nil && len(state) > 0 {
			t.Fatalf("byte %d: refused with %v, but something is visible", at, err)
		} else if err == nil {
			if diff := cmp.Diff(want, state); diff != "" {
				t.Fatalf("byte %d: %s", at, diff)
			}
			there, same = newSite(t), same+1
		}
	}
	t.Logf("%d of %d flips did not matter", same, flips)
}

func TestCompressed(t *testing.T) {
	here := newSite(t)
	sample(here)
	plain := here.export(bundle.ExportOptions{})
	var small, again, zipped bytes.Buffer
	for _, out := range []io.Writer{&small, &again} {
		z := must[io.WriteCloser](t)(bundle.Compress(out))
		z.Write(plain)
		z.Close()
	}
	if !bytes.Equal(small.Bytes(), again.Bytes()) || small.Len() > len(plain)/2 {
		t.Errorf("%d and %d bytes of %d", small.Len(), again.Len(), len(plain))
	}
	z := gzip.NewWriter(&zipped)
	z.Write(plain)
	z.Close()
	for _, content := range [][]byte{small.Bytes(), zipped.Bytes()} {
		there := newSite(t)
		must[bundle.ImportReport](t)(bundle.Import(t.Context(), there.Registry, []string{"-"}, bundle.ImportOptions{Stdin: bytes.NewReader(content), Tmp: t.TempDir()}))
		if diff := cmp.Diff(here.state(), there.state()); diff != "" {
			t.Error(diff)
		}
		if _, err := there.importBytes(content[:len(content)-30], bundle.ImportOptions{}); !errors.Is(err, bundle.ErrInvalid) {
			t.Errorf("truncated: %v", err)
		}
	}
}

// TestBomb has 200 megabytes of zeros in a few kilobytes, as a blob that nothing needs and as one that is too large.
func TestBomb(t *testing.T) {
	const size = 100 << 20
	var out bytes.Buffer
	z := must[*zstd.Encoder](t)(zstd.NewWriter(&out))
	w := tar.NewWriter(z)
	for _, name := range []string{"blobs/sha256/" + strings.Repeat("a", 64), "index.json"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, size); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	z.Close()
	t.Logf("%d bytes", out.Len())
	there := newSite(t)
	if _, err := there.importBytes(out.Bytes(), bundle.ImportOptions{}); !errors.Is(err, bundle.ErrInvalid) {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSignature(t *testing.T) {
	here := newSite(t)
	sample(here)
	public, private, _ := ed25519.GenerateKey(nil)
	stranger, _, _ := ed25519.GenerateKey(nil)
	signed, unsigned := here.export(bundle.ExportOptions{SignKey: private}), here.export(bundle.ExportOptions{})
	other := newSite(t)
	other.image("team/app", "v1", nil, "something else")
	swapped := entries(t, other.export(bundle.ExportOptions{}))
	for _, e := range entries(t, signed) {
		if e.Name == "bundle.sig" {
			swapped = append(swapped, e)
		}
	}
	for _, c := range []struct {
		name    string
		content []byte
		key     ed25519.PublicKey
		ok      bool
	}{
		{"signed", signed, public, true}, {"nobody asks", signed, nil, true}, {"another key", signed, stranger, false},
		{"unsigned", unsigned, public, false}, {"signature of another bundle", join(t, swapped), public, false},
	} {
		report, err := newSite(t).importBytes(c.content, bundle.ImportOptions{VerifyKey: c.key, DryRun: true})
		if (err == nil) != c.ok || report.Signed != (c.ok && c.key != nil) {
			t.Errorf("%s: %+v, %v", c.name, report, err)
		}
	}
}

func TestPlatforms(t *testing.T) {
	here := newSite(t)
	sample(here)
	arm, amd := must[bundle.Platform](t)(bundle.ParsePlatform("linux/arm64")), must[bundle.Platform](t)(bundle.ParsePlatform("linux/amd64"))
	there := newSite(t)
	must[bundle.ImportReport](t)(there.importBytes(here.export(bundle.ExportOptions{Platforms: []bundle.Platform{arm}}), bundle.ImportOptions{}))
	m := must[registry.Manifest](t)(there.Manifest(t.Context(), "team/app", registry.Reference{Tag: "v1"}))
	if m.MediaType != v1.MediaTypeImageManifest {
		t.Errorf("the tag is a %s", m.MediaType)
	}
	if refs, err := there.Referrers(t.Context(), "team/app", m.Digest, "", registry.Page{Limit: 9}); err != nil || len(refs.Descriptors) != 1 {
		t.Errorf("referrers of the image: %v, %v", refs, err)
	}
	both := here.export(bundle.ExportOptions{Platforms: []bundle.Platform{arm, amd}})
	if !bytes.Equal(both, here.export(bundle.ExportOptions{})) {
		t.Error("all platforms are not everything")
	}
	riscv := bundle.Platform{OS: "linux", Architecture: "riscv64"}
	sparse := here.export(bundle.ExportOptions{Platforms: []bundle.Platform{arm, riscv}})
	if _, err := newSite(t).importBytes(sparse, bundle.ImportOptions{}); !errors.As(err, new(bundle.MissingError)) {
		t.Errorf("a sparse index: %v", err)
	}
	lenient := newSite(t, func(c *registry.Config) { c.Sparse = registry.SparseIndex })
	must[bundle.ImportReport](t)(lenient.importBytes(sparse, bundle.ImportOptions{Sparse: registry.SparseIndex}))
	want := must[registry.Manifest](t)(here.Manifest(t.Context(), "team/app", registry.Reference{Tag: "v1"}))
	if got := must[registry.Manifest](t)(lenient.Manifest(t.Context(), "team/app", registry.Reference{Tag: "v1"})); got.Digest != want.Digest {
		t.Error("the index is another one")
	}
}

// TestInterrupted ends an import at every blob: nobody sees any of it, and the next one goes on.
func TestInterrupted(t *testing.T) {
	here, there := newSite(t), newSite(t)
	var layers []string
	for i := range 5 {
		layers = append(layers, strings.Repeat(fmt.Sprint("large layer ", i), 100_000)) // not stored beside the next
	}
	here.image("app", "v1", nil, layers...)
	path := filepath.Join(here.write(0), "b.tar")
	stored := 0
	for done := false; !done; {
		ctx, cancel := context.WithCancel(t.Context())
		report, err := bundle.Import(ctx, there.Registry, []string{path}, bundle.ImportOptions{Progress: func(bundle.ImportReport) { cancel() }})
		cancel()
		if done = err == nil; !done && len(there.repos()) > 0 {
			t.Fatalf("after %v there is %v", err, there.repos())
		}
		if stored++; stored > 7 || report.Present+report.Stored != 6 {
			t.Fatalf("try %d: %+v, %v", stored, report, err)
		}
	}
	if diff := cmp.Diff(here.state(), there.state()); diff != "" {
		t.Error(diff)
	}
	if stored < 4 {
		t.Errorf("only %d tries", stored)
	}
}

// TestCollectionBeside collects between the blobs of an import that takes hours: it keeps what it has brought.
func TestCollectionBeside(t *testing.T) {
	var late atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
	here, there := newSite(t), newSite(t, func(c *registry.Config) { c.DB = dbtest.OpenAt(t, filepath.Join(t.TempDir(), "reg.db"), clock) })
	var layers []string
	for i := range 4 {
		layers = append(layers, strings.Repeat(fmt.Sprint("large layer ", i), 100_000))
	}
	here.image("app", "v1", nil, layers...)
	here.image("other", "v1", nil, layers[0])
	path := filepath.Join(here.write(0), "b.tar")
	collect := func(bundle.ImportReport) {
		late.Add(int64(40 * time.Minute))
		time.Sleep(100 * time.Millisecond) // for a beat
		must[gc.Report](t)(gc.Collect(context.Background(), there.Registry, gc.Options{Grace: time.Hour}))
	}
	opt := bundle.ImportOptions{Progress: collect, Beat: time.Millisecond}
	must[bundle.ImportReport](t)(bundle.Import(t.Context(), there.Registry, []string{path}, opt))
	if diff := cmp.Diff(here.state(), there.state()); diff != "" {
		t.Error(diff)
	}
	if n := files(t, filepath.Join(there.root, "sha256")); n != 5 {
		t.Errorf("%d files of 5 blobs", n)
	}
	if n := files(t, filepath.Join(there.root, "uploads")); n > 0 {
		t.Errorf("%d uploads are left", n)
	}
}

// TestImmutable moves two tags of which one may not move: neither does.
func TestImmutable(t *testing.T) {
	here, there := newSite(t), newSite(t)
	there.image("a", "free", nil, "old")
	there.image("b", "fixed", nil, "old")
	if err := there.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: "b", Tag: "fixed"}); err != nil {
		t.Fatal(err)
	}
	before := there.state()
	here.image("a", "free", nil, "new")
	here.image("b", "fixed", nil, "new")
	if _, err := there.importBytes(here.export(bundle.ExportOptions{}), bundle.ImportOptions{}); !registry.TagImmutable.Is(err) {
		t.Errorf("%v", err)
	}
	after := there.state()
	for name := range after {
		if strings.Contains(name, " blob ") && before[name] == "" {
			delete(after, name) // no manifest names it, and collection takes it
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

// dockerArchive is what docker save wrote before it wrote layouts. The second image has the layer of the first, as a link.
func dockerArchive(t *testing.T, change func(list []entry) []entry) []byte {
	layer := func(n int) string {
		return string(join(t, []entry{file("f", strings.Repeat(fmt.Sprint("layer ", n), 9000))}))
	}
	id := func(n int) string { return fmt.Sprintf("%064x", n) }
	config := func(layers ...string) (name, text string) {
		image := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, RootFS: v1.RootFS{Type: "layers"}}
		for _, l := range layers {
			image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, digest.FromString(l))
		}
		raw := must[[]byte](t)(json.Marshal(image))
		return digest.FromBytes(raw).Encoded() + ".json", string(raw)
	}
	name1, config1 := config(layer(1), layer(2))
	name2, config2 := config(layer(1))
	dir := func(n int) entry { return entry{tar.Header{Typeflag: tar.TypeDir, Name: id(n) + "/", Mode: 0o755}, ""} }
	list := []entry{
		dir(1), file(id(1)+"/VERSION", "1.0"), file(id(1)+"/json", "{}"), file(id(1)+"/layer.tar", layer(1)),
		dir(2), file(id(2)+"/VERSION", "1.0"), file(id(2)+"/json", "{}"), file(id(2)+"/layer.tar", layer(2)),
		{tar.Header{Typeflag: tar.TypeSymlink, Name: id(3) + "/layer.tar", Linkname: "../" + id(1) + "/layer.tar"}, ""},
		file(name1, config1), file(name2, config2),
		file("manifest.json", fmt.Sprintf(`[{"Config":%q,"RepoTags":["docker.io/library/one:v1","localhost:5000/one:v2"],"Layers":["%s/layer.tar","%s/layer.tar"]},
			{"Config":%q,"RepoTags":["two:latest"],"Layers":["%s/layer.tar"]}]`, name1, id(1), id(2), name2, id(3))),
		file("repositories", "{}"),
	}
	if change != nil {
		list = change(list)
	}
	return join(t, list)
}

func TestDockerArchive(t *testing.T) {
	there := newSite(t)
	names := must[bundle.Names](t)(bundle.ParseNames([]string{"library/=hub/", "two=other/two"}))
	report := must[bundle.ImportReport](t)(there.importBytes(dockerArchive(t, nil), bundle.ImportOptions{Names: names}))
	if report.Format != "docker" || report.Tags != 3 {
		t.Errorf("%+v", report)
	}
	for image, layers := range map[string]int{"hub/one:v1": 2, "one:v2": 2, "other/two:latest": 1} {
		repo, tag, _ := strings.Cut(image, ":")
		m := must[registry.Manifest](t)(there.Manifest(t.Context(), registry.RepoName(repo), registry.Reference{Tag: registry.Tag(tag)}))
		contents := must[registry.Contents](t)(registry.ReadManifest(m.MediaType, m.Content))
		if len(contents.Blobs) != 1+layers {
			t.Errorf("%s: %s", image, m.Content)
		}
	}
	before := there.state()
	must[bundle.ImportReport](t)(there.importBytes(dockerArchive(t, nil), bundle.ImportOptions{Names: names}))
	if diff := cmp.Diff(before, there.state()); diff != "" {
		t.Errorf("the second import made something else: %s", diff)
	}
	for name, change := range map[string]func([]entry) []entry{
		"flipped layer":  func(l []entry) []entry { l[3].text = strings.Replace(l[3].text, "layer 1", "layer 9", 1); return l },
		"flipped config": func(l []entry) []entry { l[9].text = strings.Replace(l[9].text, "amd64", "arm64", 1); return l },
		"missing layer":  func(l []entry) []entry { return slices.Delete(l, 7, 8) },
		"missing config": func(l []entry) []entry { return slices.Delete(l, 9, 10) },
		"dangling link":  func(l []entry) []entry { l[8].Linkname = "../" + strings.Repeat("f", 64) + "/layer.tar"; return l },
		"fewer layers": func(l []entry) []entry {
			l[11].text = strings.Replace(l[11].text, fmt.Sprintf(`"%064x/layer.tar",`, 1), "", 1)
			return l
		},
	} {
		empty := newSite(t)
		if _, err := empty.importBytes(dockerArchive(t, change), bundle.ImportOptions{}); !errors.Is(err, bundle.ErrInvalid) || len(empty.state()) > 0 {
			t.Errorf("%s: %v, %v", name, err, empty.state())
		}
	}
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"a", "a=", "a=B", "a=b:", "=x:!", "a/=/"} {
		if _, err := bundle.ParseNames([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for rules, want := range map[string]string{"": "team/app", "team/app=x": "x", "team/=other/": "other/app", "team=x": "team/app", "team/=a/ team/app=b": "b"} {
		here, there := newSite(t), newSite(t)
		here.image("team/app", "v1", nil, "layer")
		names := must[bundle.Names](t)(bundle.ParseNames(strings.Fields(rules)))
		must[bundle.ImportReport](t)(there.importBytes(here.export(bundle.ExportOptions{}), bundle.ImportOptions{Names: names}))
		if got := there.repos(); len(got) != 1 || string(got[0]) != want {
			t.Errorf("--map %q puts it into %v, want %s", rules, got, want)
		}
	}
}

func TestReceipt(t *testing.T) {
	for _, bad := range []string{"", "{}", "[]", `{"version":2,"repositories":[]}`, `{"version":1,"repositories":[`, `{"version":1,"repositories":[{"name":"a","manifests":[`} {
		if _, err := bundle.ReadReceipt(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
