package server

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
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

func TestChooseRanges(t *testing.T) {
	for _, x := range []struct {
		header string
		size   int64
		want   []byteSpan
		left   string // of the header
	}{
		{"", 10, nil, ""},
		{"items=0-1", 10, nil, ""},
		{"bytes=2-4", 10, nil, "bytes=2-4"},
		{"bytes= 2-4 , ", 10, nil, "bytes=2-4"},
		{"bytes=2-", 10, nil, "bytes=2-9"},
		{"bytes=-3", 10, nil, "bytes=7-9"},
		{"bytes=-30", 10, nil, "bytes=0-9"},
		{"bytes=2-99999999999999999999999999999999", 10, nil, "bytes=2-9"},
		{"bytes=-99999999999999999999999999999999", 10, nil, "bytes=0-9"},
		{"bytes=99999999999999999999999999999999-", 10, nil, "bytes=10-"},
		{"bytes=-0", 10, nil, "bytes=10-"},
		{"bytes=10-", 10, nil, "bytes=10-"},
		{"bytes=", 10, nil, "bytes=10-"},
		{"bytes=4-2", 10, nil, "bytes=10-"},
		{"bytes=0-1,x", 10, nil, "bytes=10-"},
		{"bytes=0-1,-", 10, nil, "bytes=10-"},
		{"bytes=0-1,+2-3", 10, nil, "bytes=10-"},
		{"bytes=0-1,2", 10, nil, "bytes=10-"},
		{"bytes=-5", 0, nil, "bytes=0-"},
		{"bytes=0-0,100-200", 10, nil, "bytes=0-0"},
		{"bytes=0-4,2-6,6-6", 10, nil, "bytes=0-6"},
		{"bytes=4-5,0-1", 10, []byteSpan{{0, 2}, {4, 2}}, ""},
		{"bytes=0-1,2-3", 10, []byteSpan{{0, 2}, {2, 2}}, ""},
		{"bytes=0-0,-1,0-0", 10, []byteSpan{{0, 1}, {9, 1}}, ""},
		{"bytes=" + strings.Repeat("0-0,2-2,4-4,", 100), 10, []byteSpan{{0, 1}, {2, 1}, {4, 1}}, ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if x.header != "" {
			r.Header.Set("Range", x.header)
		}
		if got := chooseRanges(r, x.size); !slices.Equal(got, x.want) || r.Header.Get("Range") != x.left {
			t.Errorf("%.80q of %d: %v and %q, want %v and %q", x.header, x.size, got, r.Header.Get("Range"), x.want, x.left)
		}
	}
}

// Many ranges are answered as long as that is less than the blob.
func TestManyRanges(t *testing.T) {
	content := make([]byte, 400<<10)
	rand.NewChaCha8([32]byte{}).Read(content)
	for _, x := range []struct {
		n, length, step int64
		whole           bool
	}{{2, 5, 1000, false}, {16, 200, 1900, false}, {17, 200, 1900, false}, {200, 200, 1900, false}, {5, 100, 80 << 10, false}, {16, 25_000, 25_500, false},
		{17, 24_000, 24_050, true}, {3500, 1, 100, true}, {1000, 1, 100, false}} {
		var want []byteSpan
		var asked []string
		for i := range x.n {
			want = append(want, byteSpan{i * x.step, x.length})
			asked = append(asked, fmt.Sprintf("%d-%d", i*x.step, i*x.step+x.length-1))
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", "bytes="+strings.Join(asked, ","))
		spans := chooseRanges(r, int64(len(content)))
		if x.whole {
			if spans != nil || r.Header.Get("Range") != "" {
				t.Errorf("%+v: %d spans", x, len(spans))
			}
			continue
		}
		if !slices.Equal(spans, want) {
			t.Errorf("%+v: %v", x, spans)
			continue
		}
		w := httptest.NewRecorder()
		if err := newParts(spans, int64(len(content))).write(w, bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if length := w.Header().Get("Content-Length"); length != strconv.Itoa(w.Body.Len()) || w.Code != 206 {
			t.Errorf("%+v: %d, %s bytes announced, %d sent", x, w.Code, length, w.Body.Len())
		}
		_, params, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		parts := multipart.NewReader(w.Body, params["boundary"])
		for _, b := range want {
			p, err := parts.NextPart()
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(p)
			if err != nil || !bytes.Equal(got, content[b.start:b.end()]) || p.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", b.start, b.end()-1, len(content)) {
				t.Fatalf("%+v: %v, %v", x, p.Header, err)
			}
		}
		if _, err := parts.NextPart(); err != io.EOF {
			t.Errorf("%+v: more parts: %v", x, err)
		}
	}
}

func FuzzChooseRanges(f *testing.F) {
	f.Add("0-1,4-5,-3", int64(10))
	f.Add("9223372036854775807-9223372036854775808", int64(1))
	f.Fuzz(func(t *testing.T, list string, size int64) {
		if size < 0 || size > maxOffset {
			return
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", "bytes="+list)
		end := int64(-1)
		for _, b := range chooseRanges(r, size) {
			if b.length <= 0 || b.start < 0 || b.end() > size || b.start < end {
				t.Fatalf("%q of %d: %v", list, size, b)
			}
			end = b.end()
		}
	})
}
