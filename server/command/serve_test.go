package command

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// slowWriter is a log that is slower than the end of a server with nothing to finish.
type slowWriter struct{ bytes.Buffer }

func (w *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return w.Buffer.Write(p)
}

// The process does not end before it has said that it stops.
func TestAnnounceStopWaits(t *testing.T) {
	var log slowWriter
	ctx, cancel := context.WithCancel(t.Context())
	wait := announceStop(ctx, slog.New(slog.NewTextHandler(&log, nil)))
	cancel()
	wait()
	if !strings.Contains(log.String(), "stopping") {
		t.Errorf("logged %q", log.String())
	}
}

// A server that fails by itself says nothing of the kind, and waits for nothing.
func TestAnnounceStopWithoutEnd(t *testing.T) {
	var log slowWriter
	ctx, cancel := context.WithCancel(t.Context())
	wait := announceStop(ctx, slog.New(slog.NewTextHandler(&log, nil)))
	wait()
	cancel()
	if log.Len() > 0 {
		t.Errorf("logged %q", log.String())
	}
}
