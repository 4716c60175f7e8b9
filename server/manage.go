package server

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"registry/server/admin"
	"registry/server/auth"
	"registry/server/registry"
)

// manage answers a request of the management API. Like the specification's it is parsed here and not by the router:
// names of repositories have slashes.
func (s *Server) manage(w *recorder, r *http.Request) error {
	if len(r.RequestURI) > maxURI {
		return registry.AddressTooLong.With(nil)
	}
	if strings.Contains(strings.ToLower(r.URL.RawPath), "%2f") {
		return registry.NameInvalid.With("the path has an encoded slash")
	}
	route, methods, target, err := admin.Find(r.Method, r.URL.Path)
	if methods == nil {
		return err
	}
	if s.cfg.ReadOnly {
		methods = reading(methods)
	}
	switch {
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", strings.Join(methods, ", "))
		w.WriteHeader(http.StatusNoContent)
		return nil
	case route == nil:
		return refuseManaging(w, methods, "the endpoint does not have this method")
	case s.cfg.ReadOnly && route.Changes():
		return refuseManaging(w, methods, "the registry is read-only")
	case err != nil:
		return err
	}
	return s.manageAs(w, r, route, target)
}

// reading leaves the methods that change nothing.
func reading(methods []string) (left []string) {
	for _, m := range methods {
		if m == http.MethodGet || m == http.MethodHead || m == http.MethodOptions {
			left = append(left, m)
		}
	}
	return left
}

func refuseManaging(w *recorder, methods []string, why string) error {
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return registry.Unsupported.With(why)
}

// manageAs finds out who asks, lets the route decide, and tells somebody who could do more by logging in how to.
func (s *Server) manageAs(w *recorder, r *http.Request, route *admin.Route, target admin.Target) error {
	address := s.clientAddress(r)
	caller, err := s.cfg.Auth.Authenticate(r.Context(), authorization(r), address)
	if err != nil {
		return s.challengeFor(w, r, route.Access.Scope(), err)
	}
	w.caller = caller
	by := registry.Actor{User: caller.Name, Address: auth.AddressText(address)}
	w.registry = s.registry.As(by)
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return registry.RequestInvalid.With("the query is malformed")
	}
	call := admin.Call{Target: target, Auth: s.cfg.Auth, Registry: w.registry, Caller: caller, By: by, Query: query}
	answer, err := s.doAs(w, r, route, call)
	refused := registry.Denied.Is(err) || registry.NameUnknown.Is(err)
	if refused && (!caller.LoggedIn || caller.Name == "" || caller.FromNarrowToken()) {
		return s.challengeFor(w, r, route.Access.Scope(), registry.Unauthorized.With(nil))
	}
	if registry.Unauthorized.Is(err) {
		return s.challengeFor(w, r, route.Access.Scope(), err)
	}
	if err != nil {
		return err
	}
	return writeAnswer(w, r, answer)
}

// doAs reads the body of a call whose sender may make it, and makes it if they may still do so then.
func (s *Server) doAs(w *recorder, r *http.Request, route *admin.Route, call admin.Call) (admin.Answer, error) {
	if err := route.Check(r.Context(), call); err != nil {
		return admin.Answer{}, err
	}
	limitTime(r.Body, s.cfg.BodyIdleTimeout)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, admin.MaxBody))
	if err != nil {
		return admin.Answer{}, &registry.Error{Code: registry.RequestInvalid, Detail: "want a body of at most 64 KiB", Err: err}
	}
	call.Body = body
	if call.Caller, err = s.cfg.Auth.Again(r.Context(), call.Caller); err != nil {
		return admin.Answer{}, err
	}
	return route.Do(r.Context(), call)
}

func writeAnswer(w *recorder, r *http.Request, a admin.Answer) error {
	if a.Next != nil {
		w.Header().Set("Link", nextPage(r, a.Next))
	}
	w.Header().Set("Cache-Control", "no-store") // it is for the caller, and true now
	if a.Body == nil {
		w.WriteHeader(a.Status)
		return nil
	}
	body, err := json.Marshal(a.Body)
	if err != nil {
		return err
	}
	writeBody(w, r, a.Status, "application/json", body)
	return nil
}

// nextPage is the value of a Link header (RFC 8288). The address is a path: only the client knows the host.
func nextPage(r *http.Request, query url.Values) string {
	return "<" + r.URL.EscapedPath() + "?" + query.Encode() + `>; rel="next"`
}
