package command

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Much of what commands print comes from elsewhere: names in other registries, folders and archives, texts of errors. A
// character that a terminal obeys instead of showing it (an escape, a change of direction, a line separator) is printed
// as JSON spells it, so that JSON that is printed stays the same JSON.

// Printable is text with every character spelt out that does not show as itself on one line.
func Printable(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		writePrintable(&b, r)
	}
	return b.String()
}

func writePrintable(out io.Writer, r rune) {
	switch {
	case unicode.IsPrint(r) && r != utf8.RuneError:
		fmt.Fprintf(out, "%c", r)
	case r > 0xffff:
		high, low := utf16.EncodeRune(r)
		fmt.Fprintf(out, `\u%04x\u%04x`, high, low)
	default: // a byte that is no character is U+FFFD
		fmt.Fprintf(out, `\u%04x`, r)
	}
}

// printableWriter writes text as Printable does, but for line breaks and tabs, which lay it out.
type printableWriter struct {
	raw  io.Writer
	mu   sync.Mutex
	rest []byte // the beginning of a character
}

func (w *printableWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := p
	if len(w.rest) > 0 {
		text = append(w.rest, p...)
	}
	whole := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if last := text[len(text)-i]; utf8.RuneStart(last) {
			if !utf8.FullRune(text[len(text)-i:]) {
				whole -= i
			}
			break
		}
	}
	w.rest = bytes.Clone(text[whole:])
	if err := w.writeWhole(text[:whole]); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *printableWriter) writeWhole(text []byte) error {
	shows := func(r rune) bool { return r == '\n' || r == '\t' || unicode.IsPrint(r) && r != utf8.RuneError }
	if bytes.IndexFunc(text, func(r rune) bool { return !shows(r) }) >= 0 {
		var b bytes.Buffer
		for _, r := range string(text) {
			if shows(r) {
				b.WriteRune(r)
			} else {
				writePrintable(&b, r)
			}
		}
		text = b.Bytes()
	}
	_, err := w.raw.Write(text)
	return err
}

// raw is the stream below a printableWriter, for bytes that are no text and for moving the cursor.
func raw(out io.Writer) io.Writer {
	if w, ok := out.(*printableWriter); ok {
		return w.raw
	}
	return out
}
