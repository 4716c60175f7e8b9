package server

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"registry/server/registry"

	"golang.org/x/sync/semaphore"
)

// budget bounds the memory of large manifests under way. Manifests of a few KiB, as nearly all are, need none of it. A
// client has a share: who sends many large ones, or never ends them, waits for their own.
type budget struct {
	patience time.Duration
	total    *semaphore.Weighted
	mu       sync.Mutex
	shares   map[string]*share
}

// share is what one client may have of a budget. It is there while somebody holds it or waits for it.
type share struct {
	*semaphore.Weighted
	requests int
}

const (
	// freeManifest is the size up to which a manifest costs nothing of the budget, in bytes. It is what a request may take.
	freeManifest = 512 << 10
	// manifestCopies is how much memory a manifest takes for each of its bytes, while it is read, parsed and stored.
	manifestCopies = 4
	manifestBudget = 64 << 20
	manifestShare  = manifestBudget / 2
	// manifestPatience is how long a request waits for its part of the budget before it is told to come again.
	manifestPatience = 10 * time.Second
)

func newBudget(idle time.Duration) *budget {
	return &budget{patience: min(manifestPatience, idle/2), total: semaphore.NewWeighted(manifestBudget), shares: map[string]*share{}}
}

// acquire waits for n bytes of the budget, or as much as a share has. The caller calls release when it needs them no more.
// TooManyRequests if they do not become free in time.
func (b *budget) acquire(ctx context.Context, client string, n int64) (release func(), err error) {
	n = min(n, manifestShare)
	waiting, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	own := b.enter(client)
	if err = own.Acquire(waiting, n); err == nil {
		if err = b.total.Acquire(waiting, n); err == nil {
			return func() { b.total.Release(n); own.Release(n); b.leave(client) }, nil
		}
		own.Release(n)
	}
	b.leave(client)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, &registry.Error{Code: registry.TooManyRequests, Detail: retryAfter, Err: err}
}

func (b *budget) enter(client string) *share {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.shares[client]
	if s == nil {
		s = &share{Weighted: semaphore.NewWeighted(manifestShare)}
		b.shares[client] = s
	}
	s.requests++
	return s
}

func (b *budget) leave(client string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.shares[client]
	if s.requests--; s.requests == 0 {
		delete(b.shares, client)
	}
}

// readManifest reads a body of at most the largest size of a manifest. The caller calls release when it has no use for the
// content any more. ManifestTooLarge if there is more, without reading all of it; TooManyRequests.
func (s *Server) readManifest(w *recorder, r *http.Request) (content []byte, release func(), err error) {
	limit := s.cfg.MaxManifest
	tooLarge := registry.ManifestTooLarge.With("the limit is " + strconv.FormatInt(limit, 10) + " bytes")
	if r.ContentLength > limit {
		return nil, nil, tooLarge
	}
	free := min(limit, freeManifest)
	broken := func(err error) error {
		return &registry.Error{Code: registry.ManifestInvalid, Detail: "the body broke off", Err: err}
	}
	content, err = io.ReadAll(io.LimitReader(r.Body, free+1))
	if err != nil {
		return nil, nil, broken(err)
	}
	if int64(len(content)) <= free {
		return content, func() {}, nil
	}
	size := limit
	if r.ContentLength > 0 {
		size = r.ContentLength
	}
	client := w.caller.Name
	if client == "" {
		client = s.clientAddress(r).String()
	}
	if release, err = s.manifests.acquire(r.Context(), client, manifestCopies*size); err != nil {
		return nil, nil, err
	}
	whole := make([]byte, size+1) // one more shows whether there is more
	copy(whole, content)
	n, err := io.ReadFull(r.Body, whole[len(content):])
	switch whole = whole[:len(content)+n]; {
	case err == nil:
		err = tooLarge
	case err == io.ErrUnexpectedEOF || err == io.EOF:
		return whole, release, nil
	default:
		err = broken(err)
	}
	release()
	return nil, nil, err
}
