package auth

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"registry/db"
)

func TestUserNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "a1": true, "a-b.c_d__e": true, strings.Repeat("a", 64): true,
		"": false, "A": false, "a/b": false, "a..b": false, "-a": false, "a-": false, "@a": false, "a:b": false, "a b": false, "é": false,
		"a\x00": false, "a\n": false, "*": false, strings.Repeat("a", 65): false,
	} {
		if err := CheckUserName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range reserved {
		if checkNewName(name) == nil {
			t.Error(name, "can be taken")
		}
	}
}

func TestActions(t *testing.T) {
	for text, want := range map[string]struct {
		actions Actions
		back    string
	}{
		"pull": {Pull, "pull"}, "create": {Create | Pull, "create"}, "push": {Push | Create | Pull, "push"}, "delete": {Delete | Pull, "delete"},
		"admin": {All, "admin"}, "pull,push": {Push | Create | Pull, "push"}, "create,delete": {Create | Delete | Pull, "create,delete"},
		"delete,push": {Push | Create | Delete | Pull, "push,delete"}, "pull,admin": {All, "admin"}, "pull,pull": {Pull, "pull"},
	} {
		got, err := ParseActions(text)
		if err != nil || got != want.actions || got.String() != want.back {
			t.Errorf("%q: %b %v, back %q", text, got, err, got)
		}
	}
	for _, text := range []string{"", "Pull", "pull,", ",pull", "*", "pull push", "pull\x00"} {
		if got, err := ParseActions(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestGlobs(t *testing.T) {
	for _, x := range []struct {
		glob, match, not string
	}{
		{"**", "a a/b a/b/c", ""}, {"team/**", "team team/a team/a/b", "teams teams/a xteam/a a/team"}, {"team/*", "team/a", "team team/a/b teams/a"},
		{"team*", "team teams", "team/a"}, {"a", "a", "a/b b aa"}, {"a/{b,c}/*", "a/b/x a/c/x", "a/d/x a/b a/b/x/y"}, {"a[0-9]", "a1", "aa a"},
	} {
		if err := CheckGlob(x.glob); err != nil {
			t.Error(err)
		}
		rules, err := compileRules([]Rule{{Pull, x.glob}})
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.FieldsSeq(x.match) {
			if rules.allowed(db.RepoName(name)) != Pull {
				t.Errorf("%s does not match %s", x.glob, name)
			}
		}
		for name := range strings.FieldsSeq(x.not) {
			if rules.allowed(db.RepoName(name)) != 0 {
				t.Errorf("%s matches %s", x.glob, name)
			}
		}
	}
	for _, glob := range []string{"", "[", "{a", "a b", "a\x00", "a\n", "\\", strings.Repeat("a", 513)} {
		if CheckGlob(glob) == nil {
			t.Errorf("%q is taken", glob)
		}
	}
}

// Everybody may write globs for tokens of their own: what costs others much is refused, and what was stored before keeps
// its meaning.
func TestCostlyGlobs(t *testing.T) {
	name := db.RepoName(strings.Repeat("a", 255))
	for glob, cheap := range map[string]bool{
		"team/**": true, "{a,b}/{c,d}-*": true, "{" + strings.Repeat("*,", 110) + "*}{" + strings.Repeat("*,", 110) + "*}z": false,
		strings.Repeat("a", 200) + "*":      true, // what every match begins with costs nothing
		strings.Repeat("{*a,a*}", 60) + "z": false, strings.Repeat("*a", 200): false, strings.Repeat("**/a/", 90) + "b": false, "*" + strings.Repeat("a", 200): true,
	} {
		_, err := ParseRule("pull:" + glob)
		if (err == nil) != cheap {
			t.Errorf("%.40q: %v", glob, err)
		}
		set, err := readRules("pull:" + glob)
		if want := strings.HasSuffix(glob, "a*") || strings.HasPrefix(glob, "*") && !strings.HasSuffix(glob, "b"); err != nil || (set.allowed(name) != 0) != want {
			t.Errorf("%.40q stored: %v", glob, err)
		}
	}
	apart, together := "", ""
	for i := range maxRules {
		apart += fmt.Sprintf("pull:team%d/*-x ", i)
		together += fmt.Sprintf("pull:team/*-x%d ", i)
	}
	if _, err := ParseRules(apart); err != nil {
		t.Error("rules of which a name is compared with one:", err)
	}
	for _, rules := range []string{together, strings.Repeat("pull:** ", maxRules+1)} {
		if _, err := ParseRules(rules); err == nil {
			t.Errorf("%.40s… is taken", rules)
		}
	}
}

func TestOwns(t *testing.T) {
	for repo, want := range map[db.RepoName]bool{"bob": true, "bob/a": true, "bob/a/b": true, "bobby": false, "bob-a": false, "a/bob": false, "bo": false} {
		if owns("bob", repo) != want {
			t.Error(repo)
		}
	}
}

func FuzzParseRules(f *testing.F) {
	for _, s := range []string{"pull:**", "pull,push:team/** delete:a", "admin:*", "push:a/{b,c}/[d-f]?", "pull:", ":a", "x:a", "pull:a:b", " pull:a\u00a0create:b ", "create,delete:\\*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := ParseRules(text)
		if err != nil {
			return
		}
		back, err := ParseRules(formatRules(rules))
		if err != nil || !slices.Equal(back, rules) {
			t.Errorf("%q became %q: %v, %v", text, formatRules(rules), back, err)
		}
		for _, r := range rules {
			if r.Actions&^All != 0 || !r.Actions.has(Pull) || !strings.Contains(text, r.Repository) {
				t.Errorf("%q gives %v", text, r)
			}
		}
		set, err := compileRules(rules)
		if err != nil {
			t.Fatal(err)
		}
		set.allowed("aa/aaa/a")
	})
}

func TestParseScopes(t *testing.T) {
	for text, want := range map[string]string{
		"repository:a/b:pull":                                   "repository:a/b:pull",
		"repository:a:push,pull repository:a:delete":            "repository:a:push,pull,delete",
		"repository:a:pull,pull,x":                              "repository:a:pull",
		"repository:a:*":                                        "repository:a:*",
		"registry:catalog:*":                                    "registry:catalog:*",
		"registry:management:*":                                 "registry:management:*",
		"repository:*:pull":                                     "",
		"repository:a/../b:pull":                                "",
		"repository:A:pull":                                     "",
		"Repository:a:pull":                                     "",
		"repository:a:Pull":                                     "",
		"repository:a:":                                         "",
		"repository:a":                                          "",
		"repository:host:5000/a:pull":                           "",
		"repository(plugin):a/b:pull,push":                      "repository:a/b:pull,push",
		"repository(plugin):a:pull repository:a:push":           "repository:a:pull,push",
		"repository(plugin:a:pull":                              "",
		"repository():a:pull":                                   "",
		"repository(Plug in):a:pull":                            "",
		"(plugin):a:pull":                                       "",
		"registry:other:*":                                      "",
		"repository:a:pull:push":                                "",
		strings.Repeat("x", 5000) + " repository:a:pull":        "repository:a:pull",
		"registry:management:pull registry:catalog:push":        "",
		"repository:a/b:pull\trepository:b:push repository::::": "repository:a/b:pull repository:b:push",
	} {
		var got []string
		for _, a := range ParseScopes([]string{text}) {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%.60q: %q, want %q", text, got, want)
		}
	}
	var many []string
	for i := range 300 {
		many = append(many, "repository:a"+strings.Repeat("b", i%30)+":pull")
	}
	if got := ParseScopes(many); len(got) > maxScopes {
		t.Error(len(got))
	}
}

func FuzzParseScopes(f *testing.F) {
	for _, s := range []string{"repository:a/b:pull,push", "registry:catalog:*", "repository:*:*", "repository:a:pull repository:a:push", "repository:a/../b:pull", "a:b:c:d", ":::", "repository:a:pull\x00"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		got := ParseScopes([]string{one, two})
		var texts []string
		for _, a := range got {
			texts = append(texts, a.String())
			asked := ""
			for _, field := range strings.Fields(one + " " + two) {
				kind, rest, _ := strings.Cut(field, ":")
				kind, _, _ = strings.Cut(kind, "(")
				if names, ok := strings.CutPrefix(kind+":"+rest, a.Type+":"+a.Name+":"); ok {
					asked += "," + names + ","
				}
			}
			for _, action := range a.Actions {
				if !strings.Contains(asked, ","+action+",") {
					t.Errorf("%q %q give %s, of which %s was not asked for", one, two, a, action)
				}
			}
			if a.bits()&Admin != 0 || a.Type == typeRepository && strings.ContainsAny(a.Name, "*.?[{") && strings.Contains(a.Name, "..") {
				t.Errorf("%q %q give %s", one, two, a)
			}
		}
		back := ParseScopes(texts)
		if !slices.EqualFunc(back, got, func(a, b Access) bool { return a.String() == b.String() }) {
			t.Errorf("%q %q became %q: %v", one, two, texts, back)
		}
	})
}
