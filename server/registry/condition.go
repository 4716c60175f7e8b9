package registry

import (
	"errors"
	"slices"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// Condition is what has to be true of what a reference names before it changes (RFC 9110 section 13.1). It is looked at in
// the transaction of the change, so that of two who move a tag from the same digest one succeeds. The zero value asks
// nothing.
type Condition struct {
	Match     *Digests // it is one of these; nil: whatever it is
	NoneMatch *Digests // it is none of these; nil: whatever it is
}

// Digests are some or all digests.
type Digests struct {
	Any bool // all, and Of does not count
	Of  []digest.Digest
}

// has says whether d is one of them. Nothing, which is "", is none.
func (l *Digests) has(d digest.Digest) bool { return d != "" && (l.Any || slices.Contains(l.Of, d)) }

// Holds says whether the condition is true of what has the digest d, or of nothing if d is "".
func (c Condition) Holds(d digest.Digest) bool {
	return (c.Match == nil || c.Match.has(d)) && (c.NoneMatch == nil || !c.NoneMatch.has(d))
}

// check returns ConditionFailed if the condition does not hold for what ref names.
func (c Condition) check(tx *db.Tx, repo RepoName, ref Reference) error {
	if c == (Condition{}) {
		return nil
	}
	m, err := named(tx, repo, ref, (*db.Tx).StatManifest, (*db.Tx).StatTaggedManifest)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return err
	}
	switch {
	case c.Holds(m.Digest):
		return nil
	case m.Digest == "":
		return ConditionFailed.With("there is no " + ref.String())
	case c.Match == nil || c.Match.has(m.Digest):
		return ConditionFailed.With(ref.String() + " exists")
	}
	return ConditionFailed.With(ref.String() + " is another manifest by now")
}
