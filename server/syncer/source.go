package syncer

import (
	"context"
	"errors"
	"time"

	"registry/server/mirror"
)

// source is an upstream with those who copy from it.
type source struct {
	s      *Syncer
	name   string
	remote *mirror.Remote
	room   chan struct{} // as many as may copy at a time

	// The Syncer's mu protects these.
	rest    time.Time // until then it is not asked
	refused time.Time // when it refused the credentials
	why     error     // how
}

const (
	// patience is how often something is asked of an upstream that wants to be left alone.
	patience = 5
	// refusedFor is how long credentials are not shown again that were refused: registries ban who keeps trying.
	refusedFor = 5 * time.Minute
)

// source returns the upstream of an entry, the same for all entries that copy from it.
func (s *Syncer) source(e Entry) *source {
	s.mu.Lock()
	defer s.mu.Unlock()
	src := s.sources[e.Upstream.Name]
	if src == nil {
		up := e.Upstream
		up.EnvProxy = true // the file does not name one
		src = &source{s: s, name: up.Name, remote: mirror.NewRemote(up, s.cfg.Stall, nil), room: make(chan struct{}, max(1, e.Parallel))}
		s.sources[e.Upstream.Name] = src
	}
	return src
}

// begin waits until one more may copy. If it returns nil the caller calls end.
func (src *source) begin(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case src.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (src *source) end() { <-src.room }

// try asks the upstream, when it may be asked and again if it does not want to be asked yet.
func (src *source) try(ctx context.Context, ask func() error) error {
	for n := 1; ; n++ {
		if err := src.untilRested(ctx); err != nil {
			return err
		}
		err := ask()
		src.heard(err)
		var busy mirror.Busy
		if !errors.As(err, &busy) || n == patience || ctx.Err() != nil {
			return err
		}
		src.s.cfg.Log.Warn("the upstream wants to be left alone", "upstream", src.name, "for", busy.After)
		src.leaveAlone(busy.After)
	}
}

func (src *source) untilRested(ctx context.Context) error {
	for {
		src.s.mu.Lock()
		now := src.s.cfg.Now()
		wait, refused := src.rest.Sub(now), src.why
		if now.Sub(src.refused) >= refusedFor {
			refused = nil
		}
		src.s.mu.Unlock()
		if refused != nil {
			return refused
		}
		if wait <= 0 {
			return ctx.Err()
		}
		if err := src.s.cfg.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// heard remembers that the credentials were refused.
func (src *source) heard(err error) {
	if !errors.Is(err, mirror.ErrCredentials) {
		return
	}
	src.s.mu.Lock()
	defer src.s.mu.Unlock()
	src.refused, src.why = src.s.cfg.Now(), err
}

func (src *source) leaveAlone(d time.Duration) {
	src.s.mu.Lock()
	defer src.s.mu.Unlock()
	if until := src.s.cfg.Now().Add(d); until.After(src.rest) {
		src.rest = until
	}
}

// spare waits while the upstream has no more pulls left than are for others. look asks it something that costs none, for it
// to say how many they are by now.
func (src *source) spare(ctx context.Context, r Rate, look func() error) error {
	for {
		left, known := src.remote.Remaining()
		if !known || left >= r.Min {
			return nil
		}
		src.s.cfg.Log.Warn("few pulls are left: waiting", "upstream", src.name, "left", left, "min", r.Min, "for", r.Retry)
		if err := src.s.cfg.Sleep(ctx, r.Retry); err != nil {
			return err
		}
		if err := look(); err != nil {
			return err
		}
	}
}
