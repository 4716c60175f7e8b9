package command

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// healthcheck asks a server on this machine for /readyz: a registry that can only be read from is healthy, unless --writes
// asks for more. It takes the settings of serve, so that in a container or a
// unit the same variables lead both to the same place.
func (p *Program) healthcheck(ctx context.Context, s *settings) error {
	address, err := s.address()
	if err != nil {
		return err
	}
	kind, err := s.tlsKind()
	if err != nil {
		return err
	}
	timeout, err := s.positive("timeout")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	url := url.URL{Scheme: "http", Host: reachable(address), Path: "/readyz"}
	if kind != tlsNone {
		url.Scheme = "https"
	}
	if s.Bool("writes") {
		url.RawQuery = "writes=1"
	}
	// The certificate names the server as others call it, not as this machine dials it, and nothing secret is sent.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if path, unix := unixPath(address); unix {
		url.Host = "localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	text, err := ask(ctx, url.String(), transport)
	if err == nil && text != "ok" {
		fmt.Fprintln(p.Stdout, text)
	}
	return err
}

// reachable turns the address a server listens on into one that can be dialled.
func reachable(address string) string {
	host, port, _ := net.SplitHostPort(address)
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}

// ask returns the text of an answer with status 200, in one line.
func ask(ctx context.Context, url string, transport http.RoundTripper) (text string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	text = strings.Join(strings.Fields(string(body)), " ")
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s: %s", url, answer.Status, text)
	}
	return text, nil
}
