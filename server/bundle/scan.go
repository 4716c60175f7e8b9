package bundle

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// What an archive may have. A larger one is refused before it costs memory or disk.
const (
	maxMembers   = 1 << 20
	maxLargeJSON = 64 << 20 // bytes of index.json, bundle.json, manifest.json
	maxObjects   = 1 << 20  // JSON objects in one of these
	maxValues    = 4 << 20  // and values of any kind
	maxSmallJSON = 4 << 20  // bytes of a manifest, a configuration or any other file that is read whole
	maxJSON      = 4 << 30  // bytes of all JSON, which goes through a temporary file
)

// archive is a source of which every name and size is known, and every file that may be JSON can be read.
type archive struct {
	source
	files  map[string]int64  // size by name
	links  map[string]string // layers and blobs that are links to others of the archive
	json   map[string]span
	twice  map[string]bool // files that are there more than once, with the same bytes
	spare  string          // one of the files that are no part of a layout, "" if there is none
	spool  *os.File        // the JSON
	spoolt int64           // bytes of it
}

type span struct{ at, size int64 }

// kind is what a name of an archive means.
type kind int

const (
	unknownName kind = iota
	directory
	large // JSON of the layout
	small // another file that is read whole
	content
	layer // of a docker archive
)

const hex64 = `[0-9a-f]{64}`

// whitelist are the names that mean something: those of OCI layouts and of what docker save, podman save, crane and Bazel have
// written at some time. Everything else is ignored, if its name leads nowhere.
var whitelist = []struct {
	kind  kind
	names *regexp.Regexp
}{
	{directory, regexp.MustCompile(`^(\.|blobs|blobs/sha256|blobs/sha512|ingest|` + hex64 + `)$`)},
	{large, regexp.MustCompile(`^(index\.json|bundle\.json|manifest\.json)$`)},
	{small, regexp.MustCompile(`^(oci-layout|bundle\.sig|repositories|config\.json|` + hex64 + `\.json|sha256:` + hex64 + `|` + hex64 + `/(json|VERSION))$`)},
	{content, regexp.MustCompile(`^blobs/(sha256/` + hex64 + `|sha512/[0-9a-f]{128})$`)},
	{layer, regexp.MustCompile(`^((blobs/sha256/)?` + hex64 + `\.tar(\.gz)?|` + hex64 + `/layer\.tar)$`)},
}

func kindOf(name string) kind {
	for _, w := range whitelist {
		if w.names.MatchString(name) {
			return w.kind
		}
	}
	return unknownName
}

// scan reads an archive once. It refuses names that lead out of it, two members of one name that differ, anything but files
// and links within it, and what is too much. The caller closes the archive, also if scan fails it has taken the source over.
func scan(ctx context.Context, s source, tmp string) (a *archive, err error) {
	a = &archive{source: s, files: map[string]int64{}, links: map[string]string{}, json: map[string]span{}, twice: map[string]bool{}}
	if a.spool, err = temporary(tmp); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	seen := map[string]bool{}
	err = s.walk(ctx, func(m member) error {
		m.name = cleanName(m)
		if leadsOut(m.name) {
			return invalid("%.200q leads out of the archive", m.name)
		}
		if seen[m.name] {
			return a.again(m)
		}
		if seen[m.name] = true; len(seen) > maxMembers {
			return invalid("it has more than %d members", maxMembers)
		}
		return a.take(m)
	})
	if err == nil {
		err = errors.Join(a.checkTwice(), a.follow())
	}
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// leadsOut says whether a name is not one of something in the archive.
func leadsOut(name string) bool {
	return name == "" || name != "." && !fs.ValidPath(name) || strings.ContainsAny(name, "\\\x00")
}

// again sees that a member that was there before is the same: bytes, or link.
func (a *archive) again(m member) error {
	size, isFile := a.files[m.name]
	kept, isKept := a.json[m.name]
	same := true
	switch d, named := digestOf(m.name); {
	case m.dir || kindOf(m.name) == unknownName:
		return nil
	case m.link != "" || !isFile:
		same = !isFile && a.links[m.name] == m.target()
	case size != m.size:
		same = false
	case named:
		v := d.Verifier()
		if _, err := io.Copy(v, m.body); err != nil {
			return invalid("%s: %w", m.name, err)
		}
		same = v.Verified()
	case isKept:
		text, err := io.ReadAll(m.body)
		if err != nil {
			return invalid("%s: %w", m.name, err)
		}
		before := make([]byte, kept.size)
		if _, err := a.spool.ReadAt(before, kept.at); err != nil && err != io.EOF {
			return err
		}
		same = bytes.Equal(text, before)
	}
	if !same {
		return invalid("%.200q is there twice, with other content", m.name)
	}
	a.twice[m.name] = true
	return nil
}

// checkTwice lets the files that say what is in the archive be there twice only where all of them are: an archive that was
// added to itself. Otherwise it is made of two.
func (a *archive) checkTwice() error {
	name, once := "", false
	for n := range a.json {
		if k := kindOf(n); k != large && n != layoutFile {
			continue
		}
		if a.twice[n] {
			name = n
		} else {
			once = true
		}
	}
	if name != "" && once {
		return invalid("%.200q is there twice", name)
	}
	return nil
}

// cleanName takes off what tar puts around a name: ./ in front, / behind a directory.
func cleanName(m member) string {
	name := strings.TrimPrefix(m.name, "./")
	if m.dir {
		name = strings.TrimSuffix(name, "/")
	}
	if name == "" && m.dir {
		return "."
	}
	return name
}

func (a *archive) Close() error { return errors.Join(a.source.Close(), a.spool.Close()) }

func (a *archive) take(m member) error {
	k := kindOf(m.name)
	switch {
	case k == unknownName && m.link != "" && leadsOut(m.target()):
		return invalid("%.200q is a link out of the archive", m.name)
	case k == unknownName:
		if !strings.HasPrefix(path.Base(m.name), "._") { // what macOS adds to every file
			a.spare = m.name
		}
		return nil
	case (k == directory) != m.dir:
		return invalid("%.200q is a directory, or should be one", m.name)
	case m.dir:
		return nil
	case m.link != "":
		return a.takeLink(m, k)
	}
	a.files[m.name] = m.size
	switch {
	case k == large && m.size > maxLargeJSON, k == small && m.size > maxSmallJSON:
		return invalid("%s has %d bytes", m.name, m.size)
	case k == large, k == small:
		return a.keep(m.name, m.size, m.body)
	case k == content && m.size <= maxSmallJSON:
		return a.keepJSON(m)
	}
	return nil
}

// takeLink takes a layer or a blob that is another one of the archive. It is a name in a table here and nowhere else.
func (a *archive) takeLink(m member, k kind) error {
	target := m.target()
	if k != layer && k != content || leadsOut(target) || kindOf(target) != layer && kindOf(target) != content {
		return invalid("%.200q is a link", m.name)
	}
	a.links[m.name] = target
	return nil
}

// follow finds the files that links mean. A blob that is a link has the size and the text of its file.
func (a *archive) follow() error {
	for name := range a.links {
		target := a.links[name]
		for range len(a.links) {
			next, isLink := a.links[target]
			if !isLink {
				break
			}
			target = next
		}
		size, ok := a.files[target]
		if !ok {
			return invalid("%.200q is a link to nothing", name)
		}
		a.links[name] = target
		if kindOf(name) == layer {
			continue
		}
		if d, ok := digestOf(target); ok && blobName(d) != name {
			return invalid("%.200q is a link to other content", name)
		}
		if a.files[name] = size; size <= maxSmallJSON && a.json[target] != (span{}) {
			a.json[name] = a.json[target]
		}
	}
	return nil
}

// keepJSON keeps a blob if it looks as if a manifest could be in it.
func (a *archive) keepJSON(m member) error {
	body := bufio.NewReaderSize(m.body, 16)
	first, err := body.Peek(1)
	if err == io.EOF && m.size == 0 {
		return nil
	}
	if err != nil {
		return invalid("%s: %w", m.name, err)
	}
	if !strings.ContainsAny(string(first), "{ \t\r\n") {
		return nil
	}
	return a.keep(m.name, m.size, body)
}

func (a *archive) keep(name string, size int64, body io.Reader) error {
	if a.spoolt+size > maxJSON {
		return invalid("it has more than %d bytes of JSON", int64(maxJSON))
	}
	n, err := io.Copy(io.NewOffsetWriter(a.spool, a.spoolt), body)
	if err != nil {
		return invalid("%s: %w", name, err)
	}
	if n != size {
		return invalid("%s has %d bytes and says %d", name, n, size)
	}
	a.json[name] = span{a.spoolt, size}
	a.spoolt += size
	return nil
}

// read returns a file that was kept, nil if there is none.
func (a *archive) read(name string) ([]byte, error) {
	s, ok := a.json[name]
	if !ok {
		return nil, nil
	}
	text := make([]byte, s.size)
	_, err := a.spool.ReadAt(text, s.at)
	if err == io.EOF && s.size == 0 {
		err = nil
	}
	// A few bytes of JSON can become hundreds of a struct.
	if err == nil && (bytes.Count(text, []byte("{")) > maxObjects || bytes.Count(text, []byte(",")) > maxValues) {
		err = invalid("%s has more than %d objects or %d values", name, maxObjects, maxValues)
	}
	return text, err
}

// decode reads a JSON file of the layout. ok is false if there is none.
func (a *archive) decode(name string, into any) (ok bool, err error) {
	text, err := a.read(name)
	if err != nil || text == nil {
		return false, err
	}
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), into); err != nil { // some editors put a mark there
		return false, invalid("%s: %w", name, err)
	}
	return true, nil
}

// has says whether the archive has a blob, and how large it is.
func (a *archive) has(d digest.Digest) (size int64, ok bool) {
	size, ok = a.files[blobName(d)]
	return size, ok
}

// manifest returns a blob that may be a manifest, verified. nil if the archive has none.
func (a *archive) manifest(d digest.Digest) ([]byte, error) {
	text, err := a.read(blobName(d))
	if err != nil || text == nil {
		return nil, err
	}
	if d.Algorithm().FromBytes(text) != d {
		return nil, invalid("the bytes of %s do not have this digest", d)
	}
	return text, nil
}

// linked are the blobs that are links, by the names of their files.
func (a *archive) linked() map[string]digest.Digest {
	names := map[string]digest.Digest{}
	for name, target := range a.links {
		if d, ok := digestOf(name); ok {
			names[target] = d
		}
	}
	return names
}

// digestOf is the digest that a blob's name says.
func digestOf(name string) (d digest.Digest, ok bool) {
	rest, ok := strings.CutPrefix(name, "blobs/")
	if !ok || kindOf(name) != content {
		return "", false
	}
	d, err := registry.ParseDigest(strings.Replace(rest, "/", ":", 1))
	return d, err == nil
}

// bundle returns bundle.json, nil if the archive is another tool's. Every file and blob that it names is there with that
// size, files also with that digest, and nothing else is.
func (a *archive) bundle() (*Manifest, error) {
	text, err := a.read(bundleFile)
	if err != nil || text == nil {
		return nil, err
	}
	m, err := readManifest(text)
	if err != nil {
		return nil, err
	}
	named := map[string]bool{bundleFile: true, signatureFile: true}
	for _, f := range m.Files {
		text, err := a.read(f.Name)
		if err != nil {
			return nil, err
		}
		if text == nil || digest.FromBytes(text) != f.Digest {
			return nil, invalid("%.200q is missing, or not the one that %s names", f.Name, bundleFile)
		}
		named[f.Name] = true
	}
	for _, b := range m.Blobs {
		if size, ok := a.has(b.Digest); !ok || size != b.Size {
			return nil, invalid("%s is missing or does not have %d bytes", b.Digest, b.Size)
		}
		named[blobName(b.Digest)] = true
	}
	if a.spare != "" {
		return nil, invalid("%.200q belongs to no image layout", a.spare)
	}
	for name := range a.files {
		if !named[name] {
			return nil, invalid("%s is not in %s", name, bundleFile)
		}
	}
	return m, nil
}
