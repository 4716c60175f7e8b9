package db

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// RepoName is a repository name that has been checked against the grammar of the distribution specification ("Pulling
// manifests", <name>). Only ParseRepoName makes one from outside text.
type RepoName string

// Tag is a tag that has been checked against the grammar of the distribution specification ("Pulling manifests",
// <reference> as a tag). Only ParseTag makes one from outside text.
type Tag string

// maxNameLength is what clients allow for a name with its host; the specification advises registries to keep names
// within it.
const maxNameLength = 255

const maxTagLength = 128

// ParseRepoName checks s against
//
//	[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
//
// and a length of at most 255 bytes. Names that begin with an underscore (_catalog, _oci) can therefore not exist.
func ParseRepoName(s string) (RepoName, error) {
	if len(s) > maxNameLength {
		return "", fmt.Errorf("repository name is longer than %d characters", maxNameLength)
	}
	// A run is what stands between two alphanumerics: one of / . _ __ or any number of dashes.
	run := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && !isLowerAlnum(s[i]) {
			continue
		}
		if sep := s[run:i]; i == len(s) && (sep != "" || s == "") || run == 0 && sep != "" || !isSeparator(sep) {
			return "", fmt.Errorf("repository name %.80q: want lower case letters and digits, joined by one of . _ __ - and /", s)
		}
		run = i + 1
	}
	return RepoName(s), nil
}

func isLowerAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

func isSeparator(s string) bool {
	switch s {
	case "", "/", ".", "_", "__":
		return true
	}
	for i := range len(s) {
		if s[i] != '-' {
			return false
		}
	}
	return true
}

// ParseTag checks s against [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}.
func ParseTag(s string) (Tag, error) {
	ok := s != "" && len(s) <= maxTagLength
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = isLowerAlnum(c) || 'A' <= c && c <= 'Z' || c == '_' || i > 0 && (c == '.' || c == '-')
	}
	if !ok {
		return "", fmt.Errorf("tag %.80q: want 1 to %d of letters, digits, _ . - and neither . nor - first", s, maxTagLength)
	}
	return Tag(s), nil
}

// ParseDigest checks that s is a sha256 or sha512 digest in lower case hexadecimal.
func ParseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if _, err := packDigest(d); err != nil {
		return "", err
	}
	return d, nil
}

// The first byte of a stored digest.
const (
	packedSHA256 byte = 1
	packedSHA512 byte = 2
)

// packDigest returns the digest as the database stores it: 33 or 65 bytes instead of 71 or 135.
func packDigest(d digest.Digest) ([]byte, error) {
	const prefix = len("sha256:")
	var kind byte
	size := 0
	if len(d) > prefix {
		switch d[:prefix] {
		case "sha256:":
			kind, size = packedSHA256, sha256.Size
		case "sha512:":
			kind, size = packedSHA512, sha512.Size
		}
	}
	if size == 0 || len(d) != prefix+2*size {
		return nil, fmt.Errorf("digest %.80q: want sha256 or sha512, a colon and the hash in lower case hexadecimal", string(d))
	}
	packed := make([]byte, 1+size)
	packed[0] = kind
	for i := prefix; i < len(d); i++ {
		if c := d[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return nil, fmt.Errorf("digest %.80q: want the hash in lower case hexadecimal", string(d))
		}
	}
	if _, err := hex.Decode(packed[1:], []byte(d[prefix:])); err != nil {
		return nil, fmt.Errorf("digest %.80q: %w", string(d), err)
	}
	return packed, nil
}

// unpackDigest is the way back of packDigest. Bytes that packDigest did not make are ErrCorrupt.
func unpackDigest(packed []byte) (digest.Digest, error) {
	switch {
	case len(packed) == 1+sha256.Size && packed[0] == packedSHA256:
		return digest.Digest("sha256:" + hex.EncodeToString(packed[1:])), nil
	case len(packed) == 1+sha512.Size && packed[0] == packedSHA512:
		return digest.Digest("sha512:" + hex.EncodeToString(packed[1:])), nil
	}
	return "", fmt.Errorf("%w: stored digest %x", ErrCorrupt, packed)
}
