package soak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// conn talks to the server. Every answer that is not among the ones a request may have is an error.
type conn struct {
	origin string
	http   *http.Client
}

func newConn(origin string) conn {
	return conn{origin, &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 8 * clients, DisableCompression: true},
		Timeout:   2 * time.Minute,
	}}
}

// answer is a response whose body has been read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes a request and returns its answer, which has one of the statuses.
func (c conn) send(method, path string, body []byte, header http.Header, statuses ...int) (answer, error) {
	req, err := http.NewRequest(method, c.origin+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header = header
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.body, err = io.ReadAll(resp.Body); err != nil {
		return a, fmt.Errorf("%s %s: %s, and then after %d bytes: %w", method, path, resp.Status, len(a.body), err)
	}
	if !slices.Contains(statuses, a.status) {
		return a, fmt.Errorf("%s %s: %s, want %v: %.300s", method, path, resp.Status, statuses, a.body)
	}
	return a, nil
}

// missing returns the digests that a refused manifest needs first. It is an error if it was refused for anything else.
func (a answer) missing() (list []digest.Digest, err error) {
	var doc struct {
		Errors []struct {
			Code   string
			Detail []struct{ Digest digest.Digest }
		}
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || len(doc.Errors) != 1 || doc.Errors[0].Code != "MANIFEST_BLOB_UNKNOWN" {
		return nil, fmt.Errorf("a manifest was refused with %d %.300s", a.status, a.body)
	}
	for _, d := range doc.Errors[0].Detail {
		list = append(list, d.Digest)
	}
	return list, nil
}

// way is how a client brings a blob.
type way string

const (
	wayHead    way = "HEAD, then skip"
	wayMount   way = "mount"
	wayOne     way = "POST"
	wayTwo     way = "POST and PUT"
	wayChunked way = "chunks"
)

// push brings a blob into a repository. outcome is the way, with what came of it if that could differ.
func (c conn) push(repo string, b blob, w way, from string) (outcome string, err error) {
	outcome = string(w)
	uploads := "/v2/" + repo + "/blobs/uploads/"
	switch w {
	case wayHead:
		a, err := c.send("HEAD", "/v2/"+repo+"/blobs/"+b.digest.String(), nil, nil, 200, 404)
		if err != nil || a.status == 200 {
			return outcome + ": 200", err
		}
		outcome += ": 404"
	case wayMount:
		a, err := c.send("POST", uploads+"?mount="+b.digest.String()+"&from="+from, nil, nil, 201, 202)
		if err != nil || a.status == 201 {
			return outcome + ": 201", err
		}
		return outcome + ": 202", c.finish(a, b, b.content)
	case wayTwo, wayChunked:
		a, err := c.send("POST", uploads, nil, nil, 202)
		rest := b.content
		for w == wayChunked && err == nil && len(rest) > 0 && len(rest) > len(b.content)/4 {
			n := len(rest)/2 + 1
			a, err = c.send("PATCH", a.header.Get("Location"), rest[:n], nil, 202)
			rest = rest[n:]
		}
		if err != nil {
			return outcome, err
		}
		return outcome, c.finish(a, b, rest)
	}
	_, err = c.send("POST", uploads+"?digest="+b.digest.String(), b.content, nil, 201)
	return outcome, err
}

// finish ends the upload that a opened or went on with.
func (c conn) finish(a answer, b blob, rest []byte) error {
	_, err := c.send("PUT", a.header.Get("Location")+"?digest="+b.digest.String(), rest, nil, 201)
	return err
}

// pull gets a blob or a manifest and holds it against what it must be.
func (c conn) pull(path string, want []byte, mediaType string) error {
	a, err := c.send("GET", path, nil, nil, 200)
	if err != nil {
		return err
	}
	if !bytes.Equal(a.body, want) {
		return fmt.Errorf("GET %s: %d bytes with the digest %s, want %d", path, len(a.body), digest.FromBytes(a.body), len(want))
	}
	if got := a.header.Get("Content-Type"); mediaType != "" && got != mediaType {
		return fmt.Errorf("GET %s: %s, want %s", path, got, mediaType)
	}
	return nil
}

// referrers lists the manifests that have a subject.
func (c conn) referrers(repo string, subject digest.Digest) (list []digest.Digest, err error) {
	path := "/v2/" + repo + "/referrers/" + subject.String()
	a, err := c.send("GET", path, nil, nil, 200)
	if err != nil {
		return nil, err
	}
	var index struct {
		Manifests []struct{ Digest digest.Digest }
	}
	if err := json.Unmarshal(a.body, &index); err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	if strings.Contains(a.header.Get("Link"), "next") {
		return nil, fmt.Errorf("GET %s: more than a page", path)
	}
	for _, m := range index.Manifests {
		list = append(list, m.Digest)
	}
	return list, nil
}
