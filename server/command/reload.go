package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"registry/server/syncer"

	"github.com/urfave/cli/v2"
)

// reloadable are the flags of serve that a running server can change. The others it says to need a restart.
var reloadable = []string{"log-level", "mirror-file", "gc-interval", "gc-grace", "gc-untagged-after", "scrub-interval", "scrub-rate"}

// reloader reads the settings of a running server again.
type reloader struct {
	program  *Program
	log      *slog.Logger
	level    *slog.LevelVar
	settings *settings // that count
	opt      serveOptions
	jobs     *scheduler
	syncs    *syncer.Syncer
}

// run reloads at each signal, until ctx ends.
func (r *reloader) run(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			r.reload(ctx)
		}
	}
}

// reload takes what can be changed from the env file, the mirror file and the certificates. With a mistake in one of them
// the settings stay as they were.
func (r *reloader) reload(ctx context.Context) {
	changed, restart, err := r.apply(ctx)
	if tls, ok := r.opt.server.TLS.(interface{ Reload() error }); ok {
		err = errors.Join(err, tls.Reload())
	}
	if err != nil {
		r.log.Error("not everything was reloaded, and what was not stays as it was", "err", err)
		return
	}
	r.log.Info("settings reloaded", "changed", changed, "needs a restart", restart)
}

// apply returns the names of the settings that it has changed, and of those that only a restart changes.
func (r *reloader) apply(ctx context.Context) (changed, restart []string, err error) {
	s, err := r.program.readAgain(ctx)
	if err != nil {
		return nil, nil, err
	}
	level, err := s.logLevel()
	if err != nil {
		return nil, nil, err
	}
	jobs, err := s.jobs(r.opt.registry.UndoWindow)
	if err != nil {
		return nil, nil, err
	}
	syncs, err := s.scheduledSyncs(r.opt.mirror.Upstreams)
	if err != nil {
		return nil, nil, err
	}
	changed, restart = r.settings.compare(s)
	if !reflect.DeepEqual(syncs, r.opt.syncs) && !slices.Contains(changed, "mirror-file") {
		changed = append(changed, "mirror-file")
	}
	if slices.ContainsFunc(changed, func(flag string) bool { return flag != "log-level" }) {
		r.jobs.schedule(ctx, append(jobs, syncJobs(r.syncs, syncs)...))
	}
	r.level.Set(level)
	r.settings.adopt(s, changed)
	r.opt.syncs = syncs
	return s.names(changed), s.names(restart), nil
}

// readAgain makes the settings of serve from the command line, the environment and the env file as it is now.
func (p *Program) readAgain(ctx context.Context) (s *settings, err error) {
	app := p.app()
	app.Command("serve").Action = func(c *cli.Context) (err error) {
		s, err = resolve(c, p.environment)
		return err
	}
	err = app.RunContext(ctx, flagsFirst(app, p.args))
	return s, err
}

// compare returns the flags that have other values in the settings that are to come: those that can be changed, and
// those that cannot.
func (s *settings) compare(next *settings) (changed, restart []string) {
	for _, f := range s.Command.Flags {
		name := f.Names()[0]
		switch {
		case s.text(name) == next.text(name):
		case slices.Contains(reloadable, name):
			changed = append(changed, name)
		default:
			restart = append(restart, name)
		}
	}
	return changed, restart
}

// text is the value of a flag of any kind, to compare.
func (s *settings) text(name string) string {
	if some, ok := s.Value(name).(cli.StringSlice); ok {
		return fmt.Sprintf("%q", some.Value())
	}
	return fmt.Sprint(s.Value(name))
}

// adopt takes some values of other settings.
func (s *settings) adopt(next *settings, flags []string) {
	for _, name := range flags {
		s.Set(name, next.text(name)) // which next has from a flag of the same kind
		s.origin[name], s.variable[name] = next.origin[name], next.variable[name]
	}
}

// names are what the person who set the flags calls them.
func (s *settings) names(flags []string) []string {
	names := make([]string, 0, len(flags))
	for _, flag := range flags {
		names = append(names, s.named(flag))
	}
	return names
}

// checkServe says what serve would stumble over that is no flag. It makes nothing, and needs no address: a server may be
// running.
func (p *Program) checkServe(opt serveOptions, log *slog.Logger) error {
	if opt.tls.kind == tlsFiles {
		if _, err := opt.tls.files(log); err != nil {
			return usageError{err}
		}
	}
	folder := filepath.Dir(opt.location.DB)
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return usagef("%s %s: there is no directory %s", opt.tls.named("db"), opt.location.DB, folder)
	}
	for flag, path := range map[string]string{"db": opt.location.DB, "blobs": opt.location.Blobs} {
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist): // the first start makes it
		case err != nil:
			return usagef("%s: %w", opt.tls.named(flag), err)
		case info.IsDir() != (flag == "blobs"):
			return usagef("%s %s is not what it should be: a file for the database, a directory for blobs", opt.tls.named(flag), path)
		}
	}
	_, err := fmt.Fprintln(p.Stdout, "The settings are good.")
	return err
}
