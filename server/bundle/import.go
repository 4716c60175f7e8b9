package bundle

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// ImportOptions say how an archive is brought in.
type ImportOptions struct {
	Names     Names
	DryRun    bool                     // check everything, write nothing
	VerifyKey ed25519.PublicKey        // refuse what this key has not signed
	Sparse    registry.Sparse          // as the registry's own
	Stdin     io.Reader                // of the archive "-"
	Tmp       string                   // directory for what has to be kept meanwhile; "" for the system's
	AsCaller  func(func() error) error // runs what opens the archive and temporary files; nil: nothing does
	Beat      time.Duration            // how often a collection is told that the import goes on; 10 minutes
	Progress  func(ImportReport)
}

// ImportReport counts what an import brings.
type ImportReport struct {
	Format       string `json:"format"` // bundle, oci or docker
	Signed       bool   `json:"signed"` // by the key that was asked for
	Repositories int    `json:"repositories"`
	Tags         int    `json:"tags"`
	Manifests    int    `json:"manifests"`
	Stored       int    `json:"stored"`  // blobs taken from the archive
	Bytes        int64  `json:"bytes"`   // of these
	Mounted      int    `json:"mounted"` // blobs that another repository had
	Present      int    `json:"present"` // blobs that were there already
}

// Import brings an archive into a registry, all or nothing: see the package's promises. paths are one directory, one file,
// the parts of one in any order, or "-". ErrInvalid if the archive cannot be trusted, a MissingError if it needs what is
// not here; nothing was written then.
func Import(ctx context.Context, reg *registry.Registry, paths []string, opt ImportOptions) (report ImportReport, err error) {
	a, err := openArchive(ctx, paths, opt)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	i := importer{ctx: ctx, reg: reg, opt: opt, from: a, to: newPlacement(ctx, reg, a, opt.Sparse), report: &report}
	if err := i.place(); err != nil {
		return report, err
	}
	i.count()
	if opt.DryRun {
		return report, nil
	}
	return report, i.write()
}

// openArchive opens and reads what paths name, as the caller.
func openArchive(ctx context.Context, paths []string, opt ImportOptions) (a *archive, err error) {
	opening := func() error {
		from, err := open(paths, opt.Stdin, opt.Tmp)
		if err == nil {
			a, err = scan(ctx, from, opt.Tmp)
		}
		return err
	}
	err = asCaller(opt.AsCaller, opening)
	return a, err
}

type importer struct {
	ctx    context.Context
	reg    *registry.Registry
	opt    ImportOptions
	from   *archive
	to     *placement
	mu     sync.Mutex
	report *ImportReport
}

// place finds out what goes where, and that everything is there.
func (i *importer) place() error {
	b, err := i.from.bundle()
	if err == nil {
		err = i.checkSignature()
	}
	if err != nil {
		return err
	}
	var index v1.Index
	if b != nil {
		i.report.Format = "bundle"
		err = i.to.bundle(b, i.opt.Names)
	} else if ok, bad := i.from.decode(indexFile, &index); ok || bad != nil {
		i.report.Format = "oci"
		err = i.layout(index, bad)
	} else if _, ok := i.from.json[dockerFile]; ok {
		i.report.Format = "docker"
		err = i.docker()
	} else {
		return invalid("it has neither %s nor %s", indexFile, dockerFile)
	}
	if err != nil {
		return err
	}
	return i.to.complete()
}

func (i *importer) checkSignature() error {
	text, err := i.from.read(bundleFile)
	if err != nil {
		return err
	}
	signature, err := i.from.read(signatureFile)
	if err == nil {
		err = checkSignature(i.opt.VerifyKey, text, signature)
	}
	i.report.Signed = err == nil && i.opt.VerifyKey != nil
	return err
}

// layout places the OCI layout of another tool.
func (i *importer) layout(index v1.Index, err error) error {
	var layout v1.ImageLayout
	if err == nil {
		_, err = i.from.decode(layoutFile, &layout)
	}
	if err == nil && layout.Version != v1.ImageLayoutVersion {
		err = invalid("%s says version %q, want %s", layoutFile, layout.Version, v1.ImageLayoutVersion)
	}
	if err != nil {
		return err
	}
	claims, err := i.opt.Names.claims(index)
	if err != nil {
		return err
	}
	return i.to.claims(claims)
}

func (i *importer) count() {
	r := i.report
	r.Repositories = len(i.to.repos)
	for _, t := range i.to.repos {
		r.Tags += len(t.tagged)
		r.Manifests += len(t.manifests)
	}
	for d, n := range i.to.needs {
		lacking := len(n.lacking())
		r.Present += len(n.repos) - lacking
		if _, inside := i.to.size(d); inside && n.found == "" && lacking > 0 {
			r.Stored++
			r.Bytes += n.size
			lacking--
		}
		r.Mounted += lacking
	}
}

// lacking are the repositories that get the blob.
func (n *need) lacking() (repos []registry.RepoName) {
	for repo, lacks := range n.repos {
		if lacks {
			repos = append(repos, repo)
		}
	}
	slices.Sort(repos)
	return repos
}

// write stores blobs, then manifests.
func (i *importer) write() error {
	release, err := i.hold()
	if err != nil {
		return err
	}
	defer release()
	if err := i.blobs(); err != nil {
		return err
	}
	if err := i.mounts(); err != nil {
		return err
	}
	return i.reg.PutAll(i.ctx, i.to.all())
}

// hold begins an upload in each repository and keeps it moving, which tells collection that somebody is still pushing:
// what the import stores and finds stays until it ends, however long that takes. The caller calls release.
func (i *importer) hold() (release func(), err error) {
	held := map[registry.RepoName]string{}
	ctx, stop := context.WithCancel(i.ctx)
	var beating sync.WaitGroup
	release = func() {
		stop()
		beating.Wait()
		for repo, id := range held {
			i.reg.CancelUpload(context.WithoutCancel(i.ctx), repo, id)
		}
	}
	for repo := range i.to.repos {
		u, err := i.reg.StartUpload(ctx, repo, digest.SHA256)
		if err == nil {
			held[repo] = u.ID // it is written down with its first byte
			err = i.move(ctx, repo, u.ID)
		}
		if err != nil {
			release()
			return nil, err
		}
	}
	beating.Go(func() { i.beat(ctx, held) })
	return release, nil
}

func (i *importer) move(ctx context.Context, repo registry.RepoName, id string) error {
	_, err := i.reg.AppendUpload(ctx, repo, id, registry.Chunk{Body: strings.NewReader("."), Start: -1, Length: 1})
	return err
}

// defaultBeat is well below the shortest grace that a collection has.
const defaultBeat = 10 * time.Minute

// beat moves the uploads until ctx ends. If one is gone collection may take what is here, and the manifests are refused.
func (i *importer) beat(ctx context.Context, held map[registry.RepoName]string) {
	every := cmp.Or(i.opt.Beat, defaultBeat)
	for ticker := time.NewTicker(every); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
			for repo, id := range held {
				i.move(ctx, repo, id)
			}
		}
	}
}

const (
	smallBlob = 1 << 20 // bytes of one that is read whole, so that the next can be read while it becomes durable
	parallel  = 8
)

// blobs reads the archive a second time and stores what is needed of it.
func (i *importer) blobs() error {
	names := i.from.linked()
	for d, name := range i.to.layers {
		names[name] = d
	}
	stored := map[digest.Digest]bool{}
	group, ctx := errgroup.WithContext(i.ctx)
	group.SetLimit(parallel)
	report := *i.report
	report.Stored, report.Bytes = 0, 0
	err := i.from.walk(ctx, func(m member) error {
		d, ok := names[cleanName(m)]
		if !ok {
			d, ok = digestOf(cleanName(m))
		}
		n := i.to.needs[d]
		if !ok || m.link != "" || n == nil || n.found != "" || len(n.lacking()) == 0 || stored[d] {
			return nil
		}
		stored[d] = true
		body := m.body
		store := func() error { return i.store(ctx, d, n, body, &report) }
		if n.size > smallBlob {
			return store()
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return invalid("%s: %w", m.name, err)
		}
		body = bytes.NewReader(text)
		group.Go(store)
		return nil
	})
	if failed := group.Wait(); failed != nil { // it ended the context of the other
		return failed
	}
	return err
}

func (i *importer) store(ctx context.Context, d digest.Digest, n *need, body io.Reader, report *ImportReport) error {
	err := i.reg.PutBlob(ctx, n.lacking()[0], d, registry.Chunk{Body: body, Start: -1, Length: n.size})
	if registry.DigestInvalid.Is(err) {
		return invalid("the bytes of %s do not have this digest", d)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	report.Stored++
	report.Bytes += n.size
	if i.opt.Progress != nil {
		i.opt.Progress(*report)
	}
	return nil
}

// mounts gives blobs to the repositories that lack them and that need no bytes for it.
func (i *importer) mounts() error {
	for _, d := range slices.Sorted(maps.Keys(i.to.needs)) {
		n := i.to.needs[d]
		from, lacking := n.found, n.lacking()
		if from == "" && len(lacking) > 0 {
			from, lacking = lacking[0], lacking[1:]
		}
		for _, repo := range lacking {
			mounted, err := i.reg.MountBlob(i.ctx, repo, d, from)
			if err == nil && !mounted {
				err = MissingError{{Repo: repo, Digest: d}} // it went while we were at work
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
