package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Resuming after broken connections.
const (
	// tries is how often in a row a fetch goes on although the last time brought nothing.
	tries = 5
	// enough is how many bytes a connection brings before it breaks for the next to be opened without a pause.
	enough = 64 << 10
)

// fills are the blobs that are being fetched.
type fills struct {
	sync.Mutex
	running map[string]*fill // by repository and digest
}

// fill is a blob on its way. started is closed when it is known how large it is, or that it cannot be had.
type fill struct {
	started chan struct{}
	blob    *registry.BlobFetch // nil if err is not
	err     error
}

// Blob sees to it that the registry has a blob, or begins to. If it is on its way, the reader follows it; if reader is nil
// the registry has it. BlobUnknown and errors as for Manifest. The caller closes the reader.
func (m *Mirror) Blob(ctx context.Context, who Client, repo registry.RepoName, d digest.Digest) (reader *registry.FetchReader, size int64, err error) {
	up, _ := m.of(repo)
	_, err = m.registry.StatBlob(ctx, repo, d)
	if err == nil {
		up.count(&up.figures.Hits)
		return nil, 0, nil
	}
	if err := except(err, registry.BlobUnknown); err != nil {
		return nil, 0, err
	}
	f, err := m.fill(ctx, up, who, repo, d)
	if err != nil {
		return nil, 0, asAnswer(ctx, err, registry.BlobUnknown, d.String())
	}
	select {
	case <-f.started:
	case <-ctx.Done():
		return nil, 0, registry.AsError(ctx.Err())
	}
	if f.err != nil {
		return nil, 0, translate(f.err, registry.BlobUnknown, d.String())
	}
	reader, following, err := f.blob.Follow(ctx)
	if err != nil || !following {
		return nil, 0, translate(err, registry.BlobUnknown, d.String())
	}
	return reader, f.blob.Size, nil
}

// StatBlob returns the size of a blob that is here, or that a manifest here names, or that the upstream has.
func (m *Mirror) StatBlob(ctx context.Context, who Client, repo registry.RepoName, d digest.Digest) (int64, error) {
	size, err := m.registry.StatBlob(ctx, repo, d)
	if err == nil || !registry.BlobUnknown.Is(err) {
		return size, err
	}
	up, name := m.of(repo)
	if size, ok, err := m.registry.WantedSize(ctx, repo, d); ok || err != nil {
		return size, err
	}
	if m.unknown.has(blobKey(repo, d), m.cfg.Now(), unknownFor) {
		return 0, registry.BlobUnknown.With(d.String())
	}
	key := "size of " + blobKey(repo, d)
	if size, ok := m.sizes.get(key, m.cfg.Now(), unknownFor); ok {
		return size, nil
	}
	q, err := m.put(ctx, &question{up: up, who: who, need: news, key: key, room: up.room, limit: fetchTimeout, ask: func(ctx context.Context, q *question) (err error) {
		q.size, err = up.remote.BlobSize(ctx, name, d)
		switch {
		case err == nil && q.size >= 0:
			m.sizes.add(key, q.size, m.cfg.Now())
		case err == nil && q.size < 0:
			err = fmt.Errorf("%w: no length", ErrWrong)
		case errors.Is(err, ErrUnknown):
			m.unknown.add(blobKey(repo, d), 0, m.cfg.Now())
		}
		return err
	}})
	if err == nil {
		err = q.wait(ctx)
	}
	if err != nil {
		return 0, asAnswer(ctx, err, registry.BlobUnknown, d.String())
	}
	return q.size, nil
}

func blobKey(repo registry.RepoName, d digest.Digest) string {
	return "blob " + string(repo) + " " + d.String()
}

// fill joins the fetching of a blob, or begins it when the client may have it fetched.
func (m *Mirror) fill(ctx context.Context, up *upstream, who Client, repo registry.RepoName, d digest.Digest) (*fill, error) {
	key := blobKey(repo, d)
	if f, _, err := m.fills.join(m, key, false); f != nil || err != nil {
		return f, err
	}
	if m.unknown.has(key, m.cfg.Now(), unknownFor) {
		return nil, ErrUnknown
	}
	n := news
	if _, ok, err := m.registry.WantedSize(ctx, repo, d); err != nil {
		return nil, err
	} else if ok {
		n = named
	}
	leave, err := up.enter(ctx, m.cfg, who, n)
	if err != nil {
		return nil, err
	}
	f, mine, err := m.fills.join(m, key, true)
	if !mine {
		leave()
		return f, err
	}
	go func() {
		defer m.working.Done()
		began := time.Now()
		source := &source{ctx: m.ctx, up: up, digest: d, sleep: m.cfg.Sleep}
		defer source.close()
		_, source.repo = m.of(repo)
		f.err = inTurn(m.ctx, up.room, func() (err error) { f.blob, err = m.start(source, repo, d); return err })
		leave()
		if f.err != nil {
			m.fills.end(key)
			m.learn(up, who, n, key, f.err)
			m.log.Warn("blob not fetched", "repository", repo, "digest", d, "err", f.err)
			close(f.started)
			return
		}
		close(f.started)
		err := source.pour(f.blob)
		if err == nil {
			err = f.blob.Finish(m.ctx)
		}
		if err != nil {
			f.blob.Drop(m.ctx, MayResume(m.ctx, err))
		}
		m.fills.end(key)
		m.learn(up, who, n, key, err)
		m.finish(f.blob, up, err, began)
	}()
	return f, nil
}

// join returns a fill that is under way. mine says that it is a new one, which the caller ends, together with m.working.
func (fs *fills) join(m *Mirror, key string, begin bool) (f *fill, mine bool, err error) {
	fs.Lock()
	defer fs.Unlock()
	if f := fs.running[key]; f != nil || !begin {
		return f, false, nil
	}
	if !m.begin() {
		return nil, false, errClosed
	}
	f = &fill{started: make(chan struct{})}
	fs.running[key] = f
	return f, true, nil
}

// end forgets a fill: a client that asks from now on has it tried again.
func (fs *fills) end(key string) {
	fs.Lock()
	defer fs.Unlock()
	delete(fs.running, key)
}

// finish tells the clients that wait how a fetch ended.
func (m *Mirror) finish(f *registry.BlobFetch, up *upstream, err error, began time.Time) {
	log := m.log.With("repository", f.Repository, "digest", f.Digest, "bytes", f.Staged(), "duration", time.Since(began))
	if err != nil {
		f.Fail(translate(err, registry.BlobUnknown, f.Digest.String()))
		log.Error("blob not fetched", "of", f.Size, "err", err)
		return
	}
	log.Info("blob fetched")
	if m.cfg.CacheMax > 0 {
		m.wantEviction()
	}
	up.fetched(f.Size)
}

// start opens the source, where an earlier fetch has ended if that can be. A manifest may say a wrong size: the digest
// decides.
func (m *Mirror) start(source *source, repo registry.RepoName, d digest.Digest) (*registry.BlobFetch, error) {
	want, known, err := m.registry.WantedSize(m.ctx, repo, d)
	if err != nil {
		return nil, err
	}
	if !known {
		want = -1
	}
	for {
		f := m.registry.NewBlobFetch(m.ctx, repo, d, want)
		from := f.Staged()
		if from > 0 && from == want {
			return f, nil
		}
		size, err := source.open(from, want)
		if err == nil && size >= 0 && (from == 0 || !known) {
			if known && size != want {
				m.log.Warn("a manifest says a wrong size", "repository", repo, "blob", d, "bytes", size, "said", want)
			}
			f.Size = size
		}
		switch {
		case err == nil && f.Size >= 0 && from <= f.Size:
			return f, nil
		case err == nil:
			err = fmt.Errorf("%w: neither a manifest nor the upstream says how long the blob is", ErrWrong)
		}
		keep := MayResume(m.ctx, err)
		f.Drop(m.ctx, keep)
		if from == 0 || keep || errors.Is(err, ErrUnknown) {
			return nil, err
		}
		// What came before does not fit to what is there now.
	}
}

// source is a blob of an upstream that can be read on after its connection broke.
type source struct {
	ctx    context.Context // of the fill
	up     *upstream
	repo   string
	digest digest.Digest
	sleep  func(context.Context, time.Duration) error
	body   interface {
		Read([]byte) (int, error)
		Close() error
	}
}

func (s *source) open(from, want int64) (size int64, err error) {
	s.close()
	s.body, size, err = s.up.remote.Blob(s.ctx, s.repo, s.digest, from, want)
	if err != nil {
		s.body = nil
	}
	return size, err
}

func (s *source) close() {
	if s.body != nil {
		s.body.Close()
		s.body = nil
	}
}

// pour reads all of it into a fetch. It goes on where a connection broke, however often that happens, as long as now and
// then one brings something.
func (s *source) pour(f *registry.BlobFetch) error {
	return Resume(s.ctx, s.sleep, f.Staged, func() (done bool, err error) {
		if f.Size > 0 && f.Staged() == f.Size {
			return true, nil
		}
		if s.body == nil {
			if _, err := s.open(f.Staged(), f.Size); err != nil {
				return false, err
			}
		}
		defer s.close()
		err = f.Take(s.ctx, s.body)
		return f.Staged() == f.Size, err
	})
}

// Resume calls try until it is done, fails in a way that another try does not mend, or has failed several times in a row
// without bringing anything, which is what staged counts. A body that ends too early is one that broke off.
func Resume(ctx context.Context, sleep func(context.Context, time.Duration) error, staged func() int64, try func() (done bool, err error)) error {
	for idle := 0; ; {
		before := staged()
		done, err := try()
		if err == nil && done {
			return nil
		}
		if err != nil && !mayPass(err) || ctx.Err() != nil {
			return err
		}
		if err == nil {
			err = errEnded
		}
		brought := staged() - before
		if brought > 0 {
			idle = 0
		} else if idle++; idle == tries {
			return fmt.Errorf("after %d bytes: %w", before, err)
		}
		if brought < enough {
			if err := sleep(ctx, time.Second<<max(idle-1, 0)); err != nil {
				return err
			}
		}
	}
}

// errEnded is a body that ended as it should, but too early: it may not be the blob that it should be.
var errEnded = errors.New("the body ended before the blob did")

// MayResume says whether what a fetch brought before it failed is worth keeping: the bytes were not what was wrong.
func MayResume(ctx context.Context, err error) bool {
	if errors.Is(err, errEnded) || errors.Is(err, ErrWrong) || registry.UpstreamFailed.Is(err) {
		return false
	}
	return ctx.Err() != nil || mayPass(err) || errors.As(err, new(Busy)) || errors.Is(err, ErrCredentials)
}

// mayPass says whether the same request may succeed later: the connection broke, or no registry answered.
func mayPass(err error) bool {
	var status statusError
	var known *registry.Error
	switch {
	case errors.As(err, &status):
		return status.code >= 500 && status.code != http.StatusNotImplemented
	case errors.As(err, &known):
		return registry.BlobUploadInvalid.Is(err) // the body broke off
	case errors.Is(err, ErrWrong), errors.Is(err, ErrUnknown), errors.Is(err, ErrCredentials), errors.As(err, new(Busy)), errors.Is(err, errPrivate):
		return false
	}
	return true
}
