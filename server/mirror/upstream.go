package mirror

import (
	"errors"
	"sync"
	"time"

	"registry/server/registry"

	"golang.org/x/time/rate"
)

// upstream is a registry that is mirrored, with what has been learned of it.
type upstream struct {
	Upstream
	remote *Remote

	room      chan struct{} // as many questions as are under way
	lists     chan struct{} // as many lists as are read
	mu        sync.Mutex
	figures   Figures
	accounts  map[Client]*account
	anonymous *rate.Limiter  // of what those ask for who have not logged in
	pauses    map[bool]pause // for those who have logged in, and for those who have not
	slow      time.Time      // until then it is not asked for what is here
	refusals  int            // of the credentials, in a row
}

const (
	// slowFor is how long an upstream that did not answer is left alone by those who can do without.
	slowFor = 10 * time.Second
	// Refused credentials are shown again after refusedFor, then after twice as long, and so on: registries ban who keeps
	// trying.
	refusedFor, longestRefused = time.Minute, time.Hour
)

var (
	errOffline   = errors.New("this mirror is offline")
	errUsersOnly = errors.New("this mirror fetches for users only")
)

func newUpstream(up Upstream, cfg Config) *upstream {
	u := &upstream{Upstream: up, figures: Figures{Upstream: up.Name, Requests: map[string]int64{}}, room: make(chan struct{}, atOnce), lists: make(chan struct{}, listsAtOnce),
		accounts: map[Client]*account{}, anonymous: newLimiter(mostAnonymous, anonymousEvery), pauses: map[bool]pause{}}
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

func (u *upstream) fetched(size int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.figures.Blobs++
	u.figures.Bytes += size
}

// isSlow notes that the upstream keeps people waiting.
func (u *upstream) isSlow(cfg Config) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.slow = cfg.Now().Add(slowFor)
}

// recordResult learns from how asking for a client ended. What an upstream has against one client it need not have against the
// others: only when two of them are refused it is left alone by all.
func (u *upstream) recordResult(cfg Config, who Client, n need, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := cfg.Now()
	var b Busy
	var ours *registry.Error
	switch {
	case errors.As(err, &ours) && ours.Code != registry.UpstreamFailed && !errors.Is(err, ErrWrong):
		// a full disk, or a tag that may not move
	case errors.Is(err, ErrUnknown):
		u.refusals, u.slow = 0, time.Time{}
		if n == named {
			return
		}
		u.accountOf(who, now).misses.AllowN(now, 1)
		if !who.User {
			u.anonymous.AllowN(now, 1)
		}
	case err == nil:
		u.refusals, u.slow = 0, time.Time{}
	case errors.As(err, &b):
		u.backOff(who, pause{now.Add(b.After), b}, now)
	case errors.Is(err, ErrCredentials):
		wait := min(refusedFor<<min(u.refusals, 10), longestRefused)
		u.backOff(who, pause{now.Add(wait), err}, now) // some answer like this what they do not have
		u.refusals++
	default:
		u.slow = now.Add(slowFor)
	}
}

func (u *upstream) backOff(who Client, p pause, now time.Time) {
	for other, a := range u.accounts {
		if other != who && other.User == who.User && a.pause.reason(now) != nil {
			u.pauses[who.User] = p
		}
	}
	u.accountOf(who, now).pause = p
}
