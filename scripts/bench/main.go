//go:build linux

// Command bench measures this registry beside others: go run ./scripts/bench, inside a clone.
//
// What makes the numbers comparable: every target is a process of its own on loopback, with a fresh directory for each
// group of rows, and all targets run a group before the next begins, in an order that rotates from round to round. A
// ratio is taken within a round, and the table has the median of them. All push and pull the same bytes. Every answer is
// checked, every byte that is pulled is compared, and one wrong answer takes a target out of the group. Pushes are timed
// until a syncfs after them returns, so what a registry leaves to the kernel is not free.
//
// The peers are installed like this; the first is then named registry, so -peer distribution=PROGRAM says where it is:
//
//	go install github.com/distribution/distribution/v3/cmd/registry@v3.1.2
//	go install github.com/olareg/olareg/cmd/olareg@latest
//
// The targets limit and limit-fsync are no registries (limit.go). They show what net/http and the disk allow here.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	err := run(os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is what the trials of a run share.
type bench struct {
	sizes
	rounds   int
	only     []string // groups; all if empty
	targets  []target
	work     string // directory, removed in the end
	report   *report
	progress io.Writer
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.progress, format+"\n", args...) }

func run(args []string, stdout, stderr io.Writer) (err error) {
	if len(args) > 0 && args[0] == "-limit" {
		return serveLimit(args[1:], nil)
	}
	b := &bench{sizes: fullSizes, progress: stderr}
	var only, dir string
	var peers []string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&b.rounds, "rounds", 5, "`times` that everything is measured")
	flags.StringVar(&only, "only", "", "`groups` of rows, with commas: "+strings.Join(groupNames(), ", "))
	flags.StringVar(&dir, "dir", "", "`directory` on the disk to measure; that for temporary files if empty")
	quick := flags.Bool("quick", false, "make every row small: to see that it works, not how fast")
	flags.Func("peer", "`NAME=COMMAND` of another registry, again for each; in COMMAND {addr} or {host} and {port}, and {data},\n"+
		"stand for what it has to use; of distribution and olareg the program is enough", func(s string) error {
		peers = append(peers, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || b.rounds < 1 {
		return errors.New("want no arguments, and one round or more")
	}
	if *quick {
		b.sizes = quickSizes
	}
	if only != "" {
		b.only = strings.Split(only, ",")
	}
	for _, name := range b.only {
		if !slices.Contains(groupNames(), name) {
			return fmt.Errorf("there is no group %q of rows; there are %s", name, strings.Join(groupNames(), ", "))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if b.work, err = os.MkdirTemp(dir, "bench"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	own, err := build(ctx, b.work)
	if err != nil {
		return err
	}
	list, err := findPeers(peers, func(name string) {
		b.say("%s is not in PATH and is left out; -peer %s=PROGRAM says where it is", name, name)
	})
	if err != nil {
		return err
	}
	bounds, err := limits()
	if err != nil {
		return err
	}
	b.targets = slices.Concat([]target{own}, list, bounds)
	err = b.measure(ctx)
	b.describe(stdout)
	b.report.write(stdout)
	return err
}

func groupNames() (list []string) {
	for _, g := range groups {
		list = append(list, g.name)
	}
	return list
}

// measure runs all rounds. The report has what was measured also after an error.
func (b *bench) measure(ctx context.Context) error {
	b.report = newReport(b.targets)
	for round := range b.rounds {
		for _, g := range groups {
			if len(b.only) > 0 && !slices.Contains(b.only, g.name) || g.once && round > 0 {
				continue
			}
			for i := range b.targets {
				t := b.targets[(i+round)%len(b.targets)]
				if g.own && t.name != ownName || b.report.failed[g.name][t.name] != nil {
					continue
				}
				begin := time.Now()
				err := b.try(ctx, &trial{bench: b, group: g.name, target: t, round: round}, g.run)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				note := ""
				if err != nil {
					note = ": " + err.Error()
				}
				b.say("round %d/%d, %s, %s: %.1f s%s", round+1, b.rounds, g.name, t.name, time.Since(begin).Seconds(), note)
				if err != nil && !errors.Is(err, errMissing) {
					b.report.fail(g.name, t.name, err)
				}
			}
		}
	}
	if len(b.report.failed) > 0 {
		return errors.New("some targets failed; see below the table")
	}
	return nil
}

func (b *bench) try(ctx context.Context, x *trial, measure func(*trial)) (err error) {
	if x.dir, err = os.MkdirTemp(b.work, "trial"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(x.dir)) }()
	var cancel context.CancelFunc
	x.context, cancel = context.WithCancel(ctx)
	defer cancel()
	measure(x)
	if x.server != nil {
		x.server.stop()
	}
	return x.err
}

// describe says what the numbers depend on.
func (b *bench) describe(w io.Writer) {
	var fs unix.Statfs_t
	kind := "an unknown file system"
	if err := unix.Statfs(b.work, &fs); err == nil {
		kind = fmt.Sprintf("a file system of type %#x", fs.Type)
		if fs.Type == unix.TMPFS_MAGIC {
			kind = "tmpfs, where nothing reaches a disk: say -dir"
		}
	}
	fmt.Fprintf(w, "%d processors, %s/%s, %s, %s. Median of %d rounds (least..greatest) ×ratio to this registry.\n",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), kind, b.rounds)
	for _, t := range b.targets {
		if v := t.version(); v != "" {
			fmt.Fprintf(w, "%s is %s. ", t.name, v)
		}
	}
	fmt.Fprint(w, "\n\n")
}
