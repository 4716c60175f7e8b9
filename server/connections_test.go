package server

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// peer is a connection that only has an address, and knows whether it was closed.
type peer struct {
	net.Conn
	address string
	closed  bool
}

func (p *peer) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.address))
}

func (p *peer) Close() error { p.closed = true; return nil }

// bound is a limit of connections with a clock of its own. The network 10.9.0.0/16 is a trusted proxy's.
func bound(limit int) (*connections, *time.Time) {
	c := newConnections(limit, netip.MustParsePrefix("10.9.0.0/16").Contains, slog.New(slog.DiscardHandler))
	now := time.Unix(1_800_000_000, 0)
	c.now = func() time.Time { return now }
	return c, &now
}

// arrive lets n connections of an address arrive and says how many were let in.
func arrive(c *connections, address string, n int) (all []*peer, admitted int) {
	for i := range n {
		p := &peer{address: fmt.Sprintf("%s:%d", address, i+1)}
		all = append(all, p)
		if c.admit(p) {
			admitted++
		}
	}
	return all, admitted
}

func closed(all []*peer) (n int) {
	for _, p := range all {
		if p.closed {
			n++
		}
	}
	return n
}

func TestTheLongestWaitingMakesRoom(t *testing.T) {
	c, now := bound(16)
	old, _ := arrive(c, "192.0.2.1", 16)
	*now = now.Add(moment)
	answered := c.open[old[0]]
	c.begin(answered)
	c.end(answered) // and waits anew
	if _, n := arrive(c, "192.0.2.2", 15); n != 15 || closed(old[1:]) != 15 || old[0].closed {
		t.Errorf("%d of 15 let in, %d of the longest waiting closed, answered one closed: %v", n, closed(old[1:]), old[0].closed)
	}
	if open, gone, refused := c.counts(); open != 16 || gone != 15 || refused != 0 {
		t.Errorf("%d open, %d closed, %d refused", open, gone, refused)
	}
}

// A network that has all connections in use gives them up when others come, until they have as many; who has no share
// takes what is over the share.
func TestNetworksShareWhenNothingWaits(t *testing.T) {
	for _, x := range []struct {
		greedy, other string
		admitted      int // of 16 others
	}{
		{"192.0.2.1", "192.0.2.2", 9},
		{"192.0.2.1", "127.0.0.1", 14},
		{"192.0.2.1", "192.0.2.1", 0},
		{"[2001:db8::1]", "[2001:db8:0:1::1]", 9},
		{"[2001:db8::1]", "[2001:db8::2]", 0},
		{"127.0.0.1", "192.0.2.2", 0},
		{"[::1]", "192.0.2.2", 0},
		{"10.9.1.1", "192.0.2.2", 0},
		{"[::ffff:10.9.1.1]", "192.0.2.2", 0},
	} {
		c, now := bound(16)
		greedy, _ := arrive(c, x.greedy, 16)
		for _, p := range greedy {
			c.begin(c.open[p])
		}
		*now = now.Add(time.Hour)
		others, _ := arrive(c, x.other, 0)
		admitted := 0
		for range 16 {
			some, n := arrive(c, x.other, 1)
			admitted += n
			if others = append(others, some...); n == 1 {
				c.begin(c.open[some[0]])
			}
		}
		if admitted != x.admitted || closed(greedy) != x.admitted {
			t.Errorf("%s has all, %s comes: %d let in, %d closed, want %d", x.greedy, x.other, admitted, closed(greedy), x.admitted)
		}
	}
}

// What is closed by whichever side is off the books, and its place is free.
func TestClosedConnectionsAreForgotten(t *testing.T) {
	c, _ := bound(4)
	all, _ := arrive(c, "192.0.2.1", 4)
	for _, p := range all {
		c.begin(c.open[p])
		c.stateChanged(p, http.StateClosed)
	}
	if len(c.open) != 0 || c.waiting.Len() != 0 || len(c.held) != 0 {
		t.Error(len(c.open), c.waiting.Len(), len(c.held))
	}
	if _, n := arrive(c, "192.0.2.1", 4); n != 4 {
		t.Error(n)
	}
}

// A client is served while others hold more connections than there may be, with or without a part of a header, and so is
// the next one.
func TestIdleConnectionsDoNotKeepOthersOut(t *testing.T) {
	w := newWorld(t)
	s, err := New(Config{Registry: w.reg, MaxConnections: 8})
	w.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	done := make(chan error)
	go func() { done <- s.Serve(t.Context(), ln) }()
	defer func() { s.Close(); <-done }()
	for i := range 40 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		w.must(err)
		defer conn.Close()
		if i%2 == 0 {
			fmt.Fprint(conn, "GET /v2/ HTTP/1.1\r\nHost: ")
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		for { // a moment passes before somebody's place is free
			resp, err := client.Get("http://" + ln.Addr().String() + "/v2/")
			if err != nil {
				continue
			}
			io.Copy(io.Discard, resp.Body)
			if resp.Body.Close(); resp.StatusCode != 200 {
				t.Fatal(resp.Status)
			}
			break
		}
	}
	if open, gone, refused := s.connections.counts(); open > 8 || gone+refused < 32 {
		t.Errorf("%d open, %d closed to make room, %d refused", open, gone, refused)
	}
}
