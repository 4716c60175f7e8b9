package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"registry/server/mirror"
	"registry/server/registry"
	"registry/server/syncer"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
)

func syncFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "file", Aliases: []string{"f"}, EnvVars: env("mirror-file"), Usage: "the `FILE` that names what to copy"},
		&cli.BoolFlag{Name: "prune", Usage: "then remove tags that the source does not have or the file does not allow any more"},
		&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask before --prune removes something"},
		&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "print what would be copied and removed, change nothing"},
		undoFlag(),
	}
}

// readSyncs reads the file that says what to copy. Whatever is wrong about it is wrong usage.
func (s *settings) readSyncs(flag string) ([]syncer.Entry, error) {
	entries, err := syncer.ReadFile(s.String(flag))
	if err != nil {
		return nil, s.bad(flag, err)
	}
	for i, e := range entries {
		if e.Schedule == "" {
			continue
		}
		if _, err := parseSchedule(fmt.Sprintf("%s: sync[%d]: schedule", s.named(flag), i), e.Schedule); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// scheduledSyncs reads what serve copies.
func (s *settings) scheduledSyncs(upstreams []mirror.Upstream) ([]syncer.Entry, error) {
	if s.String("mirror-file") == "" {
		return nil, nil
	}
	entries, err := s.readSyncs("mirror-file")
	for i, e := range entries {
		if e.Schedule == "" {
			return nil, s.bad("mirror-file", fmt.Errorf("sync[%d] has neither a schedule nor an interval, nor has defaults", i))
		}
		first, _, _ := strings.Cut(string(e.Target), "/")
		for _, up := range upstreams {
			if first == strings.ReplaceAll(up.Name, ":", "_") {
				return nil, s.bad("mirror-file", fmt.Errorf("sync[%d]: the target %s belongs to --upstream %s", i, e.Target, up.Name))
			}
		}
	}
	return entries, err
}

// syncJobs makes jobs of entries.
func syncJobs(s *syncer.Syncer, entries []syncer.Entry) (jobs []job) {
	for _, e := range entries {
		when, err := parseSchedule("schedule", e.Schedule)
		if err != nil {
			continue // which readSyncs has refused
		}
		jobs = append(jobs, job{name: "sync", when: when, run: func(ctx context.Context, log *slog.Logger, _ *registry.Registry) error {
			r := s.Run(ctx, e, false)
			log.Info("synchronised", "source", r.Source, "target", r.Target, "copied", r.Count(syncer.Copied), "same", r.Count(syncer.Same), "failed", r.Count(syncer.Failed))
			return nil
		}})
	}
	return jobs
}

// syncReport is what the command prints as JSON.
type syncReport struct {
	Entries []syncer.Report  `json:"entries"`
	Plan    []syncer.Removal `json:"plan,omitempty"`    // what may be removed
	Kept    []syncer.Refusal `json:"kept,omitempty"`    // where nothing is removed
	Removed []syncer.Removal `json:"removed,omitempty"` //
}

func (p *Program) mirrorSync(ctx context.Context, s *settings) (err error) {
	if s.String("file") == "" {
		return usagef("mirror sync wants a --file")
	}
	entries, err := s.readSyncs("file")
	if err != nil {
		return err
	}
	undo, err := s.undoWindow()
	if err != nil {
		return err
	}
	if s.Bool("prune") && !s.Bool("dry-run") {
		if undo <= 0 {
			return usagef("--prune needs an undo window (--undo-window): a list of tags may be wrong")
		}
		if !s.Bool("yes") && !isTerminal(p.Stdin) {
			return usagef("--prune wants --yes where nobody can be asked; --dry-run shows what would be removed")
		}
	}
	reg, stores, err := p.openConfigured(ctx, s, registry.Config{UndoWindow: undo})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	log := slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	sy := syncer.New(syncer.Config{Registry: reg, Log: log})
	defer sy.Close()
	report := syncReport{Entries: runSyncs(ctx, sy, entries, s.Bool("dry-run"))}
	if !s.Bool("json") {
		if err := p.printSyncs(s, report); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.Bool("prune") {
		err = p.prune(ctx, s, sy, &report)
	}
	if s.Bool("json") {
		err = errors.Join(err, printJSON(p.Stdout, report))
	}
	return errors.Join(err, report.failed())
}

// runSyncs runs all entries at once: those of one upstream share what it bears.
func runSyncs(ctx context.Context, sy *syncer.Syncer, entries []syncer.Entry, dry bool) []syncer.Report {
	reports := make([]syncer.Report, len(entries))
	var running sync.WaitGroup
	for i, e := range entries {
		running.Go(func() { reports[i] = sy.Run(ctx, e, dry) })
	}
	running.Wait()
	return reports
}

func (r syncReport) failed() error {
	n := 0
	for _, e := range r.Entries {
		n += e.Count(syncer.Failed)
	}
	if n > 0 {
		return fmt.Errorf("%s not copied", plural(n, "image", "images"))
	}
	return nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return humanize.Comma(int64(n)) + " " + many
}

// printSyncs prints what is not as it was, and counts the rest.
func (p *Program) printSyncs(s *settings, report syncReport) error {
	var rows []syncer.Outcome
	count := map[syncer.Result]int{}
	for _, e := range report.Entries {
		for _, o := range e.Images {
			if count[o.Result]++; o.Result != syncer.Same {
				rows = append(rows, o)
			}
		}
	}
	err := list(s, all(rows), []string{"RESULT", "SOURCE", "TARGET", "FETCHED", "LINKED", "WHY"}, func(o syncer.Outcome) []string {
		return []string{string(o.Result), o.Source, o.Target, humanSize(o.Bytes), fmt.Sprint(o.Linked), o.Error}
	})
	if err != nil {
		return err
	}
	done := fmt.Sprintf("%d copied", count[syncer.Copied])
	if s.Bool("dry-run") {
		done = fmt.Sprintf("%d to copy", count[syncer.Would])
	}
	_, err = fmt.Fprintf(p.Stdout, "%s, %d the same, %d failed\n", done, count[syncer.Same], count[syncer.Failed])
	return err
}

// prune prints what may be removed, and removes it if that is wanted.
func (p *Program) prune(ctx context.Context, s *settings, sy *syncer.Syncer, report *syncReport) (err error) {
	if report.Plan, report.Kept, err = sy.Plan(ctx, report.Entries); err != nil {
		return err
	}
	out := p.Stdout
	if s.Bool("json") {
		out = p.Stderr
	}
	for _, k := range report.Kept {
		fmt.Fprintf(p.Stderr, "registry: nothing is removed from %s: %s\n", k.Repository, k.Why)
	}
	for _, r := range report.Plan {
		fmt.Fprintf(out, "would remove %s: %s\n", r, r.Why)
	}
	if s.Bool("dry-run") || len(report.Plan) == 0 {
		return nil
	}
	if !s.Bool("yes") && !p.agrees("Remove "+plural(len(report.Plan), "tag", "tags")) {
		return errors.New("nothing removed")
	}
	report.Removed, err = sy.Prune(ctx, report.Plan)
	for _, r := range report.Removed {
		fmt.Fprintln(out, "removed", r)
	}
	return err
}
