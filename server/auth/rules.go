package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"registry/db"
	"registry/server/match"
)

// Rule is what may be done in the repositories that a glob matches: ** is for any number of segments.
type Rule struct {
	Actions    Actions
	Repository string
}

// ParseRule reads the form actions:glob, such as pull,delete:team/**.
func ParseRule(s string) (Rule, error) {
	r, err := readRule(s)
	if err != nil {
		return Rule{}, err
	}
	return r, CheckGlob(r.Repository)
}

// readRule is ParseRule of a rule that was stored, whatever it costs.
func readRule(s string) (Rule, error) {
	names, glob, _ := strings.Cut(s, ":")
	actions, err := ParseActions(names)
	return Rule{actions, glob}, err
}

// ParseRules reads rules with spaces between them.
func ParseRules(s string) (rules []Rule, err error) {
	for field := range strings.FieldsSeq(s) {
		r, err := ParseRule(field)
		if err != nil {
			return nil, err
		}
		if rules = append(rules, r); len(rules) > maxRules {
			return nil, fmt.Errorf("more than %d rules", maxRules)
		}
	}
	set, err := compileRules(rules)
	if err != nil {
		return nil, err
	}
	if set.cost() > maxCost {
		return nil, errTooCostly
	}
	return rules, nil
}

// readRules is ParseRules of rules that were stored, whatever they cost.
func readRules(s string) (set ruleSet, err error) {
	var rules []Rule
	for field := range strings.FieldsSeq(s) {
		r, err := readRule(field)
		if err != nil {
			return ruleSet{}, err
		}
		rules = append(rules, r)
	}
	return compileRules(rules)
}

func (r Rule) String() string { return r.Actions.String() + ":" + r.Repository }

func formatRules(rules []Rule) string {
	var list []string
	for _, r := range rules {
		list = append(list, r.String())
	}
	return strings.Join(list, " ")
}

// What rules may cost: users write some of their own, for tokens and for grants, and every request is compared with them.
const (
	maxRules = 100 // of a token
	maxCost  = 300 // match.Cost of a token's rules, of a group's, and of a user's together with those of their groups
)

var errTooCostly = fmt.Errorf("the globs cost too much to compare names with: use fewer wildcards (the limit is %d)", maxCost)

// CheckGlob says what is wrong with a glob of repositories that somebody writes.
func CheckGlob(glob string) error {
	odd := func(r rune) bool { return r <= ' ' || r == utf8.RuneError || unicode.IsControl(r) }
	compiled, err := match.Compile(glob)
	if err != nil || strings.ContainsFunc(glob, odd) {
		return fmt.Errorf("%.80q is not a glob of repositories, such as team/**", glob)
	}
	if compiled.Cost() > maxCost {
		return errTooCostly
	}
	return nil
}

// ruleSet is rules that are compiled, by the first segment of the names that they are about.
type ruleSet struct {
	first      map[string][]compiledRule
	others     []compiledRule     // whose names differ in their first segment
	literal    map[string]Actions // of rules without wildcards, by name
	under      map[string]Actions // of rules for a name and all below it, by that
	everything bool               // there is a rule for **
}

type compiledRule struct {
	actions Actions
	glob    match.Glob
}

func compileRules(rules []Rule) (set ruleSet, err error) {
	for _, r := range rules {
		if err := set.add(r); err != nil {
			return ruleSet{}, err
		}
	}
	return set, nil
}

func (s *ruleSet) add(r Rule) error {
	glob, err := match.Compile(r.Repository)
	if err != nil {
		return fmt.Errorf("%.80q: %w", r.Repository, err)
	}
	s.everything = s.everything || r.Repository == "**"
	if name, ok := glob.Literal(); ok {
		s.literal = also(s.literal, name, r.Actions)
		return nil
	}
	if name, ok := glob.Under(); ok {
		s.under = also(s.under, name, r.Actions)
		return nil
	}
	rule := compiledRule{r.Actions, glob}
	segment := glob.FirstSegment()
	if segment == "" {
		s.others = append(s.others, rule)
		return nil
	}
	if s.first == nil {
		s.first = map[string][]compiledRule{}
	}
	s.first[segment] = append(s.first[segment], rule)
	return nil
}

func also(m map[string]Actions, name string, more Actions) map[string]Actions {
	if m == nil {
		m = map[string]Actions{}
	}
	m[name] |= more
	return m
}

// cost is what comparing a name with the rules may take, at most.
func (s ruleSet) cost() (cost int) {
	cost = s.costIn("")
	for segment := range s.first {
		cost = max(cost, s.costIn(segment))
	}
	return cost
}

// costIn is cost for names that begin with a segment.
func (s ruleSet) costIn(segment string) int {
	var globs []match.Glob
	for _, rules := range [][]compiledRule{s.first[segment], s.others} {
		for _, r := range rules {
			globs = append(globs, r.glob)
		}
	}
	return match.Cost(globs)
}

func compileGrants(grants []db.Grant) (set ruleSet, err error) {
	for _, g := range grants {
		if err := set.add(Rule{Actions(g.Actions), g.Repository}); err != nil {
			return ruleSet{}, err
		}
	}
	return set, nil
}

// allowed is what the rules allow in a repository.
func (s ruleSet) allowed(repo db.RepoName) (actions Actions) {
	segment, _, _ := strings.Cut(string(repo), "/")
	actions = s.literal[string(repo)]
	for name, more := string(repo), len(s.under) > 0; more; {
		actions |= s.under[name]
		slash := strings.LastIndexByte(name, '/')
		if more = slash > 0; more {
			name = name[:slash]
		}
	}
	for _, rules := range [][]compiledRule{s.first[segment], s.others} {
		for _, r := range rules {
			if actions|r.actions != actions && r.glob.Match(string(repo)) {
				actions |= r.actions
			}
		}
	}
	return actions
}

// CostlyRules are rules that cost more than new ones may: grants, by grantee, or the scopes of a token.
type CostlyRules struct {
	Owner string `json:"owner"` // of the form alice, @team, alice/token, or "alice and groups" for all that alice may
	Rules string `json:"rules"` // the first ones
	Cost  int    `json:"cost"`
	Limit int    `json:"limit"`
}

// eachMember calls fn for the grants of each user who is in groups, their own and those of the groups, between transactions.
func (a *Authority) eachMember(ctx context.Context, fn func(owner string, rules []Rule) error) error {
	const batch = 1000
	for after, users := "", make([]db.User, batch); len(users) == batch; {
		err := a.db.View(ctx, func(tx *db.Tx) (err error) { users, err = tx.Users(after, batch); return err })
		if err != nil {
			return err
		}
		for _, u := range users {
			after = u.Name
			var grants []db.Grant
			if err := a.db.View(ctx, func(tx *db.Tx) (err error) { grants, err = tx.GrantsOf(u); return err }); err != nil {
				return err
			}
			var rules []Rule
			groups := false
			for _, g := range grants {
				groups = groups || g.Grantee != u.Name
				rules = append(rules, Rule{Pull, g.Repository})
			}
			if !groups {
				continue
			}
			if err := fn(u.Name+" and groups", rules); err != nil {
				return err
			}
		}
	}
	return nil
}

// CostlyRules returns up to limit of the costly rules whose owner comes after another one. It reads all rules.
func (a *Authority) CostlyRules(ctx context.Context, after string, limit int) (list []CostlyRules, err error) {
	err = a.eachRules(ctx, func(owner string, rules []Rule) error {
		set, err := compileRules(rules)
		if err != nil {
			return err
		}
		if cost := set.cost(); cost > maxCost && owner > after {
			list = append(list, CostlyRules{owner, formatRules(rules[:min(len(rules), 3)]), cost, maxCost})
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, failed(err)
	}
	slices.SortFunc(list, func(a, b CostlyRules) int { return strings.Compare(a.Owner, b.Owner) })
	return list[:min(len(list), limit)], nil
}

// eachRules calls fn for the grants of each grantee and the scopes of each token, between transactions.
func (a *Authority) eachRules(ctx context.Context, fn func(owner string, rules []Rule) error) error {
	const batch = 1000
	var grantee string
	var rules []Rule
	for after, list := (Grant{}), make([]Grant, batch); len(list) == batch; {
		var err error
		if list, err = a.Grants(ctx, "", after, batch); err != nil {
			return err
		}
		for _, g := range list {
			if after = g; g.Grantee != grantee {
				if err := fn(grantee, rules); err != nil {
					return err
				}
				grantee, rules = g.Grantee, nil
			}
			rules = append(rules, Rule{Pull, g.Repository})
		}
	}
	if err := fn(grantee, rules); err != nil {
		return err
	}
	if err := a.eachMember(ctx, fn); err != nil {
		return err
	}
	for after, list := (APIToken{}), make([]APIToken, batch); len(list) == batch; {
		var err error
		if list, err = a.APITokens(ctx, "", after, batch); err != nil {
			return err
		}
		for _, t := range list {
			after, rules = t, nil
			for field := range strings.FieldsSeq(string(t.Scopes)) {
				r, err := readRule(field)
				if err != nil {
					return err
				}
				rules = append(rules, r)
			}
			if err := fn(t.User+"/"+t.Name, rules); err != nil {
				return err
			}
		}
	}
	return nil
}
