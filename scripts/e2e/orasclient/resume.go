package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// restartDeadline is how long a killed server may take to answer again.
const restartDeadline = time.Minute

// upload is one blob being pushed in chunks.
type upload struct {
	base     *url.URL // the registry
	repo     string
	blob     []byte
	digest   string
	location *url.URL // where the session goes on
}

// resume pushes half of a blob as one chunk, kills the server with SIGKILL in the middle of the
// second, waits until somebody has started it again, asks where the session stands, sends the
// rest and reads the blob back. What a 202 acknowledged must still be there.
func resume(ctx context.Context, args []string) error {
	up, err := newUpload(args[0], args[2])
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	half := len(up.blob) / 2
	if err := up.start(ctx); err != nil {
		return err
	}
	if err := up.patch(ctx, 0, bytes.NewReader(up.blob[:half]), half); err != nil {
		return fmt.Errorf("first chunk: %w", err)
	}
	if err := up.patchAndKill(ctx, half, pid); err != nil {
		return err
	}
	if err := up.awaitServer(ctx); err != nil {
		return err
	}
	offset, err := up.offset(ctx)
	if err != nil {
		return fmt.Errorf("session after the restart: %w", err)
	}
	if offset < half || offset > len(up.blob) {
		return fmt.Errorf("session after the restart stands at %d, %d were acknowledged", offset, half)
	}
	fmt.Printf("killed after %d of %d bytes, going on at %d\n", half, len(up.blob), offset)
	if err := up.patch(ctx, offset, bytes.NewReader(up.blob[offset:]), len(up.blob)-offset); err != nil {
		return fmt.Errorf("the rest: %w", err)
	}
	if err := up.finish(ctx); err != nil {
		return err
	}
	return up.compare(ctx)
}

func newUpload(target, megabytes string) (*upload, error) {
	host, repo, ok := strings.Cut(target, "/")
	if !ok {
		return nil, fmt.Errorf("%s is not HOST/REPOSITORY", target)
	}
	size, err := strconv.Atoi(megabytes)
	if err != nil || size < 1 {
		return nil, fmt.Errorf("bad size %q", megabytes)
	}
	blob := make([]byte, size<<20)
	_, _ = rand.Read(blob)
	return &upload{
		base:   &url.URL{Scheme: "http", Host: host, Path: "/"},
		repo:   repo,
		blob:   blob,
		digest: fmt.Sprintf("sha256:%x", sha256.Sum256(blob)),
	}, nil
}

func (u *upload) start(ctx context.Context) error {
	u.location = u.base.JoinPath("v2", u.repo, "blobs", "uploads/")
	_, err := u.do(ctx, http.MethodPost, u.location, nil, nil, http.StatusAccepted)
	return err
}

// patch sends size bytes of body as the chunk at offset.
func (u *upload) patch(ctx context.Context, offset int, body io.Reader, size int) error {
	if size == 0 {
		return nil
	}
	header := http.Header{
		"Content-Type":   {"application/octet-stream"},
		"Content-Range":  {fmt.Sprintf("%d-%d", offset, offset+size-1)},
		"Content-Length": {strconv.Itoa(size)},
	}
	_, err := u.do(ctx, http.MethodPatch, u.location, header, body, http.StatusAccepted)
	return err
}

// patchAndKill sends the rest of the blob and kills the server when half of that has been written.
func (u *upload) patchAndKill(ctx context.Context, offset, pid int) error {
	rest := u.blob[offset:]
	var killed error
	body := io.MultiReader(bytes.NewReader(rest[:len(rest)/2]), readerFunc(func() error {
		killed = syscall.Kill(pid, syscall.SIGKILL)
		return nil
	}), bytes.NewReader(rest[len(rest)/2:]))
	err := u.patch(ctx, offset, body, len(rest))
	if killed != nil {
		return fmt.Errorf("kill %d: %w", pid, killed)
	}
	if err == nil {
		return errors.New("the killed server answered the chunk")
	}
	return nil
}

// readerFunc is an empty reader that calls the function when it is its turn.
type readerFunc func() error

func (f readerFunc) Read([]byte) (int, error) {
	if err := f(); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// awaitServer returns when the registry answers again.
func (u *upload) awaitServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restartDeadline)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := u.do(ctx, http.MethodGet, u.base.JoinPath("v2/"), nil, nil, http.StatusOK); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.New("the server did not come back")
		}
	}
}

// offset asks the session how many bytes it has.
func (u *upload) offset(ctx context.Context) (int, error) {
	res, err := u.do(ctx, http.MethodGet, u.location, nil, nil, http.StatusNoContent)
	if err != nil {
		return 0, err
	}
	_, last, ok := strings.Cut(res.Header.Get("Range"), "-")
	end, err := strconv.Atoi(last)
	if !ok || err != nil {
		return 0, fmt.Errorf("bad Range %q", res.Header.Get("Range"))
	}
	return end + 1, nil
}

func (u *upload) finish(ctx context.Context) error {
	closing := *u.location
	query := closing.Query()
	query.Set("digest", u.digest)
	closing.RawQuery = query.Encode()
	_, err := u.do(ctx, http.MethodPut, &closing, nil, nil, http.StatusCreated)
	return err
}

// compare reads the blob back and holds it against what was sent.
func (u *upload) compare(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.base.JoinPath("v2", u.repo, "blobs", u.digest).String(), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || !bytes.Equal(got, u.blob) {
		return fmt.Errorf("blob read back: status %d, %d bytes that are not those sent", res.StatusCode, len(got))
	}
	return nil
}

// do sends one request, wants the status, and follows the session when the answer moves it.
func (u *upload) do(ctx context.Context, method string, target *url.URL, header http.Header, body io.Reader, want int) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
		req.ContentLength, _ = strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	if res.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s, want %d: %s", method, target.Path, res.Status, want, text)
	}
	if to := res.Header.Get("Location"); to != "" {
		if u.location, err = target.Parse(to); err != nil {
			return nil, err
		}
	}
	return res, nil
}
