package server

import (
	"fmt"
	"testing"
)

func TestParseContentRange(t *testing.T) {
	for s, want := range map[string]contentRange{
		"0-9": {0, 10}, "5-5": {5, 1}, "bytes 0-9/10": {0, 10}, "bytes 0-9/*": {0, 10}, "10-19/20": {10, 10},
	} {
		if got, ok := parseContentRange(s); !ok || got != want {
			t.Errorf("%q: %v %v", s, got, ok)
		}
	}
	for _, s := range []string{
		"", "-", "0", "0-", "-9", "9-0", "+0-9", "0-+9", "0x0-0x9", " 0-9", "0-9 ", "bytes=0-9", "bytes 0-9/9", "0-9/", "0-9/x", "0-9-9",
		"0-18446744073709551615", "9223372036854775807-9223372036854775816", "0-9223372036854775807", "٠-٩",
	} {
		if got, ok := parseContentRange(s); ok {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"0-9", "bytes 0-9/10", "0-18446744073709551615", "-", "9-0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := parseContentRange(s)
		if !ok {
			return
		}
		if got.start < 0 || got.length <= 0 || got.start+got.length <= 0 {
			t.Fatalf("%q: %+v", s, got)
		}
		if back, ok := parseContentRange(fmt.Sprintf("%d-%d", got.start, got.start+got.length-1)); !ok || back != got {
			t.Errorf("%q: %+v came back as %+v", s, got, back)
		}
	})
}
