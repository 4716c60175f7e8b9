package server

import (
	"net/http"
	"strings"

	"registry/server/auth"
	"registry/server/registry"
)

// authorize finds out who asks and whether they may, before a handler runs. What it looks at is the target that the handler
// will work on. Errors: Unauthorized with a challenge for whoever could do more by logging in; for somebody who has,
// Denied where they want to write, and where they want to read NameUnknown, which is what they would be told of a repository
// that does not exist.
func (s *Server) authorize(w *recorder, r *http.Request) error {
	if s.cfg.Auth == nil {
		return nil
	}
	if w.target.endpoint == endpointUploads {
		w.source, _ = registry.ParseRepoName(r.URL.Query().Get("from")) // the handler says what is wrong with it
	}
	address := s.clientAddress(r)
	caller, err := s.cfg.Auth.Authenticate(r.Context(), authorization(r), address)
	if err != nil {
		return s.challenge(w, r, err)
	}
	w.caller = caller
	w.registry = s.registry.As(registry.Actor{User: caller.Name, Address: auth.AddressText(address)})
	return s.permit(w, r)
}

// permit says whether the caller may use the route, with the errors of authorize.
func (s *Server) permit(w *recorder, r *http.Request) error {
	may, err := s.mayUse(w, r)
	switch {
	case err != nil:
		return err
	case may:
		return nil
	case !w.caller.LoggedIn || w.caller.Name == "" || w.caller.FromToken(w.target.repo, w.route.access.actions()):
		return s.challenge(w, r, registry.Unauthorized.With(nil))
	case w.route.access.writes():
		return registry.Denied.With(nil)
	}
	return registry.NameUnknown.With(w.target.repo)
}

// mayUse says whether the caller may use the route.
func (s *Server) mayUse(w *recorder, r *http.Request) (may bool, err error) {
	switch w.route.access {
	case accessLogin:
		return w.caller.LoggedIn, nil
	case accessCatalog:
		return w.caller.MayList(), nil
	case accessPush:
		if may, err = s.may(r, w.caller, w.target.repo, auth.Push); may || err != nil {
			return may, err
		}
		w.keepTags = true // also when it is asked again, and was not so before
		return s.may(r, w.caller, w.target.repo, auth.Create)
	case accessPull, accessDelete:
		return s.may(r, w.caller, w.target.repo, w.route.access.actions())
	}
	return false, nil // of a route without one
}

// may says whether a caller may do something in a repository.
func (s *Server) may(r *http.Request, c auth.Caller, repo registry.RepoName, want auth.Actions) (bool, error) {
	return s.cfg.Auth.May(c, repo, want, func() (bool, error) { return s.registry.IsPublic(r.Context(), repo) })
}

// authorization is the header with the credentials. Two of them would be understood differently by a proxy in front.
func authorization(r *http.Request) string {
	if headers := r.Header.Values("Authorization"); len(headers) != 1 {
		return strings.Join(headers, ", ")
	}
	return r.Header.Get("Authorization")
}

// challenge adds to an Unauthorized error where a token is to be had, and for what (RFC 6750 section 3, distribution's
// token specification). Other errors stay as they are.
func (s *Server) challenge(w *recorder, r *http.Request, err error) error {
	return s.challengeFor(w, r, w.scope(), err)
}

// challengeFor is challenge for somebody who is to ask for a scope, or for none.
func (s *Server) challengeFor(w *recorder, r *http.Request, scope string, err error) error {
	if !registry.Unauthorized.Is(err) {
		return err
	}
	text := `Bearer realm="` + s.origin(r) + `/auth/token",service="` + auth.Service + `"`
	if scope != "" {
		text += `,scope="` + scope + `"`
	}
	switch e := registry.AsError(err); {
	case e.Detail == auth.InvalidToken:
		text += `,error="invalid_token"`
	case w.caller.LoggedIn:
		text += `,error="insufficient_scope"`
	}
	w.Header().Set("Www-Authenticate", text)
	return err
}

// scope is what a client has to ask a token for to use the route.
func (w *recorder) scope() string {
	if w.route == nil {
		return ""
	}
	switch w.route.access {
	case accessPull:
		return "repository:" + string(w.target.repo) + ":pull"
	case accessPush:
		scope := "repository:" + string(w.target.repo) + ":pull,push"
		if w.source != "" { // which is what a mount reads
			scope += " repository:" + string(w.source) + ":pull"
		}
		return scope
	case accessDelete:
		return "repository:" + string(w.target.repo) + ":pull,delete"
	case accessCatalog:
		return "registry:catalog:*"
	}
	return ""
}

// serveMetrics answers with figures, which say how much is stored and how it is used. With users they are for admins: a
// proxy on this machine that nobody said to trust makes everybody a neighbour.
func (s *Server) serveMetrics(w *recorder, r *http.Request) error {
	if s.cfg.Auth != nil {
		caller, err := s.cfg.Auth.Authenticate(r.Context(), authorization(r), s.clientAddress(r))
		if err == nil && !caller.ReadsAll() {
			err = registry.Unauthorized.With(nil)
		}
		if err != nil {
			w.Header().Set("Www-Authenticate", basicChallenge)
			return err
		}
		w.caller = caller
	}
	s.metrics.handler().ServeHTTP(w, r)
	return nil
}

// actions is what a route does in its repository.
func (a access) actions() auth.Actions {
	switch a {
	case accessPull:
		return auth.Pull
	case accessPush:
		return auth.Create
	case accessDelete:
		return auth.Delete
	}
	return auth.All // nobody has it by accident
}
