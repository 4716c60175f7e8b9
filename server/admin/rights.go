package admin

import (
	"context"
	"strings"

	"registry/server/auth"
	"registry/server/registry"
)

// getGrants lists all for admins. A user sees those in their namespace and their own.
func getGrants(ctx context.Context, c Call) (Answer, error) {
	user := c.Caller.Name
	if c.Caller.IsAdmin() {
		user = ""
	}
	return paged(c, "grants", func(p registry.Page, limit int) ([]auth.Grant, error) {
		grantee, repository, _ := strings.Cut(p.Last, " ") // neither has one
		return c.Auth.Grants(ctx, user, auth.Grant{Grantee: grantee, Repository: repository}, limit)
	}, func(g auth.Grant) string { return g.Grantee + " " + g.Repository })
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
	set := c.Auth.OfferGrant
	if c.Caller.IsAdmin() {
		set = c.Auth.SetGrant
	}
	return done(), set(ctx, c.By, in.Grantee, auth.Rule{Actions: actions, Repository: in.Repository})
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

// getGroups lists the members of groups. A page has so many members, and a group may go on on the next.
func getGroups(ctx context.Context, c Call) (Answer, error) {
	p, err := c.page()
	if err != nil {
		return Answer{}, err
	}
	members, more, err := onPage(p, func(p registry.Page, limit int) ([]auth.Member, error) {
		group, user, _ := strings.Cut(p.Last, "/") // neither has one
		return c.Auth.Members(ctx, auth.Member{Group: group, User: user}, limit)
	})
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
	return listed("groups", groups, more, p, func(g group) string { return g.Name + "/" + g.Members[len(g.Members)-1] }), nil
}

func (c Call) member() auth.Member { return auth.Member{Group: c.Group, User: c.Name} }

func getMember(ctx context.Context, c Call) (Answer, error) {
	is, err := c.Auth.IsMember(ctx, c.member())
	if err == nil && !is {
		err = registry.Missing.With(nil)
	}
	return found(c.member()), err
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

func getCostlyRules(ctx context.Context, c Call) (Answer, error) {
	return paged(c, "rules", func(p registry.Page, limit int) ([]auth.CostlyRules, error) {
		return c.Auth.CostlyRules(ctx, p.Last, limit)
	},
		func(r auth.CostlyRules) string { return r.Owner })
}
