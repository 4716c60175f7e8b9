package command

import (
	"path/filepath"
	"slices"
	"testing"
)

// Every document of a folder of the server is a topic, and every topic is one.
func TestTopics(t *testing.T) {
	found, err := filepath.Glob("../../server/*/README.md")
	if err != nil {
		t.Fatal(err)
	}
	found = append(found, "../../server/README.md")
	var shown []string
	for _, topic := range topics {
		shown = append(shown, "../../"+topic.file)
	}
	slices.Sort(found)
	slices.Sort(shown)
	if !slices.Equal(found, shown) {
		t.Errorf("the documents are\n%q, and the topics show\n%q", found, shown)
	}
}
