package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// observed sends a request through observe to a handler, and returns what is logged.
func observed(t *testing.T, r *http.Request, handler http.HandlerFunc) (w *httptest.ResponseRecorder, log string, panicked any) {
	t.Helper()
	var b bytes.Buffer
	s, err := New(Config{Log: slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	w = httptest.NewRecorder()
	func() {
		defer func() { panicked = recover() }()
		s.observe("", handler).ServeHTTP(w, r)
	}()
	return w, b.String(), panicked
}

func TestPanicIsAnswered(t *testing.T) {
	w, log, panicked := observed(t, httptest.NewRequest("GET", "/v2/", nil), func(http.ResponseWriter, *http.Request) { panic("secret") })
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"code":"UNKNOWN"`) || strings.Contains(w.Body.String(), "secret") || panicked != nil {
		t.Error(w.Code, w.Body, panicked)
	}
	if !strings.Contains(log, "secret") || !strings.Contains(log, "observe_test.go") {
		t.Error("the log has no stack:", log)
	}
}

// What has begun cannot be taken back, so the connection breaks.
func TestPanicAfterTheHeaderBreaksTheAnswer(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"panic": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic("late") },
		"abort": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"error": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("x")); panic(errors.New("late")) },
	} {
		w, log, panicked := observed(t, httptest.NewRequest("GET", "/v2/", nil), handler)
		if panicked != http.ErrAbortHandler || strings.Contains(w.Body.String(), "errors") || !strings.Contains(log, `"msg":"request"`) {
			t.Errorf("%s: %v, %q, %s", name, panicked, w.Body, log)
		}
	}
}

func TestRequestLog(t *testing.T) {
	r := httptest.NewRequest("GET", "/v2/a/b/tags/list?token=hunter2", nil)
	r.Header.Set("Authorization", "Basic hunter2")
	r.Header.Set("User-Agent", "\x1b[2J")
	r.Header.Set("X-Forwarded-For", "127.0.0.1")
	r.RemoteAddr = "[2001:db8::1]:1234"
	_, log, _ := observed(t, r, func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("four")) })
	var line struct {
		ID, Method, Route, Repository, Address string
		Status, Bytes                          int
	}
	if err := json.Unmarshal([]byte(log), &line); err != nil {
		t.Fatalf("not one line: %v: %s", err, log)
	}
	if len(line.ID) != 16 || line.Method != "GET" || line.Route != "tags" || line.Repository != "a/b" || line.Address != "2001:db8::1" ||
		line.Status != 200 || line.Bytes != 4 || strings.Contains(log, "hunter2") || strings.Contains(log, "[2J") {
		t.Error(log)
	}
}
