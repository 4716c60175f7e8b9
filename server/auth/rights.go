package auth

import (
	"context"
	"fmt"
	"strings"

	"registry/db"
	"registry/server/registry"
)

// Actions is a set of what can be done in a repository. The database stores its bits.
type Actions uint8

const (
	Pull   Actions = 1 << iota // read
	Create                     // push what is new: a tag that exists is not moved
	Push                       // push anything
	Delete                     // delete tags, manifests and blobs
	Admin                      // say who else may do what

	All = Pull | Create | Push | Delete | Admin
)

var actionNames = []struct {
	name    string
	implies Actions
}{
	{"pull", Pull}, {"create", Create | Pull}, {"push", Push | Create | Pull}, {"delete", Delete | Pull}, {"admin", All},
}

// ParseActions reads names with commas between them. An action implies those that are of no use without it: whoever
// pushes also pulls, to see what is there.
func ParseActions(s string) (actions Actions, err error) {
	for name := range strings.SplitSeq(s, ",") {
		var implied Actions
		for _, a := range actionNames {
			if a.name == name {
				implied = a.implies
			}
		}
		if implied == 0 {
			return 0, fmt.Errorf("action %.40q: want pull, create, push, delete or admin", name)
		}
		actions |= implied
	}
	return actions, nil
}

// String is the shortest list of names that means the same.
func (a Actions) String() string {
	if a == All {
		return "admin"
	}
	var names []string
	covered := Actions(0)
	for i := len(actionNames) - 2; i >= 0; i-- {
		n := actionNames[i]
		if a&n.implies == n.implies && covered&n.implies != n.implies {
			names, covered = append([]string{n.name}, names...), covered|n.implies
		}
	}
	return strings.Join(names, ",")
}

// has says whether all of want is in a.
func (a Actions) has(want Actions) bool { return a&want == want }

// InNamespace says whether all that a glob matches is in the namespace of a user.
func InNamespace(user, glob string) bool {
	at := strings.IndexAny(glob, `*?[{\`)
	if at < 0 {
		return owns(user, db.RepoName(glob))
	}
	return strings.HasPrefix(glob[:at], user+"/")
}

// owns says whether a repository is in the namespace of a user.
func owns(user string, repo db.RepoName) bool {
	rest, ok := strings.CutPrefix(string(repo), user)
	return ok && (rest == "" || rest[0] == '/')
}

// Caller is somebody who asks. The zero Caller is somebody that nothing is known of.
type Caller struct {
	Name     string // "" for nobody who logged in
	LoggedIn bool   // by name, or anonymously with a bearer token
	account  *accountState
	bounded  bool // by an API token: the caller may do what both the user and the token may
	bounds   ruleSet
	bearer   bool // by a bearer token, which bounds the caller to
	access   []Access
	apiToken string // its mark, "" for none
	family   string // of the refresh token that the caller came with
}

// rights is what a caller may do in a repository that is not public.
func (c Caller) rights(repo db.RepoName) (actions Actions) {
	switch {
	case c.account == nil:
		return 0
	case c.account.Admin || owns(c.Name, repo):
		return All
	}
	return c.account.grants.allowed(repo)
}

// limits is what the tokens that a caller came with leave of their rights.
func (c Caller) limits(repo db.RepoName) Actions {
	limits := All
	if c.bounded {
		limits = c.bounds.allowed(repo)
	}
	if c.bearer {
		from := accessTo(c.access, repo)
		if mayManage(c.access) {
			from |= Admin // and nothing of what the repository has
		}
		limits &= from
	}
	return limits
}

// May says whether a caller may do all of want in a repository now. isPublic is asked only if that matters.
func (a *Authority) May(c Caller, repo db.RepoName, want Actions, isPublic func() (bool, error)) (bool, error) {
	if !c.limits(repo).has(want) {
		return false, nil
	}
	if c.rights(repo).has(want) {
		return true, nil
	}
	if want != Pull || c.account == nil && !a.anonymous {
		return false, nil
	}
	return isPublic()
}

// MayRead is May of pulling, for the lists of package registry.
func (a *Authority) MayRead(c Caller) func(db.RepoName, bool) (bool, error) {
	if c.bearer { // whose access names the list, not what is on it
		c.bearer = false
	}
	return func(repo db.RepoName, public bool) (bool, error) {
		return a.May(c, repo, Pull, func() (bool, error) { return public, nil })
	}
}

// ReadsOnlyPublic says whether MayRead says of a repository what its visibility says.
func (a *Authority) ReadsOnlyPublic(c Caller) bool {
	return c.account == nil && a.anonymous && !c.bounded
}

// MayMount is MayRead for a bearer of a token for whom it has to name the repository, too.
func (a *Authority) MayMount(c Caller) func(db.RepoName, bool) (bool, error) {
	return func(repo db.RepoName, public bool) (bool, error) {
		return a.May(c, repo, Pull, func() (bool, error) { return public, nil })
	}
}

// FromToken says whether it is a bearer token that keeps a caller from doing something in a repository: with another one
// they might.
func (c Caller) FromToken(repo db.RepoName, want Actions) bool {
	return c.bearer && !accessTo(c.access, repo).has(want)
}

// IsAdmin says whether a caller may do everything, with nothing taken from them by a token.
func (c Caller) IsAdmin() bool { return c.account != nil && c.account.Admin && c.isWhole() }

// ReadsAll says whether a caller is an admin who may read, be it with an API token for every repository.
func (c Caller) ReadsAll() bool {
	return c.account != nil && c.account.Admin && !c.bearer && (!c.bounded || c.bounds.everything)
}

// IsUser says whether a caller is a user, with nothing taken from them by a token. Only they may change what they may
// do otherwise: their password, their tokens.
func (c Caller) IsUser() bool { return c.account != nil && c.isWhole() }

// FromNarrowToken says whether a caller came with a bearer token that is not good for managing: with another one they might
// do more.
func (c Caller) FromNarrowToken() bool { return c.bearer && !mayManage(c.access) }

func (c Caller) isWhole() bool { return !c.bounded && (!c.bearer || mayManage(c.access)) }

// effective is what a caller may do in a repository now, of what is asked for.
func (a *Authority) effective(ctx context.Context, c Caller, reg *registry.Registry, repo db.RepoName, asked Actions) (got Actions, err error) {
	for _, one := range []Actions{Pull, Create, Push, Delete} {
		if asked&one == 0 {
			continue
		}
		may, err := a.May(c, repo, one, func() (bool, error) { return reg.IsPublic(ctx, repo) })
		if err != nil {
			return 0, err
		}
		if may {
			got |= one
		}
	}
	return got, nil
}
