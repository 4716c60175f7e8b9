package bundle

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// A receipt is what a receiver has, so that it need not be sent again: an object with a version and one line for each
// repository.

// WriteReceipt writes the receipt of the repositories that names yields, one at a time.
func WriteReceipt(ctx context.Context, reg *registry.Registry, names iter.Seq2[string, error], to io.Writer) error {
	out := bufio.NewWriter(to)
	fmt.Fprintf(out, "{\"version\":%d,\"repositories\":[", version)
	separator := "\n"
	for name, err := range names {
		if err != nil {
			return err
		}
		inventory, err := reg.Inventory(ctx, registry.RepoName(name))
		if registry.NameUnknown.Is(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		line, err := json.Marshal(inventory)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s", separator, line)
		separator = ",\n"
	}
	fmt.Fprint(out, "\n]}\n")
	return out.Flush()
}

// Receipt is a receipt that has been read: what the receiver has.
type Receipt struct {
	manifests map[registry.RepoName]map[digest.Digest]bool
	blobs     map[registry.RepoName]map[digest.Digest]bool
	public    map[digest.Digest]bool // blobs of public repositories, which an import gives to any other
}

// ReadReceipt reads a receipt, one repository at a time.
func ReadReceipt(from io.Reader) (*Receipt, error) {
	r := &Receipt{manifests: map[registry.RepoName]map[digest.Digest]bool{}, blobs: map[registry.RepoName]map[digest.Digest]bool{}, public: map[digest.Digest]bool{}}
	dec := json.NewDecoder(bufio.NewReader(from))
	if err := expect(dec, json.Delim('{'), "version"); err != nil {
		return nil, err
	}
	var v int
	if err := dec.Decode(&v); err != nil || v != version {
		return nil, fmt.Errorf("not a receipt of version %d", version)
	}
	if err := expect(dec, "repositories", json.Delim('[')); err != nil {
		return nil, err
	}
	for dec.More() {
		var i registry.Inventory
		if err := dec.Decode(&i); err != nil {
			return nil, fmt.Errorf("receipt: %w", err)
		}
		r.add(i)
	}
	return r, expect(dec, json.Delim(']'), json.Delim('}'))
}

func expect(dec *json.Decoder, tokens ...json.Token) error {
	for _, want := range tokens {
		if got, err := dec.Token(); err != nil || got != want {
			return fmt.Errorf("not a receipt, or a part of one: %v where %v should be", got, want)
		}
	}
	return nil
}

func (r *Receipt) add(i registry.Inventory) {
	r.manifests[i.Name], r.blobs[i.Name] = setOf(i.Manifests), setOf(i.Blobs)
	if i.Public {
		maps.Copy(r.public, r.blobs[i.Name])
	}
}

func setOf(list []digest.Digest) map[digest.Digest]bool {
	set := map[digest.Digest]bool{}
	for _, d := range list {
		set[d] = true
	}
	return set
}

// hasManifest says whether the receiver has a manifest in a repository. Without a receipt they have nothing.
func (r *Receipt) hasManifest(repo registry.RepoName, d digest.Digest) bool {
	return r != nil && r.manifests[repo][d]
}

// hasBlob says whether the receiver has a blob in a repository, or where everybody may read it.
func (r *Receipt) hasBlob(repo registry.RepoName, d digest.Digest) bool {
	return r != nil && (r.blobs[repo][d] || r.public[d])
}
