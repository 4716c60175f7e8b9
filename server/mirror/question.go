package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A client that asks for what is not here makes this server ask another one. These limits keep one client from asking
// through it as much as it likes, and an upstream from taking all clients for one that does.
const (
	// atOnce is how many questions an upstream is asked at a time; the others wait.
	atOnce = 32
	// atOnceOfOne is how many of them may be those of one client.
	atOnceOfOne = 8
	// listsAtOnce is how many lists are read at a time, beside these: they may be long.
	listsAtOnce = 2
	// A client may ask for this many things that the upstream does not have, and one more each time so long. What the
	// upstream has costs nothing.
	mostMisses, missEvery = 60, time.Second
	// The same for all clients together that have not logged in.
	mostAnonymous, anonymousEvery = 240, time.Second / 4
)

// Client is the one for whom an upstream is asked.
type Client struct {
	Name string // of the user, or the network that an address is in
	User bool   // has logged in
}

// need is why an upstream is asked.
type need int

const (
	news  need = iota // nothing is known of it here
	named             // a manifest that is here names it
	again             // there is a copy here, which may be old
)

// account is what is known of a client of an upstream.
type account struct {
	room   chan struct{} // as many questions as are under way
	misses *rate.Limiter
	pause  pause
}

// pause is a time in which an upstream is not asked.
type pause struct {
	until time.Time
	why   error // which clients are told who would have had it asked
}

// reason returns why the pause lasts, nil if it does not.
func (p pause) reason(now time.Time) error {
	if !now.Before(p.until) {
		return nil
	}
	if errors.As(p.why, new(Busy)) {
		return Busy{After: p.until.Sub(now)}
	}
	return p.why
}

func newLimiter(most int, every time.Duration) *rate.Limiter {
	return rate.NewLimiter(rate.Every(every), most)
}

// accountOf returns what is known of a client. The caller has locked u.mu.
func (u *upstream) accountOf(who Client, now time.Time) *account {
	a := u.accounts[who]
	if a != nil {
		return a
	}
	if len(u.accounts) >= maxRemembered {
		for who, a := range u.accounts {
			if len(a.room) == 0 && a.pause.reason(now) == nil && a.misses.TokensAt(now) >= mostMisses {
				delete(u.accounts, who)
			}
		}
	}
	if len(u.accounts) >= maxRemembered { // so many clients share one
		who = Client{User: who.User}
	}
	if a = u.accounts[who]; a == nil {
		a = &account{room: make(chan struct{}, atOnceOfOne), misses: newLimiter(mostMisses, missEvery)}
		u.accounts[who] = a
	}
	return a
}

// mayAsk returns why an upstream is not to be asked now for a client.
func (u *upstream) mayAsk(cfg Config, who Client, n need) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := cfg.Now()
	a := u.accountOf(who, now)
	switch {
	case cfg.Offline:
		return errOffline
	case cfg.UsersOnly && !who.User:
		return errUsersOnly
	case n == again && now.Before(u.slow):
		return errors.New("the upstream did not answer a moment ago")
	}
	for _, p := range []pause{u.pauses[who.User], a.pause} {
		if err := p.reason(now); err != nil {
			return err
		}
	}
	if n == named {
		return nil
	}
	wait := untilMiss(a.misses, missEvery, now)
	if !who.User {
		wait = max(wait, untilMiss(u.anonymous, anonymousEvery, now))
	}
	if wait > 0 {
		return Busy{After: wait}
	}
	return nil
}

// untilMiss is how long it is until a limiter lets one more miss pass.
func untilMiss(l *rate.Limiter, every time.Duration, now time.Time) time.Duration {
	if left := l.TokensAt(now); left < 1 {
		return time.Duration((1 - left) * float64(every))
	}
	return 0
}

// enter waits until an upstream may be asked for a client, who may not have too much asked at a time. Unless it fails the
// caller calls leave.
func (u *upstream) enter(ctx context.Context, cfg Config, who Client, n need) (leave func(), err error) {
	if err := u.mayAsk(cfg, who, n); err != nil {
		return nil, err
	}
	u.mu.Lock()
	room := u.accountOf(who, cfg.Now()).room
	u.mu.Unlock()
	select {
	case room <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := u.mayAsk(cfg, who, n); err != nil { // it was another matter when the wait began
		<-room
		return nil, err
	}
	return func() { <-room }, nil
}

// inTurn asks when there is room.
func inTurn(ctx context.Context, room chan struct{}, ask func() error) error {
	select {
	case room <- struct{}{}:
		defer func() { <-room }()
		return ask()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// questions are what the upstreams are being asked: one goroutine asks for all clients that want to know.
type questions struct {
	sync.Mutex
	running map[string]*question
}

// question is one of them. The answer is there when done is closed.
type question struct {
	up    *upstream
	who   Client
	need  need
	key   string
	room  chan struct{} // in which it is asked
	limit time.Duration // for asking
	ask   func(context.Context, *question) error

	done chan struct{}
	err  error
	list []string
	size int64
}

// find returns a question that is under way, nil if there is none.
func (qs *questions) find(key string) *question {
	qs.Lock()
	defer qs.Unlock()
	return qs.running[key]
}

// join returns the question that is under way. mine says that it is this one, which the caller ends.
func (qs *questions) join(q *question) (running *question, mine bool) {
	qs.Lock()
	defer qs.Unlock()
	if running := qs.running[q.key]; running != nil {
		return running, false
	}
	if qs.running == nil {
		qs.running = map[string]*question{}
	}
	q.done = make(chan struct{})
	qs.running[q.key] = q
	return q, true
}

func (qs *questions) end(q *question) {
	qs.Lock()
	defer qs.Unlock()
	delete(qs.running, q.key)
	close(q.done)
}

// put joins a question that is under way, or has a goroutine ask it when the client may. It returns at once if what is
// asked for is known not to be there, or the upstream may not be asked.
func (m *Mirror) put(ctx context.Context, q *question) (*question, error) {
	if running := m.questions.find(q.key); running != nil {
		return running, nil
	}
	if m.unknown.has(q.key, m.cfg.Now(), unknownFor) {
		return nil, ErrUnknown
	}
	leave, err := q.up.enter(ctx, m.cfg, q.who, q.need)
	if err != nil {
		return nil, err
	}
	running, mine := m.questions.join(q)
	switch {
	case !mine:
		leave()
	case !m.begin():
		leave()
		q.err = errClosed
		m.questions.end(q)
	default:
		go m.answer(q, leave)
	}
	return running, nil
}

func (m *Mirror) answer(q *question, leave func()) {
	defer m.working.Done()
	defer leave()
	defer m.questions.end(q)
	ctx, cancel := context.WithTimeout(m.ctx, q.limit)
	defer cancel()
	q.err = inTurn(ctx, q.room, func() error { return q.ask(ctx, q) })
	m.learn(q.up, q.who, q.need, q.key, q.err)
}

// learn remembers how asking an upstream for a client ended.
func (m *Mirror) learn(up *upstream, who Client, n need, key string, err error) {
	if errors.Is(err, ErrUnknown) {
		m.unknown.add(key, 0, m.cfg.Now())
	}
	if m.ctx.Err() == nil {
		up.recordResult(m.cfg, who, n, err)
	}
}

// wait returns how a question ended, unless ctx ends before.
func (q *question) wait(ctx context.Context) error {
	select {
	case <-q.done:
		return q.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the upstream: %w", ctx.Err())
	}
}
