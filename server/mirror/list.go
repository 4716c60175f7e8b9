package mirror

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

const (
	// listTimeout is how long a client waits for a list. Reading it goes on for those who ask later.
	listTimeout = 10 * time.Second
	// longList is for a list of many pages.
	longList = 2 * time.Minute
	// maxLists is how many bytes of lists are remembered.
	maxLists = 32 << 20
)

// Tags lists the tags that the upstream has, as registry.Registry.Tags does. The whole list is read once in a while, and
// pages are made of that: a cursor of the upstream means nothing to a client of this registry, and the other way around.
func (m *Mirror) Tags(ctx context.Context, who Client, repo registry.RepoName, p registry.Page) (tags []string, more bool, err error) {
	all, err := m.list(ctx, who, repo, "tags "+string(repo), func(ctx context.Context, remote *Remote, name string) (list []string, err error) {
		tags, err := remote.AllTags(ctx, name)
		for _, tag := range tags {
			list = append(list, string(tag))
		}
		slices.Sort(list)
		return slices.Compact(list), err
	})
	if err != nil || p.Limit <= 0 {
		return nil, false, err
	}
	from, found := slices.BinarySearch(all, p.Last)
	if found {
		from++
	}
	to := min(from+p.Limit, len(all))
	return all[from:to:to], to < len(all), nil
}

// Referrers lists the descriptors of what has a subject at the upstream, all of them or those of an artifact type.
func (m *Mirror) Referrers(ctx context.Context, who Client, repo registry.RepoName, subject digest.Digest, artifactType string) ([]string, error) {
	all, err := m.list(ctx, who, repo, "referrers "+string(repo)+" "+string(subject), func(ctx context.Context, remote *Remote, name string) (list []string, err error) {
		found, err := remote.Referrers(ctx, name, subject, "")
		for _, d := range found {
			list = append(list, string(d))
		}
		return list, err
	})
	if artifactType == "" || err != nil {
		return all, err
	}
	var list []string
	for _, text := range all {
		var of struct{ ArtifactType string }
		if json.Unmarshal([]byte(text), &of) == nil && of.ArtifactType == artifactType {
			list = append(list, text)
		}
	}
	return list, nil
}

// list returns a list that is remembered, or has it read for all who want it.
func (m *Mirror) list(ctx context.Context, who Client, repo registry.RepoName, key string, read func(context.Context, *Remote, string) ([]string, error)) ([]string, error) {
	if list, ok := m.lists.get(key, m.cfg.Now(), m.cfg.TagTTL); ok {
		return list, nil
	}
	up, name := m.of(repo)
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	q, err := m.put(ctx, &question{up: up, who: who, need: again, key: key, room: up.lists, limit: longList, ask: func(ctx context.Context, q *question) (err error) {
		if q.list, err = read(ctx, up.remote, name); err == nil {
			m.lists.add(key, q.list, m.cfg.Now())
		}
		return err
	}})
	if err == nil {
		err = q.wait(ctx)
	}
	if err != nil {
		return nil, err
	}
	return q.list, nil
}

// lists remembers lists, and forgets all of them when they take too much.
type lists struct {
	mu   sync.Mutex
	kept map[string]keptList
	size int
}

type keptList struct {
	items []string // which no one changes
	at    time.Time
}

func (l *lists) get(key string, now time.Time, lasts time.Duration) (items []string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept, ok := l.kept[key]
	if age := now.Sub(kept.at); !ok || age < 0 || age >= lasts {
		return nil, false
	}
	return kept.items, true
}

func (l *lists) add(key string, items []string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := costOf(key, items)
	if old, ok := l.kept[key]; ok {
		l.size -= costOf(key, old.items)
		delete(l.kept, key)
	}
	if l.kept == nil || l.size+size > maxLists {
		l.kept, l.size = map[string]keptList{}, 0
	}
	if size <= maxLists {
		l.kept[key] = keptList{items, now}
		l.size += size
	}
}

// costOf is about how many bytes a list takes.
func costOf(key string, items []string) int {
	size := len(key) + 100
	for _, item := range items {
		size += len(item) + nameCost
	}
	return size
}
