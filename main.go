// Command registry is an OCI container registry: one binary, one SQLite file, one directory of blobs.
//
// This file joins the parts and does nothing else: the commands are in server/command, the server in server, the
// registry itself in server/registry, and what it keeps in db and blobs.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/auth"
	"registry/server/command"
	"registry/server/registry"
)

// schema is embedded here because go:embed cannot reach a parent folder, and schema.sql belongs where a newcomer looks.
//
//go:embed schema.sql
var schema string

// documents are what registry help TOPIC shows. Each stands in the folder of its subject.
//
//go:embed server/README.md server/*/README.md
var documents embed.FS

// version is set by the linker for a release: -ldflags "-X main.version=1.2.3".
var version string

func main() {
	err := run(context.Background(), os.Args, os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", command.Printable(strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	os.Exit(command.ExitCode(err))
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	ctx, stop := interruptible(ctx)
	defer stop()
	p := command.Program{Version: version, Schema: schema, Documents: documents, Open: open, LockServer: lockServer, Hangups: hangups, Stdin: stdin, Stdout: stdout, Stderr: stderr}
	return p.Run(ctx, args)
}

// interruptible returns a context that the first SIGINT or SIGTERM ends, or the end of the terminal it was started from.
// The second one ends the process: whatever hangs then, nothing that was acknowledged is lost.
func interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if hangupEnds() {
		signal.Notify(signals, syscall.SIGHUP)
	}
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(command.ExitFailed)
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel()
	}
}

// hangupEnds says whether SIGHUP means that the terminal is gone, with the person who started this. nohup says that this
// shall not matter.
var hangupEnds = sync.OnceValue(func() bool {
	if signal.Ignored(syscall.SIGHUP) {
		return false
	}
	terminal, err := os.OpenFile("/dev/tty", os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	terminal.Close()
	return true
})

// hangups returns the signals by which a server reads its settings again: SIGHUP, unless that ends it.
func hangups() (signals <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	if !hangupEnds() {
		signal.Notify(c, syscall.SIGHUP)
	}
	return c, func() { signal.Stop(c) }
}

// open opens what the registry keeps, and the registry on top of it.
func open(ctx context.Context, at command.Location, cfg registry.Config) (*command.Opened, error) {
	if err := refuseNetwork(at); err != nil {
		return nil, err
	}
	database, err := db.Open(ctx, db.Options{Path: at.DB, Schema: schema, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	dir, err := openBlobs(ctx, at, database.ReadOnly())
	if err != nil {
		return nil, errors.Join(err, database.Close())
	}
	cfg.DB, cfg.Blobs = database, dir
	reg := registry.New(cfg)
	if err := reg.CheckPair(ctx); err != nil {
		return nil, errors.Join(err, database.Close())
	}
	authority := func(cfg auth.Config) *auth.Authority {
		cfg.DB = database
		return auth.New(cfg)
	}
	return &command.Opened{Registry: reg, Auth: authority, Closer: database}, nil
}

// lockServer keeps other servers away from a database. Where locks cannot be relied on, the operator has said so.
func lockServer(ctx context.Context, at command.Location, wait time.Duration, log *slog.Logger) (io.Closer, error) {
	if err := refuseNetwork(at); err != nil {
		return nil, err
	}
	lock, err := db.LockServer(ctx, db.ServerLockOptions{Path: at.DB, Wait: wait, Waiting: func(other db.ServerHolder) {
		log.Warn("another server uses this database: waiting for it to end", "server", other.String(), "at most", wait.String())
	}})
	if at.AllowNetwork && errors.Is(err, errors.ErrUnsupported) {
		log.Warn("the file system has no locks: a second server on this database would damage uploads", "err", err)
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	return lock, nil
}

// openBlobs opens the store. Beside a database that can only be read nothing is made.
func openBlobs(ctx context.Context, at command.Location, readOnly bool) (*blobs.Dir, error) {
	if readOnly {
		return blobs.OpenExisting(at.Blobs)
	}
	return blobs.OpenDir(ctx, at.Blobs, blobs.DirOptions{AllowNetwork: at.AllowNetwork})
}

// refuseNetwork refuses a database on a network file system before SQLite relies on locks and flushes that are not
// what they seem there. The blob store does the same for its directory.
func refuseNetwork(at command.Location) error {
	if at.AllowNetwork {
		return nil
	}
	name, err := blobs.NetworkFS(filepath.Dir(at.DB))
	if err == nil && name != "" {
		err = fmt.Errorf("on a network file system (%s); --allow-network-fs if you must", name)
	}
	if err != nil {
		return fmt.Errorf("database %s: %w", at.DB, err)
	}
	return nil
}
