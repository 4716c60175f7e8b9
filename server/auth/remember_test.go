package auth

import (
	"testing"
	"time"
)

// A password that is used stays known: its owner does not wait behind those who guess. One that is not used, or was
// changed, is forgotten.
func TestRightPasswordIsRememberedWhileItIsUsed(t *testing.T) {
	l, now := newLogins(), time.Now()
	l.remember(now, "alice", "right", 1)
	for range 3 {
		now = now.Add(rememberRight - time.Second)
		if !l.remembers(now, "alice", "right", 1) {
			t.Fatal("forgotten while it was used")
		}
	}
	if l.remembers(now, "alice", "right", 2) {
		t.Error("remembered after it was changed")
	}
	if l.remembers(now, "alice", "wrong", 1) || l.remembers(now, "bob", "right", 1) {
		t.Error("another one is remembered")
	}
	if l.remembers(now.Add(rememberRight+time.Second), "alice", "right", 1) {
		t.Error("remembered without being used")
	}
}
