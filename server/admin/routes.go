package admin

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"registry/server/auth"
	"registry/server/registry"
)

// Access is the permission a route requires. Zero is invalid, so that no route can be added without one.
type Access int

const (
	Everybody       Access = iota + 1 // the handler decides
	Reader                            // whoever may ask for a list of repositories, with what they may read on it
	User                              // a user, with nothing taken from them by a token
	Admin                             // an admin, with nothing taken from them by a token
	RepositoryRead                    // whoever would find the repository on the list of Reader
	RepositoryAdmin                   // whoever may do everything in the repository
)

func (a Access) String() string {
	names := map[Access]string{Everybody: "everybody", Reader: "reader", User: "user", Admin: "admin",
		RepositoryRead: "repository read", RepositoryAdmin: "repository admin"}
	return names[a]
}

// Scope is what a client asks a bearer token for to use routes with this access.
func (a Access) Scope() string {
	switch a {
	case Reader, RepositoryRead:
		return "registry:catalog:*"
	case User, Admin, RepositoryAdmin:
		return "registry:management:*"
	}
	return ""
}

// Prefix begins the path of every route.
const Prefix = "/api/v1/"

// Route is a line of the product. In a pattern <name> is one segment and <repo> is one or more.
type Route struct {
	Method  string
	Pattern string // after Prefix
	Access  Access
	handler handler
}

type handler func(context.Context, Call) (Answer, error)

// The first line that fits a path is the one that counts. No user and no token has a name that is a word here, so that
// only repositories compete, and with their last segment they win.
var routes = []Route{
	{http.MethodGet, "<repo>/visibility", RepositoryRead, getVisibility},
	{http.MethodPut, "<repo>/visibility", RepositoryAdmin, reading(putVisibility)},
	{http.MethodGet, "repo", Reader, getRepositories},

	{http.MethodGet, "users", Admin, getUsers},
	{http.MethodPost, "users", Everybody, reading(postUser)},
	{http.MethodGet, "users/<name>", Admin, getUser},
	{http.MethodDelete, "users/<name>", Admin, deleteUser},
	{http.MethodPut, "users/<name>/password", User, reading(putPassword)},
	{http.MethodPut, "users/<name>/disabled", Admin, reading(putDisabled)},
	{http.MethodPut, "users/<name>/admin", Admin, reading(putAdmin)},

	{http.MethodGet, "tokens", User, getTokens},
	{http.MethodPost, "tokens", User, reading(postToken)},
	{http.MethodDelete, "tokens/<name>", User, deleteToken},
	{http.MethodGet, "refresh-tokens", User, getRefreshTokens},
	{http.MethodDelete, "refresh-tokens/<name>", User, deleteRefreshToken},

	{http.MethodGet, "grants", User, getGrants},
	{http.MethodPut, "grants", User, reading(putGrant)},
	{http.MethodDelete, "grants", User, naming(deleteGrant)},

	{http.MethodGet, "costly-rules", Admin, getCostlyRules},

	{http.MethodGet, "groups", Admin, getGroups},
	{http.MethodGet, "groups/<group>/members/<name>", Admin, getMember},
	{http.MethodPut, "groups/<group>/members/<name>", Admin, putMember},
	{http.MethodDelete, "groups/<group>/members/<name>", Admin, deleteMember},

	{http.MethodGet, "immutable", Admin, getImmutable},
	{http.MethodPut, "immutable", Admin, reading(putImmutable)},
	{http.MethodDelete, "immutable", Admin, naming(deleteImmutable)},

	{http.MethodGet, "audit", Admin, getAudit},
	{http.MethodPost, "keys/rotate", Admin, rotateKey},
}

// Routes returns the table.
func Routes() []Route { return slices.Clone(routes) }

// Changes says whether a route changes anything.
func (r *Route) Changes() bool { return r.Method != http.MethodGet }

// Target is a path that has been understood. What the access check looks at and what the handler works on is this one
// value, so they cannot differ.
type Target struct {
	Repo  registry.RepoName
	Name  string // of a user or a token
	Group string
}

// Find returns the route of a method and a path, the methods that the path has, and its target. HEAD is answered wherever
// GET is (RFC 9110 section 9.1). NotFound if no route has the path, NameInvalid if its repository cannot be one; r is nil
// if it is only the method that is not there.
func Find(method, path string) (r *Route, methods []string, t Target, err error) {
	rest, ok := strings.CutPrefix(path, Prefix)
	if !ok {
		return nil, nil, Target{}, registry.NotFound.With(nil)
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var wrong error
	for i := range routes {
		one, fits, err := routes[i].match(rest)
		if !fits {
			continue
		}
		methods = append(methods, routes[i].Method)
		if routes[i].Method == method && r == nil {
			r, t, wrong = &routes[i], one, err
		}
	}
	if methods == nil {
		return nil, nil, Target{}, registry.NotFound.With(nil)
	}
	if slices.Contains(methods, http.MethodGet) {
		methods = append(methods, http.MethodHead)
	}
	methods = append(methods, http.MethodOptions)
	slices.Sort(methods)
	return r, slices.Compact(methods), t, wrong
}

// match reads a path from the right, because repository names contain slashes.
func (r *Route) match(path string) (t Target, fits bool, err error) {
	pattern := strings.Split(r.Pattern, "/")
	segments := strings.Split(path, "/")
	for i := len(pattern) - 1; i >= 0; i-- {
		if len(segments) == 0 {
			return Target{}, false, nil
		}
		last := segments[len(segments)-1]
		switch pattern[i] {
		case "<repo>":
			t.Repo, err = registry.ParseRepoName(strings.Join(segments, "/"))
			return t, true, err
		case "<name>":
			t.Name = last
		case "<group>":
			t.Group = last
		default:
			if last != pattern[i] {
				return Target{}, false, nil
			}
		}
		if last == "" {
			return Target{}, false, nil
		}
		segments = segments[:len(segments)-1]
	}
	return t, len(segments) == 0, nil
}

// check returns an error unless the caller may.
func (a Access) check(ctx context.Context, c Call) error {
	may, err := false, error(nil)
	switch a {
	case Everybody:
		may = true
	case Reader:
		may = c.Auth.MayBrowse(c.Caller)
	case User:
		may = c.Caller.IsUser()
	case Admin:
		may = c.Caller.IsAdmin()
	case RepositoryRead:
		return c.mayRead(ctx)
	case RepositoryAdmin:
		may, err = c.Auth.May(c.Caller, c.Repo, auth.Admin, nil) // being public gives nobody that
		if !may && err == nil {
			err = c.mayRead(ctx)
		}
	}
	if err == nil && !may {
		err = registry.Denied.With(nil)
	}
	return err
}

// mayRead returns NameUnknown if the caller may not know that there is the repository.
func (c Call) mayRead(ctx context.Context) error {
	if !c.Auth.MayBrowse(c.Caller) {
		return registry.Denied.With(nil)
	}
	public, err := c.Registry.IsPublic(ctx, c.Repo)
	if err != nil {
		return err
	}
	may, err := c.Auth.MayRead(c.Caller)(c.Repo, public)
	if err == nil && !may {
		err = registry.NameUnknown.With(c.Repo)
	}
	return err
}
