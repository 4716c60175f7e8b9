package auth

import (
	"context"
	"slices"
	"sync"
)

// queue lets few passwords be hashed at a time, because each takes memory and time on purpose. Whose turn it is goes round
// between networks, so that one that sends many passwords waits for itself, and those who logged in from their network
// before have every other turn. It is bounded: who finds it full comes back later.
type queue struct {
	mu    sync.Mutex
	free  int
	lines [2]lines // of those who logged in before, and of the others
	turn  int      // the lines that are looked at first
}

const (
	maxLine    = 16  // that wait from one network
	maxWaiting = 128 // from all
)

// lines are those who wait, by network. The networks stand in the order of their turns.
type lines struct {
	networks []string
	waiting  map[string][]chan struct{}
	n        int
}

func newQueue() *queue {
	q := &queue{free: loginSlots}
	for i := range q.lines {
		q.lines[i].waiting = map[string][]chan struct{}{}
	}
	return q
}

// place is where a password waits.
type place struct {
	network string
	known   bool // its user logged in from there before, or has already shown who they are
}

// enter waits for a turn, which leave gives back. errBusy if there is no room to wait.
func (q *queue) enter(ctx context.Context, p place) error {
	q.mu.Lock()
	if q.free > 0 {
		q.free--
		q.mu.Unlock()
		return nil
	}
	l := &q.lines[1]
	if p.known {
		l = &q.lines[0]
	}
	ready, ok := l.add(p.network)
	q.mu.Unlock()
	if !ok {
		return errBusy
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	gone := l.remove(p.network, ready)
	q.mu.Unlock()
	if !gone { // its turn came just now
		q.leave()
	}
	return ctx.Err()
}

func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for range q.lines {
		l := &q.lines[q.turn]
		q.turn = (q.turn + 1) % len(q.lines)
		if ready := l.next(); ready != nil {
			close(ready)
			return
		}
	}
	q.free++
}

func (l *lines) add(network string) (ready chan struct{}, ok bool) {
	line := l.waiting[network]
	if len(line) >= maxLine || l.n >= maxWaiting {
		return nil, false
	}
	if len(line) == 0 {
		l.networks = append(l.networks, network)
	}
	ready = make(chan struct{})
	l.waiting[network] = append(line, ready)
	l.n++
	return ready, true
}

// next takes out who has the next turn, nil if there is none.
func (l *lines) next() chan struct{} {
	if len(l.networks) == 0 {
		return nil
	}
	network := l.networks[0]
	ready := l.waiting[network][0]
	l.remove(network, ready)
	if i := slices.Index(l.networks, network); i >= 0 {
		l.networks = append(slices.Delete(l.networks, i, i+1), network)
	}
	return ready
}

func (l *lines) remove(network string, ready chan struct{}) (found bool) {
	line := l.waiting[network]
	i := slices.Index(line, ready)
	if i < 0 {
		return false
	}
	l.n--
	if len(line) > 1 {
		l.waiting[network] = slices.Delete(line, i, i+1)
		return true
	}
	delete(l.waiting, network)
	at := slices.Index(l.networks, network)
	l.networks = slices.Delete(l.networks, at, at+1)
	return true
}
