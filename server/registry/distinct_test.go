package registry

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

// A reference that is repeated is asked for once. What differs in its size is not the same: one of the two is wrong.
func TestDistinctReferences(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	list := []reference{{digest: a, size: 1}, {digest: b, size: 1}, {digest: a, size: 1, mediaType: "another"}, {digest: a, size: 2}, {digest: a, size: 1, optional: true}}
	for range 10_000 {
		list = append(list, reference{digest: b, size: 1})
	}
	if got := distinct(list); len(got) != 4 || got[0].digest != a || got[1].digest != b || got[2].size != 2 || !got[3].optional {
		t.Errorf("%d: %+v", len(got), got)
	}
}
