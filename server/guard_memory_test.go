package server

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// What every request passes takes no memory for a client that is no browser.
func TestGuardTakesNoMemory(t *testing.T) {
	for name, cfg := range map[string]Config{"loopback": {Loopback: true}, "network": {}} {
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		h := guard{s: s, hosts: newHosts(cfg, cfg.Loopback)}.protect(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		for _, host := range []string{"127.0.0.1:5000", "[::1]:5000", "localhost:5000"} {
			r, w := httptest.NewRequest("PUT", "/v2/a/manifests/v1", nil), httptest.NewRecorder()
			r.Host = host
			h.ServeHTTP(w, r) // makes the headers of the recorder
			if n := testing.AllocsPerRun(100, func() { h.ServeHTTP(w, r) }); n != 0 {
				t.Errorf("%s, %s: %v allocations", name, host, n)
			}
		}
	}
}
