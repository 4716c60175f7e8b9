package auth

import (
	"slices"
	"strings"

	"registry/db"
)

// Access is an entry of what a bearer token lets its bearer do (distribution, "Docker Registry v2 Bearer token
// specification", Resource Scope).
type Access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// The types of resources that there are, and the names of those that are no repositories.
const (
	typeRepository = "repository"
	typeRegistry   = "registry"
	nameCatalog    = "catalog"
	nameManagement = "management"
	anyAction      = "*"
)

// maxScopes bounds the entries of one request for a token.
const maxScopes = 100

// ParseScopes reads the scopes that a client asks for: several, or several in one with spaces between them. What is not
// understood is left out and grants nothing, as does whatever the caller may not do: asking for too much is no error.
// Entries of the same repository become one.
func ParseScopes(texts []string) (scopes []Access) {
	for _, text := range texts {
		for field := range strings.FieldsSeq(text) {
			if s, ok := parseScope(field); ok {
				scopes = addScope(scopes, s)
			}
		}
	}
	return scopes
}

func addScope(scopes []Access, s Access) []Access {
	for i, have := range scopes {
		if have.Type == s.Type && have.Name == s.Name {
			for _, action := range s.Actions {
				if !slices.Contains(have.Actions, action) {
					scopes[i].Actions = append(scopes[i].Actions, action)
				}
			}
			return scopes
		}
	}
	if len(scopes) == maxScopes {
		return scopes
	}
	return append(scopes, s)
}

// parseScope reads the form type:name:action,action or type(class):name:action,action. A name has no colon but the one
// before a port, which nothing here has.
func parseScope(s string) (a Access, ok bool) {
	kind, rest, _ := strings.Cut(s, ":")
	kind, classed := withoutClass(kind)
	name, actions, found := strings.Cut(rest, ":")
	if !found || !classed || strings.Contains(actions, ":") {
		return Access{}, false
	}
	switch kind {
	case typeRepository:
		if _, err := db.ParseRepoName(name); err != nil {
			return Access{}, false
		}
	case typeRegistry:
		if name != nameCatalog && name != nameManagement {
			return Access{}, false
		}
	default:
		return Access{}, false
	}
	known := []string{"pull", "push", "delete", anyAction}
	if kind == typeRegistry {
		known = []string{anyAction}
	}
	a = Access{Type: kind, Name: name}
	for action := range strings.SplitSeq(actions, ",") {
		if slices.Contains(known, action) && !slices.Contains(a.Actions, action) {
			a.Actions = append(a.Actions, action)
		}
	}
	return a, len(a.Actions) > 0
}

// withoutClass takes the class from a type such as repository(plugin), which says what Docker expects of the content. Rights
// do not differ by it.
func withoutClass(kind string) (plain string, ok bool) {
	plain, class, found := strings.Cut(kind, "(")
	if !found {
		return kind, true
	}
	class, ok = strings.CutSuffix(class, ")")
	return plain, ok && class != "" && strings.Trim(class, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// String is the way back of parseScope.
func (a Access) String() string {
	return a.Type + ":" + a.Name + ":" + strings.Join(a.Actions, ",")
}

// bits is what actions of a scope stand for. Whoever may only create gets to push: the manifest's own check says what.
func (a Access) bits() (actions Actions) {
	for _, name := range a.Actions {
		switch name {
		case "pull":
			actions |= Pull
		case "push":
			actions |= Create | Push
		case "delete":
			actions |= Delete
		case anyAction:
			actions |= Pull | Create | Push | Delete
		}
	}
	return actions
}

// scopeNames is the way back of bits.
func scopeNames(actions Actions) (names []string) {
	if actions.has(Pull) {
		names = append(names, "pull")
	}
	if actions&(Create|Push) != 0 {
		names = append(names, "push")
	}
	if actions.has(Delete) {
		names = append(names, "delete")
	}
	return names
}

// accessTo is what entries of a token let their bearer do in a repository.
func accessTo(access []Access, repo db.RepoName) (actions Actions) {
	for _, a := range access {
		if a.Type == typeRepository && a.Name == string(repo) {
			actions |= a.bits()
		}
	}
	return actions
}

// MayList says whether a caller may ask for the catalog. What they may not read is not on it.
func (c Caller) MayList() bool {
	return c.LoggedIn && (!c.bearer || hasRegistry(c.access, nameCatalog))
}

// MayBrowse says whether a caller may ask what repositories they may read, which needs no login where public ones are
// readable without.
func (a *Authority) MayBrowse(c Caller) bool {
	return c.MayList() || c.IsUser() || !c.LoggedIn && a.anonymous
}

func mayManage(access []Access) bool { return hasRegistry(access, nameManagement) }

func hasRegistry(access []Access, name string) bool {
	return slices.ContainsFunc(access, func(a Access) bool {
		return a.Type == typeRegistry && a.Name == name && slices.Contains(a.Actions, anyAction)
	})
}
