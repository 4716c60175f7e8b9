package mirror

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"registry/server/registry"
)

// upstream is a registry that is mirrored, with what has been learned of it.
type upstream struct {
	Upstream
	remote *Remote

	mu       sync.Mutex
	figures  Figures
	rest     time.Time // until then it is not asked at all
	why      error     // the reason, which those are told who would have asked
	slow     time.Time // until then it is not asked for what is here
	refusals int       // of the credentials, in a row
}

const (
	// slowFor is how long an upstream that did not answer is left alone by those who can do without.
	slowFor = 10 * time.Second
	// Refused credentials are shown again after refusedFor, then after twice as long, and so on: registries ban who keeps
	// trying.
	refusedFor, longestRefused = time.Minute, time.Hour
)

var errOffline = errors.New("this mirror is offline")

func newUpstream(up Upstream, cfg Config) *upstream {
	u := &upstream{Upstream: up, figures: Figures{Upstream: up.Name, Requests: map[string]int64{}}}
	u.remote = NewRemote(up, cfg.Stall, func(result string) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.figures.Requests[result]++
	})
	return u
}

func (u *upstream) count(n *int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	*n++
}

// mayAsk returns why an upstream is not to be asked now. here says that whoever wants to can do without.
func (u *upstream) mayAsk(cfg Config, here bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := cfg.Now()
	switch {
	case cfg.Offline:
		return errOffline
	case now.Before(u.rest):
		if errors.As(u.why, new(Busy)) {
			return Busy{After: u.rest.Sub(now)}
		}
		return u.why
	case here && now.Before(u.slow):
		return fmt.Errorf("the upstream did not answer a moment ago")
	}
	return nil
}

// isSlow notes that the upstream keeps people waiting.
func (u *upstream) isSlow(cfg Config) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.slow = cfg.Now().Add(slowFor)
}

// heard learns from how a request ended.
func (u *upstream) heard(cfg Config, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := cfg.Now()
	var b Busy
	var ours *registry.Error
	switch {
	case errors.As(err, &ours) && ours.Code != registry.UpstreamFailed && !errors.Is(err, ErrWrong):
		// a full disk, or a tag that may not move
	case err == nil, errors.Is(err, ErrUnknown):
		u.refusals, u.slow = 0, time.Time{}
	case errors.As(err, &b):
		u.rest, u.why = now.Add(b.After), b
	case errors.Is(err, ErrCredentials):
		wait := min(refusedFor<<min(u.refusals, 10), longestRefused)
		u.rest, u.why, u.refusals = now.Add(wait), err, u.refusals+1
	default:
		u.slow = now.Add(slowFor)
	}
}
