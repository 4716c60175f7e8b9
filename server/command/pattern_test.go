package command

import (
	"math/rand/v2"
	"slices"
	"testing"

	"registry/server/registry"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/google/go-cmp/cmp"
)

const hash = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParsePattern(t *testing.T) {
	for arg, want := range map[string]pattern{
		"app":                   {repo: "app"},
		"team/app:v1.2_3-x":     {repo: "team/app", tag: "v1.2_3-x"},
		"team/app@" + hash:      {repo: "team/app", digest: hash},
		"team/**":               {repo: "team/**"},
		"team/*:v1.*":           {repo: "team/*", tag: "v1.*"},
		"{a,b}/c:{v1,v2}":       {repo: "{a,b}/c", tag: "{v1,v2}"},
		"**@" + hash:            {repo: "**", digest: hash},
		"app:[0-9]*":            {repo: "app", tag: "[0-9]*"},
		"a/b__c/d--e:UPPERCASE": {repo: "a/b__c/d--e", tag: "UPPERCASE"},
	} {
		got, err := parsePattern(arg)
		if err != nil || got != want {
			t.Errorf("parsePattern(%q) = %+v, %v; want %+v", arg, got, err, want)
		}
		if got.String() != arg {
			t.Errorf("parsePattern(%q).String() = %q", arg, got.String())
		}
	}
	for _, arg := range []string{
		"", ":", "@", "app:", ":v1", "App", "app/", "/app", "a//b", "../a", "app:v1:v2", "app:v/1", "app@v1", "app:v1@" + hash,
		"localhost:5000/app", "localhost:5000/app:v1", "registry.example/App", "app:.v1", "app:[v", "a[", "app@sha256:abc", "app v1", "app\n",
		"app@md5:d41d8cd98f00b204e9800998ecf8427e",
	} {
		if got, err := parsePattern(arg); ExitCode(err) != ExitUsage {
			t.Errorf("parsePattern(%q) = %+v, %v; want a usage error", arg, got, err)
		}
	}
}

// What is parsed prints as what was parsed, and means the same again.
func FuzzParsePattern(f *testing.F) {
	for _, s := range []string{"app", "team/app:v1", "a@" + hash, "team/**:v*", "{a,b}:c", "h:5/a:b", `\a:b`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		p, err := parsePattern(arg)
		if err != nil {
			return
		}
		again, err := parsePattern(p.String())
		if err != nil || again != p || p.String() != arg {
			t.Fatalf("%q is %+v, printed %q, is %+v, %v", arg, p, p, again, err)
		}
	})
}

// paged lists names, seven a page, and counts those it gave.
func paged(names []string, read *int) func(registry.Page) ([]string, bool, error) {
	return func(p registry.Page) ([]string, bool, error) {
		from, found := slices.BinarySearch(names, p.Last)
		if found {
			from++
		}
		page := names[from:min(from+7, len(names))]
		*read += len(page)
		return page, from+7 < len(names), nil
	}
}

// matching reads only a part of the list, and must find what reading all of it would.
func TestMatching(t *testing.T) {
	const letters = "ab-./z"
	var names []string
	for range 3000 {
		name := make([]byte, 1+rand.IntN(6))
		for i := range name {
			name[i] = letters[rand.IntN(len(letters))]
		}
		names = append(names, string(name))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	read := 0
	list := paged(names, &read)
	for _, glob := range []string{"*", "**", "a*", "a/*", "a/**/b*", "ab", "z", "-*", ".", "z/z", "{a,b}*", "?", "[a-b]/*", "zz*", "**/b"} {
		var got, want []string
		for name, err := range matching(glob, list, sameString) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, name)
		}
		for _, name := range names {
			if doublestar.MatchUnvalidated(glob, name) {
				want = append(want, name)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", glob, d)
		}
	}
	read = 0
	for range matching("b.a", list, sameString) {
	}
	if read > 7 {
		t.Errorf("an exact name read %d entries", read)
	}
}

func TestMatchingUnder(t *testing.T) {
	names := []string{"team", "team-b/x", "team/a", "team/a/b"}
	for _, glob := range []string{"team/**", "{team,none}/**"} {
		var got []string
		for name := range matching(glob, paged(names, new(int)), sameString) {
			got = append(got, name)
		}
		if d := cmp.Diff([]string{"team/a", "team/a/b"}, got); d != "" {
			t.Errorf("%s: %s", glob, d)
		}
	}
}
