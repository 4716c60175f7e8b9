package server

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"registry/server/auth"
	"registry/server/registry"
)

// maxTokenForm bounds the body of a request for a token, in bytes.
const maxTokenForm = 64 << 10

// getToken answers with a bearer token (distribution, "Token Authentication Specification"): for the user of Basic
// authentication, or, without it, for somebody who has not logged in.
func (s *Server) getToken(w *recorder, r *http.Request) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // a part that is left out may have been a scope
		return registry.RequestInvalid.With("the query is malformed")
	}
	caller, err := s.cfg.Auth.Authenticate(r.Context(), authorization(r), s.clientAddress(r))
	if err != nil {
		return refuseLogin(w, err)
	}
	return s.writeToken(w, r, caller, s.tokenRequest(r, q["scope"], q.Get("client_id"), q.Get("offline_token") == "true"), q.Get("service"))
}

// postToken is getToken in the form of OAuth 2.0 (distribution, "Docker Registry v2 authentication using OAuth2"; RFC 6749
// sections 4.3 and 6).
func (s *Server) postToken(w *recorder, r *http.Request) error {
	f, scopes, err := readTokenForm(w, r, s.cfg.BodyIdleTimeout)
	if err != nil {
		return err
	}
	var caller auth.Caller
	switch grant := f.Get("grant_type"); grant {
	case "password":
		caller, err = s.cfg.Auth.Login(r.Context(), f.Get("username"), f.Get("password"), s.clientAddress(r))
	case "refresh_token":
		caller, err = s.cfg.Auth.Refresh(r.Context(), f.Get("refresh_token"), s.clientAddress(r))
	case "":
		caller, err = s.cfg.Auth.Authenticate(r.Context(), authorization(r), s.clientAddress(r))
	default:
		return registry.RequestInvalid.With("grant_type may be password or refresh_token")
	}
	if err != nil {
		return refuseLogin(w, err)
	}
	offline := f.Get("access_type") == "offline" || f.Get("offline_token") == "true" || f.Get("grant_type") == "refresh_token"
	return s.writeToken(w, r, caller, s.tokenRequest(r, scopes, f.Get("client_id"), offline), r.Form.Get("service"))
}

// readTokenForm returns the fields of a request's form, and the scopes, which may be in the query as well. A body of
// another type is refused: what it asks for would be ignored.
func readTokenForm(w http.ResponseWriter, r *http.Request, idle time.Duration) (f url.Values, scopes []string, err error) {
	limitTime(r.Body, idle)
	r.Body = http.MaxBytesReader(w, r.Body, maxTokenForm)
	wrong := registry.RequestInvalid.With("want a form of at most 64 KiB (application/x-www-form-urlencoded)")
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/x-www-form-urlencoded" {
		if n, err := r.Body.Read(make([]byte, 1)); n > 0 || err != io.EOF {
			wrong.Err = err
			return nil, nil, wrong
		}
	}
	if err := r.ParseForm(); err != nil {
		wrong.Err = err
		return nil, nil, wrong
	}
	return r.PostForm, r.Form["scope"], nil
}

// tokenRequest is what a request with these scopes asks for.
func (s *Server) tokenRequest(r *http.Request, scopes []string, client string, refresh bool) auth.TokenRequest {
	return auth.TokenRequest{Scopes: s.withMirrors(auth.ParseScopes(scopes)), Manage: len(scopes) == 0, Refresh: refresh, Client: client, From: s.clientAddress(r)}
}

// basicChallenge says that names and passwords are UTF-8 (RFC 7617 section 2.1).
const basicChallenge = `Basic realm="` + auth.Service + `", charset="UTF-8"`

// refuseLogin adds to an Unauthorized error how to log in here. Other errors stay as they are.
func refuseLogin(w *recorder, err error) error {
	if registry.Unauthorized.Is(err) {
		w.Header().Set("Www-Authenticate", basicChallenge)
	}
	return err
}

// writeToken issues a token for a service, which a request need not name. Docker and skopeo count a token's life from
// issued_at on their own clock, which may be an hour behind: clients that name a service are not told. The plainest request
// names none, and what sends that knows the field.
func (s *Server) writeToken(w *recorder, r *http.Request, caller auth.Caller, asked auth.TokenRequest, service string) error {
	w.caller = caller
	t, err := s.cfg.Auth.Issue(r.Context(), caller, s.registry, asked)
	if err != nil {
		return refuseLogin(w, err)
	}
	var granted []string
	for _, a := range t.Scopes {
		granted = append(granted, a.String())
	}
	issuedAt := t.IssuedAt.Format(time.RFC3339)
	if service != "" {
		issuedAt = ""
	}
	body, err := json.Marshal(struct {
		Token     string `json:"token"`
		Access    string `json:"access_token"`
		Type      string `json:"token_type"`
		ExpiresIn int    `json:"expires_in"` // seconds
		IssuedAt  string `json:"issued_at,omitempty"`
		Scope     string `json:"scope"`
		Refresh   string `json:"refresh_token,omitempty"`
	}{t.Token, t.Token, "Bearer", int(t.ExpiresIn.Seconds()), issuedAt, strings.Join(granted, " "), t.Refresh})
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store") // RFC 6749 section 5.1
	writeBody(w, r, http.StatusOK, "application/json", body)
	return nil
}
