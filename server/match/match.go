// Package match compares names of repositories and tags with globs, in time that grows with the length of the name and
// no more than that.
//
// A glob means what it means to doublestar: * and ? stay within a segment, ** is any number of segments, [a-z] and
// {a,b} choose. That package tries the alternatives of braces one after the other, and all combinations where there are
// several. Here a glob is compiled once to an automaton that follows all of them while it reads a name once, so that
// globs that users write cost others little. It finds every way in which a name can match. doublestar gives up some: in
// globs that end in a slash, have a star or nothing in an alternative of braces, three stars in a row, or a class with a
// slash beside stars.
package match

import (
	"errors"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

// Glob is a compiled glob. The zero Glob matches nothing.
type Glob struct {
	text    string
	prefix  string // of every name that matches
	bounded bool   // a segment of every name ends with it
	states  []state
	cost    int
}

// ErrMalformed says that a text is no glob.
var ErrMalformed = errors.New("malformed glob")

// Compile compiles a glob of up to MaxLength bytes. ErrMalformed.
func Compile(text string) (Glob, error) {
	if text == "" || len(text) > MaxLength || !doublestar.ValidatePattern(text) {
		return Glob{}, ErrMalformed
	}
	first := parse(text)
	g := Glob{text: text}
	g.prefix, first = literalPrefix(first)
	g.bounded = first == nil || first.kind == literal && first.r == '/'
	c := compiler{known: map[key]int{}, empty: map[*cell]bool{}}
	c.state(first, g.prefix == "")
	g.cost = c.close()
	g.states = c.states
	return g, nil
}

// MaxLength is the most of a glob, in bytes.
const MaxLength = 512

// String returns the text of the glob.
func (g Glob) String() string { return g.text }

// Cost is what comparing a name with the glob may take, in steps for each of its characters. What stands before the first
// star, and a ** at the end, cost nothing: they are looked at once.
func (g Glob) Cost() int { return g.cost }

// FirstSegment returns the segment that every matching name begins with, "" if they differ in it.
func (g Glob) FirstSegment() string {
	segment, _, more := strings.Cut(g.prefix, "/")
	if more || g.bounded {
		return segment
	}
	return ""
}

// state is a place in the glob that a name may have led to.
type state struct {
	edges []edge
	free  []int // states that it is at the same time, as long as the name goes on: close adds their edges to its own
	ends  bool  // the name may end here
	all   bool  // whatever follows, if anything does, matches
}

// edge leads to a state by a character.
type edge struct {
	kind  kind
	r     rune
	class string // a character class, in brackets
	to    int
}

type kind uint8

const (
	isRune kind = iota
	isNotSlash
	isSlash
	isInClass
)

func (e *edge) takes(r rune) bool {
	switch e.kind {
	case isRune:
		return r == e.r
	case isNotSlash:
		return r != '/'
	case isSlash:
		return r == '/'
	}
	return doublestar.MatchUnvalidated(e.class, string(r))
}

// run is where a name has led to so far.
type run struct {
	now, next []int
	seen      []int // by state: the number of the character after which it was reached last
}

var runs = sync.Pool{New: func() any { return new(run) }}

// Match says whether a name matches.
func (g Glob) Match(name string) bool {
	rest, ok := strings.CutPrefix(name, g.prefix)
	if !ok || len(g.states) == 0 {
		return false
	}
	if rest == "" || len(g.states) == 1 && !g.states[0].all {
		return rest == "" && g.states[0].ends
	}
	r := runs.Get().(*run)
	defer runs.Put(r)
	return r.match(g.states, rest)
}

func (r *run) match(states []state, name string) bool {
	if len(r.seen) < len(states) {
		r.seen = make([]int, len(states))
	}
	clear(r.seen)
	r.now = append(r.now[:0], 0)
	for i, char := range name {
		r.next = r.next[:0]
		for _, s := range r.now {
			if states[s].all {
				return true
			}
			for e := range states[s].edges {
				if edge := &states[s].edges[e]; r.seen[edge.to] != i+1 && edge.takes(char) {
					r.seen[edge.to] = i + 1
					r.next = append(r.next, edge.to)
				}
			}
		}
		if r.now, r.next = r.next, r.now; len(r.now) == 0 {
			return false
		}
	}
	for _, s := range r.now {
		if states[s].ends {
			return true
		}
	}
	return false
}

// cell is a part of a glob: a character, a star, a class or braces, followed by the rest. What is in braces is followed by
// what follows the braces.
type cell struct {
	kind  cellKind
	r     rune
	raw   bool    // the character was written without a backslash
	class string  // in brackets
	alts  []*cell // of braces
	next  *cell   // nil: the end
}

type cellKind uint8

const (
	literal cellKind = iota
	star
	question
	class
	braces
)

// parse reads a glob that doublestar found valid.
func parse(text string) *cell {
	p := parser{text: text}
	return p.sequence(nil, false)
}

type parser struct {
	text string
	at   int
}

// sequence reads up to the end, or up to the comma or brace that ends an alternative. last follows it.
func (p *parser) sequence(last *cell, inBraces bool) *cell {
	var cells []*cell
	for p.at < len(p.text) && !(inBraces && (p.text[p.at] == ',' || p.text[p.at] == '}')) {
		cells = append(cells, p.cell())
	}
	next := last
	for i := len(cells) - 1; i >= 0; i-- {
		link(cells[i], next)
		next = cells[i]
	}
	return next
}

// link lets a cell be followed by next, as are the ends of its alternatives.
func link(c, next *cell) {
	c.next = next
	for i, alt := range c.alts {
		if alt == nil {
			c.alts[i] = next
			continue
		}
		for alt.next != nil {
			alt = alt.next
		}
		link(alt, next)
	}
}

func (p *parser) cell() *cell {
	switch p.text[p.at] {
	case '*':
		p.at++
		return &cell{kind: star}
	case '?':
		p.at++
		return &cell{kind: question}
	case '[':
		start := p.at
		p.at += classLength(p.text[p.at:])
		return &cell{kind: class, class: p.text[start:p.at]}
	case '{':
		return p.braces()
	}
	c := &cell{kind: literal, raw: true}
	if p.text[p.at] == '\\' {
		c.raw = false
		p.at++
	}
	var size int
	c.r, size = utf8.DecodeRuneInString(p.text[p.at:])
	p.at += size
	return c
}

// classLength is where a character class ends: at the first ] without a backslash that is not the first of its characters.
func classLength(text string) int {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case ']':
			return i + 1
		}
	}
	return len(text)
}

func (p *parser) braces() *cell {
	c := &cell{kind: braces}
	for p.at++; ; p.at++ {
		c.alts = append(c.alts, p.sequence(nil, true))
		if p.at >= len(p.text) || p.text[p.at] == '}' {
			p.at++
			return c
		}
	}
}

// literalPrefix cuts off the characters that a glob begins with. A slash at their end stays: a name may end before it.
func literalPrefix(c *cell) (prefix string, rest *cell) {
	var text strings.Builder
	for rest = c; rest != nil && rest.kind == literal && rest.r != utf8.RuneError && (rest.r != '/' || rest.next != nil && rest.next.kind == literal); rest = rest.next {
		text.WriteRune(rest.r)
	}
	return text.String(), rest
}

// compiler makes the states of a glob. What a star means depends on whether it begins a segment.
type compiler struct {
	states []state
	known  map[key]int
	empty  map[*cell]bool
}

type key struct {
	cell    *cell
	begins  bool // a segment
	looping looping
}

// looping tells the states that a star or two lead to from the place behind them.
type looping uint8

const (
	no       looping = iota
	chars            // behind any number of characters of the segment
	segments         // behind any number of segments
	within           // one of these
	anything         // before whatever there is
)

func (c *compiler) add(k key, s state) (i int, isNew bool) {
	if i, ok := c.known[k]; ok {
		return i, false
	}
	c.states = append(c.states, s)
	c.known[k] = len(c.states) - 1
	return len(c.states) - 1, true
}

// state returns the state before a cell.
func (c *compiler) state(at *cell, begins bool) int {
	i, isNew := c.add(key{at, begins, no}, state{ends: c.isEmpty(at)})
	if !isNew || at == nil {
		return i
	}
	var edges []edge
	var free []int
	switch at.kind {
	case literal:
		edges = []edge{{kind: isRune, r: at.r, to: c.state(at.next, at.r == '/')}}
	case question:
		edges = []edge{{kind: isNotSlash, to: c.state(at.next, false)}}
	case class:
		edges = []edge{{kind: isInClass, class: at.class, to: c.state(at.next, false)}}
	case braces:
		for _, alt := range at.alts {
			free = append(free, c.state(alt, begins))
		}
	case star:
		free = []int{c.star(at, begins)}
	}
	c.states[i].edges, c.states[i].free = edges, free
	return i
}

// star returns the state that a star, or two, lead to.
func (c *compiler) star(at *cell, begins bool) int {
	behind := at.next
	if behind != nil && behind.kind == star {
		behind = behind.next
		switch {
		case begins && behind == nil:
			i, _ := c.add(key{looping: anything}, state{all: true})
			return i
		case begins && behind.isSlash():
			return c.segments(behind.next)
		}
	}
	i, isNew := c.add(key{behind, false, chars}, state{ends: c.isEmpty(behind)})
	if isNew {
		to := c.state(behind, false)
		c.states[i].edges, c.states[i].free = []edge{{kind: isNotSlash, to: i}}, []int{to}
	}
	return i
}

// segments returns the state before a cell that any number of segments may stand before.
func (c *compiler) segments(at *cell) int {
	i, isNew := c.add(key{at, true, segments}, state{ends: c.isEmpty(at)})
	if !isNew {
		return i
	}
	inside, _ := c.add(key{at, true, within}, state{})
	c.states[inside].edges = []edge{{kind: isSlash, to: i}, {kind: isNotSlash, to: inside}}
	to := c.state(at, true)
	c.states[i].free = []int{inside, to}
	return i
}

func (c *cell) isSlash() bool { return c != nil && c.kind == literal && c.raw && c.r == '/' }

// isEmpty says whether a name may end before a cell: at the end of the glob, and where only *, **, /**, **/ or /**/ is left
// of it.
func (c *compiler) isEmpty(at *cell) bool {
	if at == nil {
		return true
	}
	if empty, ok := c.empty[at]; ok {
		return empty
	}
	empty := false
	if at.kind == braces {
		for _, alt := range at.alts {
			empty = empty || c.isEmpty(alt)
		}
	} else {
		var left strings.Builder
		for n := 0; at != nil && n <= len("/**/"); at, n = at.next, n+1 {
			switch {
			case at.kind == star:
				left.WriteByte('*')
			case at.isSlash():
				left.WriteByte('/')
			default:
				return false
			}
		}
		switch left.String() {
		case "*", "**", "/**", "**/", "/**/":
			return true
		}
		return false
	}
	c.empty[at] = empty
	return empty
}

// close gives each state the edges of the states that it is at the same time, and returns how many states a name may be in
// again and again: those that it can come back to, and those behind them.
func (c *compiler) close() (cost int) {
	behind := make([]bool, len(c.states))
	for k, i := range c.known {
		if k.looping == chars || k.looping == segments {
			c.reach(i, behind)
		}
	}
	closed := make([]state, len(c.states))
	for i, s := range c.states {
		if behind[i] && len(s.edges) > 0 {
			cost++
		}
		closed[i] = state{ends: s.ends}
		c.collect(i, &closed[i], make([]bool, len(c.states)))
		for e := range closed[i].edges {
			closed[i].edges[e].to = c.same(closed[i].edges[e].to)
		}
	}
	c.states = closed
	return cost
}

// same returns the state that a state is no more than, so that a name is not in both: before a star it is behind it, too.
func (c *compiler) same(i int) int {
	s := &c.states[i]
	for len(s.edges) == 0 && len(s.free) == 1 && c.states[s.free[0]].ends == s.ends {
		i = s.free[0]
		s = &c.states[i]
	}
	return i
}

func (c *compiler) reach(i int, seen []bool) {
	if seen[i] {
		return
	}
	seen[i] = true
	for _, to := range c.states[i].free {
		c.reach(to, seen)
	}
	for _, e := range c.states[i].edges {
		c.reach(e.to, seen)
	}
}

func (c *compiler) collect(i int, into *state, seen []bool) {
	if seen[i] {
		return
	}
	seen[i] = true
	into.edges = append(into.edges, c.states[i].edges...)
	into.all = into.all || c.states[i].all
	for _, to := range c.states[i].free {
		c.collect(to, into, seen)
	}
}
