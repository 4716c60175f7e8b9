package server

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkHeadManifest is what watchers do all day, as often as they can. Users must not make it much slower. "inside"
// leaves the connection out.
func BenchmarkHeadManifest(b *testing.B) {
	w := newWorld(b)
	w.user("alice")
	w.grant("alice", "pull:team/**")
	w.blob("alice/a", "content")
	w.image("alice/a", "v1", "content", "")
	w.image("alice/a", "v2", "content", "")
	open, err := New(Config{Registry: w.reg})
	w.must(err)
	alice := basic("alice", password("alice"))
	for _, x := range []struct {
		name, header string
		handler      http.Handler
	}{
		{"open", "", open.Handler()}, {"bearer", bearer(w.token(alice, "repository:alice/a:pull").Token), w.http}, {"basic", alice, w.http},
	} {
		b.Run("inside/"+x.name, func(b *testing.B) { headInside(b, x.handler, x.header) })
		b.Run("connection/"+x.name, func(b *testing.B) { headByConnection(b, x.handler, x.header) })
	}
}

// nowhere is a ResponseWriter that keeps the header and the status.
type nowhere struct {
	header http.Header
	status int
}

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) WriteHeader(status int)      { w.status = status }
func (w *nowhere) Write(p []byte) (int, error) { return len(p), nil }

func headInside(b *testing.B, h http.Handler, header string) {
	r := httptest.NewRequest("HEAD", "/v2/alice/a/manifests/v1", nil)
	if header != "" {
		r.Header.Set("Authorization", header[len("Authorization: "):])
	}
	b.ReportAllocs()
	for b.Loop() {
		w := &nowhere{header: http.Header{}}
		if h.ServeHTTP(w, r); w.status != 200 {
			b.Fatal(w.status)
		}
	}
}

func headByConnection(b *testing.B, h http.Handler, header string) {
	s := httptest.NewServer(h)
	defer s.Close()
	if header != "" {
		header += "\r\n"
	}
	request := []byte("HEAD /v2/alice/a/manifests/v1 HTTP/1.1\r\nHost: x\r\n" + header + "\r\n")
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	for b.Loop() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, &http.Request{Method: "HEAD"})
		if err != nil || resp.StatusCode != 200 {
			b.Fatal(resp, err)
		}
		io.Copy(io.Discard, resp.Body)
	}
}
