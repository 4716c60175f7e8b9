// Package syncer copies images of other registries into this one ahead of time, as a file says that has regsync's words.
// What it promises:
//
//   - Bytes and digests stay as they are; nothing is kept whose bytes have not the digest.
//   - A tag moves when everything of its image is here: blobs, then manifests, children before their index. What refers to
//     the image follows.
//   - What is here is not fetched. A tag that has not moved costs a HEAD.
//   - An image that cannot be copied is reported and keeps none of the others back.
//   - Nothing is removed but by Prune, and only what Plan has named.
//   - An upstream that wants to be left alone is.
//
// Begin reading with Syncer.Run. What another registry is asked goes through mirror.Remote, which looks where credentials go.
package syncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"registry/server/mirror"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"
)

// Config is what a Syncer is made of. Only the registry has no default.
type Config struct {
	Registry *registry.Registry
	Public   bool                                       // repositories that the registry makes are public
	Log      *slog.Logger                               // nil: discarded
	Stall    time.Duration                              // an upstream that sends no byte for so long is given up; 1 min
	Now      func() time.Time                           // nil: time.Now
	Sleep    func(context.Context, time.Duration) error // nil: that of the real clock
}

// Syncer is safe for concurrent use. Its upstreams are known by their names, so all entries should come from one file.
type Syncer struct {
	cfg     Config
	mu      sync.Mutex
	sources map[string]*source           // by the name of the upstream
	targets map[registry.RepoName]string // the upstream whose images a repository gets
	flights singleflight.Group           // blobs on their way, by digest
}

// isCopy says whether a repository gets its images from an upstream, as far as this Syncer has copied.
func (s *Syncer) isCopy(repo registry.RepoName, upstream string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.targets[repo] == upstream
}

func (s *Syncer) copies(repo registry.RepoName, upstream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets[repo] = upstream
}

// New makes a Syncer. The caller calls Close after the last Run has returned.
func New(cfg Config) *Syncer {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Stall <= 0 {
		cfg.Stall = time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = mirror.Sleep
	}
	return &Syncer{cfg: cfg, sources: map[string]*source{}, targets: map[registry.RepoName]string{}}
}

// Close ends idle connections.
func (s *Syncer) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, src := range s.sources {
		src.remote.Close()
	}
}

// Result is what became of an image.
type Result string

// The results.
const (
	Same   Result = "same"   // it was here
	Copied Result = "copied" // it is here now
	Would  Result = "would copy"
	Failed Result = "failed"
)

// Outcome is what became of one image, or of a list of them that could not be had.
type Outcome struct {
	Source    string        `json:"source"`
	Target    string        `json:"target"`
	Result    Result        `json:"result"`
	Digest    digest.Digest `json:"digest,omitempty"`
	Manifests int           `json:"manifests"` // fetched
	Blobs     int           `json:"blobs"`     // fetched
	Bytes     int64         `json:"bytes"`     // of these blobs
	Linked    int           `json:"linked"`    // blobs that another repository here had
	Error     string        `json:"error,omitempty"`
}

// Report is what became of an entry. Images are in the order of their names.
type Report struct {
	Source string    `json:"source"`
	Target string    `json:"target"`
	Images []Outcome `json:"images"`

	entry    Entry
	listings []listing
	listed   bool // what the entry is about could be listed
}

// Count returns how many of the images have a result.
func (r Report) Count(which Result) (n int) {
	for _, o := range r.Images {
		if o.Result == which {
			n++
		}
	}
	return n
}

// listing is what a repository at the source has.
type listing struct {
	target registry.RepoName
	has    []registry.Tag // all of them
	wanted []registry.Tag
	err    error
}

// task is one image to copy.
type task struct {
	from   registry.RepoName
	ref    registry.Reference
	to     registry.RepoName
	tag    registry.Tag
	listed []registry.Tag // of the source, nil if nobody has asked
	wanted []registry.Tag // that are copied anyway
}

// Run copies what an entry asks for, or, with dry, only says what it would copy. It returns when all of it has ended, soon
// after ctx has.
func (s *Syncer) Run(ctx context.Context, e Entry, dry bool) Report {
	src := s.source(e)
	r := Report{Source: e.Source, Target: string(e.Target), entry: e}
	var (
		mu      sync.Mutex
		running sync.WaitGroup
	)
	note := func(o Outcome) {
		mu.Lock()
		defer mu.Unlock()
		r.Images = append(r.Images, o)
		s.log(ctx, o)
	}
	s.tasks(ctx, src, &r, note, func(t task) {
		if src.begin(ctx) != nil {
			return
		}
		running.Go(func() {
			defer src.end()
			note(s.copy(ctx, src, e, t, dry))
		})
	})
	running.Wait()
	slices.SortFunc(r.Images, func(a, b Outcome) int { return strings.Compare(a.Source, b.Source) })
	return r
}

func (s *Syncer) log(ctx context.Context, o Outcome) {
	log := s.cfg.Log.With("source", o.Source, "target", o.Target)
	switch {
	case o.Result == Failed && ctx.Err() == nil:
		log.Warn("image not copied", "err", o.Error)
	case o.Result == Copied:
		log.Info("image copied", "digest", o.Digest, "manifests", o.Manifests, "blobs", o.Blobs, "bytes", o.Bytes, "linked", o.Linked)
	}
}

// tasks finds the images of an entry. What cannot be listed is noted as failed.
func (s *Syncer) tasks(ctx context.Context, src *source, r *Report, note func(Outcome), do func(task)) {
	e := r.entry
	failed := func(what string, err error) {
		note(Outcome{Source: what, Target: r.Target, Result: Failed, Error: explain(err)})
	}
	switch e.Type {
	case Image:
		r.listed = true
		do(task{from: e.Repository, ref: e.Ref, to: e.Target, tag: e.TargetTag})
	case Repository:
		l := s.repository(ctx, src, e, e.Repository, e.Target, do)
		if r.listings, r.listed = []listing{l}, l.err == nil; l.err != nil {
			failed(e.Source, l.err)
		}
	case Registry:
		var names []registry.RepoName
		err := src.try(ctx, func() (err error) { names, err = src.remote.AllRepositories(ctx); return err })
		if err == nil && len(names) == 0 {
			err = errEmpty
		}
		if r.listed = err == nil; err != nil {
			failed(e.Source, fmt.Errorf("its repositories could not be listed: %w", err))
		}
		for _, name := range names {
			if !e.Repos.Lets(string(name)) {
				continue
			}
			to, err := registry.ParseRepoName(string(e.Target) + "/" + string(name))
			l := listing{target: to, err: err}
			if err == nil {
				l = s.repository(ctx, src, e, name, to, do)
			}
			if r.listings = append(r.listings, l); l.err != nil {
				failed(e.Upstream.Name+"/"+string(name), l.err)
			}
		}
	}
}

var errEmpty = errors.New("the list is empty")

// repository finds the images of one repository.
func (s *Syncer) repository(ctx context.Context, src *source, e Entry, from, to registry.RepoName, do func(task)) listing {
	l := listing{target: to}
	l.err = src.try(ctx, func() (err error) { l.has, err = src.remote.AllTags(ctx, string(from)); return err })
	if l.err != nil {
		l.err = fmt.Errorf("its tags could not be listed: %w", l.err)
		return l
	}
	for _, tag := range l.has {
		if e.lets(tag) {
			l.wanted = append(l.wanted, tag)
		}
	}
	for _, tag := range l.wanted {
		do(task{from: from, ref: registry.Reference{Tag: tag}, to: to, tag: tag, listed: l.has, wanted: l.wanted})
	}
	return l
}

func (e Entry) lets(tag registry.Tag) bool {
	return len(e.Tags) == 0 || slices.ContainsFunc(e.Tags, func(f Filter) bool { return f.Lets(string(tag)) })
}

// explain makes of an error what a person can use; what was done about it is in the log.
func explain(err error) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, mirror.ErrUnknown):
		return strings.ReplaceAll(err.Error(), mirror.ErrUnknown.Error(), "the source does not have it, or not for everybody")
	}
	return err.Error()
}
