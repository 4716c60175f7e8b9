package registry

import (
	"strings"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// Names are checked once, where they come in. Everything below takes them as they are.
type (
	RepoName = db.RepoName
	Tag      = db.Tag
)

// Reference is a tag or a digest; exactly one is set.
type Reference struct {
	Tag    Tag
	Digest digest.Digest
}

func (r Reference) String() string { return string(r.Tag) + string(r.Digest) }

// ParseRepoName returns s as a repository name, or a NameInvalid error.
func ParseRepoName(s string) (RepoName, error) {
	name, err := db.ParseRepoName(s)
	if err != nil {
		return "", NameInvalid.With(err.Error())
	}
	return name, nil
}

// ParseTag returns s as a tag, or a TagInvalid error.
func ParseTag(s string) (Tag, error) {
	tag, err := db.ParseTag(s)
	if err != nil {
		return "", TagInvalid.With(err.Error())
	}
	return tag, nil
}

// ParseDigest returns s as a sha256 or sha512 digest, or a DigestInvalid error.
func ParseDigest(s string) (digest.Digest, error) {
	d, err := db.ParseDigest(s)
	if err != nil {
		return "", DigestInvalid.With(err.Error())
	}
	return d, nil
}

// ParseReference returns s as a digest if it has a colon, which no tag has, and as a tag otherwise.
func ParseReference(s string) (Reference, error) {
	if strings.Contains(s, ":") {
		d, err := ParseDigest(s)
		return Reference{Digest: d}, err
	}
	tag, err := ParseTag(s)
	return Reference{Tag: tag}, err
}

// ParseAlgorithm returns the digest algorithm named s, sha256 if s is empty, or a DigestInvalid error.
func ParseAlgorithm(s string) (digest.Algorithm, error) {
	switch s {
	case "", "sha256":
		return digest.SHA256, nil
	case "sha512":
		return digest.SHA512, nil
	}
	return "", DigestInvalid.With("want the digest algorithm sha256 or sha512")
}
