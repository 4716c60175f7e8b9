//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain is also the main of the servers that the test starts: this program in another role.
func TestMain(m *testing.M) {
	wrap, args := wrongBytes, os.Args[1:]
	if len(args) > 0 && (args[0] == "-limit" || args[0] == "-wrong") {
		if args[0] == "-limit" {
			wrap = nil
		}
		fmt.Fprintln(os.Stderr, serveLimit(args[1:], wrap))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// wrongBytes damages a byte of every blob.
func wrongBytes(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/") {
			w = damaging{w}
		}
		h.ServeHTTP(w, r)
	})
}

type damaging struct{ http.ResponseWriter }

func (d damaging) Write(p []byte) (int, error) {
	bad := append([]byte(nil), p...)
	bad[len(bad)-1] ^= 1
	return d.ResponseWriter.Write(bad)
}

func TestMeasure(t *testing.T) {
	b := &bench{
		sizes:  sizes{blob: mib, push: map[int]int{1: 1, 16: 16, 64: 64}, hot: 20 * time.Millisecond},
		rounds: 2, only: []string{"pull-large", "push-small"}, work: t.TempDir(), progress: t.Output(),
	}
	own, err := build(t.Context(), b.work)
	if err != nil {
		t.Fatal(err)
	}
	bounds, err := limits()
	if err != nil {
		t.Fatal(err)
	}
	wrong := target{name: "wrong", command: append([]string{bounds[0].command[0], "-wrong"}, bounds[0].command[2:]...)}
	b.targets = []target{own, bounds[0], wrong}
	if err := b.measure(t.Context()); err == nil {
		t.Error("a target with wrong bytes is no failure of the run")
	}
	for _, group := range b.only {
		if err := b.report.failed[group]["wrong"]; err == nil || !strings.Contains(err.Error(), "wrong bytes at ") {
			t.Errorf("%s of wrong bytes: %v", group, err)
		}
		for _, good := range []string{ownName, "limit"} {
			if err := b.report.failed[group][good]; err != nil {
				t.Errorf("%s of %s: %v", group, good, err)
			}
		}
	}
	var table strings.Builder
	b.report.write(&table)
	for _, name := range []string{"pull of a 1.0 MiB blob, 8 clients", "ranges of 64 KiB, 1 client", "push of small images, 64 clients"} {
		found := false
		for line := range strings.Lines(table.String()) {
			cells := strings.Split(line, " | ")
			if cells[0] != "| "+name {
				continue
			}
			found = true
			if len(cells) != 5 || !strings.Contains(cells[3], " ×") || cells[4] != "failed |\n" {
				t.Errorf("%q: want numbers of two targets, and the third as failed", line)
			}
		}
		if !found {
			t.Errorf("no row %q in\n%s", name, &table)
		}
	}
}

func TestReport(t *testing.T) {
	r := newReport([]target{{name: ownName}, {name: "peer"}, {name: "none"}})
	at := row{"group", "name", "ms"}
	for round, v := range [][2]float64{{1, 3}, {10, 10}, {100, 50}} { // ratios 3, 1, 0.5
		r.add(at, ownName, round, v[0])
		r.add(at, "peer", round, v[1])
	}
	for target, want := range map[string]string{ownName: "10.0 (1.00..100)", "peer": "10.0 (3.00..50.0) ×1.00", "none": "–"} {
		if got := r.cell(at, target); got != want {
			t.Errorf("%s: %q, want %q", target, got, want)
		}
	}
	r.add(at, "peer", 3, 7) // a round that the registry has not: no ratio
	if got, want := r.cell(at, "peer"), "8.50 (3.00..50.0) ×1.00"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	r.fail("group", ownName, errors.New("x"))
	if got := r.cell(at, "peer"); strings.Contains(got, "×") {
		t.Errorf("%q has a ratio to what failed", got)
	}
}
