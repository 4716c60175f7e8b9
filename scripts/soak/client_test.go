package soak

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	clients = 16
	teams   = 3 // repositories that clients share
	members = 12
)

// repository is where a client works: in that of a team, or in one of its own, which is often empty.
func repository(client int) string {
	if client < members {
		return fmt.Sprintf("team%d/app", client%teams)
	}
	return fmt.Sprintf("solo%d", client)
}

// randomTag is one of the client's tags, of which those in teams have some and the others one.
func randomTag(client int) string {
	if client < members {
		return fmt.Sprintf("c%d-%d", client, rand.IntN(5))
	}
	return fmt.Sprintf("c%d", client)
}

// client does one thing after the other and knows exactly what must be there: its tags and its manifests are nobody
// else's. Only layers are shared.
type client struct {
	*rand.Rand
	conn
	rig    *rig
	number int
	repo   string
	tags   map[string]*manifest
	// live is what was acknowledged and has been reachable ever since: from a tag, through an index or as a referrer.
	live  map[digest.Digest]*manifest
	lost  []*manifest // the last that ceased to be live
	began time.Time   // when the first part of what is being pushed was
	// referring is every artifact that was ever acknowledged, by its subject.
	referring map[digest.Digest][]*manifest
}

func newClient(r *rig, number int) *client {
	return &client{
		Rand: rand.New(rand.NewPCG(rand.Uint64(), uint64(number))), conn: r.conn, rig: r, number: number,
		repo: repository(number), tags: map[string]*manifest{}, live: map[digest.Digest]*manifest{},
		referring: map[digest.Digest][]*manifest{},
	}
}

// deeds are what clients do, some more often than others.
var deeds = []struct {
	name  string
	often int
	do    func(*client) error
}{
	{"push image", 6, (*client).pushImage},
	{"push index", 3, (*client).pushIndex},
	{"push referrer", 4, (*client).pushReferrer},
	{"retag", 4, (*client).retag},
	{"bring back", 3, (*client).bringBack},
	{"delete tag", 3, (*client).deleteTag},
	{"delete manifest", 2, (*client).deleteManifest},
	{"delete whole image", 1, (*client).deleteWhole},
	{"delete and push blob", 1, (*client).replaceBlob},
	{"delete and push child", 1, (*client).replaceChild},
	{"slow upload", 1, (*client).slowUpload},
	{"check image", 8, (*client).checkOne},
	{"pull another's image", 3, (*client).pullAnothers},
}

var errNothing = errors.New("nothing to do that with")

// run does random deeds until the rig stops.
func (c *client) run() {
	var bag []int
	for i, d := range deeds {
		bag = append(bag, slices.Repeat([]int{i}, d.often)...)
	}
	for !c.rig.stopped() {
		d := deeds[bag[c.IntN(len(bag))]]
		err := d.do(c)
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			c.rig.fail("client %d, %s: %v", c.number, d.name, err)
			return
		}
		c.rig.count(d.name, 1)
	}
}

func (c *client) path(ref string) string { return "/v2/" + c.repo + "/manifests/" + ref }

func (c *client) randomTag() string { return randomTag(c.number) }

// pick returns a random live manifest that fits.
func (c *client) pick(fits func(*manifest) bool) (*manifest, error) {
	var list []*manifest
	for _, m := range c.live {
		if fits(m) {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return nil, errNothing
	}
	return list[c.IntN(len(list))], nil
}

func anyManifest(*manifest) bool { return true }

// settle forgets what can no longer be reached: the collector may take it at any moment now.
func (c *client) settle() {
	live := map[digest.Digest]*manifest{}
	var reach func(*manifest)
	reach = func(m *manifest) {
		if c.live[m.digest] == nil || live[m.digest] != nil {
			return
		}
		live[m.digest] = m
		for _, child := range m.children {
			reach(child)
		}
		for _, r := range c.live {
			if r.subject == m.digest {
				reach(r)
			}
		}
	}
	for _, m := range c.tags {
		reach(m)
	}
	for d, m := range c.live {
		if live[d] == nil {
			c.lost = append(c.lost, m)
		}
	}
	const few = 10
	c.lost = c.lost[max(0, len(c.lost)-few):]
	c.live = live
}

// acknowledged notes what a push under a tag, or under its digest if tag is "", has made live.
func (c *client) acknowledged(m *manifest, tag string) error {
	var added []*manifest
	for _, a := range append(slices.Clone(m.children), m) {
		if c.live[a.digest] == nil {
			c.live[a.digest] = a
			added = append(added, a)
		}
	}
	if m.subject != "" && !slices.ContainsFunc(c.referring[m.subject], func(r *manifest) bool { return r.digest == m.digest }) {
		c.referring[m.subject] = append(c.referring[m.subject], m)
	}
	if tag != "" {
		c.tags[tag] = m
	}
	err := c.revive(added)
	c.settle()
	return err
}

// revive finds the referrers that subjects have which died and were pushed again. The collector may have been there in
// between, or not; but what is listed now is held again and stays.
func (c *client) revive(subjects []*manifest) error {
	for len(subjects) > 0 {
		subject := subjects[0]
		subjects = subjects[1:]
		if len(c.referring[subject.digest]) == 0 {
			continue
		}
		listed, err := c.referrers(c.repo, subject.digest)
		if err != nil {
			return err
		}
		for _, r := range c.referring[subject.digest] {
			if c.live[r.digest] == nil && slices.Contains(listed, r.digest) {
				c.rig.count("referrers that outlived their subject's absence", 1)
				c.live[r.digest] = r
				subjects = append(subjects, r)
			}
		}
	}
	return nil
}

// errCollected says that content without a tag was gone before a manifest could hold it. That may happen to every push
// that takes longer than the grace, and the client begins again.
var errCollected = errors.New("content was collected before it was held")

// put pushes a manifest whose blobs and children have been pushed, or were said to be there.
func (c *client) put(m *manifest, ref string) error {
	a, err := c.send("PUT", c.path(ref), m.content, http.Header{"Content-Type": {m.mediaType}}, 201, 404)
	if err != nil || a.status == 201 {
		return err
	}
	missing, err := a.missing()
	if err != nil {
		return err
	}
	for _, d := range missing {
		if c.holds(d) {
			return fmt.Errorf("PUT %s: %s is said to be missing, but a live image of the repository has it", c.path(ref), d)
		}
	}
	if took := time.Since(c.began); took < c.rig.grace {
		return fmt.Errorf("PUT %s: %v were collected after %s, but the grace is %s", c.path(ref), missing, took, c.rig.grace)
	}
	c.rig.count("collected before it was held: 404 MANIFEST_BLOB_UNKNOWN", 1)
	return errCollected
}

// holds says whether a live manifest needs the content, so that it cannot be collected.
func (c *client) holds(d digest.Digest) bool {
	for _, m := range c.live {
		if m.digest == d || slices.ContainsFunc(m.blobs, func(b blob) bool { return b.digest == d }) {
			return true
		}
	}
	return false
}

// push pushes a manifest with everything it needs, again and again until nothing of it was collected on the way. It is
// noted as live when tag is not empty, or when it has a subject.
func (c *client) push(m *manifest, tag string) error {
	const patience = 1000
	for attempt := range patience {
		c.began = time.Now()
		err := c.attempt(m, tag, attempt)
		if err == nil {
			return c.acknowledged(m, tag)
		}
		if !errors.Is(err, errCollected) {
			return err
		}
		if c.rig.stopped() {
			c.rig.count("pushes given up at the end", 1)
			return errNothing
		}
		c.rig.count("pushes begun again", 1)
	}
	return fmt.Errorf("%s was collected %d times before it was held", m.digest, patience)
}

func (c *client) attempt(m *manifest, tag string, attempt int) error {
	for _, child := range m.children {
		if err := c.attempt(child, "", attempt); err != nil {
			return err
		}
	}
	if err := c.pushBlobs(m.blobs, attempt); err != nil {
		return err
	}
	if tag == "" {
		tag = m.digest.String()
	}
	return c.put(m, tag)
}

// pushBlobs pushes blobs at the same time, as clients do. Those that begin again trust no HEAD and no mount, and hurry.
func (c *client) pushBlobs(blobs []blob, attempt int) error {
	ways := [][]way{{wayHead, wayHead, wayMount, wayOne, wayTwo, wayChunked}, {wayOne, wayTwo, wayChunked}, {wayOne}}[min(attempt, 2)]
	if attempt == 0 && c.rig.grace > 0 {
		// HEAD begins a lease anew only when that is half an hour old: that is made for longer graces than this one.
		ways = ways[2:]
	}
	errs := make([]error, len(blobs))
	var wg sync.WaitGroup
	for i, b := range blobs {
		w, from := ways[c.IntN(len(ways))], repository(c.IntN(clients))
		wg.Go(func() {
			outcome, err := c.conn.push(c.repo, b, w, from)
			c.rig.count("blob: "+outcome, 1)
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *client) pushImage() error { return c.push(c.image(), c.randomTag()) }

func (c *client) pushIndex() error { return c.push(newIndex(c.image(), c.image()), c.randomTag()) }

// pushReferrer attaches an artifact to anything that lives, now and then with a tag of its own.
func (c *client) pushReferrer() error {
	const depth = 3
	subject, err := c.pick(func(m *manifest) bool {
		for i := 0; m != nil && m.subject != ""; i++ {
			if i == depth {
				return false
			}
			m = c.live[m.subject]
		}
		return true
	})
	if err != nil {
		return err
	}
	tag := ""
	if c.IntN(4) == 0 {
		tag = c.randomTag()
	}
	a := c.artifact(subject)
	if c.tags[tag] != nil {
		// Moving the tag may end the subject at this very moment. That is allowed, and not what this deed is about.
		tag = ""
	}
	return c.push(a, tag)
}

// retag gives a live manifest another tag, which takes it from what had it. Nothing of a live manifest may be missing.
func (c *client) retag() error {
	m, err := c.pick(anyManifest)
	if err != nil {
		return err
	}
	tag := c.randomTag()
	if err := c.put(m, tag); err != nil {
		return fmt.Errorf("a live manifest under another tag: %w", err)
	}
	return c.acknowledged(m, tag)
}

// bringBack gives a tag to what nothing held any more. Either the collector was faster, or the tag holds everything again.
func (c *client) bringBack() error {
	if len(c.lost) == 0 {
		return errNothing
	}
	m, tag := c.lost[c.IntN(len(c.lost))], c.randomTag()
	c.began = time.Time{} // that was long ago
	err := c.put(m, tag)
	if errors.Is(err, errCollected) {
		return nil
	}
	if err != nil {
		return err
	}
	c.rig.count("brought back", 1)
	if err := c.acknowledged(m, tag); err != nil {
		return err
	}
	return c.check(m, tag)
}

func (c *client) deleteTag() error {
	tag := c.randomTag()
	if c.tags[tag] == nil {
		return errNothing
	}
	if _, err := c.send("DELETE", c.path(tag), nil, nil, 202); err != nil {
		return err
	}
	delete(c.tags, tag)
	c.settle()
	_, err := c.send("GET", c.path(tag), nil, nil, 404)
	return err
}

// forget deletes a live manifest by digest, and with it its tags.
func (c *client) forget(m *manifest) error {
	if _, err := c.send("DELETE", c.path(m.digest.String()), nil, nil, 202); err != nil {
		return err
	}
	for tag, tagged := range c.tags {
		if tagged.digest == m.digest {
			delete(c.tags, tag)
		}
	}
	delete(c.live, m.digest)
	c.lost = append(c.lost, m)
	c.settle()
	_, err := c.send("GET", c.path(m.digest.String()), nil, nil, 404)
	return err
}

// isChild says whether a live index needs the manifest.
func (c *client) isChild(m *manifest) bool {
	for _, index := range c.live {
		if slices.ContainsFunc(index.children, func(child *manifest) bool { return child.digest == m.digest }) {
			return true
		}
	}
	return false
}

func (c *client) deleteManifest() error {
	m, err := c.pick(func(m *manifest) bool { return !c.isChild(m) })
	if err != nil {
		return err
	}
	return c.forget(m)
}

// deleteWhole deletes an image as careful users do: the index, then its children and what refers to them. These may
// have been collected meanwhile.
func (c *client) deleteWhole() error {
	m, err := c.pick(func(m *manifest) bool { return !c.isChild(m) && m.subject == "" })
	if err != nil {
		return err
	}
	rest := slices.Clone(m.children)
	for _, r := range c.live {
		if r.subject == m.digest {
			rest = append(rest, r)
		}
	}
	if err := c.forget(m); err != nil {
		return err
	}
	for _, r := range rest {
		if c.live[r.digest] != nil {
			continue // another index, or a tag, has it
		}
		if _, err := c.send("DELETE", c.path(r.digest.String()), nil, nil, 202, 404); err != nil {
			return err
		}
	}
	return nil
}

// replaceBlob takes the config from under a live image and pushes it again: from that 201 on the image holds it.
func (c *client) replaceBlob() error {
	m, err := c.pick(func(m *manifest) bool { return len(m.blobs) > 0 && m.subject == "" })
	if err != nil {
		return err
	}
	if _, err := c.send("DELETE", "/v2/"+c.repo+"/blobs/"+m.blobs[0].digest.String(), nil, nil, 202); err != nil {
		return err
	}
	if err := c.pushBlobs(m.blobs[:1], 1); err != nil {
		return err
	}
	return c.check(m, m.digest.String())
}

// replaceChild takes an image from under a live index and pushes it again: from that 201 on the index holds it.
func (c *client) replaceChild() error {
	m, err := c.pick(c.isChild)
	if err != nil {
		return err
	}
	if err := c.forget(m); err != nil {
		return err
	}
	// Without the child its index is not whole, so it has to come back however long that takes.
	for err = errCollected; errors.Is(err, errCollected); {
		c.began = time.Now()
		err = c.attempt(m, "", 1)
	}
	if err != nil {
		return err
	}
	return c.acknowledged(m, "")
}

// slowUpload does other things between two chunks: the collector must leave a session alone that has not ended.
func (c *client) slowUpload() error {
	b := layers[c.IntN(len(layers))]
	half := len(b.content) / 2
	a, err := c.send("POST", "/v2/"+c.repo+"/blobs/uploads/", nil, nil, 202)
	if err == nil {
		a, err = c.send("PATCH", a.header.Get("Location"), b.content[:half], nil, 202)
	}
	for range c.IntN(5) {
		if _, listing := c.send("GET", "/v2/"+c.repo+"/tags/list", nil, nil, 200, 404); err == nil {
			err = listing
		}
	}
	if err == nil {
		err = c.pullAnothers()
	}
	if err != nil {
		return err
	}
	if c.IntN(2) == 0 {
		_, err := c.send("DELETE", a.header.Get("Location"), nil, nil, 204)
		return err
	}
	return c.finish(a, b, b.content[half:])
}

// checkOne pulls a random live manifest with everything that must be there with it.
func (c *client) checkOne() error {
	m, err := c.pick(anyManifest)
	if err != nil {
		return err
	}
	ref := m.digest.String()
	for tag, tagged := range c.tags {
		if tagged.digest == m.digest {
			ref = tag
		}
	}
	return c.check(m, ref)
}

// check pulls a live manifest: its bytes, blobs, children and referrers.
func (c *client) check(m *manifest, ref string) error {
	err := c.checkWhole(m, ref)
	if err != nil {
		c.rig.count("BROKEN", 1)
		return fmt.Errorf("%s of %s is broken: %w", ref, c.repo, err)
	}
	c.rig.count("live manifests pulled whole", 1)
	return nil
}

func (c *client) checkWhole(m *manifest, ref string) error {
	if err := c.pull(c.path(ref), m.content, m.mediaType); err != nil {
		return err
	}
	for _, b := range m.blobs {
		if err := c.pull("/v2/"+c.repo+"/blobs/"+b.digest.String(), b.content, ""); err != nil {
			return err
		}
	}
	for _, child := range m.children {
		if err := c.checkWhole(child, child.digest.String()); err != nil {
			return fmt.Errorf("child: %w", err)
		}
	}
	listed, err := c.referrers(c.repo, m.digest)
	if err != nil {
		return err
	}
	for _, r := range c.live {
		if r.subject != m.digest {
			continue
		}
		if !slices.Contains(listed, r.digest) {
			return fmt.Errorf("its referrer %s is not listed", r.digest)
		}
		if err := c.checkWhole(r, r.digest.String()); err != nil {
			return fmt.Errorf("referrer: %w", err)
		}
	}
	return nil
}

// pullAnothers pulls what another client may be deleting. It may be gone at any point, but nothing else may be wrong.
func (c *client) pullAnothers() error {
	other := c.IntN(clients)
	return c.pullAnyway(repository(other), randomTag(other), "")
}

func (c *client) pullAnyway(repo, ref string, mediaType string) error {
	path := "/v2/" + repo + "/manifests/" + ref
	a, err := c.send("GET", path, nil, nil, 200, 404)
	if err != nil || a.status == 404 {
		return err
	}
	want := ref
	if !strings.Contains(ref, ":") {
		want = a.header.Get("Docker-Content-Digest")
	}
	if got := digest.FromBytes(a.body).String(); got != want {
		return fmt.Errorf("GET %s: content of %s, want %s", path, got, want)
	}
	var doc struct {
		Config            v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	for _, child := range doc.Manifests {
		if err := c.pullAnyway(repo, child.Digest.String(), child.MediaType); err != nil {
			return err
		}
	}
	if len(doc.Manifests) > 0 {
		return nil
	}
	for _, d := range append(doc.Layers, doc.Config) {
		path := "/v2/" + repo + "/blobs/" + d.Digest.String()
		a, err := c.send("GET", path, nil, nil, 200, 404)
		if err != nil {
			return err
		}
		if a.status == 200 && d.Digest.Algorithm().FromBytes(a.body) != d.Digest {
			return fmt.Errorf("GET %s: %d bytes of other content", path, len(a.body))
		}
	}
	return nil
}
