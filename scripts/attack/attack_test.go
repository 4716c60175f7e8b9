//go:build linux

package attack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Rules whose globs multiply: whatever is accepted of them is used in scopes, catalogs and lists by clients that leave
// before the answer.
func TestRules(t *testing.T) {
	s := start(t)
	m := s.client("mallory", "198.51.100.1")
	var passwords []string
	for _, n := range []int{2, 8, 30, 110} {
		glob := "mallory/" + strings.Repeat("{*,"+strings.Repeat("*,", n)+"*}", 2) + "z"
		for i := range 100 {
			body, _ := json.Marshal(map[string]any{"name": fmt.Sprintf("t%d-%d", n, i), "scopes": []string{"pull,push:" + glob}})
			if status, answer := m.attack(t.Context(), "POST", "/api/v1/tokens", string(body), "Content-Type: application/json"); status == 201 {
				var made struct{ Token string }
				if json.Unmarshal(answer, &made) == nil && made.Token != "" {
					passwords = append(passwords, made.Token)
				}
			} else {
				break
			}
		}
	}
	t.Logf("%d tokens with such rules were made", len(passwords))
	s.withstand(16, func(ctx context.Context, i int) {
		ctx, leave := context.WithTimeout(ctx, time.Second)
		defer leave()
		q := url.Values{}
		for n := range 20 {
			q.Add("scope", fmt.Sprintf("repository:mallory/%s%d:pull,push", strings.Repeat("z", 200), n))
		}
		by := []string{}
		if len(passwords) > 0 {
			r := http.Request{Header: http.Header{}}
			r.SetBasicAuth("mallory", passwords[i%len(passwords)])
			by = append(by, "Authorization: "+r.Header.Get("Authorization"))
		}
		m.attack(ctx, "GET", "/auth/token?"+q.Encode(), "", by...)
		m.attack(ctx, "GET", "/v2/_catalog", "", by...)
		m.attack(ctx, "GET", "/api/v1/repo", "", by...)
	})
}

// A subject with referrers that are each almost as large as a manifest may be.
func TestReferrers(t *testing.T) {
	s := start(t)
	m := s.client("mallory", "198.51.100.1")
	if err := m.pushBlob(t.Context(), "mallory/app", "config"); err != nil {
		t.Fatal(err)
	}
	subject := digest.FromString("subject")
	for i := range 40 * scale(t) {
		more := fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":7},"annotations":{"n":"%d","a":%q}`, ociManifest, subject, i, strings.Repeat("a", 3<<20))
		image := manifest("config", more)
		if status, body := m.attack(t.Context(), "PUT", "/v2/mallory/app/manifests/"+digest.FromString(image).String(), image, "Content-Type: "+ociManifest); status != 201 {
			t.Fatal(status, string(body))
		}
	}
	s.withstand(16, func(ctx context.Context, _ int) {
		status, body := m.attack(ctx, "GET", "/v2/mallory/app/referrers/"+subject.String(), "")
		if status == 200 && len(body) > 4<<20 {
			t.Errorf("a page of %d bytes", len(body))
		}
	})
}

// Manifests with as many members as fit, and others that stop in the middle.
func TestManifests(t *testing.T) {
	s := start(t)
	m := s.client("mallory", "198.51.100.1")
	if err := m.pushBlob(t.Context(), "mallory/app", "config"); err != nil {
		t.Fatal(err)
	}
	members := strings.Repeat(`"":[],`, 600_000)
	large := manifest("config", `,"x":{`+members+`"z":0}`)
	s.withstand(24, func(ctx context.Context, i int) {
		if i >= 16 {
			m.unfinished(ctx, large)
			return
		}
		m.attack(ctx, "PUT", fmt.Sprintf("/v2/mallory/app/manifests/t%d", i), large, "Content-Type: "+ociManifest)
	})
}

// unfinished begins 10 PUTs of a manifest and holds what is left of each for a moment.
func (c *client) unfinished(ctx context.Context, content string) {
	host := strings.TrimPrefix(c.origin, "http://")
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(c.user, password(c.user))
	for i := range 10 {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			c.t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /v2/mallory/app/manifests/u%d HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n",
			i, host, r.Header.Get("Authorization"), ociManifest, len(content))
		io.WriteString(conn, content[:len(content)-1])
	}
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}

// More connections than the server may have, without a request or with a part of one.
func TestConnections(t *testing.T) {
	s := start(t, "--max-connections", "256")
	var held atomic.Int64
	m := s.client("", "198.51.100.1")
	host := strings.TrimPrefix(s.origin, "http://")
	s.withstand(4, func(ctx context.Context, i int) {
		for n := range 100 * scale(t) {
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			held.Add(1)
			if n%2 == 0 {
				fmt.Fprint(conn, "GET /v2/ HTTP/1.1\r\nHost: ")
			}
		}
		m.attack(context.WithoutCancel(ctx), "GET", "/v2/", "")
	})
	if held.Load() < 400 {
		t.Errorf("only %d connections were made", held.Load())
	}
}

// Wrong passwords for the honest client's account, from many networks.
func TestGuesses(t *testing.T) {
	s := start(t)
	wrong := http.Request{Header: http.Header{}}
	wrong.SetBasicAuth("alice", "a guess")
	var n atomic.Int64
	s.withstand(32, func(ctx context.Context, i int) {
		at := n.Add(1)
		m := &client{s, http.DefaultClient, "", fmt.Sprintf("2001:db8:%x:%x::1", at%4096, at)}
		if status, _ := m.attack(ctx, "GET", "/v2/", "", "Authorization: "+wrong.Header.Get("Authorization")); status == 200 {
			t.Error("a guess was right")
		}
	})
}

// Anonymous clients ask a mirror for what its upstream does not have. The upstream must not feel each of them.
func TestMisses(t *testing.T) {
	var asked, atOnce, most atomic.Int64
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		for now := atOnce.Add(1); ; {
			if seen := most.Load(); now <= seen || most.CompareAndSwap(seen, now) {
				break
			}
		}
		defer atOnce.Add(-1)
		time.Sleep(10 * time.Millisecond)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(404)
		io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}`)
	}))
	defer upstream.Close()
	s := start(t, "--upstream", "hub="+upstream.URL, "--default-visibility", "public")
	m := s.client("", "198.51.100.1")
	var n atomic.Int64
	s.withstand(64, func(ctx context.Context, _ int) {
		m.attack(ctx, "GET", fmt.Sprintf("/v2/hub/library/app/manifests/t%d", n.Add(1)), "")
	})
	t.Logf("%d requests, %d to the upstream, %d at once", n.Load(), asked.Load(), most.Load())
	if n.Load() == 0 || most.Load() > 32 {
		t.Errorf("%d of %d requests went to the upstream at once", most.Load(), n.Load())
	}
}

// Lists and manifests that take long for what they are: an index of a fallback tag with thousands of lines, manifests
// with thousands of references, the catalog of somebody who may see nothing of it.
func TestExpensive(t *testing.T) {
	s := start(t, "--allow-sparse", "all")
	m := s.client("mallory", "198.51.100.1")
	subject := digest.FromString("subject")
	var lines, layers []string
	for i := range 1_990 {
		lines = append(lines, descriptor(ociManifest, fmt.Sprint("referrer ", i)))
	}
	if err := m.pushBlob(t.Context(), "mallory/app", "config"); err != nil {
		t.Fatal(err)
	}
	for i := range 1_990 {
		layers = append(layers, descriptor("application/vnd.oci.image.layer.v1.tar", fmt.Sprint("layer ", i)))
	}
	const ociIndex = "application/vnd.oci.image.index.v1+json"
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[%s]}`, ociIndex, strings.Join(lines, ","))
	tag := strings.Replace(subject.String(), ":", "-", 1)
	if status, body := m.attack(t.Context(), "PUT", "/v2/mallory/app/manifests/"+tag, index, "Content-Type: "+ociIndex); status != 201 {
		t.Fatal(status, string(body))
	}
	c := descriptor("application/vnd.oci.image.config.v1+json", "config")
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, ociManifest, c, strings.Join(layers, ","))
	anyone := s.client("", "198.51.100.2")
	_, answer := anyone.attack(t.Context(), "GET", "/auth/token?scope=registry:catalog:*", "")
	var granted struct{ Token string }
	if err := json.Unmarshal(answer, &granted); err != nil || granted.Token == "" {
		t.Fatal(err, string(answer))
	}
	s.withstand(16, func(ctx context.Context, i int) {
		switch i % 4 {
		case 0:
			m.attack(ctx, "PUT", fmt.Sprintf("/v2/mallory/app/manifests/t%d", i), image, "Content-Type: "+ociManifest)
		case 1:
			anyone.attack(ctx, "GET", "/v2/_catalog?n=1000", "", "Authorization: Bearer "+granted.Token)
		default:
			m.attack(ctx, "GET", "/v2/mallory/app/referrers/"+subject.String(), "")
		}
	})
}
