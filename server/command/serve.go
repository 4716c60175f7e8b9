package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"registry/server"
	"registry/server/auth"
	"registry/server/mirror"
	"registry/server/registry"
	"registry/server/syncer"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/term"
)

// serveOptions are the flags of serve, checked.
type serveOptions struct {
	address  string
	said     string // the flag or variable that the host of the address came from
	open     bool   // --auth was said in so many words
	users    bool   // --auth token
	auth     auth.Config
	admin    string // password of the first admin, "" for one at random
	location Location
	tls      tlsOptions
	registry registry.Config
	server   server.Config
	mirror   mirror.Config
	jobs     []job
	syncs    []syncer.Entry // on their schedules
}

// serve runs the server until ctx is done and everything under way has ended.
func (p *Program) serve(ctx context.Context, s *settings) (err error) {
	opt, err := s.serveOptions()
	if err != nil {
		return err
	}
	log, level, err := p.logger(s)
	if err != nil {
		return err
	}
	for _, w := range s.warnings {
		log.Warn(w)
	}
	if s.Bool("check") {
		return p.checkServe(opt, log)
	}
	hangups, stopHangups := p.Hangups()
	defer stopHangups()
	if err := opt.tls.openFirst(ctx, log); err != nil {
		return err
	}
	defer opt.tls.close()
	ln, err := listen(ctx, opt)
	if err != nil {
		return err
	}
	defer ln.Close()
	warnOpen(log, opt.users, ln.Addr())
	opt.server.Loopback = isLoopbackTCP(ln.Addr())
	if err := opt.actAsOwner(log); err != nil {
		return err
	}
	if !opt.server.ReadOnly { // the file of the lock is the owner's, like the database
		lock, err := p.LockServer(ctx, opt.location, opt.server.DrainTimeout+lockMargin, log)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			return usagef("%w: say --read-only to serve what can only be read", err)
		}
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	if opt.server.TLS, err = opt.tls.open(log); err != nil {
		return err
	}
	opt.registry.Log, opt.server.Log = log, log
	opened, err := p.Open(ctx, opt.location, opt.registry)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	if opened.Registry.ReadOnly() && !opt.server.ReadOnly {
		return usagef("%s can only be read: say --read-only to serve it, or put it where it can be written", opt.location.DB)
	}
	if opt.users {
		if opt.server.Auth, err = p.startAuth(ctx, opened, opt, log); err != nil {
			return err
		}
	}
	reg := opened.Registry
	opt.server.Registry, opt.server.Version = reg, p.build().Version
	opt.server.OnReady = func() {
		log.Info("serving", "url", serverURL(ln.Addr(), opt.server.TLS != nil),
			"db", absolute(opt.location.DB), "blobs", absolute(opt.location.Blobs), "version", opt.server.Version)
		notify(log, daemon.SdNotifyReady)
	}
	if len(opt.mirror.Upstreams) > 0 {
		opt.mirror.Registry, opt.mirror.Log = reg, log
		opt.server.Mirror = mirror.New(opt.mirror)
	}
	srv, err := server.New(opt.server)
	if err != nil {
		return err
	}
	defer func() { // what the last requests changed
		reg.SettleUploads(context.WithoutCancel(ctx))
		if err := reg.ExportJournal(context.WithoutCancel(ctx), 0); err != nil {
			log.Warn("the journal beside the blobs is behind", "err", err)
		}
	}()
	if opt.server.Mirror != nil {
		defer opt.server.Mirror.Close()
	}
	defer announceStop(ctx, log)()
	syncs := syncer.New(syncer.Config{Registry: reg.As(registry.Actor{User: "job:sync"}), Public: opt.registry.Public, Log: log})
	defer syncs.Close()
	work, stop := context.WithCancel(ctx) // which does not end when the server fails
	jobs := &scheduler{log: log, reg: reg}
	jobs.schedule(work, append(opt.jobs, syncJobs(syncs, opt.syncs)...))
	r := &reloader{program: p, log: log, level: level, settings: s, opt: opt, jobs: jobs, syncs: syncs}
	var reloads sync.WaitGroup
	reloads.Go(func() { r.run(work, hangups) })
	defer func() { stop(); reloads.Wait(); jobs.running.Wait() }()
	return srv.Serve(ctx, ln)
}

// lockMargin is what a server needs to end when its requests have drained.
const lockMargin = 5 * time.Second

// announceStop says that the server stops, as soon as ctx is done. The function it returns waits until that is said: a
// server with nothing to finish would be gone before.
func announceStop(ctx context.Context, log *slog.Logger) (wait func()) {
	said := make(chan struct{})
	forget := context.AfterFunc(ctx, func() {
		defer close(said)
		log.Info("stopping: requests under way may finish; a second signal ends at once")
		notify(log, daemon.SdNotifyStopping)
	})
	return func() {
		if !forget() {
			<-said
		}
	}
}

// absolute is a path as somebody else has to write it.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (s *settings) serveOptions() (opt serveOptions, err error) {
	if err := s.authOptions(&opt); err != nil {
		return opt, err
	}
	if opt.address, opt.said, err = s.namedAddress(); err != nil {
		return opt, err
	}
	if opt.location, err = s.location(); err != nil {
		return opt, err
	}
	if opt.registry, err = s.registryConfig(); err != nil {
		return opt, err
	}
	if opt.jobs, err = s.jobs(opt.registry.UndoWindow); err != nil {
		return opt, err
	}
	if opt.mirror, err = s.mirrorConfig(); err != nil {
		return opt, err
	}
	if opt.mirror.UsersOnly && !opt.users {
		return opt, usagef("--fetch-for-users-only needs users: --auth token")
	}
	if opt.syncs, err = s.scheduledSyncs(opt.mirror.Upstreams); err != nil {
		return opt, err
	}
	if opt.server, err = s.serverConfig(); err != nil {
		return opt, err
	}
	if opt.tls, err = s.tlsOptions(opt); err != nil {
		return opt, err
	}
	if err := s.browserConfig(&opt); err != nil {
		return opt, err
	}
	return opt, opt.checkAddress()
}

func (s *settings) registryConfig() (cfg registry.Config, err error) {
	if cfg.Sparse, err = s.sparse(); err != nil {
		return cfg, err
	}
	if cfg.MaxUploads = s.Int("max-uploads"); cfg.MaxUploads <= 0 {
		return cfg, s.badf("max-uploads", "%d must be more than nothing", cfg.MaxUploads)
	}
	if cfg.UndoWindow, err = s.undoWindow(); err != nil {
		return cfg, err
	}
	if cfg.JournalEvery, err = s.positive("journal-interval"); err != nil {
		return cfg, err
	}
	if cfg.AuditKeep, err = s.positive("audit-keep"); err != nil {
		return cfg, err
	}
	if cfg.Public, err = s.defaultVisibility(); err != nil {
		return cfg, err
	}
	cfg.UploadTimeout, err = s.positive("upload-timeout")
	return cfg, err
}

func (s *settings) serverConfig() (cfg server.Config, err error) {
	cfg.ReadOnly = s.Bool("read-only")
	if cfg.MaxManifest, err = s.size("max-manifest"); err != nil {
		return cfg, err
	}
	if cfg.BodyIdleTimeout, err = s.positive("body-idle-timeout"); err != nil {
		return cfg, err
	}
	if cfg.KeepAlive, err = s.positive("keep-alive"); err != nil {
		return cfg, err
	}
	if cfg.DrainTimeout, err = s.positive("drain-timeout"); err != nil {
		return cfg, err
	}
	if cfg.MaxConnections = s.Int("max-connections"); cfg.MaxConnections < 0 {
		return cfg, s.badf("max-connections", "%d must not be negative", cfg.MaxConnections)
	}
	if cfg.DebugAddr = s.String("debug-addr"); cfg.DebugAddr != "" {
		addr, err := net.ResolveTCPAddr("tcp", cfg.DebugAddr)
		if err != nil || !isLoopback(addr) {
			return cfg, s.badf("debug-addr", "%s: the profiler shows the server's memory and is only for loopback", cfg.DebugAddr)
		}
	}
	if cfg.ExternalURL, err = s.externalURL(); err != nil {
		return cfg, err
	}
	cfg.TrustedProxies, cfg.TrustUnix, err = s.trustedProxies()
	return cfg, err
}

func (s *settings) sparse() (registry.Sparse, error) {
	sparse, err := registry.ParseSparse(s.String("allow-sparse"))
	if err != nil {
		return 0, s.badf("allow-sparse", "%q is unknown; it may be: none, index, all", s.String("allow-sparse"))
	}
	return sparse, nil
}

// listen opens the server's socket, or takes the one that systemd opened. What is refused is the address the socket
// really has, whatever name led to it.
func listen(ctx context.Context, opt serveOptions) (net.Listener, error) {
	ln, err := activated()
	if err != nil {
		return nil, err
	}
	if ln != nil {
		opt.said = "systemd"
	} else if ln, err = listenOn(ctx, opt.address); err != nil {
		return nil, fmt.Errorf("%s: %w", opt.said, err)
	}
	if err := opt.refuseOpen(ln.Addr()); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

func listenOn(ctx context.Context, address string) (net.Listener, error) {
	path, unix := unixPath(address)
	if !unix {
		return new(net.ListenConfig).Listen(ctx, "tcp", address)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil { // the proxy is in the server's group
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// unixPath returns the path of a socket if the address is one.
func unixPath(address string) (path string, ok bool) {
	path, ok = strings.CutPrefix(address, "unix:")
	return strings.TrimPrefix(path, "//"), ok
}

// removeStale removes a socket that a server left when it was killed. It is one if nothing listens on it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode()&os.ModeSocket == 0 {
		err = fmt.Errorf("%s is there, and no socket", path)
	}
	if err != nil {
		return err
	}
	if conn, err := net.Dial("unix", path); err == nil {
		return errors.Join(fmt.Errorf("listen on %s: another process does", path), conn.Close())
	}
	return os.Remove(path)
}

// refuseOpen refuses an address that can be reached from the network, unless it was said who may do what there.
func (opt serveOptions) refuseOpen(addr net.Addr) error {
	if opt.open || isLoopback(addr) {
		return nil
	}
	return usagef("%s: %s can be reached from the network, and without users everybody could push and delete: "+
		"say --auth token to have users, --auth none if everybody is what you want, or listen on 127.0.0.1", opt.said, addr)
}

// checkAddress is refuseOpen before there is a socket. A name that cannot be resolved is for listen to refuse.
func (opt serveOptions) checkAddress() error {
	if os.Getenv("LISTEN_FDS") != "" { // systemd has opened another one
		return nil
	}
	addr, err := net.ResolveTCPAddr("tcp", opt.address)
	if err != nil {
		return nil
	}
	return opt.refuseOpen(addr)
}

func activated() (net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil || len(passed) == 0 {
		return nil, err
	}
	if len(passed) > 1 || passed[0] == nil {
		return nil, usagef("systemd passed %d sockets; the registry takes one stream socket", len(passed))
	}
	return passed[0], nil
}

func isLoopback(addr net.Addr) bool {
	switch addr := addr.(type) {
	case *net.TCPAddr:
		return addr.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// serverURL is what clients say to reach an address. There is no URL of a Unix socket that all of them know.
func serverURL(addr net.Addr, tls bool) string {
	switch {
	case addr.Network() == "unix":
		return "unix:" + addr.String()
	case tls:
		return "https://" + addr.String()
	}
	return "http://" + addr.String()
}

// notify tells systemd, if it listens.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "err", err)
	}
}

// logger returns the log of a server, and its level, which can be changed.
func (p *Program) logger(s *settings) (*slog.Logger, *slog.LevelVar, error) {
	level, err := s.logLevel()
	if err != nil {
		return nil, nil, err
	}
	variable := new(slog.LevelVar)
	variable.Set(level)
	opt := &slog.HandlerOptions{Level: variable}
	switch format := s.String("log-format"); {
	case format == "text", format == "auto" && isTerminal(p.Stderr):
		return slog.New(slog.NewTextHandler(p.Stderr, opt)), variable, nil
	case format == "json", format == "auto":
		return slog.New(slog.NewJSONHandler(p.Stderr, opt)), variable, nil
	default:
		return nil, nil, s.badf("log-format", "%q is unknown; it may be: auto, text, json", format)
	}
}

func (s *settings) logLevel() (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(s.String("log-level"))); err != nil {
		return 0, s.badf("log-level", "%q is unknown; it may be: debug, info, warn, error", s.String("log-level"))
	}
	return level, nil
}

// isTerminal says whether somebody sits at the other end of a reader or writer.
func isTerminal(stream any) bool {
	if out, ok := stream.(io.Writer); ok {
		stream = raw(out)
	}
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
