package registry_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"registry/db"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// pages reads all pages of a list of referrers, none of which may have more than n entries or than a page may be large.
func (f *fixture) pages(subject digest.Digest, n int) (pages [][]v1.Descriptor) {
	f.t.Helper()
	next := registry.Page{Limit: n}
	last := ""
	for {
		r, err := f.Referrers(f.t.Context(), "a", subject, "", next)
		if err != nil {
			f.t.Fatal(err)
		}
		size := 0
		var page []v1.Descriptor
		for _, raw := range r.Descriptors {
			size += len(raw) + 1
			var d v1.Descriptor
			if err := json.Unmarshal([]byte(raw), &d); err != nil {
				f.t.Fatal(err)
			}
			if d.Digest.String() <= last {
				f.t.Errorf("%s after %s", d.Digest, last)
			}
			last = d.Digest.String()
			page = append(page, d)
		}
		if size > 1<<20 || len(page) > n || len(page) == 0 && r.More {
			f.t.Errorf("a page of %d entries has %d bytes", len(page), size)
		}
		pages = append(pages, page)
		if next.Last = r.Last; !r.More {
			return pages
		}
	}
}

// The registry's own list and what clients keep under the fallback tag are one list, in one order, and its pages count both.
func TestPagesOfReferrers(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	subject := f.put("a", "v1", image(config))
	var want []string
	children := []v1.Descriptor{}
	for i := range 20 {
		m := image(config)
		m.Annotations = map[string]string{"n": fmt.Sprint(i)}
		if i%2 == 0 {
			m.Subject = &subject
		}
		d := f.put("a", "", m)
		want = append(want, d.Digest.String())
		if i%2 == 1 || i%4 == 0 {
			children = append(children, d, d)
		}
	}
	slices.Sort(want)
	gone := f.put("a", "", image(config, config))
	f.put("a", strings.Replace(subject.Digest.String(), ":", "-", 1), index(append(children, gone)...))
	if err := f.DeleteManifest(t.Context(), "a", gone.Digest); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 3, 10, 19, 20, 21, 1000} {
		pages := f.pages(subject.Digest, n)
		var got []string
		for i, page := range pages {
			if i < len(pages)-1 && len(page) != n {
				t.Errorf("page %d of %d has %d entries of %d", i, len(pages), len(page), n)
			}
			for _, d := range page {
				got = append(got, d.Digest.String())
			}
		}
		if !slices.Equal(got, want) || len(pages) != (len(want)+n-1)/n {
			t.Errorf("n=%d: %d entries on %d pages", n, len(got), len(pages))
		}
	}
	if page, err := f.Referrers(t.Context(), "a", subject.Digest, "", registry.Page{}); err != nil || page.More || len(page.Descriptors) > 0 {
		t.Error("n=0:", page, err)
	}
}

// What is large in a manifest is not in the lists, and a list of large ones is no more than its pages.
func TestLargeReferrers(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	subject := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("later"), Size: 5}
	const n = 40
	for i := range n {
		m := image(config)
		m.Subject, m.ArtifactType = &subject, "x/y"
		m.Annotations = map[string]string{"a": fmt.Sprint(i), "large": strings.Repeat("x", 1<<20), "z": "kept"}
		for k := range i % 2 * 3000 { // many small ones, each six times as large in JSON
			m.Annotations[fmt.Sprintf("b%d", k)] = strings.Repeat("<", 20)
		}
		f.put("a", "", m)
	}
	long := image(config)
	long.Subject, long.ArtifactType = &subject, "x/"+strings.Repeat("y", 1000)
	f.put("a", "", long)
	pages := f.pages(subject.Digest, 1000)
	seen := map[string]bool{}
	for _, d := range slices.Concat(pages...) {
		seen[d.Annotations["a"]] = true
		if d.Annotations["large"] != "" || d.ArtifactType != "x/y" && d.ArtifactType != "" {
			t.Errorf("%s has %d annotations, artifact type %.20s", d.Digest, len(d.Annotations), d.ArtifactType)
		}
	}
	if len(seen) != n+1 || len(pages) < 2 {
		t.Errorf("%d different referrers on %d pages", len(seen), len(pages))
	}
}

// Rows of earlier versions have everything. They are read one by one, and no more of them than fits a page.
func TestReferrersOfEarlierVersions(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	subject := digest.FromString("later")
	const n, size = 20, 2 << 20
	for i := range n {
		m := f.put("a", "", image(config))
		content := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/b","digest":%q,"size":2},"layers":[],"annotations":{"n":"%d"}}`, m.MediaType, config.Digest, i)
		d := digest.FromString(content)
		if _, err := f.PutManifest(t.Context(), "a", registry.Put{Ref: registry.Reference{Digest: d}, MediaType: m.MediaType, Content: []byte(content)}); err != nil {
			t.Fatal(err)
		}
		if err := f.db.Update(t.Context(), func(tx *db.Tx) error {
			row, err := tx.StatManifest("a", d)
			if err != nil {
				return err
			}
			descriptor := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"a":"kept","b":%q}}`, m.MediaType, d, len(content), strings.Repeat("x", size))
			return tx.PutReferrer(row, subject, db.Referrer{Digest: d, Descriptor: descriptor})
		}); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	page, err := f.Referrers(t.Context(), "a", subject, "", registry.Page{Limit: 1000})
	runtime.ReadMemStats(&after)
	if err != nil || len(page.Descriptors) != 1 || !page.More || len(page.Descriptors[0]) > 1000 || !strings.Contains(page.Descriptors[0], `"a":"kept"`) {
		t.Errorf("%d entries, more %v: %v", len(page.Descriptors), page.More, err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 20*size {
		t.Errorf("%d MiB were allocated for a page of %d MiB", got>>20, size>>20)
	}
	if got := slices.Concat(f.pages(subject, 1000)...); len(got) != n {
		t.Errorf("%d entries of %d", len(got), n)
	}
}
