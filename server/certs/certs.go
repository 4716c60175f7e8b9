// Package certs is where a server's certificate comes from: a pair of files that somebody else renews (files.go), a small
// CA of the server's own (own.go), or one that speaks ACME (acme.go).
//
// Each is a source. Its Config is for the listener. Its Run does what there is to do beside it, and returns nil when its
// context has ended, or before that an error that the server should not go on with.
//
// What is written here is written durably, and for its owner alone: directories are 0700, files 0600.
package certs

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// config is what the listeners of all sources have in common.
func config(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: authenticated(), GetCertificate: get, NextProtos: []string{"h2", "http/1.1"}}
}

// authenticated are the suites of TLS 1.2 that authenticate what they encrypt. Go still offers CBC suites, whose padding
// has told too much more than once, for clients older than 2014. Those of TLS 1.3 are not for choosing.
func authenticated() (suites []uint16) {
	for _, suite := range tls.CipherSuites() {
		if !strings.Contains(suite.Name, "_CBC_") {
			suites = append(suites, suite.ID)
		}
	}
	return suites
}

// ensureDir makes a directory that only its owner may enter. On return nil its name has reached the disk.
func ensureDir(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// install writes a file that is there whole or not at all, and on return nil durably. What gives it its name is os.Rename,
// which replaces the file that has it, or os.Link, which then fails with fs.ErrExist.
func install(path string, data []byte, name func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := name(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the entries of a directory durable. On Windows, which writes them through, it cannot be and is not done.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
