package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"registry/server/check"
	"registry/server/gc"
	"registry/server/registry"
)

// why explains what keeps a manifest or a blob.
func (p *Program) why(ctx context.Context, s *settings) (err error) {
	if s.NArg() != 1 {
		return usagef("why wants one REPO:TAG, REPO@DIGEST or DIGEST")
	}
	opt, err := s.collectOptions("")
	if err != nil {
		return err
	}
	blob, notBlob := registry.ParseDigest(s.Args().First())
	var what pattern
	if notBlob != nil {
		if what, err = parsePattern(s.Args().First()); err != nil {
			return err
		}
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	var w gc.Why
	if notBlob == nil {
		w, err = gc.WhyBlob(ctx, reg, blob, opt)
	} else {
		w, err = whyImage(ctx, reg, what, opt)
	}
	if err != nil {
		return err
	}
	if s.Bool("json") {
		return printJSON(p.Stdout, w)
	}
	_, err = fmt.Fprint(p.Stdout, explainWhy(w))
	return err
}

// whyImage looks for a manifest first, and then for a blob of the digest, which may be either.
func whyImage(ctx context.Context, reg *registry.Registry, what pattern, opt gc.Options) (gc.Why, error) {
	repo, ref, err := what.image()
	if err != nil {
		return gc.Why{}, err
	}
	w, err := gc.WhyManifest(ctx, reg, repo, ref, opt)
	if registry.ManifestUnknown.Is(err) && ref.Digest != "" {
		if _, missing := reg.StatBlob(ctx, repo, ref.Digest); missing == nil {
			return gc.WhyBlob(ctx, reg, ref.Digest, opt)
		}
	}
	return w, explain(what, err)
}

func explainWhy(w gc.Why) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, %s\n", w.Kind, w.Digest, humanSize(w.Size))
	if w.Damaged {
		b.WriteString("  its bytes are damaged: it is not there for clients until it is pushed again\n")
	}
	for _, h := range w.Holds {
		fmt.Fprintf(&b, "  kept by %s\n", h)
	}
	switch {
	case w.Held:
	case w.Since.IsZero(): // the repositories that had it are gone
		b.WriteString("  nothing holds it; the next gc takes it\n")
	case w.CollectedAfter.IsZero():
		fmt.Fprintf(&b, "  nothing else holds it since %s; gc leaves untagged manifests alone without --untagged-after\n", timestamp(w.Since))
	case w.CollectedAfter.After(time.Now()):
		fmt.Fprintf(&b, "  nothing else holds it since %s; gc takes it after %s\n", timestamp(w.Since), timestamp(w.CollectedAfter))
	default:
		fmt.Fprintf(&b, "  nothing holds it since %s; the next gc takes it\n", timestamp(w.Since))
	}
	return b.String()
}

// du shows what repositories or tags take.
func (p *Program) du(ctx context.Context, s *settings) (err error) {
	patterns, err := parsePatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	for _, what := range patterns {
		if what.digest != "" {
			return usagef("%s: du wants REPO or REPO:TAG", what)
		}
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	everything := len(patterns) == 0
	if everything {
		patterns = []pattern{{repo: "**"}}
	}
	var found []registry.Usage
	for _, what := range patterns {
		some, err := usages(ctx, reg, what)
		if err != nil {
			return err
		}
		found = append(found, some...)
	}
	var total *registry.TotalUsage
	if everything {
		t, err := reg.TotalUsage(ctx)
		if err != nil {
			return err
		}
		total = &t
	}
	if s.Bool("json") {
		return printJSON(p.Stdout, map[string]any{"usage": found, "total": total})
	}
	return p.printUsage(found, total)
}

func usages(ctx context.Context, reg *registry.Registry, what pattern) (found []registry.Usage, err error) {
	if what.tag == "" && !what.isGlob() {
		u, err := reg.RepositoryUsage(ctx, registry.RepoName(what.repo))
		return []registry.Usage{u}, explain(what, err)
	}
	if what.tag == "" {
		items := matching(what.repo, func(at registry.Page) ([]registry.Usage, bool, error) { return reg.RepositoryUsages(ctx, at) },
			func(u registry.Usage) string { return string(u.Repository) })
		for u, err := range items {
			if err != nil {
				return nil, explain(what, err)
			}
			found = append(found, u)
		}
		return found, nil
	}
	for repo, err := range repositories(ctx, reg, what.repo) {
		if err != nil {
			return nil, explain(what, err)
		}
		items := matching(what.tag, func(at registry.Page) ([]registry.Usage, bool, error) {
			return reg.TagUsages(ctx, registry.RepoName(repo), at)
		}, func(u registry.Usage) string { return string(u.Tag) })
		for u, err := range items {
			if err != nil {
				return nil, explain(what, err)
			}
			found = append(found, u)
		}
	}
	if len(found) == 0 {
		return nil, explain(what, registry.ManifestUnknown.With(what.String()))
	}
	return found, nil
}

func (p *Program) printUsage(found []registry.Usage, total *registry.TotalUsage) error {
	err := writeTable(p.Stdout, all(found), []string{"NAME", "LOGICAL", "UNIQUE", "SHARED", "RECLAIMABLE"}, func(u registry.Usage) []string {
		name := string(u.Repository)
		if u.Tag != "" {
			name += ":" + string(u.Tag)
		}
		return []string{name, humanSize(u.Logical), humanSize(u.Unique), humanSize(u.Shared), humanSize(u.Reclaim)}
	})
	if err != nil || total == nil {
		return err
	}
	_, err = fmt.Fprintf(p.Stdout, "total: %s of blobs and %s of manifests; %s reclaimable, %s kept for undo, %s damaged\n",
		humanSize(total.Blobs), humanSize(total.Manifests), humanSize(total.Reclaimable), humanSize(total.Undo), humanSize(total.Damaged))
	return err
}

// check compares the database with what is stored.
func (p *Program) check(ctx context.Context, s *settings) (err error) {
	opt := check.Options{ReadData: s.Bool("read-data"), SkipVerified: s.Duration("skip-verified"), Parallel: s.Int("parallel"),
		Repair: s.Bool("repair"), MaxDuration: s.Duration("max-duration")}
	if s.String("rate") != "" {
		if opt.Rate, err = s.size("rate"); err != nil {
			return err
		}
	}
	if opt.Parallel < 1 || opt.MaxDuration < 0 || opt.SkipVerified < 0 {
		return usagef("--parallel must be at least 1, and no time may be negative")
	}
	var cfg registry.Config
	if cfg.Sparse, err = s.sparse(); err != nil {
		return err
	}
	reg, stores, err := p.openConfigured(ctx, s, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	progress := p.progress()
	var all []check.Finding
	opt.Found = func(f check.Finding) {
		if s.Bool("json") {
			all = append(all, f)
			return
		}
		progress.clear()
		fmt.Fprintln(p.Stdout, findingLine(f))
	}
	opt.Progress = func(r check.Report) {
		progress.show("%d manifests, %d blobs, %s read, %d findings", r.Manifests, r.Blobs, humanSize(r.BytesRead), r.Findings)
	}
	report, err := check.Run(ctx, reg, opt)
	progress.clear()
	if err != nil {
		return err
	}
	if s.Bool("json") {
		err = printJSON(p.Stdout, map[string]any{"findings": all, "report": report})
	} else {
		_, err = fmt.Fprintf(p.Stdout, "checked %d manifests, %d blobs (%d read, %s) and %d files in %s: %d findings\n", report.Manifests, report.Blobs,
			report.Read, humanSize(report.BytesRead), report.Files, report.Took.Round(time.Millisecond), report.Findings)
		if !report.Complete {
			fmt.Fprintln(p.Stdout, "stopped because the time was used up; --skip-verified makes the next check go on")
		}
	}
	if err == nil && report.Findings > 0 {
		err = findings{fmt.Errorf("%d findings", report.Findings)}
	}
	return err
}

func findingLine(f check.Finding) string {
	what := f.Digest.String()
	if f.Repository != "" {
		what = string(f.Repository) + "@" + what
	}
	line := strings.TrimSpace(fmt.Sprintf("%-10s %s", f.Kind, what)) + ": " + f.Detail
	if len(f.Tags) > 0 {
		line += "; needed by " + strings.Join(f.Tags, ", ")
	}
	return line
}
