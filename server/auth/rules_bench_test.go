package auth

import (
	"strings"
	"testing"

	"registry/db"
)

// A name is compared with all that a caller has: the token's rules, their own grants, and those of their groups. With the
// most expensive rules that can be written this takes less than a millisecond.
func BenchmarkMostExpensiveRules(b *testing.B) {
	name := db.RepoName(strings.Repeat("a", 255))
	worst := func(actions string) (rules []Rule) {
		for _, glob := range []string{strings.Repeat("*a", 24) + "z", "{" + strings.Repeat("*,", 20) + "*a}" + strings.Repeat("*a", 20) + "z"} {
			r, err := ParseRule(actions + ":" + glob)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := ParseRules(formatRules(append(rules, r))); err == nil {
				rules = append(rules, r)
			}
		}
		return rules
	}
	grants, err := compileRules(append(worst("pull"), worst("push")...)) // their own, and those of a group
	if err != nil {
		b.Fatal(err)
	}
	bounds, err := compileRules(append(worst("pull"), Rule{Pull, "**"}))
	if err != nil {
		b.Fatal(err)
	}
	c := Caller{Name: "alice", LoggedIn: true, standing: &standing{User: db.User{Name: "alice"}, grants: grants}, bounded: true, bounds: bounds}
	b.ReportMetric(float64(grants.cost()+bounds.cost()), "cost")
	for b.Loop() {
		if may, err := (&Authority{}).May(c, name, Pull, func() (bool, error) { return false, nil }); may || err != nil {
			b.Fatal(may, err)
		}
	}
}
