package certs

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"
)

// Files is a pair of files that somebody else renews.
type Files struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	pair    *tls.Certificate
	stamp   string
	trouble string // what was last logged
	checked time.Time
}

const filesCheck = time.Second

// NewFiles reads the pair, PEM with the whole chain and PEM with its key, and fails if they do not fit.
func NewFiles(certFile, keyFile string, log *slog.Logger) (*Files, error) {
	f := &Files{certFile: certFile, keyFile: keyFile, log: log}
	return f, f.load()
}

// Config is for the listener.
func (f *Files) Config() *tls.Config { return config(f.get) }

// Run does nothing: the files are looked at when a client connects.
func (f *Files) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// get returns the pair of the files as they are now, looking at most once a second. If they do not fit, as between the
// writing of one and the other, the old pair stays in use.
func (f *Files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) < filesCheck {
		return f.pair, nil
	}
	f.checked = time.Now()
	before := f.pair
	err := f.load()
	f.report(err, f.pair != before)
	return f.pair, nil
}

// Reload reads the files now, whatever they look like. On an error the old pair stays in use, and the log says why.
func (f *Files) Reload() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stamp, f.trouble, f.checked = "", "", time.Now()
	before := f.pair
	err := f.load()
	f.report(err, !reflect.DeepEqual(before.Certificate, f.pair.Certificate))
	return err
}

// report logs what came of looking at the files.
func (f *Files) report(err error, changed bool) {
	switch {
	case err == nil && changed:
		f.trouble = ""
		f.log.Info("TLS certificate reloaded")
	case err != nil && err.Error() != f.trouble:
		f.trouble = err.Error() // once, not at every handshake
		f.log.Error("TLS certificate is not usable, the old one stays in use", "err", err)
	}
}

// load reads the files if they are not those in use. f.mu is held, or nobody else has f yet.
func (f *Files) load() error {
	stamp, err := f.stampOfFiles()
	if err != nil || stamp == f.stamp {
		return err
	}
	pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return err
	}
	f.pair, f.stamp = &pair, stamp
	return nil
}

func (f *Files) stampOfFiles() (stamp string, err error) {
	for _, name := range []string{f.certFile, f.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return "", err
		}
		stamp += fmt.Sprintf("%d %d ", info.ModTime().UnixNano(), info.Size())
	}
	return stamp, nil
}
