package server

import (
	"net/http"
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

// maxRanges bounds the parts of an answer: each costs headers, and a request of a few bytes a part would be answered
// with many times the blob.
const maxRanges = 16

// limitRanges takes away a Range header with too many parts, and one that does not count bytes, which nobody
// understands. The answer is the whole blob then (RFC 9110 section 14.2).
func limitRanges(r *http.Request) {
	header := r.Header.Get("Range")
	if strings.Count(header, ",") >= maxRanges || !strings.HasPrefix(header, "bytes=") {
		r.Header.Del("Range")
	}
}
