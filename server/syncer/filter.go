package syncer

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// Filter says which names are wanted: those in one of the ranges, if there are any, that match one of allow, if there is
// any, and none of deny. Expressions match whole names.
type Filter struct {
	Ranges      []*semver.Constraints
	Allow, Deny []*regexp.Regexp
}

// Lets says whether a name is wanted.
func (f Filter) Lets(name string) bool {
	matches := func(e *regexp.Regexp) bool { return e.MatchString(name) }
	return f.inRange(name) && (len(f.Allow) == 0 || slices.ContainsFunc(f.Allow, matches)) && !slices.ContainsFunc(f.Deny, matches)
}

func (f Filter) inRange(name string) bool {
	if len(f.Ranges) == 0 {
		return true
	}
	version, err := semver.NewVersion(name)
	return err == nil && slices.ContainsFunc(f.Ranges, func(c *semver.Constraints) bool { return c.Check(version) })
}

func (f Filter) isOpen() bool { return len(f.Ranges)+len(f.Allow)+len(f.Deny) == 0 }

func (t filterText) filter() (f Filter, err error) {
	for i, text := range t.SemverRange {
		c, err := semver.NewConstraint(text)
		if err != nil {
			return f, at(fmt.Sprintf("semverRange[%d]", i), fmt.Errorf("%q: %w", text, err))
		}
		f.Ranges = append(f.Ranges, c)
	}
	if f.Allow, err = compile("allow", t.Allow); err == nil {
		f.Deny, err = compile("deny", t.Deny)
	}
	return f, err
}

func compile(path string, list []string) (all []*regexp.Regexp, err error) {
	for i, text := range list {
		if _, err := regexp.Compile(text); err != nil {
			return nil, at(fmt.Sprintf("%s[%d]", path, i), err)
		}
		all = append(all, regexp.MustCompile(`^(?:`+text+`)$`))
	}
	return all, nil
}

// Platform is what an image runs on. Without a variant it means all of them.
type Platform struct{ OS, Architecture, Variant string }

var platformPart = regexp.MustCompile(`^[a-z0-9_.]+$`)

// ParsePlatform reads linux/amd64 or linux/arm/v7.
func ParsePlatform(text string) (Platform, error) {
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.ContainsFunc(parts, func(p string) bool { return !platformPart.MatchString(p) }) {
		return Platform{}, fmt.Errorf("%q is not a platform such as linux/amd64", text)
	}
	parts = append(parts, "")
	return Platform{parts[0], parts[1], parts[2]}, nil
}

func (p Platform) fits(has *v1.Platform) bool {
	variant := has.Variant
	if variant == "" && has.Architecture == "arm64" {
		variant = "v8"
	}
	return p.OS == has.OS && p.Architecture == has.Architecture && (p.Variant == "" || p.Variant == variant)
}

// attested is the annotation by which buildkit names the image that an attestation in the same index is about.
const attested = "vnd.docker.reference.digest"

// choose returns what platforms want of an index: its images for them, the attestations of these, and what has no platform.
// It fails if there is no image for any of them.
func choose(children []v1.Descriptor, platforms []Platform) (chosen []v1.Descriptor, err error) {
	if len(platforms) == 0 {
		return children, nil
	}
	images := map[string]bool{} // those that are wanted
	some := false
	for _, c := range children {
		if c.Platform == nil || !slices.ContainsFunc(platforms, func(p Platform) bool { return p.fits(c.Platform) }) {
			some = some || c.Platform != nil
			continue
		}
		images[c.Digest.String()] = true
	}
	if some && len(images) == 0 {
		return nil, fmt.Errorf("the index has no image for any of the platforms")
	}
	for _, c := range children {
		if c.Platform == nil || images[c.Digest.String()] || images[c.Annotations[attested]] {
			chosen = append(chosen, c)
		}
	}
	return chosen, nil
}
