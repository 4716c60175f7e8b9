package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/server/registry"
)

// lines is a log that is read while it is written.
type lines struct {
	sync.Mutex
	b bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.b.Write(p)
}

func (l *lines) with(text string) (list []string) {
	l.Lock()
	defer l.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			list = append(list, line)
		}
	}
	return list
}

// TestAudit: what somebody changes is remembered with it, what fails or is nobody's is not, and whoever keeps a server on
// the database has it in the log, each event once.
func TestAudit(t *testing.T) {
	var log lines
	f := newFixture(t, func(c *registry.Config) {
		c.JournalEvery, c.AuditKeep, c.Log = 5*time.Millisecond, time.Hour, slog.New(slog.NewTextHandler(&log, nil))
	})
	f.put("a", "nobody", image(f.blob("a", "config")))
	stop := maintain(f.Registry)
	f.Registry = f.As(registry.Actor{User: "alice", Address: "192.0.2.1"})
	pushes := 0
	for deadline := time.Now().Add(10 * time.Second); len(log.with("msg=audit")) == 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		f.put("a", fmt.Sprint("v", pushes), image(f.blob("a", "config"))) // the first ones may come before the server looks
		pushes++
	}
	if err := f.DeleteTag(t.Context(), "a", "v0"); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteTag(t.Context(), "a", "v0"); err == nil {
		t.Fatal("a tag was deleted twice")
	}
	for deadline := time.Now().Add(10 * time.Second); len(log.with("action=delete")) == 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	seen := map[string]bool{}
	for _, line := range log.with("msg=audit") {
		_, event, _ := strings.Cut(line, " action=")
		if !strings.Contains(line, "user=alice address=192.0.2.1") || seen[event] {
			t.Errorf("logged: %s", line)
		}
		seen[event] = true
	}
	if n := len(log.with("action=delete")); n != 1 {
		t.Errorf("%d deletions logged, want 1", n)
	}
	events, err := f.Audit(t.Context(), registry.EventFilter{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != pushes+1 || events[0].Action != "delete" || events[0].Detail != "v0" || events[1].Action != "push" {
		t.Errorf("audit: %+v, want %d pushes and a deletion", events, pushes)
	}
	f.pass(2 * time.Hour)
	f.put("a", "later", image(f.blob("a", "config")))
	defer maintain(f.Registry)()
	for deadline := time.Now().Add(10 * time.Second); len(events) != 1 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if events, err = f.Audit(t.Context(), registry.EventFilter{}, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if len(events) != 1 || !strings.HasPrefix(events[0].Detail, "later") {
		t.Errorf("audit after its time: %+v, want the last push", events)
	}
}

// maintain runs Maintain until stop is called.
func maintain(r *registry.Registry) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Maintain(ctx) }()
	return func() { cancel(); <-done }
}

// TestUploadsAreTheirOwners: an upload session is there for whoever began it, before and after it has a row.
func TestUploadsAreTheirOwners(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.As(registry.Actor{User: "alice"}), f.As(registry.Actor{User: "bob"})
	for _, settled := range []bool{false, true} {
		u, err := alice.StartUpload(t.Context(), "a", "sha256")
		if err != nil {
			t.Fatal(err)
		}
		if settled {
			f.SettleUploads(t.Context())
		}
		_, status := bob.UploadStatus(t.Context(), "a", u.ID)
		_, patch := bob.AppendUpload(t.Context(), "a", u.ID, chunk("bob's"))
		_, put := bob.FinishUpload(t.Context(), "a", u.ID, "sha256:0", chunk("bob's"))
		for what, err := range map[string]error{"status": status, "patch": patch, "put": put, "cancel": bob.CancelUpload(t.Context(), "a", u.ID)} {
			if !registry.BlobUploadUnknown.Is(err) {
				t.Errorf("%s of another's upload, settled %v: %v", what, settled, err)
			}
		}
		if _, err := alice.AppendUpload(t.Context(), "a", u.ID, chunk("alice's")); err != nil {
			t.Errorf("her own upload, settled %v: %v", settled, err)
		}
	}
}

// TestRepositoryGoesWithUploadsOfOthers: whoever removes a repository ends every upload to it, and that is remembered.
func TestRepositoryGoesWithUploadsOfOthers(t *testing.T) {
	f := newFixture(t)
	alice, operator := f.As(registry.Actor{User: "alice"}), f.As(registry.Actor{User: "os:root"})
	f.put("a", "v1", image(f.blob("a", "config")))
	var open []registry.Upload
	for _, content := range []string{"", "has bytes"} {
		u, err := alice.StartUpload(t.Context(), "a", "sha256")
		if err == nil && content != "" {
			u, err = alice.AppendUpload(t.Context(), "a", u.ID, chunk(content))
		}
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, u)
	}
	if err := operator.DeleteRepository(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for _, u := range open {
		if _, err := alice.UploadStatus(t.Context(), "a", u.ID); !registry.BlobUploadUnknown.Is(err) {
			t.Errorf("an upload with %d bytes to what is gone: %v", u.Offset, err)
		}
	}
	f.wantFiles(1, 0)
	events, err := f.Audit(t.Context(), registry.EventFilter{}, 10)
	if err != nil || len(events) != 1 || events[0].User != "os:root" || events[0].Action != "delete" || events[0].Repository != "a" {
		t.Errorf("%+v, %v", events, err)
	}
}
