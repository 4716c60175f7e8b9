package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"registry/server/remote"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// do sends a request with credentials and returns the answer with the beginning of its body.
func (p *patient) do(ctx context.Context, method, address string, body []byte, header http.Header) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	repo, actions := p.repo, remote.Push
	switch {
	case address == p.client.URL("", ""):
		repo = ""
	case method == http.MethodDelete:
		actions = remote.Delete
	}
	answer, err := p.client.Do(req, repo, actions)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answer, text, err
}

// refused says what an answer means that is not the wanted one, whoever gave it.
func (l *look) refused(answer *http.Response, text []byte) {
	said := strings.Join(strings.Fields(string(text)), " ")
	fromProxy := !strings.HasPrefix(said, "{")
	switch status := answer.StatusCode; {
	case status == http.StatusRequestEntityTooLarge:
		l.problem("raise the limit on bodies in the proxy (nginx: client_max_body_size 0), or push with registry push --chunk", "413: something on the way limits the size of bodies")
	case status == http.StatusLengthRequired:
		l.problem("have the proxy accept chunked bodies (nginx: proxy_http_version 1.1, proxy_request_buffering off)", "411: something on the way refuses bodies without a length, which is how docker and podman push")
	case status == http.StatusGatewayTimeout || status == http.StatusBadGateway:
		l.problem("have the proxy wait longer (nginx: proxy_read_timeout 900s), and see whether the registry runs", "%s: the proxy gave up on the registry", answer.Status)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		l.problem("give this user the right to push to "+l.p.repo+", or name a repository with --repo", "%s: %.200s", answer.Status, said)
	case status == http.StatusMethodNotAllowed && fromProxy:
		l.problem("have the proxy let every method pass: GET, HEAD, POST, PUT, PATCH and DELETE", "405: the proxy refuses %s", answer.Request.Method)
	default:
		l.problem("see the log of the registry, and of the proxy if the registry's says nothing of it", "%s: %.200s", answer.Status, said)
	}
}

// upload begins an upload and looks at where it is to go on.
func (p *patient) upload(ctx context.Context) bool {
	l := p.look("location", "POST /v2/"+p.repo+"/blobs/uploads/")
	answer, text, err := p.do(ctx, http.MethodPost, p.client.URL(p.repo, "/blobs/uploads/"), nil, nil)
	if err != nil {
		l.problem("see the server's log", "%v", err)
		return false
	}
	if answer.StatusCode != http.StatusAccepted {
		l.refused(answer, text)
		return false
	}
	if !p.follow(l, answer) {
		return false
	}
	l.ok("the upload goes on at %s", answer.Header.Get("Location"))
	return true
}

// follow takes the address the upload goes on at, on the host that was reached whatever it says, so that the rest can be
// looked at, too.
func (p *patient) follow(l *look, answer *http.Response) bool {
	location := answer.Header.Get("Location")
	if location == "" {
		l.problem("have the proxy keep the header Location", "the answer does not say where the upload goes on")
		return false
	}
	if l.problems == 0 && l.name == "location" { // once
		p.origin(l, "the upload", location)
	}
	u, err := answer.Request.URL.Parse(location)
	if err != nil {
		l.problem("see the registry's configuration", "the upload goes on at %q", location)
		return false
	}
	u.Scheme, u.Host = p.base.Scheme, p.base.Host
	p.location = u.String()
	return true
}

// send sends the whole body in one chunked PATCH, as docker does.
func (p *patient) send(ctx context.Context) bool {
	l := p.look("body", fmt.Sprintf("PATCH with %d MiB", p.size>>20))
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, p.location, nil)
	if err != nil {
		l.problem("see the registry's configuration", "%v", err)
		return false
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(p.body()), nil }
	req.Body, _ = req.GetBody()
	req.ContentLength = -1
	req.Header.Set("Content-Type", "application/octet-stream")
	start := time.Now()
	answer, err := p.client.Do(req, p.repo, remote.Push)
	if err != nil {
		l.problem("look for a limit on the size or the time of bodies in the proxy (nginx: client_max_body_size 0, client_body_timeout)", "the connection broke: %v", err)
		return false
	}
	defer answer.Body.Close()
	took := time.Since(start)
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	if answer.StatusCode != http.StatusAccepted {
		l.refused(answer, text)
		return false
	}
	if !p.follow(l, answer) {
		return false
	}
	if want := fmt.Sprintf("0-%d", p.size-1); answer.Header.Get("Range") == "" {
		l.warning("have the proxy keep the registry's headers", "the header Range is missing: clients that send chunks do not know how far they are")
	} else if answer.Header.Get("Range") != want {
		l.problem("see whether something on the way cuts or doubles bodies", "the registry has %s, not %s", answer.Header.Get("Range"), want)
	}
	l.ok("it passes, %d MiB/s", int64(float64(p.size>>20)/took.Seconds()))
	p.buffering(ctx)
	return true
}

// buffering sends a body to an upload that does not exist and holds its end back. The registry refuses that at once, but
// what takes in whole bodies first does not even ask it.
func (p *patient) buffering(ctx context.Context) {
	const first = 1 << 20 // more than a server reads before it refuses
	l := p.look("buffering", "PATCH to no upload, with the end of the body held back")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, end := io.Pipe()
	defer end.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPatch, p.client.URL(p.repo, "/blobs/uploads/"+strings.Repeat("0", 32)), body)
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if answer, err := p.client.Do(req, p.repo, remote.Push); err == nil {
			answer.Body.Close()
		}
	}()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		io.CopyN(end, p.body(), min(first, p.size))
	}()
	select {
	case <-answered:
	case <-sent:
		select {
		case <-answered:
		case <-time.After(p.opt.Lag):
			l.warning("have the proxy pass bodies on as they come (nginx: proxy_request_buffering off, proxy_http_version 1.1): it stores every layer first, which needs space and makes a push slower",
				"no answer before the body ended: something on the way takes in the whole body first")
		}
	}
	l.ok("the registry answers before the body has ended")
	cancel()
	body.Close() // ends the writer
	<-sent
	<-answered
}

// commit ends the upload.
func (p *patient) commit(ctx context.Context) bool {
	l := p.look("commit", "PUT of the digest")
	u, err := url.Parse(p.location)
	if err != nil {
		return false
	}
	query := u.Query()
	query.Set("digest", p.digest.String())
	u.RawQuery = query.Encode()
	start := time.Now()
	answer, text, err := p.do(ctx, http.MethodPut, u.String(), nil, http.Header{"Content-Type": {"application/octet-stream"}})
	took := time.Since(start)
	if err != nil {
		l.problem("have the proxy wait longer (nginx: proxy_read_timeout 900s), and see the server's log", "%v", err)
		return false
	}
	if answer.StatusCode != http.StatusCreated {
		l.refused(answer, text)
		return false
	}
	p.blobs = append(p.blobs, p.digest)
	if took > p.opt.Slow {
		l.problem("see how fast the registry's disk is; object storage that copies or a registry that reads all again needs another setting. A layer 20 times as large takes longer than the 30 s that clients wait",
			"it took %s for %d MiB", took.Round(time.Millisecond), p.size>>20)
	}
	l.ok("it took %s", took.Round(time.Millisecond))
	return true
}

// lengths looks at what a HEAD says.
func (l *look) lengths(answer *http.Response, size int64, d digest.Digest) {
	if answer.ContentLength != size {
		l.problem("have the proxy keep Content-Length on HEAD, and compress nothing under /v2/", "Content-Length is %s, not %d: clients do not find out that a blob is there, or how long it is",
			orMissing(answer.Header.Get("Content-Length")), size)
	}
	if got := answer.Header.Get("Docker-Content-Digest"); got != d.String() {
		l.warning("have the proxy keep the registry's headers", "Docker-Content-Digest is %s", orMissing(got))
	}
}

func orMissing(s string) string {
	if s == "" {
		return "missing"
	}
	return s
}

func (p *patient) head(ctx context.Context) bool {
	l := p.look("head", "HEAD of the blob")
	answer, text, err := p.do(ctx, http.MethodHead, p.client.URL(p.repo, "/blobs/"+p.digest.String()), nil, nil)
	switch {
	case err != nil:
		l.problem("see the server's log", "%v", err)
	case answer.StatusCode != http.StatusOK:
		l.refused(answer, text)
	default:
		l.lengths(answer, p.size, p.digest)
	}
	l.ok("it has length and digest")
	return true
}

// get pulls the blob or a part of it, and returns the digest and the number of the bytes.
func (p *patient) get(ctx context.Context, header http.Header) (*http.Response, digest.Digest, int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.client.URL(p.repo, "/blobs/"+p.digest.String()), nil)
	if err != nil {
		return nil, "", 0, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	answer, err := p.client.Do(req, p.repo, remote.Pull)
	if err != nil {
		return nil, "", 0, err
	}
	defer answer.Body.Close()
	d := digest.Canonical.Digester()
	n, err := io.Copy(d.Hash(), io.LimitReader(answer.Body, 2*p.size))
	return answer, d.Digest(), n, err
}

func (p *patient) pull(ctx context.Context) bool {
	l := p.look("pull", "GET of the blob")
	start := time.Now()
	answer, d, n, err := p.get(ctx, http.Header{"Accept-Encoding": {"identity"}})
	var network *url.Error
	switch {
	case errors.As(err, &network):
		l.problem("if the registry redirects to object storage, clients have to reach that, too", "%v", err)
	case err != nil:
		l.problem("have the proxy keep the whole answer (nginx: proxy_max_temp_file_size 0, proxy_read_timeout)", "the answer broke off after %d of %d bytes: %v", n, p.size, err)
	case answer.StatusCode != http.StatusOK:
		l.refused(answer, nil)
	case d != p.digest:
		l.problem("see what on the way changes bodies, and check the registry's disk", "other bytes came back than were pushed: %d of %d", n, p.size)
	case answer.ContentLength != p.size:
		l.warning("have the proxy keep Content-Length", "the answer does not say how long it is: clients show no progress and notice no cut")
	}
	l.ok("the same bytes came back, %d MiB/s", int64(float64(n>>20)/time.Since(start).Seconds()))
	return true
}

func (p *patient) ranges(ctx context.Context) bool {
	l := p.look("range", "GET of 100 bytes in the middle")
	answer, _, n, err := p.get(ctx, http.Header{"Range": {"bytes=1000-1099"}})
	switch {
	case err != nil:
		l.problem("see the server's log", "%v", err)
	case answer.StatusCode == http.StatusOK:
		l.problem("have the proxy pass on the header Range, and cache nothing that it cannot cut", "the whole blob comes: broken pulls begin anew, and lazy pulling (eStargz, SOCI) does not work")
	case answer.StatusCode != http.StatusPartialContent:
		l.refused(answer, nil)
	case n != 100 || answer.Header.Get("Content-Range") != fmt.Sprintf("bytes 1000-1099/%d", p.size):
		l.problem("see what on the way cuts bodies", "%d bytes came, Content-Range is %q", n, answer.Header.Get("Content-Range"))
	}
	l.ok("206 with what was asked for")
	return true
}

// manifest pushes and pulls one, which has to come back as it was.
func (p *patient) manifest(ctx context.Context) bool {
	l := p.look("manifest", "PUT, HEAD and GET of a manifest")
	config := v1.DescriptorEmptyJSON
	if !p.small(ctx, l, config.Data) {
		return true
	}
	config.Data = nil
	// It does not name the large blob, which a registry where deletions can be undone would keep with it.
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/vnd.example.doctor", Config: config, Layers: []v1.Descriptor{config}}
	m.SchemaVersion = 2
	p.mediaType = m.MediaType
	var err error
	if p.content, err = json.Marshal(m); err != nil {
		return true
	}
	address := p.client.URL(p.repo, "/manifests/doctor")
	answer, text, err := p.do(ctx, http.MethodPut, address, p.content, http.Header{"Content-Type": {p.mediaType}})
	if err != nil {
		l.problem("see the server's log", "%v", err)
		return true
	}
	if answer.StatusCode != http.StatusCreated {
		l.refused(answer, text)
		return true
	}
	p.pushed = digest.FromBytes(p.content)
	accept := http.Header{"Accept": {p.mediaType}}
	if answer, _, err = p.do(ctx, http.MethodHead, address, nil, accept); err != nil || answer.StatusCode != http.StatusOK {
		l.problem("have the proxy pass HEAD on as HEAD", "HEAD fails: %v", describe(answer, err))
	} else {
		l.lengths(answer, int64(len(p.content)), p.pushed)
	}
	accept.Set("Accept-Encoding", "gzip") // which nobody should take up
	answer, text, err = p.do(ctx, http.MethodGet, address, nil, accept)
	switch {
	case err != nil || answer.StatusCode != http.StatusOK:
		l.problem("see the server's log", "GET fails: %v", describe(answer, err))
	case answer.Header.Get("Content-Encoding") != "":
		l.problem("have the proxy compress nothing under /v2/ (nginx: gzip off)", "something on the way compresses (%s)", answer.Header.Get("Content-Encoding"))
	case !bytes.Equal(text, p.content):
		l.problem("see what on the way changes bodies", "other bytes came back than were pushed")
	case answer.Header.Get("Content-Type") != p.mediaType:
		l.problem("have the proxy keep Content-Type as it is, without a charset", "Content-Type is %q, not %q", answer.Header.Get("Content-Type"), p.mediaType)
	}
	l.ok("it came back as it was")
	return true
}

func describe(answer *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	return answer.Status
}

// small pushes a blob in one request.
func (p *patient) small(ctx context.Context, l *look, content []byte) bool {
	d := digest.FromBytes(content)
	_, err := p.client.PushBlob(ctx, remote.Upload{Repo: p.repo, Digest: d, Size: int64(len(content)), Body: bytes.NewReader(content)})
	if err != nil && l.p.location != "" {
		// Where the Location is wrong, a client that follows it fails; the check of the Location has said so.
		if l.p.found("location") {
			return false
		}
		l.problem("see the server's log", "%v", err)
		return false
	}
	p.blobs = append(p.blobs, d)
	return true
}

// found says whether something was wrong with a check.
func (p *patient) found(name string) bool {
	for _, c := range p.checks {
		if c.Name == name && c.Level == Problem {
			return true
		}
	}
	return false
}

// namespace asks as containerd asks a mirror.
func (p *patient) namespace(ctx context.Context) bool {
	if p.pushed == "" {
		return true
	}
	l := p.look("ns", "GET of the manifest with ?ns="+p.base.Hostname())
	answer, text, err := p.do(ctx, http.MethodGet, p.client.URL(p.repo, "/manifests/doctor?ns="+url.QueryEscape(p.base.Hostname())), nil, http.Header{"Accept": {p.mediaType}})
	switch {
	case err != nil:
		l.problem("see the server's log", "%v", err)
	case answer.StatusCode == http.StatusNotFound:
		l.warning("that is right for a mirror that does not have this namespace; any other registry ignores what it does not know", "404: the registry takes the namespace for one it does not have")
	case answer.StatusCode != http.StatusOK || !bytes.Equal(text, p.content):
		l.problem("have the proxy pass queries on as they are: containerd names the registry it wants a mirror for by ?ns=", "%s", answer.Status)
	}
	l.ok("it is understood, or ignored")
	return true
}

func (p *patient) referrers(ctx context.Context) bool {
	if p.pushed == "" {
		return true
	}
	l := p.look("referrers", "GET of what refers to the manifest")
	answer, text, err := p.do(ctx, http.MethodGet, p.client.URL(p.repo, "/referrers/"+p.pushed.String()), nil, nil)
	switch {
	case err != nil:
		l.problem("see the server's log", "%v", err)
	case answer.StatusCode == http.StatusNotFound:
		l.warning("signatures and SBOMs go by tags then; two pushed at once may lose one", "the registry does not know the API of referrers")
	case answer.StatusCode != http.StatusOK:
		l.refused(answer, text)
	}
	l.ok("the API is there")
	return true
}

// remove deletes what was pushed, which is a check of its own.
func (p *patient) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l := p.look("delete", "DELETE of what was pushed")
	var left []string
	drop := func(what, address string) {
		answer, text, err := p.do(ctx, http.MethodDelete, address, nil, nil)
		if err == nil && (answer.StatusCode == http.StatusAccepted || answer.StatusCode == http.StatusNoContent || answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusNotFound) {
			return
		}
		if len(left) == 0 {
			advice := "allow deletions if they are wanted (distribution: storage.delete.enabled)"
			if err == nil && answer.StatusCode == http.StatusMethodNotAllowed && !strings.HasPrefix(strings.TrimSpace(string(text)), "{") {
				advice = "have the proxy let DELETE pass"
			}
			l.warning(advice, "%s; left behind: %s", describe(answer, err), p.repo)
		}
		left = append(left, what)
	}
	switch {
	case p.pushed != "" || len(p.blobs) > 0:
	case p.location != "": // an upload that was not finished
		answer, _, err := p.do(ctx, http.MethodDelete, p.location, nil, nil)
		if err != nil || answer.StatusCode >= 300 && answer.StatusCode != http.StatusNotFound {
			l.warning("it expires by itself; a registry that does not let unfinished uploads expire keeps their bytes", "%s; left behind: an unfinished upload to %s", describe(answer, err), p.repo)
		}
		return
	default:
		return
	}
	if p.pushed != "" {
		drop("manifest", p.client.URL(p.repo, "/manifests/"+p.pushed.String()))
	}
	for _, d := range p.blobs {
		drop("blob", p.client.URL(p.repo, "/blobs/"+d.String()))
	}
	l.ok("nothing is left that can be pulled; the space of the blobs is free after the registry's next garbage collection, and one that can undo deletions keeps the manifest (%d bytes) until then", len(p.content))
}
