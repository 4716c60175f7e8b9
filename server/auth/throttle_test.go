package auth

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

// tries counts how many times somebody may try.
func (t *throttle) tries(now time.Time, account string, from netip.Addr) (n int) {
	for t.enter(now, account, from, false) == 0 {
		n++
	}
	return n
}

func TestThrottle(t *testing.T) {
	now := time.Unix(1e9, 0)
	var th throttle
	if n := th.tries(now, "alice", here); n != 30 {
		t.Errorf("%d tries of a pair", n)
	}
	if wait := th.enter(now, "alice", here, false); wait != 6*time.Second {
		t.Error(wait)
	}
	if wait := th.enter(now.Add(4*time.Second), "alice", here, false); wait != 2*time.Second {
		t.Error(wait)
	}
	for _, other := range []struct {
		account string
		from    netip.Addr
	}{{"alice", there}, {"bob", here}, {"bob", there}} {
		if wait := th.enter(now, other.account, other.from, false); wait != 0 {
			t.Error(other, wait)
		}
	}
	now = now.Add(6 * time.Second)
	if n := th.tries(now, "alice", here); n != 1 {
		t.Errorf("%d tries after the time of one", n)
	}
	if n := th.tries(now.Add(24*time.Hour), "alice", here); n != 30 {
		t.Errorf("%d tries after a day", n)
	}
}

func TestThrottleOfAnAccount(t *testing.T) {
	now := time.Unix(1e9, 0)
	var th throttle
	n := 0
	for i := range 100 {
		n += th.tries(now, "alice", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	if n != 200 {
		t.Errorf("%d tries from 100 addresses", n)
	}
	if th.enter(now, "bob", netip.AddrFrom4([4]byte{10, 0, 0, 1}), false) != 0 {
		t.Error("another account pays")
	}
}

func TestThrottleOfAnAddress(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, first := range []string{"user0", "", strings.Repeat("x", 100)} { // no name makes the purse of the address another one
		var th throttle
		n := th.tries(now, first, here)
		for i := range 100 {
			n += th.tries(now, fmt.Sprint("user", i), here)
		}
		if n != 200 {
			t.Errorf("%d tries of 100 accounts, %q first", n, first)
		}
		if th.enter(now, "user99", there, false) != 0 {
			t.Error("another address pays")
		}
	}
}

func TestThrottleWithoutAnAddress(t *testing.T) {
	var th throttle
	if n := th.tries(time.Unix(1e9, 0), "alice", netip.Addr{}); n != 30 {
		t.Errorf("%d tries", n)
	}
}

func TestThrottlePaysBack(t *testing.T) {
	now := time.Unix(1e9, 0)
	var th throttle
	for range 1000 {
		if wait := th.enter(now, "alice", here, false); wait != 0 {
			t.Fatal(wait)
		}
		th.leave(now, "alice", here, false)
	}
	if len(th.buckets) != 0 {
		t.Errorf("%d purses are kept of somebody who owes nothing", len(th.buckets))
	}
	for range 29 {
		th.enter(now, "alice", here, false)
	}
	th.enter(now, "alice", here, false)
	th.leave(now, "alice", here, false)
	if n := th.tries(now, "alice", here); n != 30 {
		t.Errorf("%d tries after a right password", n)
	}
}

func TestThrottleOfIPv6(t *testing.T) {
	now := time.Unix(1e9, 0)
	var th throttle
	n := 0
	for i := range 100 {
		n += th.tries(now, "alice", netip.MustParseAddr(fmt.Sprintf("2001:db8:0:1::%x", i)))
	}
	if n != 30 {
		t.Errorf("%d tries from a network", n)
	}
	if th.enter(now, "alice", netip.MustParseAddr("2001:db8:0:2::1"), false) != 0 {
		t.Error("another network pays")
	}
}

func TestThrottleIsBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	var th throttle
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 2 * maxBuckets {
		account := fmt.Sprint(i)
		if i%10 == 0 {
			account += strings.Repeat("x", 48<<10)
		}
		th.enter(now, account, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), false)
		if len(th.buckets) > maxBuckets+3 {
			t.Fatal(len(th.buckets))
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 24<<20 {
		t.Errorf("%d MiB", got>>20)
	}
	runtime.KeepAlive(&th)
}
