//go:build unix

package db

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A process that stands still while it has the turn costs the others a moment, once.
func TestTurnOfAStoppedProcess(t *testing.T) {
	schema, err := os.ReadFile("../schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "reg.db")
	d, err := Open(t.Context(), Options{Path: path, Schema: string(schema)})
	if err != nil {
		t.Fatal(err)
	}
	stopped := openTurn(path)
	defer stopped.close()
	release := stopped.take(turnWait)
	writes := make(chan time.Duration)
	go func() {
		for range 3 {
			start := time.Now()
			if err := d.Relaxed(context.Background(), func(tx *Tx) error { return tx.SetNote("a", "b") }); err != nil {
				t.Error(err)
			}
			writes <- time.Since(start)
		}
	}()
	for i, limit := range []time.Duration{2 * turnWait, turnWait / 2, turnWait / 2} {
		select {
		case took := <-writes:
			if took > limit {
				t.Errorf("write %d took %s", i, took)
			}
		case <-time.After(3 * turnWait):
			t.Fatal("nobody writes any more")
		}
	}
	release()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
