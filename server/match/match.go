// Package match compares names of repositories and tags with globs, in time that grows with the length of the name and
// no more than that.
//
// A glob means what it means to doublestar: * and ? stay within a segment, ** is any number of segments, [a-z] and
// {a,b} choose. That package tries all combinations of braces one after the other. Here a glob is translated once to a
// regular expression, which package regexp matches in linear time. doublestar does not find every way to match some globs
// (see translator.odd); those are left to it, if they have few combinations of braces, and else match nothing.
//
// Names are not empty, and have no slash at an end nor two in a row.
package match

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

// Glob is a compiled glob. The zero Glob matches nothing.
type Glob struct {
	text    string
	prefix  string // of every name that matches
	bounded bool   // a segment of every name ends with the prefix
	rest    string // of the text, behind the prefix
	matches func(rest string) bool
	cost    int
	// undecided says that it would take too long to find out what else matches.
	undecided bool
}

// ErrMalformed says that a text is no glob.
var ErrMalformed = errors.New("malformed glob")

// MaxLength is the most of a glob, in bytes.
const MaxLength = 512

// maxCombinations bounds how many combinations of braces doublestar tries.
const maxCombinations = 256

// Compile compiles a glob of up to MaxLength bytes. ErrMalformed.
func Compile(text string) (Glob, error) {
	if text == "" || len(text) > MaxLength || !doublestar.ValidatePattern(text) {
		return Glob{}, ErrMalformed
	}
	g := Glob{text: text}
	prefix, rest := literalPrefix(text)
	g.prefix, g.rest, g.bounded = prefix, rest, rest == "" || rest[0] == '/'
	t := translator{text: rest, begins: prefix == "" || strings.HasSuffix(prefix, "/")}
	expression, combinations := t.sequence(false)
	switch {
	case rest == "":
		g.matches = func(rest string) bool { return rest == "" }
	case rest == "/**":
		g.matches = func(rest string) bool { return rest == "" || rest[0] == '/' }
	case rest == "**" && t.wasDoublestar:
		g.matches = func(string) bool { return true }
	case rest == "/*":
		g.cost = 1
		g.matches = func(rest string) bool { return len(rest) > 1 && rest[0] == '/' && !strings.Contains(rest[1:], "/") }
	case rest == "*":
		g.cost = 1
		g.matches = func(rest string) bool { return !strings.Contains(rest, "/") }
	case !t.odd:
		return g, g.compile(expression)
	case combinations <= maxCombinations:
		g.cost = combinations * len(rest)
		g.matches = func(rest string) bool { return doublestar.MatchUnvalidated(text, prefix+rest) }
	default: // new rules are refused for this cost
		g.cost = combinations * len(rest)
		g.undecided = true
	}
	return g, nil
}

// compile lets the glob match what an expression does behind the prefix.
func (g *Glob) compile(expression string) error {
	expression = `(?s)\A(?:` + expression + `)\z`
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return err
	}
	compiled, err := regexp.Compile(expression)
	if err != nil {
		return err
	}
	g.matches, g.cost = compiled.MatchString, len(program.Inst)
	return nil
}

// String returns the text of the glob.
func (g Glob) String() string { return g.text }

// Cost is what comparing a name with the glob may take, in steps for each of its characters: the length of the program
// that it was compiled to. What stands before the first wildcard, and a ** behind it, cost nothing: they are looked at once.
func (g Glob) Cost() int { return g.cost }

// Cost is what comparing any one name with all of some globs may take: only those are more than looked at whose prefixes
// the name begins with.
func Cost(globs []Glob) (most int) {
	globs = slices.Clone(globs)
	slices.SortFunc(globs, func(a, b Glob) int { return strings.Compare(a.prefix, b.prefix) })
	var chain []Glob // each has the prefix of the one before it, too
	sum := 0
	for _, g := range globs {
		for n := len(chain); n > 0 && !strings.HasPrefix(g.prefix, chain[n-1].prefix); n-- {
			sum -= chain[n-1].cost
			chain = chain[:n-1]
		}
		chain, sum = append(chain, g), sum+g.cost
		most = max(most, sum)
	}
	return most
}

// FirstSegment returns the segment that every matching name begins with, "" if they differ in it.
func (g Glob) FirstSegment() string {
	segment, _, more := strings.Cut(g.prefix, "/")
	if more || g.bounded {
		return segment
	}
	return ""
}

// Literal returns the only name that matches, if the glob has no wildcards.
func (g Glob) Literal() (name string, ok bool) { return g.prefix, g.text != "" && g.rest == "" }

// Under returns the name that matches together with all below it, if the glob is that name and /**.
func (g Glob) Under() (name string, ok bool) { return g.prefix, g.rest == "/**" }

// Match says whether a name matches.
func (g Glob) Match(name string) bool {
	rest, ok := strings.CutPrefix(name, g.prefix)
	return ok && g.matches != nil && g.matches(rest)
}

// MayMatch is Match for rules that take something away: where it would take too long to find out, the name matches.
func (g Glob) MayMatch(name string) bool {
	return g.Match(name) || g.undecided && strings.HasPrefix(name, g.prefix)
}

// literalPrefix cuts off the characters that a glob begins with. A slash at their end stays: a name may end before it.
func literalPrefix(text string) (prefix, rest string) {
	var p strings.Builder
	for rest = text; rest != "" && !strings.ContainsRune(`*?[{`, rune(rest[0])); {
		if rest[0] == '/' && (len(rest) == 1 || strings.ContainsRune(`*?[{`, rune(rest[1]))) {
			return p.String(), rest
		}
		r, size := literal(rest)
		if r == utf8.RuneError {
			return p.String(), rest
		}
		p.WriteRune(r)
		rest = rest[size:]
	}
	return p.String(), rest
}

// literal reads a character, with a backslash before it or not.
func literal(text string) (r rune, size int) {
	if text[0] == '\\' {
		r, size = utf8.DecodeRuneInString(text[1:])
		return r, size + 1
	}
	return utf8.DecodeRuneInString(text)
}

// translator writes a glob as a regular expression.
type translator struct {
	text          string
	at            int
	begins        bool // a segment begins here
	wasDoublestar bool // the last star began a segment

	// odd is set for globs that doublestar may not try every way to match: those that end in a slash, have three stars in a
	// row, a class with a slash, invalid UTF-8, or braces with an alternative that has a star, nothing, or a slash at its
	// end. What is written of them is of no use.
	odd bool
}

// sequence reads up to the end, or up to the comma or brace that ends an alternative. It counts the combinations of braces.
func (t *translator) sequence(inBraces bool) (expression string, combinations int) {
	var out strings.Builder
	combinations = 1
	start := t.at
	for t.at < len(t.text) && !(inBraces && (t.text[t.at] == ',' || t.text[t.at] == '}')) {
		switch c := t.text[t.at]; {
		case c == '*':
			t.odd = t.odd || inBraces
			out.WriteString(t.star())
		case c == '?':
			t.at, t.begins = t.at+1, false
			out.WriteString("[^/]")
		case c == '[':
			out.WriteString(t.class())
		case c == '{':
			alternatives, n := t.braces()
			out.WriteString(alternatives)
			combinations = min(combinations*n, 1<<20)
		case t.text[t.at:] == "/**":
			t.at = len(t.text)
			out.WriteString("(?:/.*)?")
		default:
			r, size := literal(t.text[t.at:])
			t.at, t.begins = t.at+size, r == '/'
			t.odd = t.odd || r == utf8.RuneError
			out.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	t.odd = t.odd || t.at > start && t.text[t.at-1] == '/' || inBraces && t.at == start
	return out.String(), combinations
}

// star reads one star or two. A name must go on where only /** is left behind them.
func (t *translator) star() string {
	stars := len(t.text[t.at:]) - len(strings.TrimLeft(t.text[t.at:], "*"))
	t.at += stars
	rest := t.text[t.at:]
	t.odd = t.odd || stars > 2
	t.wasDoublestar = stars == 2 && t.begins
	t.begins = false
	switch {
	case t.wasDoublestar && rest == "":
		return ".*"
	case t.wasDoublestar && rest[0] == '/':
		t.at, t.begins = t.at+1, true
		return "(?:.*/)?"
	case rest == "/**":
		t.at = len(t.text)
		return "(?:[^/]+|[^/]*/.*)"
	}
	return "[^/]*"
}

// braces reads alternatives.
func (t *translator) braces() (expression string, combinations int) {
	var alternatives []string
	begins := t.begins
	for end := false; !end; {
		t.at, t.begins = t.at+1, begins // behind the brace or comma
		alternative, n := t.sequence(true)
		alternatives, combinations = append(alternatives, alternative), min(combinations+n, 1<<20)
		end = t.text[t.at] == '}'
	}
	t.at, t.begins = t.at+1, false
	return "(?:" + strings.Join(alternatives, "|") + ")", combinations
}

// class reads a class of characters.
func (t *translator) class() string {
	inside := t.text[t.at+1:]
	negated := inside[0] == '!' || inside[0] == '^'
	if negated {
		inside = inside[1:]
	}
	var out strings.Builder
	slash := false
	for inside[0] != ']' {
		low, size := literal(inside)
		high := low
		if inside = inside[size:]; inside[0] == '-' && inside[1] != ']' {
			high, size = literal(inside[1:])
			inside = inside[1+size:]
		}
		slash = slash || low <= '/' && '/' <= high
		t.odd = t.odd || low == utf8.RuneError || high == utf8.RuneError || low > high
		fmt.Fprintf(&out, `\x{%x}-\x{%x}`, low, high)
	}
	t.odd = t.odd || slash != negated
	t.at, t.begins = len(t.text)-len(inside)+1, false
	if negated {
		return "[^" + out.String() + "]"
	}
	return "[" + out.String() + "]"
}
