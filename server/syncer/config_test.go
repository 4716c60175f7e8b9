package syncer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParse(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hub"), []byte("hub-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := Parse([]byte(`
version: 1
x-common: &common
  referrers: true
creds:
  - registry: docker.io
    user: me
    passFile: hub
  - registry: registry.lan:5000
    tls: disabled
    privateNetwork: true
defaults:
  interval: 60m
  parallel: 3
  ratelimit: {min: 20, retry: 15m}
  platforms: [linux/amd64]
sync:
  - source: alpine
    target: base/alpine
    type: repository
    tags:
      allow: ['3\.\d+', edge]
      deny: ['3\.1']
      semverRange: ['>=3']
    <<: *common
  - source: index.docker.io/grafana/loki:2.0
    target: loki
    type: image
    schedule: '0 3 * * *'
    platforms: []
  - source: registry.lan:5000
    target: lan
    type: registry
    repos: {deny: ['private/.*']}
    digestTags: true
    ratelimit: {min: 1}
`), dir)
	if err != nil {
		t.Fatal(err)
	}
	alpine, loki, lan := entries[0], entries[1], entries[2]
	up := alpine.Upstream
	if up.Name != "docker.io" || up.URL.String() != "https://registry-1.docker.io" || up.Realm != "auth.docker.io" || up.User != "me" || up.Secret != "hub-secret" || up.Network {
		t.Errorf("%+v", up)
	}
	if alpine.Repository != "library/alpine" || alpine.Target != "base/alpine" || !alpine.Referrers || alpine.DigestTags || alpine.Schedule != "60m" || alpine.Parallel != 3 {
		t.Errorf("%+v", alpine)
	}
	if alpine.Rate != (Rate{20, 15 * time.Minute}) || len(alpine.Platforms) != 1 {
		t.Errorf("%+v", alpine)
	}
	for tag, want := range map[string]bool{"3.18": true, "3.1": false, "3.18.1": false, "edge": false, "2.9": false, "v3.18": false, "x3.18": false} {
		if alpine.lets(registry.Tag(tag)) != want {
			t.Errorf("%s: %v", tag, !want)
		}
	}
	if loki.Repository != "grafana/loki" || loki.Ref.Tag != "2.0" || loki.TargetTag != "2.0" || loki.Target != "loki" || loki.Schedule != "0 3 * * *" || loki.Platforms != nil || loki.Referrers {
		t.Errorf("%+v", loki)
	}
	up = lan.Upstream
	if up.URL.String() != "http://registry.lan:5000" || !up.Network || lan.Repository != "" || !lan.DigestTags || lan.Rate.Min != 1 || lan.Repos.Lets("private/x") || !lan.Repos.Lets("a") {
		t.Errorf("%+v", lan)
	}
}

func TestParseSources(t *testing.T) {
	for source, want := range map[string]string{
		"nginx": "docker.io library/nginx latest", "nginx:1.2": "docker.io library/nginx 1.2", "a/b:c": "docker.io a/b c",
		"docker.io/nginx": "docker.io library/nginx latest", "registry-1.docker.io/a/b": "docker.io a/b latest",
		"ghcr.io/a:x": "ghcr.io a x", "localhost/a": "localhost a latest", "localhost:5000/a/b:v1": "localhost:5000 a/b v1",
		"quay.io/a/b@" + digest.FromString("").String():    "quay.io a/b " + digest.FromString("").String(),
		"quay.io/a/b:v1@" + digest.FromString("").String(): "quay.io a/b " + digest.FromString("").String(),
		"": "", "a:5/B": "", "ghcr.io/a:b:c": "", "ghcr.io/": "", "a b/c": "", "x.y,public/c": "",
	} {
		entries, err := Parse([]byte("sync: [{type: image, target: 'a:b', source: '"+source+"'}]"), "")
		got := ""
		if err == nil {
			got = entries[0].Upstream.Name + " " + string(entries[0].Repository) + " " + entries[0].Ref.String()
		}
		if got != want {
			t.Errorf("%s: %q, %v", source, got, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const good = "version: 1\nsync:\n  - source: ghcr.io/a/b\n    target: c\n    type: repository\n"
	if _, err := Parse([]byte(good), ""); err != nil {
		t.Fatal(err)
	}
	creds := func(text string) string { return good + "creds:\n  - registry: ghcr.io\n" + text }
	for _, x := range []struct{ text, want string }{
		{"", "1: sync: there are no entries"},
		{"version: 2\nsync: []", "1: version: 2 is not known here"},
		{good + "  - source: [", "6: "},
		{good + "    sources: x\n", `6: unknown field "sources"`},
		{good + "    tags: {allows: [a]}\n", `6: unknown field "allows"`},
		{good + "    hooks: {}\n", `6: unknown field "hooks"`},
		{good + "    target: d\n", "6: "},
		{good + "defaults: {parallel: many}\n", "6: "},
		{good + "defaults:\n  parallel: 65\n", "7: defaults.parallel: 65 is not from 1 to 64"},
		{good + "    schedule: 6h\n    interval: 6h\n", "7: sync[0].interval: there is a schedule, too"},
		{good + "    tags:\n      allow: [a, '(']\n", "7: sync[0].tags.allow[1]: error parsing regexp"},
		{good + "    tags:\n      allow: ['a)|(b']\n", "7: sync[0].tags.allow[0]: error parsing regexp"},
		{good + "    tags:\n      semverRange:\n        - nonsense\n", "8: sync[0].tags.semverRange[0]: \"nonsense\""},
		{good + "    platforms: [linux]\n", "6: sync[0].platforms[0]: \"linux\" is not a platform"},
		{good + "    ratelimit: {min: -1}\n", "6: sync[0].ratelimit.min: it is negative"},
		{good + "    ratelimit: {retry: soon}\n", "6: sync[0].ratelimit.retry: \"soon\" is not a time"},
		{good + "    repos: {allow: [a]}\n", "sync[0].repos: they are chosen from a registry"},
		{"sync:\n- type: tag\n  source: a\n  target: b\n", "2: sync[0].type: \"tag\" is none of"},
		{"sync:\n- type: repository\n  source: a\n", "2: sync[0].target: "},
		{"sync:\n- type: repository\n  target: a\n", "2: sync[0].source: "},
		{"sync:\n- type: repository\n  source: a\n  target: b:c\n", "4: sync[0].target: \"b:c\" has a tag"},
		{"sync:\n- type: image\n  source: a\n  target: b:5000/c\n", "4: sync[0].target: \"b:5000/c\" has a host"},
		{"sync:\n- type: image\n  source: a@" + digest.FromString("").String() + "\n  target: b\n", "4: sync[0].target: \"b\" needs a tag"},
		{"sync:\n- type: image\n  source: a\n  target: b\n  tags: {allow: [a]}\n", "sync[0].tags: an image has only the one"},
		{"sync:\n- type: registry\n  source: ghcr.io/a\n  target: b\n", "3: sync[0].source: \"ghcr.io/a\" is not the name of a registry"},
		{"sync:\n- type: repository\n  source: '{{ env \"X\" }}'\n  target: b\n", "3: sync[0].source: templates are not known here"},
		{creds("    user: me\n"), "8: creds[0].user"},
		{creds("    pass: top-secret\n"), "creds[0].user: user and pass or passFile go together"},
		{creds("    user: me\n    pass: top-secret\n    passFile: x\n"), "10: creds[0].passFile: there is a pass, too"},
		{creds("    user: me\n    passFile: missing\n"), "9: creds[0].passFile: open "},
		{creds("    user: me\n    pass: '{{env \"top-secret\"}}'\n"), "creds[0]: templates are not known here"},
		{creds("    tls: insecure\n"), "8: creds[0].tls: \"insecure\" is neither"},
		{creds("    token: top-secret\n"), `8: unknown field "token"`},
		{creds("  - registry: ghcr.io\n"), "8: creds[1].registry: ghcr.io is there twice"},
	} {
		_, err := Parse([]byte(x.text), t.TempDir())
		if err == nil || !strings.HasPrefix(err.Error(), x.want) && !strings.Contains(err.Error(), " "+x.want) {
			t.Errorf("%s\n%v, want %s", x.text, err, x.want)
		} else if strings.Contains(err.Error(), "top-secret") {
			t.Errorf("%s\n%v", x.text, err)
		}
	}
}

func TestChoose(t *testing.T) {
	image := func(name, os, arch, variant string) v1.Descriptor {
		return v1.Descriptor{Digest: digest.FromString(name), Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}
	}
	attestation := func(of string) v1.Descriptor {
		d := image("att-"+of, "unknown", "unknown", "")
		d.Annotations = map[string]string{attested: digest.FromString(of).String()}
		return d
	}
	names := map[digest.Digest]string{}
	for _, n := range []string{"amd64", "arm64", "armv6", "armv7", "other", "att-amd64", "att-arm64"} {
		names[digest.FromString(n)] = n
	}
	index := []v1.Descriptor{image("amd64", "linux", "amd64", ""), image("arm64", "linux", "arm64", ""), image("armv6", "linux", "arm", "v6"),
		image("armv7", "linux", "arm", "v7"), {Digest: digest.FromString("other")}, attestation("amd64"), attestation("arm64")}
	for platforms, want := range map[string]string{
		"":                         "amd64 arm64 armv6 armv7 other att-amd64 att-arm64",
		"linux/amd64":              "amd64 other att-amd64",
		"linux/arm64/v8":           "arm64 other att-arm64",
		"linux/arm":                "armv6 armv7 other",
		"linux/arm/v7 linux/amd64": "amd64 armv7 other att-amd64",
		"windows/amd64":            "error",
	} {
		var list []Platform
		for _, text := range strings.Fields(platforms) {
			p, err := ParsePlatform(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
		}
		chosen, err := choose(index, list)
		var got []string
		for _, c := range chosen {
			got = append(got, names[c.Digest])
		}
		if err != nil {
			got = []string{"error"}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, %v", platforms, got, err)
		}
	}
}
