package bundle

import (
	"fmt"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/image-spec/specs-go/v1"
)

// Names say where things go that an archive calls otherwise.
type Names struct {
	exact  map[string]registry.RepoName
	prefix map[string]string // both end with /
	repo0  registry.RepoName // of what the archive gives no repository
	tag0   registry.Tag      // of what the archive gives no tag either
}

// ParseNames reads rules: A=B for a repository, A/=B/ for all below A, =B or =B:TAG for images without a name.
func ParseNames(rules []string) (n Names, err error) {
	n.exact, n.prefix = map[string]registry.RepoName{}, map[string]string{}
	for _, rule := range rules {
		from, to, ok := strings.Cut(rule, "=")
		if !ok {
			return n, fmt.Errorf("%q: want OLD=NEW", rule)
		}
		switch {
		case strings.HasSuffix(from, "/") && strings.HasSuffix(to, "/"):
			_, err = registry.ParseRepoName(strings.TrimSuffix(to, "/"))
			n.prefix[from] = to
		case from == "":
			repo, tag, tagged := strings.Cut(to, ":")
			if tagged {
				if n.tag0, err = registry.ParseTag(tag); err != nil {
					return n, fmt.Errorf("%q: %w", rule, err)
				}
			}
			n.repo0, err = registry.ParseRepoName(repo)
		default:
			n.exact[from], err = registry.ParseRepoName(to)
		}
		if err != nil {
			return n, fmt.Errorf("%q: %w", rule, err)
		}
	}
	return n, nil
}

// repo is where a repository goes: by the rule for it, or by the longest one for what is above it.
func (n Names) repo(name registry.RepoName) registry.RepoName {
	if to, ok := n.exact[string(name)]; ok {
		return to
	}
	for end := strings.LastIndexByte(string(name), '/'); end > 0; end = strings.LastIndexByte(string(name[:end]), '/') {
		if to, ok := n.prefix[string(name[:end+1])]; ok {
			return registry.RepoName(to) + name[end+1:]
		}
	}
	return name
}

// claims says where the lines of an index go. A line without a repository goes where --map = says, or with the others if
// they have only one.
func (n Names) claims(index v1.Index) ([]claim, error) {
	var list []claim
	for _, d := range index.Manifests {
		c := claim{Descriptor: Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
		if _, err := registry.ParseDigest(string(d.Digest)); err != nil {
			return nil, invalid("%s: %w", indexFile, err)
		}
		full, name := d.Annotations[imageNameAnnotation], d.Annotations[v1.AnnotationRefName]
		if full == "" && strings.ContainsAny(name, "/:") {
			full = name
		}
		var err error
		if full != "" {
			c.repo, c.tag, err = n.reference(full)
		} else if name != "" {
			c.tag, err = registry.ParseTag(name)
		}
		if err != nil {
			return nil, invalid("%s: %w", indexFile, err)
		}
		list = append(list, c)
	}
	return list, n.nameless(list)
}

// nameless fills in the repository where a line has none.
func (n Names) nameless(list []claim) error {
	repo := n.repo0
	named := map[registry.RepoName]bool{}
	for _, c := range list {
		if c.repo != "" {
			named[c.repo] = true
		}
	}
	if repo == "" && len(named) == 1 {
		for repo = range named {
		}
	}
	for i, c := range list {
		if c.repo != "" {
			continue
		}
		if repo == "" {
			return ErrNameless
		}
		if list[i].repo = repo; c.tag == "" && len(list) == 1 {
			list[i].tag = n.tag0
		}
	}
	return nil
}

// ErrNameless says that an archive does not say which repository its images belong to.
var ErrNameless = fmt.Errorf("%w: it does not say which repository its images belong to", ErrInvalid)

// reference reads a name such as docker.io/library/alpine:3. The host goes: this registry is another one.
func (n Names) reference(s string) (registry.RepoName, registry.Tag, error) {
	s, _, _ = strings.Cut(s, "@")
	name, tag := s, "latest"
	if colon := strings.LastIndexByte(s, ':'); colon > strings.LastIndexByte(s, '/') {
		name, tag = s[:colon], s[colon+1:]
	}
	if host, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		name = rest
	}
	repo, err := registry.ParseRepoName(name)
	if err != nil {
		return "", "", err
	}
	t, err := registry.ParseTag(tag)
	return n.repo(repo), t, err
}
