package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"registry/server/registry"
	"registry/server/remote"
	"registry/server/takeover"

	"github.com/bmatcuk/doublestar/v4"
)

// importDistribution takes over the storage directory of distribution.
func (p *Program) importDistribution(ctx context.Context, s *settings) (err error) {
	opt, err := s.takeoverOptions()
	if err != nil {
		return err
	}
	other, err := p.compared(s)
	if err != nil {
		return err
	}
	reg, stores, err := p.openTarget(ctx, s, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	progress := p.progress()
	found := []takeover.Finding{}
	opt.Found = func(f takeover.Finding) {
		if s.Bool("json") {
			found = append(found, f)
			return
		}
		progress.clear()
		fmt.Fprintln(p.Stdout, takeoverLine(f))
	}
	opt.Progress = func(r takeover.Report) {
		progress.show("%d repositories, %d manifests, %d tags, %d blobs (%s)", r.Repositories, r.Manifests, r.Tags, r.Blobs, humanSize(r.Bytes))
	}
	report, err := takeover.Run(ctx, reg, opt)
	progress.clear()
	if errors.Is(err, takeover.ErrNoLink) {
		return usagef("%w: say --copy", err)
	}
	if err != nil {
		return fmt.Errorf("%w; run it again to go on", err)
	}
	compared := 0
	if other != nil {
		before := opt.Found
		opt.Found = func(f takeover.Finding) { report.Findings++; before(f) }
		if compared, err = takeover.Compare(ctx, reg, other, opt); err != nil {
			return fmt.Errorf("--verify-against: %w", err)
		}
	}
	if s.Bool("json") {
		err = printJSON(p.Stdout, map[string]any{"findings": found, "report": report, "compared": compared})
	} else {
		err = p.printTakeover(report, opt, compared)
	}
	if err == nil && report.Findings > 0 {
		err = findings{fmt.Errorf("%d findings", report.Findings)}
	}
	return err
}

func (s *settings) takeoverOptions() (opt takeover.Options, err error) {
	opt = takeover.Options{Repo: s.String("repo"), Copy: s.Bool("copy"), Move: s.Bool("move"), ReadData: s.Bool("read-data"), DryRun: s.Bool("dry-run")}
	if opt.Dir, err = s.oneDirectory(); err != nil {
		return opt, err
	}
	ways := 0
	for _, way := range []string{"link", "copy", "move"} {
		if s.Bool(way) {
			ways++
		}
	}
	switch {
	case ways > 1:
		return opt, usagef("say one of --link, --copy and --move")
	case opt.Move && opt.Repo != "":
		return opt, usagef("--move and --repo do not go together: the other repositories may need the same files")
	case !doublestar.ValidatePattern(opt.Repo):
		return opt, usagef("--repo %q is not a glob", opt.Repo)
	}
	opt.Sparse, err = s.sparse()
	return opt, err
}

// compared is the registry of --verify-against, nil if there is none.
func (p *Program) compared(s *settings) (takeover.Remote, error) {
	address := s.String("verify-against")
	if address == "" {
		return nil, nil
	}
	if s.Bool("dry-run") {
		return nil, usagef("--verify-against compares what was taken: leave out --dry-run")
	}
	target, err := remote.ParseTarget(address)
	if err == nil && target.Repo != "" {
		err = fmt.Errorf("%q: want a registry without a repository", address)
	}
	if err != nil {
		return nil, usagef("--verify-against %w", err)
	}
	cfg := remote.Config{UserAgent: p.userAgent()}
	if file := s.String("verify-credentials"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, usagef("--verify-credentials: %w", err)
		}
		var ok bool
		if cfg.User, cfg.Password, ok = strings.Cut(strings.TrimSpace(string(text)), ":"); !ok {
			return nil, usagef("--verify-credentials: %s has no user:password", file)
		}
	}
	return remote.New(target.Base, cfg)
}

// openTarget opens the registry that takes something over, which may be a new one. A dry run makes none.
func (p *Program) openTarget(ctx context.Context, s *settings, opt takeover.Options) (*registry.Registry, io.Closer, error) {
	at, err := s.location()
	if err != nil {
		return nil, nil, err
	}
	remove := func() error { return nil }
	if opt.DryRun && at.exists() != nil {
		tmp, err := s.tmp()
		if err != nil {
			return nil, nil, err
		}
		dir, err := os.MkdirTemp(tmp, "registry-dry-run-")
		if err != nil {
			return nil, nil, err
		}
		remove = func() error { return os.RemoveAll(dir) }
		at.DB, at.Blobs = filepath.Join(dir, "reg.db"), filepath.Join(dir, "blobs")
	}
	opened, err := p.openStoresWith(ctx, at, registry.Config{Sparse: opt.Sparse, Log: p.warnings()}, opt.Dir)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return opened.Registry.As(registry.Actor{User: operator()}), closers{opened.Close, remove}, nil
}

// closers are closed in their order.
type closers []func() error

func (c closers) Close() (err error) {
	for _, each := range c {
		err = errors.Join(err, each())
	}
	return err
}

func (p *Program) printTakeover(r takeover.Report, opt takeover.Options, compared int) error {
	verb := "took"
	if opt.DryRun {
		verb = "would take"
	}
	_, err := fmt.Fprintf(p.Stdout, "%s %d repositories, %d manifests, %d tags and %d blobs (%s) in %s; %d manifests were here before; %d findings\n", verb,
		r.Repositories, r.Manifests, r.Tags, r.Blobs, humanSize(r.Bytes), r.Took.Round(time.Millisecond), r.Before, r.Findings)
	if r.Removed > 0 {
		fmt.Fprintf(p.Stdout, "removed %d files from %s\n", r.Removed, opt.Dir)
	}
	if r.Kept > 0 {
		fmt.Fprintf(p.Stdout, "left %d files in %s that were taken: something that was not taken refers to them, or no manifest needs them here\n", r.Kept, opt.Dir)
	}
	if compared > 0 {
		fmt.Fprintf(p.Stdout, "compared %d tags\n", compared)
	}
	return err
}

func takeoverLine(f takeover.Finding) string {
	what := f.Repository
	if f.Tag != "" {
		what += ":" + f.Tag
	}
	if f.Digest != "" {
		what += "@" + f.Digest.String()
	}
	return strings.TrimSpace(fmt.Sprintf("%-8s %s", f.Kind, what)) + ": " + f.Detail
}

// userAgent is what the program calls itself to other registries.
func (p *Program) userAgent() string { return "registry/" + p.build().Version }
