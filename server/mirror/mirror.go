// Package mirror serves the content of other registries as if it were here: a pull through this registry fetches what is
// missing, and keeps it. What it promises:
//
//   - Nothing is kept before all its bytes have the digest, and no client gets a complete blob that has not.
//   - What is here is served whatever happens to the upstream: it is down, slow, wants to be left alone, refuses the
//     credentials or has deleted it.
//   - A digest that is here costs the upstream nothing. A tag costs it a HEAD now and then.
//   - However many clients wait for something, the upstream is asked once, and none of them stops that by going away.
//   - An upstream is one of a list. It sees its own credentials, and nobody else does; what it says leads to no private
//     address.
//
// A copy of library/nginx of docker.io is in the repository docker.io/library/nginx. Everything under an upstream's name
// belongs to that upstream. Mirror.Resolve says which repository a request is about; Manifest and Blob see to it that the
// registry has what is asked for, which then serves it as it serves anything.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Config is what a mirror is made of; nobody uses the registry before the mirror is made. The first two have no default.
type Config struct {
	Registry  *registry.Registry
	Upstreams []Upstream
	Log       *slog.Logger                               // nil: discarded
	TagTTL    time.Duration                              // for so long a tag is believed to be as it was; 5 min, negative: not at all
	Budget    time.Duration                              // who could have what is here already waits so long for an upstream; 2 s
	Stall     time.Duration                              // an upstream that sends no byte for so long is given up; 1 min
	Offline   bool                                       // ask no upstream
	UsersOnly bool                                       // ask upstreams only for clients that have logged in
	CacheMax  int64                                      // bytes that copies may take; 0: no limit
	Now       func() time.Time                           // nil: time.Now
	Sleep     func(context.Context, time.Duration) error // nil: Sleep
}

const (
	defaultTagTTL = 5 * time.Minute
	defaultBudget = 2 * time.Second
	defaultStall  = time.Minute
	// fetchTimeout is for a manifest, with the login before it.
	fetchTimeout = time.Minute
	// unknownFor is how long it is believed that an upstream does not have something.
	unknownFor = time.Minute
	// maxRemembered bounds what is remembered in memory.
	maxRemembered = 10_000
	// pullNote is how exactly it is known when a copy was last pulled.
	pullNote = time.Hour
)

// Mirror is safe for concurrent use.
type Mirror struct {
	cfg       Config
	registry  *registry.Registry
	log       *slog.Logger
	upstreams map[string]*upstream // by the first part of repository names
	spaces    map[string]string    // from ?ns= to that
	ctx       context.Context      // of the work that belongs to no request; ends with Close
	stop      context.CancelFunc
	mu        sync.Mutex
	closed    bool
	working   sync.WaitGroup
	questions questions
	fills     fills
	lists     lists
	unknown   memory
	sizes     memory // of blobs at the upstream
	pulled    memory
	evict     chan struct{}
}

// New makes a mirror. The caller calls Close.
func New(cfg Config) *Mirror {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.TagTTL == 0 {
		cfg.TagTTL = defaultTagTTL
	}
	if cfg.Budget <= 0 {
		cfg.Budget = defaultBudget
	}
	if cfg.Stall <= 0 {
		cfg.Stall = defaultStall
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Sleep == nil {
		cfg.Sleep = Sleep
	}
	m := &Mirror{cfg: cfg, registry: cfg.Registry, log: cfg.Log, upstreams: map[string]*upstream{}, spaces: map[string]string{},
		fills: fills{running: map[string]*fill{}}, evict: make(chan struct{}, 1)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	for _, up := range cfg.Upstreams {
		m.upstreams[up.prefix()] = newUpstream(up, cfg)
		m.spaces[up.Name] = up.prefix()
	}
	m.registry.SetMirrors(m.visibility)
	if cfg.CacheMax > 0 {
		m.working.Go(m.keepSmall)
		m.wantEviction()
	}
	return m
}

// Sleep waits, but not longer than ctx lasts.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends what is being fetched, and waits for it.
func (m *Mirror) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.stop()
	m.working.Wait()
	for _, up := range m.upstreams {
		up.remote.Close()
	}
}

var errClosed = errors.New("the mirror is closed")

// begin says whether work may begin. If so, the caller ends it with working.Done.
func (m *Mirror) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.working.Add(1)
	}
	return !m.closed
}

// Resolve returns the repository that a request is about: name, or, if the client says by the ?ns= of its request of which
// registry that is the name, the one with the copies. mirrored says whether it is the repository of an upstream, whose first
// part names it. NameUnknown for a registry that is not mirrored here.
func (m *Mirror) Resolve(name registry.RepoName, ns string) (repo registry.RepoName, mirrored bool, err error) {
	full := string(name)
	if ns != "" {
		prefix, ok := m.spaces[ns]
		if !ok {
			return name, false, registry.NameUnknown.With("this registry is no mirror of the one that ns names")
		}
		full = prefix + "/" + full
	}
	prefix, rest, deeper := strings.Cut(full, "/")
	up := m.upstreams[prefix]
	if up == nil || !deeper {
		return name, false, nil
	}
	if up.Name == dockerHub && !strings.Contains(rest, "/") {
		full = prefix + "/library/" + rest
	}
	repo, err = registry.ParseRepoName(full)
	return repo, true, err
}

// of returns the upstream of a repository, and the name it has there.
func (m *Mirror) of(repo registry.RepoName) (*upstream, string) {
	prefix, rest, deeper := strings.Cut(string(repo), "/")
	if !deeper {
		return nil, ""
	}
	return m.upstreams[prefix], rest
}

// visibility is what registry.SetMirrors wants to know.
func (m *Mirror) visibility(repo registry.RepoName) (mirrored, public bool) {
	up, _ := m.of(repo)
	return up != nil, up != nil && up.Public
}

// Refuse is the error for whoever wants to write to a repository of an upstream.
func (m *Mirror) Refuse(repo registry.RepoName) error {
	up, _ := m.of(repo)
	return registry.Denied.With("repositories under this name mirror " + up.Name + ": push to another name")
}

// Manifest sees to it that the registry has what ref names, and knows of a tag what it names by now. stale says why that is
// not known, if it is not, and the registry has something all the same. Errors: ManifestUnknown, TooManyRequests,
// UpstreamFailed.
func (m *Mirror) Manifest(ctx context.Context, who Client, repo registry.RepoName, ref registry.Reference) (stale string, err error) {
	up, _ := m.of(repo)
	here, fresh, err := m.look(ctx, repo, ref)
	if err != nil {
		return "", err
	}
	if fresh {
		up.count(&up.figures.Hits)
		return "", nil
	}
	err = m.ask(ctx, up, who, repo, ref, here)
	if err == nil || !here || ctx.Err() != nil {
		return "", err
	}
	up.count(&up.figures.Stale)
	m.log.Warn("an older copy is served", "repository", repo, "tag", ref.Tag, "err", err)
	return fmt.Sprintf("%s could not be asked what %s is now", up.Name, ref.Tag), nil
}

// look says whether something is here, and whether nobody has to be asked about it.
func (m *Mirror) look(ctx context.Context, repo registry.RepoName, ref registry.Reference) (here, fresh bool, err error) {
	if ref.Digest != "" {
		_, err := m.registry.StatManifest(ctx, repo, ref)
		if err == nil {
			m.notePull(repo, ref.Digest)
			return true, true, nil
		}
		return false, false, except(err, registry.ManifestUnknown)
	}
	at, err := m.registry.CheckedAt(ctx, repo, ref.Tag, m.cfg.Now())
	if err != nil {
		return false, false, except(err, registry.ManifestUnknown)
	}
	fresh = m.cfg.Now().Sub(at) < m.cfg.TagTTL
	if fresh {
		if found, err := m.registry.StatManifest(ctx, repo, ref); err == nil {
			m.notePull(repo, found.Digest)
		}
	}
	return true, fresh, nil
}

// except returns err unless it is the one that says that something is not here.
func except(err error, code *registry.Code) error {
	if code.Is(err) {
		return nil
	}
	return err
}

// ask has the upstream asked for all who want to know, and waits for it: only for the budget if here.
func (m *Mirror) ask(ctx context.Context, up *upstream, who Client, repo registry.RepoName, ref registry.Reference, here bool) error {
	patience, n := ctx, news
	if here {
		within, cancel := context.WithTimeout(ctx, m.cfg.Budget)
		defer cancel()
		patience, n = within, again
	}
	q, err := m.put(patience, &question{up: up, who: who, need: n, key: string(repo) + " " + ref.String(), room: up.room, limit: fetchTimeout,
		ask: func(ctx context.Context, _ *question) error { return m.fetchManifest(ctx, up, repo, ref) }})
	if err == nil {
		err = q.wait(patience)
	}
	if here && ctx.Err() == nil && patience.Err() != nil && errors.Is(err, patience.Err()) {
		up.isSlow(m.cfg)
		return registry.UpstreamFailed.With("the upstream does not answer in time")
	}
	return asAnswer(ctx, err, registry.ManifestUnknown, ref.String())
}

// fetchManifest brings a manifest, or finds that it is here.
func (m *Mirror) fetchManifest(ctx context.Context, up *upstream, repo registry.RepoName, ref registry.Reference) error {
	_, name := m.of(repo)
	var got *Manifest
	if have, err := m.registry.StatManifest(ctx, repo, ref); err == nil && ref.Tag != "" {
		now, found, err := up.remote.Resolve(ctx, name, ref.Tag)
		if err != nil {
			return err
		}
		if now == have.Digest {
			up.count(&up.figures.Confirmed)
			return m.registry.ConfirmTag(ctx, repo, ref.Tag, now)
		}
		got = found
	}
	if got == nil {
		found, err := up.remote.Manifest(ctx, name, ref)
		if err != nil {
			return err
		}
		got = &found
	}
	up.count(&up.figures.Manifests)
	ref.Digest = got.Digest
	_, err := m.registry.CacheManifest(ctx, repo, registry.CachedManifest{Ref: ref, MediaType: got.MediaType, Content: got.Content, Public: up.Public})
	if registry.ManifestInvalid.Is(err) || registry.DigestInvalid.Is(err) {
		err = fmt.Errorf("%w: %w", ErrWrong, err)
	}
	if err == nil {
		m.log.Info("manifest fetched", "repository", repo, "tag", ref.Tag, "digest", got.Digest, "bytes", len(got.Content))
	}
	return err
}

// asAnswer is translate, unless it is the client that did not wait.
func asAnswer(ctx context.Context, err error, code *registry.Code, detail string) error {
	if err != nil && ctx.Err() != nil {
		return registry.AsError(ctx.Err())
	}
	return translate(err, code, detail)
}

// translate makes the error for a client of one of a Remote. What the upstream does not have is an error of code.
func translate(err error, code *registry.Code, detail string) error {
	var b Busy
	var known *registry.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known) && !errors.Is(err, ErrWrong):
		return err
	case errors.Is(err, ErrUnknown):
		return &registry.Error{Code: code, Detail: detail, Err: err}
	case errors.Is(err, errOffline):
		return code.With("this mirror is offline and has no copy")
	case errors.Is(err, errUsersOnly):
		return code.With("this mirror has no copy, and fetches one only for clients that have logged in")
	case errors.As(err, &b):
		return &registry.Error{Code: registry.TooManyRequests, Detail: registry.RetryAfter(b.After), Err: err}
	}
	return &registry.Error{Code: registry.UpstreamFailed, Err: err}
}

// notePull remembers that somebody wants a copy, at most once an hour.
func (m *Mirror) notePull(repo registry.RepoName, d digest.Digest) {
	key := string(repo) + "@" + string(d)
	if m.pulled.has(key, m.cfg.Now(), pullNote) {
		return
	}
	m.pulled.add(key, 0, m.cfg.Now())
	if err := m.registry.NotePull(m.ctx, repo, d); err != nil && !registry.ManifestUnknown.Is(err) {
		m.log.Warn("a pull could not be noted", "repository", repo, "err", err) // reads go on when the disk is full
	}
}

// memory remembers for a while that something was so, and with which number.
type memory struct {
	mu   sync.Mutex
	kept map[string]remembered
}

type remembered struct {
	at    time.Time
	value int64
}

func (m *memory) has(key string, now time.Time, lasts time.Duration) bool {
	_, ok := m.get(key, now, lasts)
	return ok
}

func (m *memory) get(key string, now time.Time, lasts time.Duration) (value int64, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.kept[key]
	age := now.Sub(r.at) // negative if the clock was wrong
	return r.value, ok && age >= 0 && age < lasts
}

func (m *memory) add(key string, value int64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == nil || len(m.kept) >= maxRemembered {
		m.kept = map[string]remembered{}
	}
	m.kept[key] = remembered{now, value}
}

// wantEviction has the copies looked at that there may be too many of.
func (m *Mirror) wantEviction() {
	select {
	case m.evict <- struct{}{}:
	default:
	}
}

// keepSmall evicts copies, once a minute at most.
func (m *Mirror) keepSmall() {
	for {
		select {
		case <-m.evict:
		case <-m.ctx.Done():
			return
		}
		m.Evict(m.ctx)
		select {
		case <-time.After(time.Minute):
		case <-m.ctx.Done():
			return
		}
	}
}

// Evict removes copies until they take no more than they may.
func (m *Mirror) Evict(ctx context.Context) {
	report, err := gc.Evict(ctx, m.registry, m.cfg.CacheMax)
	switch {
	case errors.Is(err, registry.ErrLocked):
		m.wantEviction() // later
	case err != nil && ctx.Err() == nil:
		m.log.Error("copies could not be evicted", "err", err)
	case report.Manifests > 0:
		m.log.Info("copies evicted", "manifests", report.Manifests, "blobs", report.Blobs, "bytes", report.Bytes)
	}
}

// Figures are what a mirror has counted of an upstream.
type Figures struct {
	Upstream  string
	Requests  map[string]int64 // by how they ended: a status, or failed
	Hits      int64            // answers that the upstream was not asked for
	Confirmed int64            // tags that had not changed
	Stale     int64            // answers although the upstream could not be asked
	Manifests int64            // fetched
	Blobs     int64            // fetched
	Bytes     int64            // of blobs, fetched
}

// Figures returns what has been counted.
func (m *Mirror) Figures() (all []Figures) {
	for _, up := range m.upstreams {
		up.mu.Lock()
		f := up.figures
		f.Requests = maps.Clone(f.Requests)
		up.mu.Unlock()
		all = append(all, f)
	}
	return all
}
