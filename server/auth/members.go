package auth

import (
	"fmt"

	"registry/db"
	"registry/server/match"
)

// What a user's own grants and those of their groups cost together is bounded, too: every request is compared with all of
// them. What exists beyond the bound keeps its meaning, and Authority.CostlyRules returns it.

// checkMembers returns RequestInvalid if the rules of a user, or of a member of a group, cost too much for names that begin
// with a segment.
func checkMembers(tx *db.Tx, grantee, segment string) error {
	var globs match.Cache // members of a group have many rules in common
	var user string
	var list []match.Glob
	check := func() error {
		if match.Cost(list) > maxCost {
			return tooCostlyFor(user)
		}
		return nil
	}
	err := tx.GrantsOfMembers(grantee, func(name string, g db.Grant) error {
		if name != user {
			if err := check(); err != nil {
				return err
			}
			user, list = name, list[:0]
		}
		glob, err := globs.Compile(g.Repository)
		if first := glob.FirstSegment(); err == nil && (first == segment || first == "") {
			list = append(list, glob)
		}
		return err
	})
	if err != nil {
		return err
	}
	return check()
}

// checkMember returns RequestInvalid if the rules of a user cost too much now that they are in a group.
func checkMember(tx *db.Tx, m Member) error {
	ofGroup, err := tx.GrantsTo("@" + m.Group)
	if err != nil {
		return err
	}
	u, err := tx.User(m.User)
	if err != nil {
		return err
	}
	all, err := tx.GrantsOf(u)
	if err != nil {
		return err
	}
	set, err := compileGrants(all)
	if err != nil {
		return err
	}
	added, err := compileGrants(ofGroup)
	if err != nil {
		return err
	}
	tooCostly := len(added.others) > 0 && set.costIn("") > maxCost
	for segment := range added.first {
		tooCostly = tooCostly || set.costIn(segment) > maxCost
	}
	if tooCostly {
		return tooCostlyFor(m.User)
	}
	return nil
}

func tooCostlyFor(user string) error {
	return invalid(fmt.Errorf("the globs of %s and of the groups that %[1]s is in cost too much together to compare names with: use fewer wildcards (the limit is %d)",
		user, maxCost))
}
