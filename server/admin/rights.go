package admin

import (
	"context"

	"registry/server/auth"
	"registry/server/registry"
)

// getGrants lists all for admins. A user sees those in his namespace and his own.
func getGrants(ctx context.Context, c Call) (Answer, error) {
	all, err := c.Auth.Grants(ctx)
	if err != nil {
		return Answer{}, err
	}
	var shown []auth.Grant
	for _, g := range all {
		if g.Grantee == c.Caller.Name || c.mayGrant(g.Repository) {
			shown = append(shown, g)
		}
	}
	return whole("grants", shown), nil
}

// mayGrant says whether the caller may say who else may do what, where a glob matches.
func (c Call) mayGrant(glob string) bool {
	return c.Caller.IsAdmin() || auth.InNamespace(c.Caller.Name, glob)
}

type grantee struct {
	Grantee    string `json:"grantee"` // a group with an @ before it
	Repository string `json:"repository"`
}

func putGrant(ctx context.Context, c Call, in struct {
	grantee
	Actions string `json:"actions"`
}) (Answer, error) {
	if !c.mayGrant(in.Repository) {
		return Answer{}, registry.Denied.With(nil)
	}
	actions, err := auth.ParseActions(in.Actions)
	if err != nil {
		return Answer{}, registry.RequestInvalid.With(err.Error())
	}
	return done(), c.Auth.SetGrant(ctx, c.By, in.Grantee, auth.Rule{Actions: actions, Repository: in.Repository})
}

func deleteGrant(ctx context.Context, c Call, in grantee) (Answer, error) {
	if !c.mayGrant(in.Repository) {
		return Answer{}, registry.Denied.With(nil)
	}
	return done(), c.Auth.DeleteGrant(ctx, c.By, in.Grantee, in.Repository)
}

type group struct {
	Name    string   `json:"name"`
	Members []string `json:"members"`
}

func getGroups(ctx context.Context, c Call) (Answer, error) {
	members, err := c.Auth.Members(ctx)
	if err != nil {
		return Answer{}, err
	}
	var groups []group
	for _, m := range members { // those of a group follow each other
		if len(groups) == 0 || groups[len(groups)-1].Name != m.Group {
			groups = append(groups, group{Name: m.Group})
		}
		last := &groups[len(groups)-1]
		last.Members = append(last.Members, m.User)
	}
	return whole("groups", groups), nil
}

func (c Call) member() auth.Member { return auth.Member{Group: c.Group, User: c.Name} }

func getMember(ctx context.Context, c Call) (Answer, error) {
	members, err := c.Auth.Members(ctx)
	if err != nil {
		return Answer{}, err
	}
	for _, m := range members {
		if m == c.member() {
			return found(m), nil
		}
	}
	return Answer{}, registry.Missing.With(nil)
}

func putMember(ctx context.Context, c Call) (Answer, error) {
	return done(), c.Auth.AddMember(ctx, c.By, c.member())
}

func deleteMember(ctx context.Context, c Call) (Answer, error) {
	return done(), c.Auth.RemoveMember(ctx, c.By, c.member())
}

func rotateKey(ctx context.Context, c Call) (Answer, error) {
	return done(), c.Auth.RotateKey(ctx, c.By)
}
