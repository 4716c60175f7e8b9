// Package db is the registry's memory: repositories, manifests, tags, what refers to what, and the state of uploads, in
// one SQLite file.
//
// A transaction is a function. View runs one on a pool of readers, each on its own snapshot. Update runs one on the
// only writer, which commits functions that arrive together in one go and answers them after the one fsync (writer.go).
// Queries are methods of Tx and exist nowhere else.
//
// What package registry relies on:
//
//   - When Update returns nil the change survives a power cut. When Relaxed returns nil it survives a killed process.
//   - A row of blobs is written only after its file is durable, and its file is removed only after the row's removal
//     was committed by Update. This package never touches files, it keeps the rows for those that do.
//   - Several processes may use one file: a collector started by cron takes the same write lock.
package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite" // the driver, named "sqlite"
)

// readers is the size of the reader pool: on two cores four readers answered as many lookups as eight, and left the
// writer three times as much.
const readers = 4

// busyTimeout is how long a statement waits for a lock that another process holds.
const busyTimeout = 60 * time.Second

// sqlx learns modernc's driver name once for the program.
var bindDriver = sync.OnceFunc(func() { sqlx.BindDriver("sqlite", sqlx.QUESTION) })

// Options says which database to open.
type Options struct {
	Path   string           // of the SQLite file; made if it is missing, its folder is not
	Schema string           // the text of schema.sql, run whole on a new file
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: discarded
	// Twice runs every function of a write transaction twice, with its first changes taken back: for tests, since another
	// engine may have to run one again.
	Twice bool

	unused bool // no process has it open
}

// DB is an open database. Its methods are safe for concurrent use.
type DB struct {
	path    string
	now     func() time.Time
	log     *slog.Logger
	unused  bool // no other process had it open when this one opened it
	twice   bool
	pool    *sqlx.DB
	readers chan *conn
	writer  *writer

	stop       context.CancelFunc
	background sync.WaitGroup
	stats      counters
	cache      queryCache
}

type counters struct {
	groups, transactions atomic.Uint64
}

// Stats are counters since Open, and the size of the write-ahead log now.
type Stats struct {
	WALBytes     int64
	Groups       uint64 // commits
	Transactions uint64 // functions these commits held; the ratio is the mean size of a group
}

// Open opens the database, making it if there is no file or an empty one. Where the file or its directory cannot be written
// it is ReadOnly. It refuses a file that is not a registry
// database, is damaged, or was written by a newer program. The caller closes the DB.
func Open(ctx context.Context, opt Options) (*DB, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if err := isFile(opt.Path); err != nil {
		return nil, fmt.Errorf("database %w", err)
	}
	if why := unwritable(opt.Path); why != nil {
		d, err := openReadOnly(ctx, opt, why)
		if err != nil {
			return nil, fmt.Errorf("database %s: %w", opt.Path, err)
		}
		return d, nil
	}
	d, err := open(ctx, opt)
	if errors.Is(err, ErrFull) && (&DB{path: opt.Path, log: opt.Log}).dropBallast(true) {
		d, err = open(ctx, opt) // the log and its index need room before anything can be removed
	}
	if errors.Is(err, errOlder) { // a running program would write to what it does not know
		if err = Unused(ctx, opt.Path); err == nil {
			opt.unused = true
			d, err = open(ctx, opt)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", opt.Path, plain(opt.Path, err))
	}
	return d, nil
}

func open(ctx context.Context, opt Options) (_ *DB, err error) {
	bindDriver()
	d := &DB{path: opt.Path, now: opt.Now, log: opt.Log, unused: opt.unused, twice: opt.Twice, readers: make(chan *conn, readers)}
	if err := makePrivate(opt.Path); err != nil {
		return nil, err
	}
	// One process at a time makes, upgrades or looks into the file: switching to the log does not wait for others.
	turn := openTurn(opt.Path)
	defer turn.close()
	defer turn.take(busyTimeout)() // an upgrade takes its time
	if err := initialize(ctx, opt.Path); err != nil {
		return nil, err
	}
	if d.pool, err = sqlx.Open("sqlite", dsn(opt.Path)); err != nil {
		return nil, wrap(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.pool.Close())
		}
	}()
	w, err := d.connect(ctx, writerPragmas)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil { // the pool does not close what it has handed out
			w.close()
			for len(d.readers) > 0 {
				(<-d.readers).close()
			}
		}
	}()
	if err := prepare(ctx, d, w, opt.Schema); err != nil {
		return nil, err
	}
	if err := w.exec("PRAGMA busy_timeout = 0"); err != nil { // from here on the writer waits in its own way
		return nil, err
	}
	for range readers {
		r, err := d.connect(ctx, readerPragmas)
		if err != nil {
			return nil, err
		}
		d.readers <- r
	}
	d.writer = newWriter(d, w)
	d.cache.index = openIndex(opt.Path + "-shm")
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	d.background.Go(func() { d.checkpoints(background) })
	return d, nil
}

// makePrivate makes a missing database file readable by its owner only: SQLite would follow the umask, and gives the
// log beside it the same mode. The file's entry is made durable here, since SQLite syncs the folder only for a journal.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(inherit(f, filepath.Dir(path)), f.Close(), syncDir(filepath.Dir(path)))
}

// dsn names the file with the pragmas that every connection has. What differs between writer and readers is set once on
// each of the connections that this package holds for good.
func dsn(path string) string {
	q := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"page_size(4096)", // before journal_mode, which writes the first page
		"journal_mode(WAL)",
		"foreign_keys(ON)",
		"synchronous(FULL)",
		"journal_size_limit(67108864)", // bytes the log keeps after a checkpoint
		"temp_store(MEMORY)",
		"cache_size(-8000)", // KiB
	}, "_txlock": {"immediate"}}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), OmitHost: true}).String() + "?" + q.Encode()
}

var (
	writerPragmas = []string{"wal_autocheckpoint(0)"} // see checkpoints
	readerPragmas = []string{"query_only(ON)"}
)

// Close waits for what runs, closes every connection and folds the log into the database. Afterwards every call fails.
func (d *DB) Close() error {
	d.stop()
	d.background.Wait()
	d.writer.close()
	for range readers {
		(<-d.readers).close()
	}
	// The index is the last to be closed, for the sake of the locks on it.
	err := wrap(d.pool.Close())
	d.cache.close()
	return err
}

// Stats reads the counters.
func (d *DB) Stats() Stats {
	s := Stats{Groups: d.stats.groups.Load(), Transactions: d.stats.transactions.Load()}
	if info, err := os.Stat(d.path + "-wal"); err == nil {
		s.WALBytes = info.Size()
	}
	return s
}

// Path is where the database's file is.
func (d *DB) Path() string { return d.path }

// Now is the clock that transactions have.
func (d *DB) Now() time.Time { return d.now() }

// Transactions counts the write transactions of this process.
func (d *DB) Transactions() uint64 { return d.stats.transactions.Load() }

// View runs fn on a snapshot of everything committed before the call. fn only reads. It returns fn's error.
func (d *DB) View(ctx context.Context, fn func(*Tx) error) error {
	return d.read(ctx, func(c *conn) error {
		if err := c.exec("BEGIN"); err != nil {
			return err
		}
		// A read transaction has nothing to lose: its end cannot fail in a way that matters to fn's result.
		defer c.exec("COMMIT")
		return fn(&Tx{conn: c, Now: d.now()})
	})
}

// Lookup is View for an fn that asks one question. A statement is a snapshot by itself, and beginning and ending a
// transaction around it costs as much again; a second one would see another snapshot, so it fails.
func (d *DB) Lookup(ctx context.Context, fn func(*Tx) error) error {
	return d.read(ctx, func(c *conn) error { return fn(&Tx{conn: c, Now: d.now(), single: true}) })
}

func (d *DB) read(ctx context.Context, fn func(*conn) error) error {
	var c *conn
	select {
	case c = <-d.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { d.readers <- c }()
	return fn(c)
}

// Snapshot writes a consistent copy of the database to a new file, while others write. On return nil it has reached the
// disk; what was there under the name is replaced.
func (d *DB) Snapshot(ctx context.Context, to string) error {
	c, err := d.connect(ctx, nil)
	if err != nil {
		return err
	}
	defer c.close()
	return snapshot(ctx, c, to, filepath.Dir(to))
}

// snapshot copies through a file of another name, so that half a copy is never found. The copy belongs to the owner of like.
func snapshot(ctx context.Context, c *conn, to, like string) error {
	part := to + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	defer os.Remove(part)
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := inherit(f, like); err != nil {
		return err
	}
	if _, err := c.ExecContext(ctx, "VACUUM INTO ?", part); err != nil {
		return wrap(err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// Update runs fn in a write transaction and returns after its commit has reached the disk. On an error from fn nothing
// of fn remains; an error of the commit (ErrFull, ErrBusy or what the disk said) leaves it unknown whether fn's change
// will be seen. fn may run again, with what it has done taken back, so it starts from nothing each time. It must not wait for
// anything outside the database: other writers wait for it.
func (d *DB) Update(ctx context.Context, fn func(*Tx) error) error {
	return d.writer.do(ctx, fn, true)
}

// Relaxed is Update without the fsync: the change survives a killed process but may be lost in a power cut, together
// with every later relaxed one, never an earlier durable one.
func (d *DB) Relaxed(ctx context.Context, fn func(*Tx) error) error {
	return d.writer.do(ctx, fn, false)
}

// Reclaim is Update for what makes room: on a full disk it gives up the ballast, which is kept for that, and runs fn
// again.
func (d *DB) Reclaim(ctx context.Context, fn func(*Tx) error) error {
	return d.reclaim(ctx, fn, true, false)
}

// Collect is Reclaim for the collector, who may give up all of the ballast. Without durable it is to Relaxed what that
// is to Update.
func (d *DB) Collect(ctx context.Context, durable bool, fn func(*Tx) error) error {
	return d.reclaim(ctx, fn, durable, true)
}

func (d *DB) reclaim(ctx context.Context, fn func(*Tx) error, durable, all bool) error {
	err := d.writer.do(ctx, fn, durable)
	for more := true; more && errors.Is(err, ErrFull); {
		more = d.dropBallast(all)
		// Many small ones would use it up for a log that only grows. What the log has is folded in while there is room
		// for that, and its own room used again.
		if folding := d.writer.checkpoint(ctx, restartWAL); folding != nil && !more {
			break
		}
		err = d.writer.do(ctx, fn, durable)
	}
	return err
}

// Checkpoint folds the log into the database and gives its room back. ErrBusy if a reader or a writer is in the way.
func (d *DB) Checkpoint(ctx context.Context) error { return d.writer.checkpoint(ctx, truncateWAL) }
