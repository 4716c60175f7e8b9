package registry

import (
	"context"
	"io"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

var oddEntries = []JournalEntry{
	{Kind: "user", Name: "alice"},
	{Kind: "public", Name: "../etc"},
	{Kind: "token", Name: "nobody", Item: "ci"},
	{Kind: "member", Name: "team", Item: "nobody"},
	{Kind: "grant", Name: "nobody", Item: "**"},
	{Kind: "key", Name: "x"},
	{Kind: "", Name: "x"},
	{Kind: "grant", Name: ""},
}

// MaxReferences is the most references of a manifest that is pushed.
const MaxReferences = maxReferences

// PutOld stores a manifest as when more references were allowed, and tags it.
func (r *Registry) PutOld(ctx context.Context, repo RepoName, tag Tag, mediaType string, content []byte) error {
	doc, err := parseStored(mediaType, content)
	if err != nil {
		return err
	}
	p := parsedPut{Put: Put{Content: content}, doc: doc, digest: digest.FromBytes(content), tags: []Tag{tag}}
	return r.db.Update(ctx, func(tx *db.Tx) error { return r.put(tx, repo, p, "push") })
}

// OddLines is how many lines of OddJournal are wrong.
var OddLines = int64(len(oddEntries) - 1)

// OddJournal writes a journal of one user and of lines that no program writes.
func OddJournal(w io.Writer) error {
	for i := range oddEntries {
		if _, err := (JournalLine{ID: int64(i), Policy: &oddEntries[i]}).encode(w); err != nil {
			return err
		}
	}
	return nil
}
