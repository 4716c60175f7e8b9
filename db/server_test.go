package db_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"registry/db"
)

// The lock excludes a second server by whatever name it knows the database, and says who has it and for how long.
func TestServerLock(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "reg.db"), filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Skip(err)
	}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(after time.Duration) db.ServerLockOptions {
		return db.ServerLockOptions{Path: path, Now: func() time.Time { return start.Add(after) }}
	}
	first, err := db.LockServer(t.Context(), at(0))
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	for after, want := range map[time.Duration]string{
		90 * time.Second: fmt.Sprintf("process %d on %s, for 1m30s", os.Getpid(), host),
		-time.Hour:       fmt.Sprintf("process %d on %s, since 2026-01-02T03:04:05Z", os.Getpid(), host),
	} {
		opt := at(after)
		opt.Path = filepath.Join(link, "reg.db")
		if _, err := db.LockServer(t.Context(), opt); !errors.Is(err, db.ErrServed) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("after %s: %v, want … %s", after, err, want)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := db.LockServer(t.Context(), at(0))
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// A second server waits for the first to end, or until it is told to stop.
func TestServerLockWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	first, err := db.LockServer(t.Context(), db.ServerLockOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opt := db.ServerLockOptions{Path: path, Wait: time.Hour, Waiting: func(db.ServerHolder) { cancel() }}
	if _, err := db.LockServer(ctx, opt); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	called := 0
	opt.Waiting = func(h db.ServerHolder) {
		if called++; h.PID != os.Getpid() {
			t.Errorf("waits for %+v", h)
		}
		first.Close()
	}
	second, err := db.LockServer(t.Context(), opt)
	if err != nil || called != 1 {
		t.Fatal(called, err)
	}
	second.Close()
}

// A file that was removed, perhaps as left over, is no lock any more: nobody could find it.
func TestServerLockRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	first, err := db.LockServer(t.Context(), db.ServerLockOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := os.Remove(path + "-server"); err != nil {
		t.Fatal(err)
	}
	second, err := db.LockServer(t.Context(), db.ServerLockOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if _, err := db.LockServer(t.Context(), db.ServerLockOptions{Path: path}); !errors.Is(err, db.ErrServed) {
		t.Error(err)
	}
}
