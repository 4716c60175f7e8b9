package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// hostile is text that plays with a terminal: colours, the title, a line over the one before, another direction, lines
// that are none, a byte that eight-bit terminals obey.
const hostile = "a\x1b[31mred\x1b]0;title\x07\rb\u202ec\u2028d\u0085e\u200bf\U000e0001g\x9b1m\x7f\u2066h"

func TestPrintable(t *testing.T) {
	const want = `a\u001b[31mred\u001b]0;title\u0007\u000db\u202ec\u2028d\u0085e\u200bf\udb40\udc01g\ufffd1m\u007f\u2066h`
	if got := Printable(hostile); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := Printable("a\tb\nc"); got != `a\u0009b\u000ac` {
		t.Error(got)
	}
	for _, same := range []string{"", "team/app:v1", "größe ≥ 1 日本 🎉"} {
		if got := Printable(same); got != same {
			t.Errorf("%q became %q", same, got)
		}
	}
	// However the text is cut into writes.
	for size := 1; size < 8; size++ {
		var out bytes.Buffer
		w := &printableWriter{raw: &out}
		for text := []byte("größe\t日本\n" + hostile + "\n"); len(text) > 0; text = text[min(size, len(text)):] {
			if n, err := w.Write(text[:min(size, len(text))]); err != nil || n != min(size, len(text)) {
				t.Fatal(n, err)
			}
		}
		if got := out.String(); got != "größe\t日本\n"+want+"\n" {
			t.Errorf("in pieces of %d: %s", size, got)
		}
	}
}

// JSON that is printed says the same after it.
func TestPrintedJSONStaysTheSame(t *testing.T) {
	valid := strings.ToValidUTF8(hostile, "?")
	var out bytes.Buffer
	if err := printJSON(&printableWriter{raw: &out}, valid); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got != valid {
		t.Errorf("%v: %q", err, got)
	}
}

// What does not show in a cell of a table stays in its cell.
func TestTableCells(t *testing.T) {
	var out bytes.Buffer
	rows := all([]string{"one\ntwo\tthree", hostile})
	err := writeTable(&out, rows, []string{"NAME", "SIZE"}, func(s string) []string { return []string{s, "1 B"} })
	if err != nil || strings.Count(out.String(), "\n") != 3 || strings.ContainsAny(out.String(), "\t\x1b\r") {
		t.Error(err, fmt.Sprintf("%q", out.String()))
	}
}
