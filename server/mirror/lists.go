package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"registry/server/registry"
	"registry/server/remote"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Whole lists of a Remote, for those who copy all of something. A list that does not end, or goes round in circles, is an
// error: who takes half of one for the whole would remove the other half.

const (
	listPage = 1000
	maxPages = 1000     // of a list
	maxNames = 32 << 20 // bytes of names in a list
	nameCost = 16       // bytes that a name takes beside its own
)

var errEndless = errors.New("the list does not end")

// AllTags lists the tags of a repository. What is no tag is left out.
func (r *Remote) AllTags(ctx context.Context, repo string) (tags []registry.Tag, err error) {
	return names(ctx, r.scoped(repo, "tags/list"), registry.ParseTag)
}

// AllRepositories lists the repositories of a registry that has such a list. Docker Hub has none.
func (r *Remote) AllRepositories(ctx context.Context) ([]registry.RepoName, error) {
	return names(ctx, list{r, auth.ScopeRegistryCatalog, "_catalog"}, registry.ParseRepoName)
}

// list is one that comes in pages.
type list struct {
	*Remote
	scope string
	path  string
}

func (r *Remote) scoped(repo, path string) list {
	return list{r, auth.ScopeRepository(repo, auth.ActionPull), repo + "/" + path}
}

// pages calls read with the content of each page, which it says how many items it has. The next one is what the page's Link
// says, never one that is made from a name; whoever ignores the size that is asked for sends everything in one page.
func (l list) pages(ctx context.Context, query string, read func(content []byte) (items int, err error)) error {
	ctx = auth.WithScopes(ctx, l.scope)
	for range maxPages {
		content, next, err := l.page(ctx, query)
		if err != nil {
			return err
		}
		items, err := read(content)
		switch {
		case err != nil:
			return err
		case next == "", next == query && items == 0:
			return nil
		case next == query:
			return errEndless
		}
		query = next
	}
	return errEndless
}

func (l list) page(ctx context.Context, query string) (content []byte, next string, err error) {
	address := l.path
	if query != "" {
		address += "?" + query
	}
	resp, err := l.ask(ctx, http.MethodGet, address, nil, http.StatusOK)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if content, err = l.readAll(resp, maxList); err != nil {
		return nil, "", err
	}
	if next, err = remote.NextPage(resp.Header); err != nil {
		err = fmt.Errorf("%w: %w", ErrWrong, err)
	}
	return content, next, err
}

// names reads a list of tags or of repositories.
func names[T ~string](ctx context.Context, l list, parse func(string) (T, error)) (items []T, err error) {
	size := 0
	err = l.pages(ctx, url.Values{"n": {strconv.Itoa(listPage)}}.Encode(), func(content []byte) (int, error) {
		var page struct{ Tags, Repositories []string }
		if err := json.Unmarshal(content, &page); err != nil {
			return 0, err
		}
		found := append(page.Tags, page.Repositories...)
		for _, text := range found {
			if size += len(text) + nameCost; size > maxNames {
				return 0, errEndless
			}
			if item, err := parse(text); err == nil {
				items = append(items, item)
			}
		}
		return len(found), nil
	})
	if err != nil {
		return nil, err
	}
	return items, nil
}

// Referrers lists the descriptors of what has a subject, of one artifact type unless it is empty, whether or not the
// registry leaves out the others itself. ErrUnknown says that it may not know such lists.
func (r *Remote) Referrers(ctx context.Context, repo string, subject digest.Digest, artifactType string) (list []json.RawMessage, err error) {
	query := ""
	if artifactType != "" {
		query = url.Values{"artifactType": {artifactType}}.Encode()
	}
	size := 0
	err = r.scoped(repo, "referrers/"+subject.String()).pages(ctx, query, func(content []byte) (int, error) {
		var index struct{ Manifests []json.RawMessage }
		if err := json.Unmarshal(content, &index); err != nil {
			return 0, err
		}
		for _, raw := range index.Manifests {
			if size += len(raw); size > maxList {
				return 0, errEndless
			}
			var of struct{ ArtifactType string }
			if err := json.Unmarshal(raw, &of); err != nil {
				return 0, fmt.Errorf("%w: a referrer: %w", ErrWrong, err)
			}
			if artifactType == "" || of.ArtifactType == artifactType {
				list = append(list, raw)
			}
		}
		return len(index.Manifests), nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Remaining returns how many pulls the registry lets its client make for now, by its last answer that said so, as those of
// Docker Hub do.
func (r *Remote) Remaining() (pulls int, known bool) {
	left := r.left.Load()
	return int(left - 1), left > 0
}

// noteLimit reads RateLimit-Remaining: 76;w=21600.
func (r *Remote) noteLimit(h http.Header) {
	text, _, _ := strings.Cut(h.Get("Ratelimit-Remaining"), ";")
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && n >= 0 {
		r.left.Store(int64(n) + 1)
	}
}
