//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// limit is no registry: it is the least that net/http has to do for the same answers. Bytes are hashed on their way into
// one file each, pulls are http.ServeContent, and what else there is to know is in maps. There are no lists.
type limit struct {
	dir       string
	sync      bool     // fsync each file; not its directory, and nothing is committed to a database
	uploads   sync.Map // path to *limitUpload
	blobs     sync.Map // digest to size
	manifests sync.Map // path to limitManifest
	last      atomic.Int64
}

type limitUpload struct {
	*os.File
	hash hash.Hash
}

type limitManifest struct {
	content           []byte
	digest, mediaType string
}

// serveLimit is the process that the hidden flag -limit starts: -limit ADDRESS DIRECTORY SYNC. wrap, if any, stands
// before the handler.
func serveLimit(args []string, wrap func(http.Handler) http.Handler) error {
	if len(args) != 3 {
		return fmt.Errorf("-limit is for the benchmark itself; it takes three arguments, not %d", len(args))
	}
	var handler http.Handler = &limit{dir: args[1], sync: args[2] == "true"}
	if wrap != nil {
		handler = wrap(handler)
	}
	return http.ListenAndServe(args[0], handler)
}

func (l *limit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := l.serve(w, r); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (l *limit) serve(w http.ResponseWriter, r *http.Request) error {
	repo, name, _ := strings.Cut(r.URL.Path, "/blobs/")
	switch {
	case r.URL.Path == "/v2/":
		return nil
	case strings.Contains(r.URL.Path, "/manifests/"):
		return l.manifest(w, r)
	case name == "uploads/":
		return l.post(w, r)
	case strings.HasPrefix(name, "uploads/"):
		return l.upload(w, r, repo)
	case name != "":
		return l.blob(w, r, name)
	}
	http.NotFound(w, r)
	return nil
}

func (l *limit) post(w http.ResponseWriter, r *http.Request) error {
	if _, ok := l.blobs.Load(r.URL.Query().Get("mount")); ok {
		w.WriteHeader(http.StatusCreated)
		return nil
	}
	f, err := os.CreateTemp(l.dir, "upload")
	if err != nil {
		return err
	}
	path := r.URL.Path + strconv.FormatInt(l.last.Add(1), 10)
	l.uploads.Store(path, &limitUpload{f, sha256.New()})
	w.Header().Set("Location", path)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (l *limit) upload(w http.ResponseWriter, r *http.Request, repo string) error {
	found, ok := l.uploads.Load(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return nil
	}
	u := found.(*limitUpload)
	if _, err := io.CopyBuffer(io.MultiWriter(u, u.hash), r.Body, make([]byte, 64<<10)); err != nil {
		return err
	}
	if r.Method == http.MethodPatch {
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	d := digest.NewDigest(digest.SHA256, u.hash)
	if d.String() != r.URL.Query().Get("digest") {
		http.Error(w, "wrong digest", http.StatusBadRequest)
		return nil
	}
	size, err := u.Seek(0, io.SeekCurrent)
	if err == nil {
		err = l.keep(u.File, d.Encoded())
	}
	if err != nil {
		return err
	}
	l.blobs.Store(d.String(), size)
	l.uploads.Delete(r.URL.Path)
	w.Header().Set("Location", repo+"/blobs/"+d.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// keep gives a written file its name.
func (l *limit) keep(f *os.File, name string) error {
	if l.sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(l.dir, name))
}

func (l *limit) blob(w http.ResponseWriter, r *http.Request, name string) error {
	size, ok := l.blobs.Load(name)
	if !ok {
		http.NotFound(w, r)
		return nil
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(size.(int64), 10))
		return nil
	}
	f, err := os.Open(filepath.Join(l.dir, strings.TrimPrefix(name, "sha256:")))
	if err != nil {
		return err
	}
	defer f.Close()
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

func (l *limit) manifest(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPut {
		return l.putManifest(w, r)
	}
	found, ok := l.manifests.Load(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return nil
	}
	m := found.(limitManifest)
	if r.Method == http.MethodDelete {
		l.manifests.Delete(r.URL.Path)
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", m.digest)
	w.Header().Set("Content-Length", strconv.Itoa(len(m.content)))
	if r.Method == http.MethodGet {
		w.Write(m.content)
	}
	return nil
}

func (l *limit) putManifest(w http.ResponseWriter, r *http.Request) error {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(l.dir, "manifest")
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, bytes.NewReader(content)); err != nil {
		return err
	}
	d := digest.FromBytes(content)
	if err := l.keep(f, filepath.Base(f.Name())+".json"); err != nil {
		return err
	}
	m := limitManifest{content, d.String(), r.Header.Get("Content-Type")}
	repo, _, _ := strings.Cut(r.URL.Path, "/manifests/")
	l.manifests.Store(r.URL.Path, m)
	l.manifests.Store(repo+"/manifests/"+m.digest, m)
	w.Header().Set("Docker-Content-Digest", m.digest)
	w.WriteHeader(http.StatusCreated)
	return nil
}
