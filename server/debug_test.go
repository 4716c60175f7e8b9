package server

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// The profiler has no login, so it is nothing for a name that leads to this machine by DNS.
func TestDebugAnswersToItsOwnNames(t *testing.T) {
	s, err := New(Config{AllowedHosts: []string{"debug.lan"}, Auth: newWorld(t).auth})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]int{"127.0.0.1:6060": 200, "localhost:6060": 200, "debug.lan": 200, "evil.example:6060": 421, "": 200} {
		r := httptest.NewRequest("GET", "/debug/pprof/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.debugHandler().ServeHTTP(w, r)
		if w.Code != want || w.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%q: %d %v", host, w.Code, w.Header())
		}
	}
}
