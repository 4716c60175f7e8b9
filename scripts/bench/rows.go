//go:build linux

package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	mib  = 1 << 20
	page = 100 // names on a page of a list
	asks = 50  // times that a page is asked for
)

// sizes is how much is done. The rows are the same.
type sizes struct {
	blob, chunk, layer, huge int64         // bytes
	push                     map[int]int   // images that so many clients push
	hot                      time.Duration // of reading what is there
	images                   int           // that are there then
	tags, repos, referrers   int
	rows                     int // of blobs and of tags in the large registry; a tenth are repositories, a hundredth referrers
}

var (
	fullSizes = sizes{
		blob: 256 * mib, chunk: 16 * mib, layer: 1024 * mib, huge: 3072 * mib, push: map[int]int{1: 20, 16: 160, 64: 320},
		hot: 2 * time.Second, images: 100, tags: 1000, repos: 2000, referrers: 1000, rows: 1_000_000,
	}
	quickSizes = sizes{
		blob: 32 * mib, chunk: 4 * mib, layer: 256 * mib, push: map[int]int{1: 5, 16: 40, 64: 80},
		hot: 300 * time.Millisecond, images: 20, tags: 300, repos: 300, referrers: 200, rows: 10_000,
	}
)

// groups are the rows of the table, a few of each group being measured on one server.
var groups = []struct {
	name string
	own  bool // only of this registry
	once bool // in the first round only
	run  func(*trial)
}{
	{name: "pull-large", run: (*trial).pullLarge},
	{name: "push-large", run: (*trial).pushLarge},
	{name: "close-large", own: true, run: (*trial).closeLarge},
	{name: "push-small", run: (*trial).pushSmall},
	{name: "fsync-calls", once: true, run: (*trial).fsyncCalls},
	{name: "mount", run: (*trial).mountSmall},
	{name: "pull-small", run: (*trial).pullSmall},
	{name: "mixed", run: (*trial).mixed},
	{name: "tags", run: (*trial).tagLists},
	{name: "catalog", run: (*trial).catalog},
	{name: "referrers", run: (*trial).referrerLists},
	{name: "large-registry", own: true, run: (*trial).largeRegistry},
	{name: "memory", run: (*trial).memories},
	{name: "binary", once: true, run: (*trial).binary},
}

func clientsOf(n int) string {
	if n == 1 {
		return "1 client"
	}
	return fmt.Sprint(n, " clients")
}

func bytesOf(n int64) string { return humanize.IBytes(uint64(n)) }

// repoOf spreads images over repositories, as they are.
func repoOf(i int) string { return fmt.Sprint("bench/app", i%8) }

func (x *trial) pullLarge() {
	x.start()
	b := newBlob(0, x.blob)
	x.one(func(c *client) error { return c.pushStream("bench/large", b, b.size) })
	for _, n := range []int{1, 8} {
		r := x.do(job{clients: n, count: max(2, n), op: func(c *client, _ int) error { return c.pull("bench/large", b, 0, b.size) }})
		x.add(float64(b.size)/mib*r.perSecond(), "MiB/s", "pull of a %s blob, %s", bytesOf(b.size), clientsOf(n))
	}
	const part = 64 << 10
	for _, n := range []int{1, 8} {
		r := x.do(job{clients: n, time: x.hot, op: func(c *client, i int) error {
			return c.pull("bench/large", b, rand.New(rand.NewPCG(0, uint64(i))).Int64N(b.size-part), part)
		}})
		x.add(r.perSecond(), "req/s", "ranges of 64 KiB, %s", clientsOf(n))
	}
}

func (x *trial) pushLarge() {
	x.start()
	ways := []struct {
		name string
		push func(c *client, repo string, b *blob) error
	}{
		{"POST, PUT", (*client).pushWhole},
		{fmt.Sprintf("POST, PATCHes of %s, PUT", bytesOf(x.chunk)), func(c *client, repo string, b *blob) error { return c.pushChunks(repo, b, x.chunk) }},
		{"POST, PATCH of unknown length, PUT", func(c *client, repo string, b *blob) error { return c.pushStream(repo, b, -1) }},
	}
	for i, way := range ways {
		b := newBlob(uint64(i), x.blob)
		r := x.do(job{clients: 1, count: 1, durable: true, op: func(c *client, _ int) error { return way.push(c, "bench/large", b) }})
		x.one(func(c *client) error { return c.pull("bench/large", b, 0, b.size) })
		x.add(float64(b.size)/mib*r.perSecond(), "MiB/s", "push of a %s blob: %s", bytesOf(b.size), way.name)
	}
}

// closeLarge measures how long a client waits for the answer to the PUT that ends a layer.
func (x *trial) closeLarge() {
	if x.huge == 0 {
		return
	}
	x.start()
	b := newBlob(0, x.huge)
	var took time.Duration
	x.one(func(c *client) error { // in one go: nothing that waits for the disk may come between
		at, err := c.begin("bench/large")
		if err == nil {
			at, err = c.patch(at, b.part(0, b.size), b.size, nil)
		}
		if err != nil {
			return err
		}
		begin := time.Now()
		err = c.finish(at, b, false)
		took = time.Since(begin)
		return err
	})
	x.add(milliseconds(took), "ms", "closing PUT of a %s layer", bytesOf(b.size))
}

// fresh makes images that no earlier call in the trial made.
func (x *trial) fresh(n int) []*image {
	list := make([]*image, n)
	for i := range list {
		list[i] = newImage(x.made + i)
	}
	x.made += n
	return list
}

// pushImages has clients push new images.
func (x *trial) pushImages(clients int, images []*image) result {
	return x.do(job{clients: clients, count: len(images), durable: true, op: func(c *client, i int) error {
		return c.pushImage(repoOf(i), "", images[i])
	}})
}

func (x *trial) pushSmall() {
	x.start()
	for _, n := range []int{1, 16, 64} {
		images := x.fresh(x.push[n])
		x.forgetPeak()
		before := x.cpu()
		r := x.pushImages(n, images)
		cpu, peak := x.cpu()-before, x.memory("VmHWM")
		x.add(r.perSecond(), "images/s", "push of small images, %s", clientsOf(n))
		x.add(r.quantile(0.99), "ms", "push of a small image, %s, 99 %%", clientsOf(n))
		if n == 64 {
			x.add(milliseconds(cpu)/float64(len(images)), "ms", "processor time for a small image, %s", clientsOf(n))
			x.add(peak, "MiB", "memory, peak with %s pushing", clientsOf(n))
		}
		for i := 0; i < len(images); i += 10 {
			x.one(func(c *client) error { return c.pullImage(repoOf(i), images[i]) })
		}
	}
}

// fsyncCalls counts what asks the disk to be done with writing. It is not timed: strace is in the way.
func (x *trial) fsyncCalls() {
	if _, err := exec.LookPath("strace"); err != nil {
		x.fail(fmt.Errorf("strace: %w", errMissing))
		return
	}
	log := filepath.Join(x.dir, "calls")
	calls := func() int { // a call is a line; one that another thread's came between has a second
		text, err := os.ReadFile(log)
		x.fail(err)
		return bytes.Count(text, []byte("\n")) - bytes.Count(text, []byte("resumed>"))
	}
	x.start("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync,sync_file_range", "-e", "signal=none", "-o", log)
	images := x.fresh(min(128, x.push[64]))
	before := calls()
	x.pushImages(64, images)
	x.add(float64(calls()-before)/float64(len(images)), "calls", "fsync and the like for a small image, 64 clients")
}

func (x *trial) mountSmall() {
	x.start()
	images := x.fresh(x.push[16])
	x.pushImages(16, images)
	r := x.do(job{clients: 16, count: len(images), durable: true, op: func(c *client, i int) error {
		return c.pushImage(repoOf(i)+"/copy", repoOf(i), images[i])
	}})
	x.one(func(c *client) error { return c.pullImage(repoOf(0)+"/copy", images[0]) })
	x.add(r.perSecond(), "images/s", "push of small images by mount, 16 clients")
}

// again has clients do something with images that are there, for the time that such things are measured.
func (x *trial) again(clients int, images []*image, op func(c *client, repo string, im *image) error) result {
	return x.do(job{clients: clients, time: x.hot, op: func(c *client, i int) error {
		i %= len(images)
		return op(c, repoOf(i), images[i])
	}})
}

func (x *trial) pullSmall() {
	x.start()
	images := x.fresh(x.images)
	x.pushImages(16, images)
	for _, n := range []int{16, 64} {
		r := x.again(n, images, (*client).pullImage)
		x.add(r.perSecond(), "images/s", "pull of small images, %s", clientsOf(n))
	}
	for _, n := range []int{16, 64} {
		r := x.again(n, images, (*client).headManifest)
		x.add(r.perSecond(), "req/s", "HEAD of a manifest by tag, %s", clientsOf(n))
		x.add(r.quantile(0.99), "ms", "HEAD of a manifest by tag, %s, 99 %%", clientsOf(n))
	}
}

// mixed is 80 pulls, 15 pushes and 5 deletes in a hundred, in a fixed order. What is deleted was pushed on the way.
func (x *trial) mixed() {
	x.start()
	images := x.fresh(x.images)
	x.pushImages(16, images)
	type pushed struct {
		repo string
		*image
	}
	doomed := make(chan pushed, 1<<20)
	r := x.do(job{clients: 16, time: 2 * x.hot, durable: true, op: func(c *client, i int) error {
		die := rand.New(rand.NewPCG(1, uint64(i))).IntN(100)
		if die < 5 {
			select {
			case p := <-doomed:
				return c.deleteManifest(p.repo, p.image)
			default: // nothing was pushed yet
			}
		}
		if die >= 20 {
			return c.pullImage(repoOf(i%len(images)), images[i%len(images)])
		}
		p := pushed{repoOf(i), newImage(x.made + i)}
		err := c.pushImage(p.repo, "", p.image)
		doomed <- p
		return err
	}})
	x.add(r.perSecond(), "ops/s", "80 %% pulls, 15 %% pushes, 5 %% deletes of small images, 16 clients")
	x.add(r.quantile(0.99), "ms", "one of these, 99 %%")
}

// pages asks for the same page of a list of n again and again.
func (x *trial) pages(what string, n int, ask func(c *client) error) {
	r := x.do(job{clients: 1, count: asks, op: func(c *client, _ int) error { return ask(c) }})
	x.add(r.quantile(0.5), "ms", "page of %d %s of %s", page, what, humanize.Comma(int64(n)))
}

// names are those of a full list, in order.
func names(format string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return list
}

func (x *trial) pageOfTags(repo string, all []string) {
	x.pages("tags", len(all), func(c *client) error {
		var list struct{ Tags []string }
		err := c.list("/v2/"+repo+"/tags/list", page, all[len(all)/2], &list)
		return samePage(err, list.Tags, all)
	})
}

func (x *trial) pageOfCatalog(all []string) {
	x.pages("repositories", len(all), func(c *client) error {
		var list struct{ Repositories []string }
		err := c.list("/v2/_catalog", page, all[len(all)/2], &list)
		return samePage(err, list.Repositories, all)
	})
}

// samePage compares a page of names with the hundred after the one in the middle.
func samePage(err error, got, all []string) error {
	from := len(all)/2 + 1
	if want := all[from : from+page]; err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("a page of %d names %.80q is not the %d from %s on", len(got), got, page, want[0])
	}
	return err
}

// pageOfReferrers asks for the first page: the specification has no other way to another than to follow links.
func (x *trial) pageOfReferrers(repo string, subject digest.Digest, n int, has func(digest.Digest) bool) {
	x.pages("referrers", n, func(c *client) error {
		var list v1.Index
		if err := c.list("/v2/"+repo+"/referrers/"+subject.String(), page, "", &list); err != nil {
			return err
		}
		seen := map[digest.Digest]bool{}
		for _, m := range list.Manifests {
			if seen[m.Digest] = true; !has(m.Digest) {
				return fmt.Errorf("%s is listed among the referrers", m.Digest)
			}
		}
		if len(seen) == n && n > page {
			return fmt.Errorf("referrers by the page: %w", errMissing)
		}
		if len(seen) != page {
			return fmt.Errorf("a page of %d different referrers, want %d", len(seen), page)
		}
		return nil
	})
}

func (x *trial) tagLists() {
	x.start()
	im, tags := newImage(0), names("t%07d", x.tags)
	x.one(func(c *client) error { return c.pushImage("bench/tags", "", im) })
	r := x.do(job{clients: 16, count: x.tags, durable: true, op: func(c *client, i int) error {
		_, err := c.putManifest("bench/tags", tags[i], im.manifest, im.digest)
		return err
	}})
	x.add(r.perSecond(), "tags/s", "tag puts, 16 clients")
	x.pageOfTags("bench/tags", tags)
}

// small is a manifest that needs only one blob, which is its config and its layer.
func small(b *blob, subject *v1.Descriptor, note string) ([]byte, digest.Digest) {
	d := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: b.digest, Size: b.size}
	return encode(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/vnd.bench",
		Config: d, Layers: []v1.Descriptor{d}, Subject: subject, Annotations: map[string]string{"note": note},
	})
}

func (x *trial) catalog() {
	x.start()
	b, repos := newBlob(0, 1000), names("catalog/%06d", x.repos)
	content, d := small(b, nil, "")
	x.one(func(c *client) error { return c.list("/v2/_catalog", page, "", &struct{}{}) }) // before much is done for nothing
	x.one(func(c *client) error { return c.pushNew(repos[0], b) })
	x.do(job{clients: 16, count: x.repos, op: func(c *client, i int) error {
		if err := c.mount(repos[i], repos[0], b); err != nil {
			return err
		}
		_, err := c.putManifest(repos[i], "v1", content, d)
		return err
	}})
	x.pageOfCatalog(repos)
}

func (x *trial) referrerLists() {
	x.start()
	im, b := newImage(0), newBlob(0, 1000)
	x.one(func(c *client) error { return c.pushImage("bench/subject", "", im) })
	x.one(func(c *client) error { return c.pushNew("bench/subject", b) })
	subject := &v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: im.digest, Size: int64(len(im.manifest))}
	known := map[digest.Digest]bool{}
	// One after the other: whether referrers get lost that are pushed at the same time is not asked here.
	x.do(job{clients: 1, count: x.referrers, op: func(c *client, i int) error {
		content, d := small(b, subject, fmt.Sprint(i))
		known[d] = true
		resp, err := c.putManifest("bench/subject", d.String(), content, d)
		if err == nil && resp.Header.Get("OCI-Subject") == "" {
			err = fmt.Errorf("referrers: %w", errMissing)
		}
		return err
	}})
	x.pageOfReferrers("bench/subject", im.digest, x.referrers, func(d digest.Digest) bool { return known[d] })
}

// memories are what the server takes when nobody asks for anything, and while a large layer comes in.
func (x *trial) memories() {
	x.start()
	time.Sleep(x.hot)
	x.add(x.memory("VmRSS"), "MiB", "memory at rest")
	b := newBlob(0, x.layer)
	x.forgetPeak()
	x.one(func(c *client) error { return c.pushStream("bench/large", b, -1) })
	x.add(x.memory("VmHWM"), "MiB", "memory, peak while a layer of %s comes in", bytesOf(b.size))
}

// binary is the size of the program without what only a debugger needs.
func (x *trial) binary() {
	if _, err := exec.LookPath("strip"); err != nil || strings.HasPrefix(x.target.name, "limit") {
		x.fail(fmt.Errorf("size: %w", errMissing))
		return
	}
	stripped := filepath.Join(x.dir, "stripped")
	if out, err := exec.CommandContext(x.context, "strip", "-o", stripped, x.target.command[0]).CombinedOutput(); err != nil {
		x.fail(fmt.Errorf("strip: %w: %s", err, out))
		return
	}
	info, err := os.Stat(stripped)
	if err != nil {
		x.fail(err)
		return
	}
	x.add(float64(info.Size())/mib, "MiB", "size of the stripped program")
}
