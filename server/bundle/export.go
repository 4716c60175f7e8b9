package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// imageNameAnnotation is what containerd and Docker read the full name of an image from.
const imageNameAnnotation = "io.containerd.image.name"

// ExportOptions say what a bundle has beside the images.
type ExportOptions struct {
	Platforms   []Platform // none: all. One: its image takes the place of an index. More: indexes stay, without the others
	Have        *Receipt   // leave out what the receiver has
	NoReferrers bool       // leave signatures, SBOMs and other referrers behind
	Docker      bool       // add what `docker load` reads
	SignKey     ed25519.PrivateKey
	Tmp         string                   // directory for what has to be kept meanwhile; "" for the system's
	AsCaller    func(func() error) error // runs what opens temporary files; nil: nothing does
	Progress    func(ExportReport)
}

// ExportReport counts what is in a bundle.
type ExportReport struct {
	Repositories int      `json:"repositories"`
	Tags         int      `json:"tags"`
	Manifests    int      `json:"manifests"`
	Blobs        int      `json:"blobs"`         // manifests not included
	Bytes        int64    `json:"bytes"`         // of manifests and blobs
	Required     int      `json:"required"`      // manifests and blobs that the receiver has to have
	RequiredSize int64    `json:"requiredBytes"` // of the blobs among them
	Skipped      []string `json:"skipped,omitempty"`
	Written      int64    `json:"-"` // bytes so far, for Progress
}

// Export writes a bundle with the images, and everything they reach, as a tar. What is written is the same for the same
// content, and every blob is verified on the way. Images may be pushed, moved and deleted meanwhile: each is in the bundle
// as it was when it was planned, or not at all. ErrNothing if there are no images.
func Export(ctx context.Context, reg *registry.Registry, images iter.Seq2[Image, error], opt ExportOptions, to io.Writer) (report ExportReport, err error) {
	if opt.Docker && opt.Have != nil {
		return ExportReport{}, errors.New("docker load wants whole images: a bundle that leaves out what the receiver has is none for it")
	}
	var kept *contents
	err = asCaller(opt.AsCaller, func() (err error) { kept, err = newContents(opt.Tmp); return err })
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, kept.Close()) }()
	p := planner{ctx: ctx, reg: reg, opt: opt, kept: kept}
	if err := p.all(images); err != nil {
		return ExportReport{}, err
	}
	report = p.plan.report()
	report.Skipped = p.skip
	if report.Tags == 0 {
		return report, ErrNothing
	}
	e := exporter{ctx: ctx, reg: reg, opt: opt, plan: p.plan, tar: tar.NewWriter(to), report: &report}
	return report, e.write()
}

// ErrNothing says that no image was chosen for a bundle.
var ErrNothing = errors.New("there is nothing to export")

func (p *plan) report() (r ExportReport) {
	r.Repositories = len(p.repos)
	for _, repo := range p.repos {
		r.Tags += len(repo.tags)
		r.Required += len(repo.required) + len(repo.blobs)
		for _, size := range repo.blobs {
			r.RequiredSize += size
		}
	}
	for _, s := range p.blobs {
		r.Bytes += s.size
		if s.manifest {
			r.Manifests++
		} else {
			r.Blobs++
		}
	}
	return r
}

// exporter writes what is planned: first what says what is in the bundle, then manifests, then blobs, so that a reader
// knows early what it needs.
type exporter struct {
	ctx    context.Context
	reg    *registry.Registry
	opt    ExportOptions
	plan   *plan
	tar    *tar.Writer
	report *ExportReport
}

func (e *exporter) write() error {
	if err := e.describe(); err != nil {
		return err
	}
	for _, manifests := range []bool{true, false} {
		for _, d := range slices.Sorted(maps.Keys(e.plan.blobs)) {
			if s := e.plan.blobs[d]; s.manifest == manifests {
				if err := e.blob(d, s); err != nil {
					return fmt.Errorf("%s@%s: %w", s.repo, d, err)
				}
			}
		}
	}
	return e.tar.Close()
}

// describe writes the files beside the blobs.
func (e *exporter) describe() error {
	files := map[string][]byte{layoutFile: []byte(layoutText)}
	var err error
	if files[indexFile], err = json.Marshal(e.plan.ociIndex()); err != nil {
		return err
	}
	if e.opt.Docker {
		if files[dockerFile], err = e.dockerManifest(); err != nil {
			return err
		}
	}
	m := e.plan.manifest()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, File{Name: name, Digest: digest.FromBytes(files[name]), Size: int64(len(files[name]))})
	}
	if files[bundleFile], err = json.MarshalIndent(m, "", " "); err != nil {
		return err
	}
	if e.opt.SignKey != nil {
		files[signatureFile] = ed25519.Sign(e.opt.SignKey, files[bundleFile])
	}
	for _, name := range []string{layoutFile, bundleFile, signatureFile, indexFile, dockerFile} {
		if text, ok := files[name]; ok {
			if err := e.file(name, int64(len(text)), bytes.NewReader(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// file writes an entry of which nothing but name and content says where and when it was made.
func (e *exporter) file(name string, size int64, content io.Reader) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := e.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(struct{ io.Writer }{e.tar}, e.watched(content))
	return err
}

func (e *exporter) blob(d digest.Digest, s stored) error {
	if s.manifest {
		content, err := e.plan.kept.open(d)
		if err != nil {
			return err
		}
		return e.file(blobName(d), s.size, content)
	}
	b, err := e.reg.Blob(e.ctx, s.repo, d)
	if err != nil {
		return err
	}
	defer b.Close()
	verifier := d.Verifier()
	if err := e.file(blobName(d), s.size, io.TeeReader(b, verifier)); err != nil {
		return err
	}
	if err := b.Err(); err != nil {
		return err
	}
	if !verifier.Verified() {
		return errors.New("its bytes are damaged; see registry check --read-data")
	}
	return nil
}

func blobName(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// watched counts what is read, and ends with the context.
func (e *exporter) watched(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if err := e.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := r.Read(p)
		e.report.Written += int64(n)
		if e.opt.Progress != nil {
			e.opt.Progress(*e.report)
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// ociIndex makes index.json. With one repository a tag is the name of its image, as skopeo, oras and crane write it, else
// REPOSITORY:TAG is.
func (p *plan) ociIndex() v1.Index {
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	for _, e := range p.index {
		d := v1.Descriptor{MediaType: e.MediaType, Digest: e.Digest, Size: e.Size}
		if e.tag != "" {
			full := fmt.Sprintf("%s:%s", e.repo, e.tag)
			d.Annotations = map[string]string{v1.AnnotationRefName: full, imageNameAnnotation: full}
			if len(p.repos) == 1 {
				d.Annotations[v1.AnnotationRefName] = string(e.tag)
			}
		}
		index.Manifests = append(index.Manifests, d)
	}
	return index
}
