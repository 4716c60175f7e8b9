package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Whole lists of a Remote, for those who copy all of something. A list that does not end, or goes round in circles, is an
// error: who takes half of one for the whole would remove the other half.

const (
	listPage = 1000
	maxPages = 1000 // of a list
)

var errEndless = errors.New("the list does not end")

// AllTags lists the tags of a repository. What is no tag is left out.
func (r *Remote) AllTags(ctx context.Context, repo string) (tags []registry.Tag, err error) {
	return all(func(last string) (page []string, more bool, err error) {
		return r.Tags(ctx, repo, last, listPage)
	}, registry.ParseTag)
}

// AllRepositories lists the repositories of a registry that has such a list. Docker Hub has none.
func (r *Remote) AllRepositories(ctx context.Context) (names []registry.RepoName, err error) {
	ctx = auth.WithScopes(ctx, auth.ScopeRegistryCatalog)
	return all(func(last string) (page []string, more bool, err error) {
		q := url.Values{"n": {strconv.Itoa(listPage)}}
		if last != "" {
			q.Set("last", last)
		}
		resp, err := r.ask(ctx, http.MethodGet, "_catalog?"+q.Encode(), nil, http.StatusOK)
		if err != nil {
			return nil, false, err
		}
		var list struct{ Repositories []string }
		link, err := r.readList(resp, &list)
		return list.Repositories, strings.Contains(link, "next"), err
	}, registry.ParseRepoName)
}

// all reads page after page of names.
func all[T ~string](list func(last string) ([]string, bool, error), parse func(string) (T, error)) (items []T, err error) {
	last := ""
	for range maxPages {
		page, more, err := list(last)
		if err != nil {
			return nil, err
		}
		for _, text := range page {
			if item, err := parse(text); err == nil {
				items = append(items, item)
			}
		}
		if !more || len(page) == 0 {
			return items, nil
		}
		if next := page[len(page)-1]; next != last {
			last = next
			continue
		}
		break
	}
	return nil, errEndless
}

// Referrers lists the descriptors of what has a subject, of one artifact type unless it is empty, whether or not the
// registry leaves out the others itself. ErrUnknown says that it may not know such lists.
func (r *Remote) Referrers(ctx context.Context, repo string, subject digest.Digest, artifactType string) (list []json.RawMessage, err error) {
	path, query := "referrers/"+subject.String(), ""
	if artifactType != "" {
		query = "?" + url.Values{"artifactType": {artifactType}}.Encode()
	}
	size := 0
	for range maxPages {
		var index struct{ Manifests []json.RawMessage }
		link, err := r.list(ctx, repo, path+query, &index)
		if err != nil {
			return nil, err
		}
		for _, raw := range index.Manifests {
			if size += len(raw); size > maxList {
				return nil, errEndless
			}
			var of struct{ ArtifactType string }
			if err := json.Unmarshal(raw, &of); err != nil {
				return nil, fmt.Errorf("%w: a referrer: %w", ErrWrong, err)
			}
			if artifactType == "" || of.ArtifactType == artifactType {
				list = append(list, raw)
			}
		}
		if query, err = nextQuery(link); err != nil || query == "" {
			return list, err
		}
	}
	return nil, errEndless
}

var nextLink = regexp.MustCompile(`<([^<>]*)>\s*;\s*rel="?next"?`)

// nextQuery returns the query of the next page, all that is believed of its address.
func nextQuery(link string) (string, error) {
	m := nextLink.FindStringSubmatch(link)
	if m == nil {
		return "", nil
	}
	u, err := url.Parse(m[1])
	if err != nil || u.RawQuery == "" {
		return "", fmt.Errorf("%w: the link to the next page", ErrWrong)
	}
	return "?" + u.RawQuery, nil
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
