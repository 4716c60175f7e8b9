package auth

import (
	"testing"

	"registry/db"
)

// Allows says whether a rule allows to pull from a repository.
func Allows(t *testing.T, rule string, repo db.RepoName) bool {
	set, err := readRules(rule)
	if err != nil {
		t.Fatal(err)
	}
	return set.allowed(repo).has(Pull)
}
