package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"registry/db"
	"registry/server/registry"
)

// wait is a place that waits, and what tells when its turn has come.
func (q *queue) wait(t *testing.T, p place, turns chan string) {
	t.Helper()
	before := q.waiting()
	go func() {
		if err := q.enter(context.Background(), p); err != nil {
			turns <- err.Error()
			return
		}
		turns <- p.network
	}()
	for q.waiting() == before { // it is not long in coming
		select {
		case got := <-turns:
			t.Fatalf("%s does not wait", got)
		case <-time.After(time.Millisecond):
		}
	}
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines[0].n + q.lines[1].n
}

// One network's many passwords wait for each other and not before those of others.
func TestQueueGoesRoundNetworks(t *testing.T) {
	q := newQueue()
	for range loginSlots {
		if err := q.enter(t.Context(), place{network: "first"}); err != nil {
			t.Fatal(err)
		}
	}
	turns := make(chan string, 100)
	for range maxLine {
		q.wait(t, place{network: "many"}, turns)
	}
	if err := q.enter(t.Context(), place{network: "many"}); !errors.Is(err, errBusy) {
		t.Error("a network may wait without end:", err)
	}
	q.wait(t, place{network: "one"}, turns)
	q.wait(t, place{network: "known", known: true}, turns)
	var got []string
	for range 4 {
		q.leave()
		got = append(got, <-turns)
	}
	if want := []string{"known", "many", "one", "many"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for i := range maxWaiting - (maxLine - 2) {
		q.wait(t, place{network: fmt.Sprint(i)}, turns)
	}
	if err := q.enter(t.Context(), place{network: "late"}); !errors.Is(err, errBusy) {
		t.Error("the queue is not bounded:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.enter(ctx, place{network: "gone", known: true}); !errors.Is(err, context.Canceled) || q.waiting() != maxWaiting {
		t.Error(err, q.waiting())
	}
	for q.waiting() > 0 {
		q.leave()
		<-turns
	}
	for range loginSlots {
		q.leave()
	}
	if q.free != loginSlots || len(q.lines[1].networks)+len(q.lines[1].waiting) != 0 {
		t.Errorf("%d free, %+v", q.free, q.lines)
	}
}

// Equal tries that are under way are one: it is paid for once, and hashed once.
func TestEqualTriesAreOne(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	began, goOn := make(chan bool, 100), make(chan bool)
	compare := w.logins.compare
	w.logins.compare = func(hash, password string) (bool, bool, error) {
		began <- true
		<-goOn
		return compare(hash, password)
	}
	const many = 60 // more than a purse has
	var all sync.WaitGroup
	failures := make(chan error, many)
	for range many {
		all.Go(func() {
			if _, err := w.Login(context.Background(), "alice", cheapPassword, here); err != nil {
				failures <- err
			}
		})
	}
	<-began
	for waiting := 0; waiting < many; {
		time.Sleep(time.Millisecond)
		w.logins.tries.mu.Lock()
		for _, one := range w.logins.tries.underWay {
			waiting = one.waiting
		}
		w.logins.tries.mu.Unlock()
	}
	close(goOn)
	all.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	if w.hashed != 1 {
		t.Errorf("%d passwords hashed", w.hashed)
	}
}

// A try ends when all who wait for it have gone.
func TestTriesEndWithTheirClients(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	began := make(chan bool)
	go func() {
		<-began
		cancel()
	}()
	err := w.logins.tries.do(ctx, "x", func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(<-ended, context.Canceled) {
		t.Error(err)
	}
}

// Who has logged in from a network before is not kept out there by those who guess elsewhere, or other accounts; also after
// a restart.
func TestGuessesDoNotLockOut(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	if _, err := w.login("alice", cheapPassword, here); err != nil {
		t.Fatal(err)
	}
	w = w.elsewhere()
	w.logins.compare = func(_, password string) (bool, bool, error) { return password == cheapPassword, false, nil }
	refused := func(name string, from netip.Addr) {
		for {
			if _, err := w.login(name, "a wrong one", from); registry.TooManyRequests.Is(err) {
				return
			}
		}
	}
	for i := range 20 { // of her account, from everywhere
		refused("alice", netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", i)))
	}
	for i := range 20 { // of others, from where she is
		refused(fmt.Sprint("user", i), here)
	}
	if _, err := w.login("alice", cheapPassword, there); !registry.TooManyRequests.Is(err) {
		t.Error("the account is not closed to those it does not know:", err)
	}
	if _, err := w.login("alice", cheapPassword, here); err != nil {
		t.Error("she is kept out:", err)
	}
	w.logins.right = map[[32]byte]rightPassword{}
	refused("alice", here) // what she has there ends, too
	if _, err := w.login("alice", cheapPassword, here); !registry.TooManyRequests.Is(err) {
		t.Error("guesses from a network that is known are not counted:", err)
	}
}

// Eight networks of one site do not use up what an account has.
func TestThrottleOfASite(t *testing.T) {
	now := time.Unix(1e9, 0)
	var th throttle
	n := 0
	for i := range 100 {
		n += th.tries(now, "alice", netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::1", i)))
	}
	if n != 60 {
		t.Errorf("%d tries of an account from a site", n)
	}
	if wait := th.enter(now, "alice", netip.MustParseAddr("2001:db8:2::1"), false); wait != 0 {
		t.Error("another site pays:", wait)
	}
}

// A login is written down once a minute, however often it is used and by whatever way.
func TestLoginsAreRecordedOnceAMinute(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	token := w.apiToken("alice", "ci", "pull:**", 0)
	login := func() {
		for range 100 {
			for _, from := range []netip.Addr{here, there} {
				for _, password := range []string{cheapPassword, token} {
					if _, err := w.Login(t.Context(), "alice", password, from); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	login()
	w.sleep(time.Minute)
	login()
	got := map[string]int{}
	w.must(w.db.View(t.Context(), func(tx *db.Tx) error {
		list, err := tx.Events(db.EventFilter{Action: "login"}, 1000)
		for _, e := range list {
			got[e.User+" "+e.Address+" "+e.Detail]++
		}
		return err
	}))
	for _, address := range []string{here.String(), there.String()} {
		for _, how := range []string{"", "token ci"} {
			if key := "alice " + address + " " + how; got[key] != 2 {
				t.Errorf("%q: %d rows for two minutes", key, got[key])
			}
		}
	}
	if len(got) != 4 {
		t.Error(got)
	}
}
