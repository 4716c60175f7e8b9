package server

import (
	"net/http"
	"slices"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// What a request makes depend on what there is now (RFC 9110 section 13.1). The entity tag of a blob or a manifest is its
// digest.

// readCondition returns what a request asks of a manifest or tag before it is changed.
func readCondition(r *http.Request) (c registry.Condition, err error) {
	if c.Match, err = readDigests(r.Header, "If-Match", false); err != nil {
		return c, err
	}
	c.NoneMatch, err = readDigests(r.Header, "If-None-Match", true)
	return c, err
}

// readDigests reads a list of entity tags, nil if there is none. Weak ones are for comparisons that do not ask for the same
// bytes: If-Match does, and finds nothing by them. Tags that are no digests are those of nothing here.
func readDigests(h http.Header, name string, weak bool) (*registry.Digests, error) {
	values := h.Values(name)
	if len(values) == 0 {
		return nil, nil
	}
	list := &registry.Digests{}
	for item := range strings.SplitSeq(strings.Join(values, ","), ",") {
		item = strings.TrimSpace(item)
		tag, isWeak := strings.CutPrefix(item, "W/")
		text, ok := strings.CutPrefix(tag, `"`)
		if ok {
			text, ok = strings.CutSuffix(text, `"`)
		}
		switch {
		case item == "":
		case item == "*":
			list.Any = true
		case !ok:
			return nil, registry.RequestInvalid.With(name + ` is not *, nor a list of digests in double quotes`)
		case weak || !isWeak:
			list.Of = append(list.Of, digest.Digest(text))
		}
	}
	return list, nil
}

// wantsRanges says whether ranges of a blob are the answer to a request that asks for some: what it depends on is so, and
// the client has other parts of the same bytes, if any.
func wantsRanges(r *http.Request, d digest.Digest) bool {
	c, err := readCondition(r)
	if err != nil || !c.Holds(d) {
		return false
	}
	only := r.Header.Values("If-Range")
	return len(only) == 0 || slices.Equal(only, []string{`"` + d.String() + `"`})
}
