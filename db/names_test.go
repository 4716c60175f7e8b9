package db

import (
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// The grammar as the specification prints it, anchored so that a trailing newline does not match.
var (
	specName = regexp.MustCompile(`\A[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\z`)
	specTag  = regexp.MustCompile(`\A[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}\z`)
)

var nameSeeds = []string{
	"", "a", "library/busybox", "a/b/c/d", "a.b", "a_b", "a__b", "a___b", "a-b", "a---b", "a.-b", "a..b", "a_.b", "/a", "a/", "a//b",
	"a/-b", "a-/b", "-a", "a-", ".", "..", "a/../b", "A", "a b", "a\n", "a\x00", "_catalog", "a/_catalog", "ä", "a:b", "a@b",
	"a/blobs/uploads", "x/tags/list", strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a/", 127) + "a",
}

func TestParseRepoName(t *testing.T) {
	for _, s := range nameSeeds {
		checkName(t, s)
	}
}

func FuzzParseRepoName(f *testing.F) {
	for _, s := range nameSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkName(t, s) })
}

func checkName(t *testing.T, s string) {
	t.Helper()
	want := specName.MatchString(s) && len(s) <= 255
	name, err := ParseRepoName(s)
	if (err == nil) != want {
		t.Errorf("ParseRepoName(%q) = %v, want valid %v", s, err, want)
	}
	if err == nil && string(name) != s || err != nil && name != "" {
		t.Errorf("ParseRepoName(%q) = %q", s, name)
	}
}

func FuzzParseTag(f *testing.F) {
	for _, s := range []string{"", "a", "latest", "v1.2-3_x", ".a", "-a", "_a", "a b", "a\n", "<script>", "../", "a\x00", strings.Repeat("a", 128), strings.Repeat("a", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tag, err := ParseTag(s)
		if (err == nil) != specTag.MatchString(s) || err == nil && string(tag) != s {
			t.Errorf("ParseTag(%q) = %q, %v", s, tag, err)
		}
	})
}

func FuzzParseDigest(f *testing.F) {
	hex64 := strings.Repeat("0f", 32)
	for _, s := range []string{"", ":", "sha256:", "sha256:" + hex64, "sha512:" + hex64 + hex64, "sha512:" + hex64, "SHA256:" + hex64,
		"sha256:" + strings.ToUpper(hex64), "sha256:" + hex64 + "\n", "md5:" + hex64, "sha384:" + hex64 + hex64[:32], "foo:a", "sha256:" + hex64[:63] + "g"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		lib := digest.Digest(s)
		want := lib.Validate() == nil && (lib.Algorithm() == digest.SHA256 || lib.Algorithm() == digest.SHA512)
		d, err := ParseDigest(s)
		if (err == nil) != want {
			t.Fatalf("ParseDigest(%q) = %v, want valid %v", s, err, want)
		}
		if err != nil {
			return
		}
		packed, err := packDigest(d)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := unpackDigest(packed); err != nil || back != lib {
			t.Fatalf("digest %q came back as %q, %v", s, back, err)
		}
	})
}

func TestUnpackRefusesWhatPackNeverMade(t *testing.T) {
	for _, packed := range [][]byte{nil, {}, {1}, make([]byte, 33), append([]byte{2}, make([]byte, 32)...), append([]byte{1}, make([]byte, 64)...)} {
		if d, err := unpackDigest(packed); err == nil {
			t.Errorf("unpackDigest(%x) = %q", packed, d)
		}
	}
}
