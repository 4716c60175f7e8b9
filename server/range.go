package server

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"registry/server/registry"
)

// contentRange is where a chunk goes.
type contentRange struct {
	start, length int64
}

// parseContentRange reads the Content-Range of an upload chunk: "<first>-<last>" as the specification has it ("Pushing a
// blob in chunks"), or RFC 9110's "bytes <first>-<last>/<complete>". Numbers are plain decimal digits.
func parseContentRange(s string) (contentRange, bool) {
	s = strings.TrimPrefix(s, "bytes ")
	s, complete, hasComplete := strings.Cut(s, "/")
	from, to, ok := strings.Cut(s, "-")
	first, okFirst := parseOffset(from)
	last, okLast := parseOffset(to)
	if !ok || !okFirst || !okLast || last < first {
		return contentRange{}, false
	}
	if total, ok := parseOffset(complete); hasComplete && complete != "*" && (!ok || total <= last) {
		return contentRange{}, false
	}
	return contentRange{start: first, length: last - first + 1}, true
}

// maxOffset is beyond any blob and leaves room to add two of them.
const maxOffset = 1 << 61

func parseOffset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < maxOffset
}

// readChunk describes the body of a PATCH or a closing PUT. The error is for a Content-Range that cannot be read or that
// contradicts Content-Length.
func readChunk(r *http.Request) (registry.Chunk, error) {
	c := registry.Chunk{Body: r.Body, Start: -1, Length: -1}
	if r.ContentLength == 0 {
		c.Length = 0
	}
	headers := r.Header.Values("Content-Range")
	if len(headers) == 0 {
		return c, nil
	}
	cr, ok := parseContentRange(headers[0])
	if !ok || len(headers) > 1 {
		return c, registry.BlobUploadInvalid.With("Content-Range is not of the form <first>-<last>")
	}
	if r.ContentLength >= 0 && r.ContentLength != cr.length {
		return c, registry.BlobUploadInvalid.With("Content-Range and Content-Length contradict each other")
	}
	c.Start, c.Length = cr.start, cr.length
	return c, nil
}

// Ranges of a blob (RFC 9110 section 14). One is answered by http.ServeContent, from the file to the connection; several
// are put together here, where what the answer costs is known before it begins.

const (
	// maxSmallRanges is how many parts an answer may have whatever the blob's size. More are answered only if that is less
	// than the whole: each costs a header, and a request of a few bytes a part would be answered with many times the blob.
	maxSmallRanges = 16
	// readThrough is the gap between two ranges that is read and not skipped: to begin anew costs a store more.
	readThrough = 64 << 10
)

// byteSpan is a range of a blob.
type byteSpan struct{ start, length int64 }

func (b byteSpan) end() int64 { return b.start + b.length }

// chooseRanges returns the ranges of a blob that a request asks for, in order and without overlaps, if there are several;
// r has no Range then. Otherwise what http.ServeContent makes of the Range it leaves in r is right: one range that the blob
// has, one that begins where the blob ends if it has none of them, or none for the whole, also where the unit is not bytes,
// which nobody understands.
func chooseRanges(r *http.Request, size int64) []byteSpan {
	header := r.Header.Get("Range")
	if header == "" {
		return nil
	}
	r.Header.Del("Range")
	list, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return nil
	}
	spans, ok := parseRanges(list, size)
	if !ok || len(spans) == 0 {
		r.Header.Set("Range", "bytes="+strconv.FormatInt(size, 10)+"-")
		return nil
	}
	spans = mergeOverlaps(spans)
	if len(spans) == 1 {
		r.Header.Set("Range", "bytes="+strconv.FormatInt(spans[0].start, 10)+"-"+strconv.FormatInt(spans[0].end()-1, 10))
		return nil
	}
	if len(spans) > maxSmallRanges && newParts(spans, size).length() >= size {
		return nil
	}
	return spans
}

// parseRanges reads the list of a Range header. Those that the blob does not have are left out; ok is false if one is not
// well formed.
func parseRanges(list string, size int64) (spans []byteSpan, ok bool) {
	for item := range strings.SplitSeq(list, ",") {
		item = strings.Trim(item, " \t")
		if item == "" {
			continue
		}
		from, to, dash := strings.Cut(item, "-")
		first, okFirst := parsePosition(from)
		last, okLast := parsePosition(to)
		switch {
		case !dash || !okFirst && from != "" || !okLast && to != "" || !okFirst && !okLast || okFirst && okLast && last < first:
			return nil, false
		case !okFirst: // the last bytes, as many as last says
			first, last = size-min(last, size), size-1
		case !okLast:
			last = size - 1
		}
		if last = min(last, size-1); first <= last {
			spans = append(spans, byteSpan{first, last - first + 1})
		}
	}
	return spans, true
}

// parsePosition reads decimal digits. Numbers may have any length (RFC 9110 section 14.1.1): those beyond any blob are all
// the same.
func parsePosition(s string) (n int64, ok bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, true
}

// mergeOverlaps sorts ranges and makes one of those that have bytes in common, so that no byte is sent twice. Others stay
// what they were, however near: clients count the parts.
func mergeOverlaps(spans []byteSpan) []byteSpan {
	slices.SortFunc(spans, func(a, b byteSpan) int { return cmp.Compare(a.start, b.start) })
	merged := spans[:1]
	for _, next := range spans[1:] {
		last := &merged[len(merged)-1]
		if next.start < last.end() {
			last.length = max(last.end(), next.end()) - last.start
		} else {
			merged = append(merged, next)
		}
	}
	return merged
}

// parts is an answer with several ranges of a blob (RFC 9110 section 15.3.7.2). boundary is random: content cannot have it.
type parts struct {
	spans    []byteSpan
	size     int64 // of the blob
	boundary string
}

func newParts(spans []byteSpan, size int64) parts { return parts{spans, size, rand.Text()} }

// header is what stands before a part.
func (p parts) header(b byteSpan) string {
	return fmt.Sprintf("\r\n--%s\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes %d-%d/%d\r\n\r\n", p.boundary, b.start, b.end()-1, p.size)
}

func (p parts) end() string { return "\r\n--" + p.boundary + "--\r\n" }

// length is that of the answer's body.
func (p parts) length() int64 {
	n := int64(len(p.end()))
	for _, b := range p.spans {
		n += int64(len(p.header(b))) + b.length
	}
	return n
}

// write answers. If it breaks off the answer is shorter than its Content-Length, and the connection ends.
func (p parts) write(w http.ResponseWriter, content io.ReadSeeker) error {
	w.Header().Set("Content-Type", "multipart/byteranges; boundary="+p.boundary)
	w.Header().Set("Content-Length", strconv.FormatInt(p.length(), 10))
	w.Header().Set("Accept-Ranges", "bytes")
	w.WriteHeader(http.StatusPartialContent)
	position := int64(0)
	for _, b := range p.spans {
		if _, err := io.WriteString(w, p.header(b)); err != nil {
			return err
		}
		if err := skip(content, position, b.start); err != nil {
			return err
		}
		if _, err := io.CopyN(w, content, b.length); err != nil {
			return err
		}
		position = b.end()
	}
	_, err := io.WriteString(w, p.end())
	return err
}

// skip moves on from one position to another.
func skip(content io.ReadSeeker, from, to int64) error {
	if to-from < readThrough {
		_, err := io.CopyN(io.Discard, content, to-from)
		return err
	}
	_, err := content.Seek(to, io.SeekStart)
	return err
}
