package registry

import (
	"io"
)

var oddEntries = []journalEntry{
	{Kind: "user", Name: "alice"},
	{Kind: "public", Name: "../etc"},
	{Kind: "token", Name: "nobody", Item: "ci"},
	{Kind: "member", Name: "team", Item: "nobody"},
	{Kind: "grant", Name: "nobody", Item: "**"},
	{Kind: "key", Name: "x"},
	{Kind: "", Name: "x"},
	{Kind: "grant", Name: ""},
}

// OddLines is how many lines of OddJournal are wrong.
var OddLines = int64(len(oddEntries) - 1)

// OddJournal writes a journal of one user and of lines that no program writes.
func OddJournal(w io.Writer) error {
	for i := range oddEntries {
		if _, err := (journalLine{ID: int64(i), Policy: &oddEntries[i]}).encode(w); err != nil {
			return err
		}
	}
	return nil
}
