package auth

import (
	"net/netip"
	"strings"
	"sync"
	"time"
)

// throttle slows down those who guess passwords. Every try is paid for from several buckets, and a right password is paid
// back: one of the account from the network, which is the one that a guesser empties; one of the account from everywhere,
// for a guesser with many networks; and one of the network, for a guesser of many accounts. For IPv6 there are the first and
// the last also for the /48 that the network is a part of. A user who has logged in from a network before has a bucket there
// that is theirs alone, so that guesses from elsewhere, and of other accounts, do not keep them out.
type throttle struct {
	sync.Mutex
	buckets map[bucketKey]bucket
}

type bucketKey struct {
	kind    kind
	account string
	network netip.Prefix
}

type kind uint8

const (
	pair kind = iota
	account
	network
	known // a pair of which a login has succeeded
)

type bucket struct {
	tries float64
	at    time.Time
}

// allowance is how many tries a bucket holds, and how long one takes to come back.
type allowance struct {
	most  float64
	every time.Duration
}

var (
	ofPair    = allowance{30, 6 * time.Second}
	ofAccount = allowance{200, 2 * time.Second}
	ofNetwork = allowance{200, time.Second}
	ofSite    = allowance{60, 3 * time.Second} // an account from a /48
	ofSites   = allowance{400, time.Second / 2}
)

// maxBuckets bounds the memory. Beyond it the full buckets go, and if that is not enough all of them.
const maxBuckets = 50_000

type charge struct {
	key bucketKey
	of  allowance
}

// networkOf is the network that an address is one of: whoever has one IPv6 address has a /64 of them.
func networkOf(from netip.Addr) netip.Prefix {
	from = from.Unmap().WithZone("")
	bits := from.BitLen()
	if from.Is6() {
		bits = 64
	}
	p, _ := from.Prefix(bits) // of no address: the zero Prefix
	return p
}

// charges are what a try is paid with, the pair's first.
func charges(name string, from netip.Addr, isKnown bool) []charge {
	name = strings.Clone(name[:min(len(name), maxUserName)]) // not a part of a header, which would stay with it
	here := networkOf(from)
	if isKnown {
		return []charge{{bucketKey{known, name, here}, ofPair}}
	}
	all := []charge{{bucketKey{pair, name, here}, ofPair}, {bucketKey{account, name, netip.Prefix{}}, ofAccount}, {bucketKey{network, "", here}, ofNetwork}}
	if here.Addr().Is6() {
		site, _ := here.Addr().Prefix(48)
		all = append(all, charge{bucketKey{pair, name, site}, ofSite}, charge{bucketKey{network, "", site}, ofSites})
	}
	return all
}

// enter pays for a try. If there is not enough it pays nothing, and returns how long to wait. isKnown says that the user has
// logged in from there before.
func (t *throttle) enter(now time.Time, name string, from netip.Addr, isKnown bool) (wait time.Duration) {
	t.Lock()
	defer t.Unlock()
	all := charges(name, from, isKnown)
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
		t.buckets[d.key] = p
	}
	return 0
}

// leave pays a try back, and what the account lost from the address before: its owner has come.
func (t *throttle) leave(now time.Time, name string, from netip.Addr, isKnown bool) {
	t.Lock()
	defer t.Unlock()
	for i, d := range charges(name, from, isKnown) {
		p := t.look(now, d)
		p.tries = min(p.tries+1, d.of.most)
		if i == 0 || p.tries == d.of.most {
			delete(t.buckets, d.key)
		} else {
			t.buckets[d.key] = p
		}
	}
}

// look returns a bucket as it is now.
func (t *throttle) look(now time.Time, d charge) bucket {
	if len(t.buckets) >= maxBuckets || t.buckets == nil {
		t.shrink(now)
	}
	p, ok := t.buckets[d.key]
	if !ok {
		return bucket{d.of.most, now}
	}
	p.tries = min(p.tries+float64(now.Sub(p.at))/float64(d.of.every), d.of.most)
	p.at = now
	return p
}

func (t *throttle) shrink(now time.Time) {
	const longest = 10 * time.Minute // until any bucket is full again
	for key, p := range t.buckets {
		if now.Sub(p.at) > longest {
			delete(t.buckets, key)
		}
	}
	if len(t.buckets) >= maxBuckets || t.buckets == nil {
		t.buckets = map[bucketKey]bucket{}
	}
}
