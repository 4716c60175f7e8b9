package remote

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// Content is an image or an artifact on this machine.
type Content struct {
	Root  v1.Descriptor
	files map[string]file // by path in the layout, "blobs/sha256/…"
	close func() error
}

// file is bytes that can be read from anywhere in them.
type file struct {
	io.ReaderAt
	size int64
}

// Close closes the files behind the content.
func (c *Content) Close() error { return c.close() }

func blobPath(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

// open returns the bytes of a descriptor.
func (c *Content) open(d v1.Descriptor) (file, error) {
	if err := d.Digest.Validate(); err != nil {
		return file{}, fmt.Errorf("%.80q: %w", d.Digest, err)
	}
	f, ok := c.files[blobPath(d.Digest)]
	if !ok {
		return file{}, fmt.Errorf("%s is not in the layout", d.Digest)
	}
	if f.size != d.Size {
		return file{}, fmt.Errorf("%s has %d bytes, its descriptor says %d", d.Digest, f.size, d.Size)
	}
	return f, nil
}

// read returns a manifest, which has its digest.
func (c *Content) read(d v1.Descriptor) ([]byte, error) {
	f, err := c.open(d)
	if err != nil {
		return nil, err
	}
	if f.size > maxAnswer {
		return nil, fmt.Errorf("%s has %d bytes, which is more than a manifest may have", d.Digest, f.size)
	}
	content := make([]byte, f.size)
	if _, err := f.ReadAt(content, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if d.Digest.Algorithm().FromBytes(content) != d.Digest {
		return nil, fmt.Errorf("%s does not have its digest", d.Digest)
	}
	return content, nil
}

// OpenLayout opens an OCI image layout (image-spec, "OCI Image Layout Specification"), a directory or a tar that is not
// compressed. Of several images in it, the one with the name ref is meant. The caller closes the Content.
func OpenLayout(name, ref string) (*Content, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	var c *Content
	if info.IsDir() {
		c, err = openDir(name)
	} else {
		c, err = openTar(name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := c.choose(ref); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), c.close())
	}
	return c, nil
}

func openDir(name string) (*Content, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	c := &Content{files: map[string]file{}}
	var opened []io.Closer
	c.close = func() (err error) {
		for _, f := range opened {
			err = errors.Join(err, f.Close())
		}
		return errors.Join(err, root.Close())
	}
	add := func(at string) error {
		info, err := root.Stat(at)
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		c.files[at] = file{&lazyFile{root: root, name: at}, info.Size()}
		return nil
	}
	if err := add("index.json"); err != nil {
		return nil, errors.Join(err, c.close())
	}
	matches, err := filepath.Glob(filepath.Join(name, "blobs", "*", "*"))
	for _, match := range matches {
		if err == nil {
			err = add(path.Join("blobs", filepath.Base(filepath.Dir(match)), filepath.Base(match)))
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// lazyFile opens a file for each read: a layout may have more of them than a process may have open.
type lazyFile struct {
	root *os.Root
	name string
}

func (l *lazyFile) ReadAt(p []byte, offset int64) (int, error) {
	f, err := l.root.Open(l.name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.ReadAt(p, offset)
}

func openTar(name string) (*Content, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	c := &Content{files: map[string]file{}, close: f.Close}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return c, nil
		}
		var at int64
		if err == nil {
			at, err = f.Seek(0, io.SeekCurrent) // the reader does not read ahead
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("not a tar, or a compressed one: %w", err), f.Close())
		}
		if h.Typeflag == tar.TypeReg {
			c.files[path.Clean(h.Name)] = file{io.NewSectionReader(f, at, h.Size), h.Size}
		}
	}
}

// choose finds the root in the index.
func (c *Content) choose(ref string) error {
	f, ok := c.files["index.json"]
	if _, docker := c.files["manifest.json"]; !ok && docker {
		return errors.New("an archive of Docker before 25; skopeo copy docker-archive:FILE oci:DIR makes a layout of it")
	}
	if !ok || f.size > maxAnswer {
		return errors.New("not an OCI image layout: it has no index.json")
	}
	text := make([]byte, f.size)
	if _, err := f.ReadAt(text, 0); err != nil && err != io.EOF {
		return err
	}
	var index v1.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	if len(index.Manifests) == 1 {
		c.Root = index.Manifests[0]
		return nil
	}
	var names []string
	for _, m := range index.Manifests {
		name := m.Annotations[v1.AnnotationRefName]
		if name == ref && ref != "" {
			c.Root = m
			return nil
		}
		names = append(names, name)
	}
	return fmt.Errorf("it has %d images, and none of them is named as the tag %q: %q", len(names), ref, names)
}

// NewArtifact makes an artifact of files, each of which becomes a layer with its name as title (image-spec, "Guidelines
// for Artifact Usage"). The caller closes the Content.
func NewArtifact(artifactType string, names []string) (*Content, error) {
	c := &Content{files: map[string]file{}}
	var opened []io.Closer
	c.close = func() (err error) {
		for _, f := range opened {
			err = errors.Join(err, f.Close())
		}
		return err
	}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: artifactType, Config: v1.DescriptorEmptyJSON}
	m.Config.Data = nil
	c.add(m.Config.Digest, file{bytes.NewReader(v1.DescriptorEmptyJSON.Data), m.Config.Size})
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		opened = append(opened, f)
		d, size, err := digestOf(f)
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.add(d, file{f, size})
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: size,
			Annotations: map[string]string{v1.AnnotationTitle: filepath.Base(name)}})
	}
	content, err := json.Marshal(m)
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.Root = v1.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	c.add(c.Root.Digest, file{bytes.NewReader(content), c.Root.Size})
	return c, nil
}

func (c *Content) add(d digest.Digest, f file) { c.files[blobPath(d)] = f }

func digestOf(f *os.File) (digest.Digest, int64, error) {
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		return "", 0, err
	}
	d, err := digest.FromReader(io.NewSectionReader(f, 0, info.Size()))
	return d, info.Size(), err
}
