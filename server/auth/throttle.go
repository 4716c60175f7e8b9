package auth

import (
	"net/netip"
	"strings"
	"sync"
	"time"
)

// throttle slows down those who guess passwords. Every try is paid for from three purses, and a right password is paid
// back: one of the account from the address, which is the one that a guesser empties; one of the account from everywhere,
// for a guesser with many addresses; and one of the address, for a guesser of many accounts.
type throttle struct {
	sync.Mutex
	purses map[purseKey]purse
}

type purseKey struct {
	kind    kind
	account string
	address netip.Addr
}

type kind uint8

const (
	pair kind = iota
	account
	address
)

type purse struct {
	tries float64
	at    time.Time
}

// allowance is how many tries a purse holds, and how long one takes to come back.
type allowance struct {
	most  float64
	every time.Duration
}

var (
	ofPair    = allowance{30, 6 * time.Second}
	ofAccount = allowance{200, 2 * time.Second}
	ofAddress = allowance{200, time.Second}
)

// maxPurses bounds the memory. Beyond it the full purses go, and if that is not enough all of them.
const maxPurses = 50_000

type debit struct {
	key purseKey
	of  allowance
}

func debits(name string, from netip.Addr) [3]debit {
	if from.Is6() && !from.Is4In6() { // whoever has one address has a network of them
		if p, err := from.Prefix(64); err == nil {
			from = p.Addr()
		}
	}
	name = strings.Clone(name[:min(len(name), maxUserName)]) // not a part of a header, which would stay with it
	return [3]debit{{purseKey{pair, name, from}, ofPair}, {purseKey{account, name, netip.Addr{}}, ofAccount}, {purseKey{address, "", from}, ofAddress}}
}

// enter pays for a try. If there is not enough it pays nothing, and returns how long to wait.
func (t *throttle) enter(now time.Time, name string, from netip.Addr) (wait time.Duration) {
	t.Lock()
	defer t.Unlock()
	all := debits(name, from)
	for _, d := range all {
		if p := t.look(now, d); p.tries < 1 {
			wait = max(wait, time.Duration((1-p.tries)*float64(d.of.every)))
		}
	}
	if wait > 0 {
		return wait
	}
	for _, d := range all {
		p := t.look(now, d)
		p.tries--
		t.purses[d.key] = p
	}
	return 0
}

// leave pays a try back, and what the account lost from the address before: its owner has come.
func (t *throttle) leave(now time.Time, name string, from netip.Addr) {
	t.Lock()
	defer t.Unlock()
	for i, d := range debits(name, from) {
		p := t.look(now, d)
		p.tries = min(p.tries+1, d.of.most)
		if i == 0 || p.tries == d.of.most {
			delete(t.purses, d.key)
		} else {
			t.purses[d.key] = p
		}
	}
}

// look returns a purse as it is now.
func (t *throttle) look(now time.Time, d debit) purse {
	if len(t.purses) >= maxPurses || t.purses == nil {
		t.shrink(now)
	}
	p, ok := t.purses[d.key]
	if !ok {
		return purse{d.of.most, now}
	}
	p.tries = min(p.tries+float64(now.Sub(p.at))/float64(d.of.every), d.of.most)
	p.at = now
	return p
}

func (t *throttle) shrink(now time.Time) {
	const longest = 10 * time.Minute // until any purse is full again
	for key, p := range t.purses {
		if now.Sub(p.at) > longest {
			delete(t.purses, key)
		}
	}
	if len(t.purses) >= maxPurses || t.purses == nil {
		t.purses = map[purseKey]purse{}
	}
}
