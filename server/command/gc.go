package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"registry/server/gc"
	"registry/server/registry"
)

// gc collects garbage.
func (p *Program) gc(ctx context.Context, s *settings) (err error) {
	opt, err := s.collectOptions("")
	if err != nil {
		return err
	}
	if opt.Grace < time.Hour && !opt.Force {
		return s.badf("grace", "%s is under an hour: pushes under way would fail. Say --force if that is meant", opt.Grace)
	}
	if opt.Compact = s.Bool("compact"); opt.Compact && opt.DryRun {
		return usagef("--compact and --dry-run exclude each other")
	}
	cfg := registry.Config{UndoWindow: opt.UndoWindow}
	if cfg.UploadTimeout, err = s.positive("upload-timeout"); err != nil {
		return err
	}
	if opt.Tmp, err = s.tmp(); err != nil {
		return err
	}
	reg, stores, err := p.openConfigured(ctx, s, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	out := bufio.NewWriter(p.Stdout)
	shown := newGarbageWriter(out, s.Bool("json"), opt.DryRun)
	if opt.DryRun {
		opt.Found = shown.found
	}
	progress := p.progress()
	opt.Progress = func(r gc.Report) {
		progress.show("%s: %d manifests, %d blobs, %s freed", r.Phase, r.Manifests, r.Blobs, humanSize(r.Bytes))
	}
	report, err := gc.Collect(ctx, reg, opt)
	progress.clear()
	if report.Started.IsZero() {
		return err // it did not begin
	}
	return errors.Join(err, shown.end(report), out.Flush())
}

// collectOptions reads the flags of gc, or those of serve that say the same.
func (s *settings) collectOptions(prefix string) (opt gc.Options, err error) {
	opt = gc.Options{Grace: s.Duration(prefix + "grace"), Force: s.Bool("force"), MaxDuration: s.Duration("max-duration"), DryRun: s.Bool("dry-run")}
	if opt.Grace < 0 {
		return opt, s.badf(prefix+"grace", "%s is negative", opt.Grace)
	}
	if opt.MaxDuration < 0 {
		return opt, s.badf("max-duration", "%s is negative", opt.MaxDuration)
	}
	if text := s.String(prefix + "untagged-after"); text != "" {
		opt.Untagged = true
		if opt.UntaggedAfter, err = time.ParseDuration(text); err != nil || opt.UntaggedAfter < 0 {
			return opt, s.badf(prefix+"untagged-after", "%q is not a time such as 168h", text)
		}
	}
	if opt.UndoWindow, err = s.undoWindow(); err != nil {
		return opt, err
	}
	if opt.Force && s.origin["undo-window"] == byDefault {
		opt.UndoWindow = min(opt.UndoWindow, opt.Grace) // whoever forces it wants the space now
	}
	return opt, nil
}

// undoWindow is --undo-window as registry.Config has it, where 0 would mean the default.
func (s *settings) undoWindow() (time.Duration, error) {
	switch d := s.Duration("undo-window"); {
	case d < 0:
		return 0, s.badf("undo-window", "%s is negative", d)
	case d == 0:
		return -1, nil
	default:
		return d, nil
	}
}

// garbageWriter prints garbage as it is found, and the report at the end: an object in JSON, a line each as text.
type garbageWriter struct {
	out       io.Writer
	json, dry bool
	n         int
}

func newGarbageWriter(out io.Writer, asJSON, dry bool) *garbageWriter {
	return &garbageWriter{out: out, json: asJSON, dry: dry}
}

func (w *garbageWriter) found(g gc.Garbage) {
	if !w.json {
		what := g.Digest.String()
		if g.Repository != "" {
			what = string(g.Repository) + "@" + what
		}
		since := ""
		if !g.Since.IsZero() {
			since = ", since " + timestamp(g.Since)
		}
		fmt.Fprintf(w.out, "%-8s %s (%s): %s%s\n", g.Kind, what, humanSize(g.Bytes), g.Why, since)
		return
	}
	line, _ := json.Marshal(g)
	separator := ",\n"
	if w.n++; w.n == 1 {
		separator = "{\"garbage\":[\n"
	}
	fmt.Fprintf(w.out, "%s%s", separator, line)
}

func (w *garbageWriter) end(r gc.Report) error {
	if w.json {
		text, err := json.Marshal(r)
		if w.n > 0 {
			text = append([]byte("],\n"), bytes.TrimPrefix(text, []byte("{"))...)
		}
		_, writing := fmt.Fprintf(w.out, "%s\n", text)
		return errors.Join(err, writing)
	}
	verb := "removed"
	if w.dry {
		verb = "would remove"
	}
	_, err := fmt.Fprintf(w.out, "%s %s in %s\n", verb, strings.Join(summary(r), ", "), r.Took.Round(time.Millisecond))
	if !r.Complete {
		_, err = fmt.Fprintf(w.out, "stopped at: %s; the next run goes on\n", r.Phase)
	}
	return err
}

func summary(r gc.Report) []string {
	parts := []string{fmt.Sprintf("%d blobs (%s)", r.Blobs, humanSize(r.Bytes))}
	for _, p := range []struct {
		n    int64
		what string
	}{{r.Manifests, "manifests"}, {r.Deleted, "deletions past undo"}, {r.Files, "orphaned files"}, {r.Uploads, "expired uploads"}, {r.Repositories, "empty repositories"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if r.Database > 0 {
		parts = append(parts, humanSize(r.Database)+" of the database")
	}
	return parts
}

// progress is a line on a terminal that is written over and over. It is nothing elsewhere.
type progress struct {
	out   io.Writer
	shown time.Time
	width int
}

func (p *Program) progress() *progress {
	if !isTerminal(p.Stderr) {
		return &progress{}
	}
	return &progress{out: raw(p.Stderr)}
}

func (p *progress) show(format string, args ...any) {
	if p.out == nil || time.Since(p.shown) < 100*time.Millisecond {
		return
	}
	line := fmt.Sprintf(format, args...)
	fmt.Fprintf(p.out, "\r%-*s", p.width, line)
	p.shown, p.width = time.Now(), len(line)
}

func (p *progress) clear() {
	if p.out != nil && p.width > 0 {
		fmt.Fprintf(p.out, "\r%-*s\r", p.width, "")
	}
}
