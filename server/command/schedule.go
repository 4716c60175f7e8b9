package command

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"registry/server/check"
	"registry/server/gc"
	"registry/server/registry"

	"github.com/robfig/cron/v3"
)

// job is maintenance that serve does on a schedule.
type job struct {
	name string
	when cron.Schedule
	run  func(context.Context, *slog.Logger, *registry.Registry) error
}

// parseSchedule reads a time between two runs, such as 6h, or the five fields of cron. Both may be empty: never.
func parseSchedule(what, text string) (cron.Schedule, error) {
	if d, err := time.ParseDuration(text); err == nil {
		if d < time.Second {
			return nil, usagef("%s %q is less than a second", what, text)
		}
		return cron.Every(d), nil
	}
	when, err := cron.ParseStandard(text)
	if err != nil {
		return nil, usagef("%s %q is neither a time such as 6h nor five fields of cron: %w", what, text, err)
	}
	return when, nil
}

// scheduler runs jobs, and lets others take their place.
type scheduler struct {
	log     *slog.Logger
	reg     *registry.Registry
	running sync.WaitGroup // jobs end when their context does
	end     func()         // of the jobs scheduled so far
}

// schedule begins jobs in place of those before, of which one that is at work finishes that.
func (s *scheduler) schedule(ctx context.Context, jobs []job) {
	if s.end != nil {
		s.end()
	}
	scheduled, end := context.WithCancel(ctx)
	s.end = end
	for _, j := range jobs {
		s.running.Go(func() { j.repeat(ctx, scheduled, s.log.With("job", j.name), s.reg) })
	}
}

// repeat runs the job with ctx until scheduled ends, which it does no later than ctx.
func (j job) repeat(ctx, scheduled context.Context, log *slog.Logger, reg *registry.Registry) {
	for {
		next := time.NewTimer(time.Until(j.when.Next(time.Now())))
		select {
		case <-scheduled.Done():
			next.Stop()
			return
		case <-next.C:
		}
		if err := j.run(ctx, log, reg); err != nil && ctx.Err() == nil {
			log.Error("maintenance failed", "err", err)
		}
	}
}

// jobs are what the flags of serve ask for. undo is the window of deletions, as registry.Config has it.
func (s *settings) jobs(undo time.Duration) (jobs []job, err error) {
	if text := s.String("gc-interval"); text != "" {
		j := job{name: "gc"}
		if j.when, err = parseSchedule(s.named("gc-interval"), text); err != nil {
			return nil, err
		}
		opt, err := s.collectOptions("gc-")
		if err != nil {
			return nil, err
		}
		opt.UndoWindow = undo
		if opt.Grace < time.Hour {
			return nil, s.badf("gc-grace", "%s is under an hour: pushes under way would fail", opt.Grace)
		}
		j.run = func(ctx context.Context, log *slog.Logger, reg *registry.Registry) error {
			report, err := gc.Collect(ctx, reg, opt)
			log.Info("collected", "blobs", report.Blobs, "bytes", report.Bytes, "manifests", report.Manifests, "files", report.Files, "took", report.Took)
			return err
		}
		jobs = append(jobs, j)
	}
	if text := s.String("scrub-interval"); text != "" {
		j := job{name: "scrub"}
		if j.when, err = parseSchedule(s.named("scrub-interval"), text); err != nil {
			return nil, err
		}
		rate, err := s.size("scrub-rate")
		if err != nil {
			return nil, err
		}
		j.run = func(ctx context.Context, log *slog.Logger, reg *registry.Registry) error {
			return scrub(ctx, log, reg, rate)
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// scrub reads everything. Damaged blobs are told from then on to be missing, so that pushes heal them.
func scrub(ctx context.Context, log *slog.Logger, reg *registry.Registry, rate int64) error {
	report, err := check.Run(ctx, reg, check.Options{ReadData: true, Rate: rate, Parallel: 1, Repair: true, Found: func(f check.Finding) {
		log.Error("found", "kind", f.Kind, "repository", f.Repository, "digest", f.Digest, "detail", f.Detail, "tags", f.Tags)
	}})
	log.Info("checked", "blobs", report.Blobs, "bytes", report.BytesRead, "findings", report.Findings, "took", report.Took)
	return err
}
