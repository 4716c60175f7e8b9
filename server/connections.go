package server

import (
	queue "container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// connections bounds how many connections a server has open, so that clients which hold connections cannot take the
// file descriptors that the requests of others need. A connection is waiting until the header of a request is complete
// and again after each answer. When the limit is reached, a new connection takes the place of the one that has waited
// longest. If none has waited for a moment, the network with the most connections gives up its oldest, if it is over
// its share and not the newcomer's; else the new connection is closed.
type connections struct {
	limit  int
	share  int                   // of one network, when nothing is waiting
	exempt func(netip.Addr) bool // whether an address has no share, because many clients have it
	log    *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	open    map[net.Conn]*connection
	waiting *queue.List // of *connection, the longest waiting first
	held    map[netip.Prefix]*queue.List
	closed  int64 // to make room
	refused int64
	warned  time.Time
}

// connection is an open one. connections.mu guards it.
type connection struct {
	net.Conn
	network  netip.Prefix // not valid if it is exempt
	requests int          // being answered; HTTP/2 has several
	waiting  *queue.Element
	since    time.Time // when it began to wait
	held     *queue.Element
	ended    bool
}

const (
	// mostConnections is the default limit of a server that may have very many files open: a connection that waits takes
	// about 15 KiB.
	mostConnections = 10_000
	// shares is what part of the limit one network may have when there is no room.
	shares = 8
	// moment is for a header that is on its way, and for the end of an answer that is.
	moment = 100 * time.Millisecond
	// warnEvery is how often the log says that the limit is reached.
	warnEvery = time.Minute
)

// newConnections returns the bound of a server. limit 0 is half of the files that the process may have open: a request
// needs one, or two with a client that an upstream answers.
func newConnections(limit int, exempt func(netip.Addr) bool, log *slog.Logger) *connections {
	if limit <= 0 {
		limit = min(maxFiles()/2, mostConnections)
	}
	return &connections{limit: limit, share: max(limit/shares, 1), exempt: exempt, log: log, now: time.Now,
		open: map[net.Conn]*connection{}, waiting: queue.New(), held: map[netip.Prefix]*queue.List{}}
}

// listener counts the connections that ln accepts.
func (c *connections) listener(ln net.Listener) net.Listener { return &boundedListener{ln, c} }

type boundedListener struct {
	net.Listener
	connections *connections
}

// Accept returns the next connection there is room for. It is the one that the listener below accepted and no wrapper:
// net/http looks for sendfile in it.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.connections.admit(conn) {
			return conn, nil
		}
		conn.Close()
	}
}

// admit makes room for a connection, or says that there is none.
func (c *connections) admit(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	network := c.network(conn)
	if len(c.open) >= c.limit {
		c.warn()
		victim := c.victim(network)
		if victim == nil {
			c.refused++
			return false
		}
		c.closed++
		victim.Conn.Close()
		c.forget(victim)
	}
	n := &connection{Conn: conn, network: network}
	c.open[conn] = n
	c.wait(n)
	if network.IsValid() {
		if c.held[network] == nil {
			c.held[network] = queue.New()
		}
		n.held = c.held[network].PushBack(n)
	}
	return true
}

// victim is the connection that gives up its place to a new one of a network; nil if none does.
func (c *connections) victim(newcomer netip.Prefix) *connection {
	if longest := c.waiting.Front(); longest != nil {
		if n := longest.Value.(*connection); c.now().Sub(n.since) >= moment {
			return n
		}
	}
	var most netip.Prefix
	for network, held := range c.held {
		if held.Len() > c.share && (!most.IsValid() || held.Len() > c.held[most].Len()) {
			most = network
		}
	}
	if !most.IsValid() || most == newcomer {
		return nil
	}
	return c.held[most].Front().Value.(*connection)
}

// network is what counts as one client: an IPv4 address or an IPv6 network of 64 bits; not valid if there is no limit for
// the peer.
func (c *connections) network(conn net.Conn) netip.Prefix {
	peer, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	address := peer.AddrPort().Addr().Unmap()
	if address.IsLoopback() || c.exempt(address) {
		return netip.Prefix{}
	}
	bits := 64
	if address.Is4() {
		bits = 32
	}
	network, _ := address.WithZone("").Prefix(bits)
	return network
}

func (c *connections) warn() {
	if now := c.now(); now.Sub(c.warned) > warnEvery {
		c.warned = now
		c.log.Warn("all connections are in use: the longest waiting one is closed for each new one", "limit", c.limit,
			"waiting", c.waiting.Len(), "closed", c.closed, "refused", c.refused)
	}
}

// forget takes a connection off the books. The caller holds c.mu.
func (c *connections) forget(n *connection) {
	if n.ended {
		return
	}
	n.ended = true
	delete(c.open, n.Conn)
	if n.waiting != nil {
		c.waiting.Remove(n.waiting)
		n.waiting = nil
	}
	if n.held != nil {
		c.held[n.network].Remove(n.held)
		if c.held[n.network].Len() == 0 {
			delete(c.held, n.network)
		}
	}
}

// stateChanged is http.Server's ConnState.
func (c *connections) stateChanged(conn net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.open[accepted(conn)]; n != nil {
		c.forget(n)
	}
}

type connectionKey struct{}

// remember is http.Server's ConnContext: a request finds its connection.
func (c *connections) remember(ctx context.Context, conn net.Conn) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return context.WithValue(ctx, connectionKey{}, c.open[accepted(conn)])
}

// accepted is the connection below TLS.
func accepted(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

// handler is next with a connection not waiting while next answers.
func (c *connections) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, _ := r.Context().Value(connectionKey{}).(*connection); n != nil {
			c.begin(n)
			defer c.end(n)
		}
		next.ServeHTTP(w, r)
	})
}

func (c *connections) begin(n *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.requests++; n.waiting != nil {
		c.waiting.Remove(n.waiting)
		n.waiting = nil
	}
}

func (c *connections) end(n *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.requests--; n.requests == 0 && !n.ended {
		c.wait(n)
	}
}

func (c *connections) wait(n *connection) { n.waiting, n.since = c.waiting.PushBack(n), c.now() }

// counts are the connections that are open, and how many were closed and refused for want of room.
func (c *connections) counts() (open int, closed, refused int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open), c.closed, c.refused
}

// metrics are the counts for the server's page of metrics.
func (c *connections) metrics() []prometheus.Collector {
	opened := func() float64 { open, _, _ := c.counts(); return float64(open) }
	closed := func() float64 { _, closed, _ := c.counts(); return float64(closed) }
	refused := func() float64 { _, _, refused := c.counts(); return float64(refused) }
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "registry_connections", Help: "Connections open."}, opened),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "registry_connections_closed_total", Help: "Connections closed to make room for new ones."}, closed),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "registry_connections_refused_total", Help: "New connections closed because there was no room."}, refused),
	}
}
