package match

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
)

var globs = []string{
	"a", "a/b", "team/**", "team/*", "**", "*", "*/*", "**/app", "a/**/b", "a/**/**", "**/**", "a**", "a***", "***", "a*/**", "a/**/", "/**", "**/", "/**/",
	"{a,b}/**", "{*,a}*/b", "{**,a}/b", "a/{**,x}", "**{/a,b}", "x*{,a}", "{,}{,}a", "{a,{b,c}}/d", "{a,b/c}/**", "{,a/}b", "{**}", "{*}{*}/a", "a/{*}*", "*{*,a}/b",
	"[a-c]x", "[!a]", "[^a]/b", "[a-]", "[\\]]", "[a\\-c]", "?", "a?c", "??", `a\*`, `a\/b`, `a/**\/b`, `\{a`, `a,b`, "{[}],a}", "[{]", "a{b", "ä?", "é", "[é]x",
	"*a*a*a*a", "a/*/c", "a/*b*/**/c*", "{a,b}{c,d}{e,f}", "{a*,b}*{c,}",
}

var names = []string{
	"", "a", "b", "x", "a/b", "a/b/c", "team", "team/a", "team/a/b", "app", "x/app", "x/y/app", "ab", "abc", "aa", "a/", "/", "/a", "ac", "ad", "bce", "adf", "xa", "xb", "a*",
	"a,b", "{a", "}", "[", "]", "c", "-", "ä", "äx", "éx", "a/x/b", "a/x/y/b", "aaaaaaaa", "a/b/", "b/d", "b/c/x", "aca", "\xff", "a\xff",
}

// A glob means what doublestar says that it means.
func TestMeaning(t *testing.T) {
	for _, text := range globs {
		compare(t, text, names)
	}
}

func compare(t *testing.T, text string, names []string) {
	t.Helper()
	g, err := Compile(text)
	if (err == nil) != (text != "" && len(text) <= MaxLength && doublestar.ValidatePattern(text)) {
		t.Errorf("%q: %v", text, err)
	}
	if err != nil {
		return
	}
	for _, name := range names {
		if !isName(name) {
			continue
		}
		if want := doublestar.MatchUnvalidated(text, name); g.Match(name) != want {
			t.Errorf("%q matches %q: %v, want %v", text, name, !want, want)
		}
	}
}

// isName says whether a text can be the name of a repository, as far as its slashes go.
func isName(text string) bool { return !slices.Contains(strings.Split(text, "/"), "") }

func TestRandomMeanings(t *testing.T) {
	parts := []string{"a", "b", "/", "*", "**", "/**/", "/**", "**/", "?", "{a,b}", "{", ",", "}", "[ab]", "{*,a}", "{**,b/}", "[!a]", "[/a]", "***", "{,a}", `\*`, "-"}
	r := rand.New(rand.NewPCG(1, 2))
	valid := 0
	for range 60_000 {
		text, name := "", ""
		for range 1 + r.IntN(7) {
			text += parts[r.IntN(len(parts))]
		}
		if strings.Count(text, "{") > 6 || !doublestar.ValidatePattern(text) {
			continue
		}
		valid++
		for range 12 {
			name += []string{"a", "b", "ab/", "a/", "ab", "-a/"}[r.IntN(6)]
			compare(t, text, []string{name})
		}
	}
	if valid < 4_000 {
		t.Error("too few globs are valid:", valid)
	}
}

func FuzzMatch(f *testing.F) {
	for i, text := range globs {
		f.Add(text, names[i%len(names)])
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		if len(text) > 40 || len(name) > 40 || strings.Count(text, "{") > 4 || strings.Count(text, ",") > 8 {
			return
		}
		compare(t, text, []string{name})
	})
}

func TestCost(t *testing.T) {
	for text, most := range map[string]int{
		"team": 0, "team/**": 0, "team/a/**": 0, "**": 0, "team/app-*": 1, "team*": 1, "team/*": 1, "team/*-x": 10, "*/app": 10, "**/app": 11, "{a,b}/{c,d}": 8, "{a,*}/b": 14,
	} {
		if g, err := Compile(text); err != nil || g.Cost() > most || g.Cost() < most/2 {
			t.Errorf("%q costs %d, want %d or little less; %v", text, g.Cost(), most, err)
		}
	}
	for _, c := range []struct {
		globs []string
		most  int
	}{
		{nil, 0}, {[]string{"a*", "b*", "c*"}, 1}, {[]string{"abc*", "ab*", "a*", "b*", "a/**"}, 3}, {[]string{"a*", "a*"}, 2}, {[]string{"x*", "*", "xa*", "xb*"}, 3},
	} {
		var globs []Glob
		for _, text := range c.globs {
			g, err := Compile(text)
			if err != nil {
				t.Fatal(err)
			}
			globs = append(globs, g)
		}
		if got := Cost(globs); got != c.most {
			t.Errorf("%q cost %d, want %d", c.globs, got, c.most)
		}
	}
}

func TestFirstSegment(t *testing.T) {
	for text, want := range map[string]string{
		"team/**": "team", "team": "team", "team/a": "team", "team*": "", "team*/x": "", "**": "", "*/a": "", "{a,b}/x": "", "team/{a,b}": "team", "te{am,}/x": "", `team\/x`: "team",
		`te\am/**`: "team", "team?": "", "team/": "team", "team[a]/b": "",
	} {
		g, err := Compile(text)
		if got := g.FirstSegment(); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

// hostile are globs that doublestar works on for seconds.
var hostile = []string{
	"{" + strings.Repeat("*,", 110) + "*}{" + strings.Repeat("*,", 110) + "*}z",
	strings.Repeat("{*a,a*}", 70) + "z",
	strings.Repeat("*a", 250) + "z",
	strings.Repeat("**/", 150) + "z",
	strings.Repeat("{a,", 120) + strings.Repeat("}", 120),
}

// The work for a name is bounded by its length and the cost of the glob, whatever the glob: that is the length of a
// program, and where doublestar would be asked too much nothing matches.
func TestHostileGlobs(t *testing.T) {
	name := strings.Repeat("a", 255)
	for _, text := range hostile {
		g, err := Compile(text)
		if err != nil {
			t.Fatalf("%.40s: %v", text, err)
		}
		if g.Match(name) {
			t.Errorf("%.40s matches", text)
		}
		if refused := g.Cost() > 10_000; refused != strings.Contains(text, "{") || !refused && g.Cost() > 4*len(text) {
			t.Errorf("%.40s: a cost of %d for %d bytes", text, g.Cost(), len(text))
		}
	}
}

func BenchmarkHostile(b *testing.B) {
	name := strings.Repeat("a", 255)
	for _, text := range hostile {
		g, err := Compile(text)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(text[:8], func(b *testing.B) {
			for b.Loop() {
				g.Match(name)
			}
			b.ReportMetric(float64(g.Cost()), "cost")
		})
	}
}

// A glob of which nobody can say in time what it matches grants nothing, and protects everything that it may mean.
func TestUndecided(t *testing.T) {
	g, err := Compile("v{" + strings.Repeat("*,", 110) + "*}{" + strings.Repeat("*,", 110) + "*}{a,}z")
	if err != nil {
		t.Fatal(err)
	}
	for name, may := range map[string]bool{"v1z": true, "v1": true, "w1z": false} {
		if g.Match(name) || g.MayMatch(name) != may {
			t.Errorf("%s: matches %v, may match %v", name, g.Match(name), g.MayMatch(name))
		}
	}
	plain, err := Compile("v*")
	if err != nil || !plain.MayMatch("v1") || plain.MayMatch("w1") {
		t.Error("what can be decided is not", err)
	}
}
