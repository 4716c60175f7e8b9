package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"registry/server/backup"
	"registry/server/registry"
)

// oneDirectory is the only argument.
func (s *settings) oneDirectory() (string, error) {
	if s.NArg() != 1 || s.Args().First() == "" {
		return "", usagef("%s wants one DIR", s.Command.HelpName)
	}
	return s.Args().First(), nil
}

func (p *Program) backup(ctx context.Context, s *settings) (err error) {
	dir, err := s.oneDirectory()
	if err != nil {
		return err
	}
	reg, stores, err := p.openExistingWith(ctx, s, registry.Config{}, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	progress := p.progress()
	report, err := backup.Make(ctx, reg, dir, backup.Options{Copy: s.Bool("copy"), Verify: s.Bool("verify"), Progress: func(r backup.Report) {
		progress.show("%d blobs, %s", r.Blobs, humanSize(r.Bytes))
	}})
	progress.clear()
	if err != nil {
		return err
	}
	if err := p.printTransfer(s, "backed up", report); err != nil {
		return err
	}
	if n := len(report.Damaged); n > 0 {
		return findings{fmt.Errorf("%d blobs are damaged and not in the backup; see registry check --repair", n)}
	}
	return nil
}

func (p *Program) printTransfer(s *settings, verb string, r backup.Report) error {
	if s.Bool("json") {
		return printJSON(p.Stdout, r)
	}
	for _, d := range r.Damaged {
		fmt.Fprintf(p.Stdout, "damaged, not there: %s\n", d)
	}
	_, err := fmt.Fprintf(p.Stdout, "%s %d blobs (%s) in %s: %d linked, %d copied, %d there before, %d old ones removed\n", verb, r.Blobs, humanSize(r.Bytes),
		r.Took.Round(time.Millisecond), r.Linked, r.Copied, r.Blobs-r.Linked-r.Copied-int64(len(r.Damaged)), r.Removed)
	return err
}

func (p *Program) restore(ctx context.Context, s *settings) error {
	dir, err := s.oneDirectory()
	if err != nil {
		return err
	}
	at, err := s.location()
	if err != nil {
		return err
	}
	if err := p.asOwner(at, dir); err != nil {
		return err
	}
	progress := p.progress()
	report, retired, err := backup.Restore(ctx, backup.RestoreOptions{From: dir, DB: at.DB, Blobs: at.Blobs, AllowNetwork: at.AllowNetwork, Replace: s.Bool("force"),
		EndTokens: s.Bool("end-tokens"), Progress: func(r backup.Report) { progress.show("%d blobs, %s", r.Blobs, humanSize(r.Bytes)) }})
	progress.clear()
	p.sayRetired(retired) // also if the new one could not be put in its place
	if err != nil {
		return forceable(err)
	}
	if report.Tokens > 0 {
		fmt.Fprintf(p.Stderr, "registry: %d tokens of the backup are good, also if they were revoked after it was made; restore with --end-tokens ends all, registry token revoke one\n", report.Tokens)
	}
	return p.printTransfer(s, "restored", report)
}

// forceable says how to go on.
func forceable(err error) error {
	if errors.Is(err, backup.ErrExists) {
		return fmt.Errorf("%w; --force keeps it under another name", err)
	}
	return err
}

func (p *Program) sayRetired(path string) {
	if path != "" {
		fmt.Fprintf(p.Stderr, "registry: the old database is %s\n", path)
	}
}

func (p *Program) rebuild(ctx context.Context, s *settings) error {
	at, err := s.location()
	if err != nil {
		return err
	}
	if err := p.asOwner(at, ""); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	r, retired, err := backup.Rebuild(ctx, backup.RebuildOptions{DB: at.DB, Blobs: at.Blobs, AllowNetwork: at.AllowNetwork, Schema: p.Schema,
		Replace: s.Bool("force"), ReadData: s.Bool("read-data"), Log: log})
	p.sayRetired(retired)
	if err != nil {
		return forceable(err)
	}
	if s.Bool("json") {
		return printJSON(p.Stdout, r)
	}
	_, err = fmt.Fprintf(p.Stdout, "rebuilt %d manifests, %d tags and %d blobs in %s; %d files damaged, %d tags without their manifest, %d broken lines in the journal\n",
		r.Manifests, r.Tags, r.Blobs, r.Took.Round(time.Millisecond), r.Damaged, r.LostTags, r.Broken)
	if err != nil {
		return err
	}
	return p.printRights(r)
}

// printRights says what was rebuilt of who may do what, and what is in no journal.
func (p *Program) printRights(r backup.RebuildReport) error {
	_, err := fmt.Fprintf(p.Stdout, "and %d users with %d places in groups, %d grants and %d API tokens, %d immutable rules, %d public repositories\n",
		r.Policy["user"], r.Policy["member"], r.Policy["grant"], r.Policy["token"], r.Policy["immutable"], r.Policy["public"])
	for _, lost := range r.Lost {
		if err == nil {
			_, err = fmt.Fprintf(p.Stdout, "not rebuilt: %s\n", lost)
		}
	}
	return err
}
