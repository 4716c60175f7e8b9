package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// PushOptions say how content is pushed.
type PushOptions struct {
	Chunk    int64 // see Upload
	Parallel int   // blobs at a time; 0: 3
	Progress func(PushReport)
	Retry    func(error) // see Upload
}

// PushReport counts.
type PushReport struct {
	Digest    digest.Digest `json:"digest"`
	Manifests int           `json:"manifests"`
	Blobs     int           `json:"blobs"` // pushed
	There     int           `json:"there"` // blobs that were there before
	Bytes     int64         `json:"bytes"` // of all blobs
	Sent      int64         `json:"sent"`
}

// Push pushes content to a repository, and tags it unless tag is empty: blobs first, children before their index.
func (c *Client) Push(ctx context.Context, content *Content, repo, tag string, opt PushOptions) (PushReport, error) {
	p := pushing{c: c, from: content, repo: repo, opt: opt, report: PushReport{Digest: content.Root.Digest}}
	if err := p.plan(content.Root); err != nil {
		return p.report, err
	}
	if err := p.blobs(ctx); err != nil {
		return p.report, err
	}
	for i, m := range p.manifests {
		as := ""
		if i == len(p.manifests)-1 {
			as = tag
		}
		if err := c.PushManifest(ctx, repo, as, m.MediaType, m.Data); err != nil {
			return p.report, err
		}
		p.report.Manifests++
	}
	return p.report, nil
}

type pushing struct {
	c         *Client
	from      *Content
	repo      string
	opt       PushOptions
	manifests []v1.Descriptor // with their content, in the order of the push
	layers    []v1.Descriptor

	mu     sync.Mutex
	report PushReport
}

// plan finds out what has to be pushed for a manifest.
func (p *pushing) plan(root v1.Descriptor) error {
	planned := map[digest.Digest]bool{}
	var visit func(d v1.Descriptor) error
	visit = func(d v1.Descriptor) error {
		if planned[d.Digest] {
			return nil
		}
		planned[d.Digest] = true
		content, err := p.from.read(d)
		if err != nil {
			return err
		}
		var m struct {
			MediaType                string
			Config                   *v1.Descriptor
			Layers, Blobs, Manifests []v1.Descriptor
		}
		if err := json.Unmarshal(content, &m); err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
		for _, child := range m.Manifests {
			if err := visit(child); err != nil {
				return err
			}
		}
		if m.Config != nil {
			m.Layers = append(m.Layers, *m.Config)
		}
		for _, l := range append(m.Layers, m.Blobs...) {
			_, here := p.from.files[blobPath(l.Digest)]
			elsewhere := !here && len(l.URLs) > 0 // a layer that may not be distributed
			if !planned[l.Digest] && !elsewhere {
				planned[l.Digest] = true
				p.layers = append(p.layers, l)
				p.report.Bytes += l.Size
			}
		}
		if m.MediaType != "" {
			d.MediaType = m.MediaType
		}
		d.Data = content
		p.manifests = append(p.manifests, d)
		return nil
	}
	return visit(root)
}

func (p *pushing) blobs(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(3)
	if p.opt.Parallel > 0 {
		group.SetLimit(p.opt.Parallel)
	}
	for _, l := range p.layers {
		group.Go(func() error {
			if err := p.blob(ctx, l); err != nil {
				if errors.As(err, new(*Unreachable)) {
					return err // which has nothing to do with this blob
				}
				return fmt.Errorf("%s: %w", l.Digest, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (p *pushing) blob(ctx context.Context, l v1.Descriptor) error {
	f, err := p.from.open(l)
	if err != nil {
		return err
	}
	pushed, err := p.c.PushBlob(ctx, Upload{Repo: p.repo, Digest: l.Digest, Size: l.Size, Body: f, Chunk: p.opt.Chunk,
		Sent: func(n int64) { p.count(func(r *PushReport) { r.Sent += n }) }, Retry: p.opt.Retry})
	if err != nil {
		return err
	}
	p.count(func(r *PushReport) {
		if pushed {
			r.Blobs++
		} else {
			r.There++
		}
	})
	return nil
}

func (p *pushing) count(add func(*PushReport)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	add(&p.report)
	if p.opt.Progress != nil {
		p.opt.Progress(p.report)
	}
}
