package auth

import (
	"fmt"
	"strings"
	"testing"

	"registry/db"
)

// dearest is the most expensive rule that can be written behind a prefix.
func dearest(t testing.TB, prefix string) Rule {
	t.Helper()
	for n := maxCost; n > 0; n-- {
		if r, err := ParseRule("push:" + prefix + "**/" + strings.Repeat("*a", min(n, 200)) + "z"); err == nil {
			return r
		}
	}
	t.Fatal("there is none")
	return Rule{}
}

// A name is compared with all that a caller has: the token's rules, their own grants, and those of their groups. With the
// most expensive rules that can be written this takes less than a millisecond.
func BenchmarkMostExpensiveRules(b *testing.B) {
	name := db.RepoName("a/" + strings.Repeat("a", 253))
	grants, err := compileRules([]Rule{dearest(b, ""), dearest(b, "a/")}) // anywhere, and in a namespace
	if err != nil {
		b.Fatal(err)
	}
	bounds, err := compileRules([]Rule{dearest(b, "a/"), {Pull, "**"}})
	if err != nil {
		b.Fatal(err)
	}
	c := Caller{Name: "alice", LoggedIn: true, account: &accountState{User: db.User{Name: "alice"}, grants: grants}, bounded: true, bounds: bounds}
	b.ReportMetric(float64(grants.cost()+bounds.cost()), "cost")
	for b.Loop() {
		if may, err := (&Authority{}).May(c, name, Pull, func() (bool, error) { return false, nil }); may || err != nil {
			b.Fatal(may, err)
		}
	}
}

// With many groups it takes no longer: what costs something is bounded for all of them together, and a name is looked up in
// what costs nothing.
func BenchmarkManyGroups(b *testing.B) {
	name := db.RepoName("a/" + strings.Repeat("a", 253))
	rules := []Rule{dearest(b, ""), dearest(b, "a/")}
	for group := range 500 {
		for i := range 10 {
			rules = append(rules, Rule{Pull, fmt.Sprintf("a/%d-%d", group, i)}, Rule{Pull, fmt.Sprintf("a/%d-%d/**", group, i)})
		}
	}
	grants, err := compileRules(rules)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if grants.allowed(name) != 0 {
			b.Fatal("allowed")
		}
	}
}
