package registry

import (
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"registry/blobs"
	"registry/db"
)

// Code is a row of the table of errors: the specification's code ("Error Codes"), the HTTP status that goes with it and
// the message a client reads. Some codes have a second row with another status.
type Code struct {
	Name    string
	Status  int
	Message string
}

// The table. Codes of the specification first, then those it leaves to registries.
var (
	BlobUnknown         = &Code{"BLOB_UNKNOWN", 404, "blob unknown to registry"}
	BlobUploadInvalid   = &Code{"BLOB_UPLOAD_INVALID", 400, "blob upload invalid"}
	UploadStalled       = &Code{"BLOB_UPLOAD_INVALID", 408, "the body of the request stayed away too long"}
	RangeInvalid        = &Code{"BLOB_UPLOAD_INVALID", 416, "chunk does not begin where the upload ends"}
	BlobUploadUnknown   = &Code{"BLOB_UPLOAD_UNKNOWN", 404, "blob upload unknown to registry"}
	DigestInvalid       = &Code{"DIGEST_INVALID", 400, "provided digest is malformed or does not match the content"}
	ManifestBlobUnknown = &Code{"MANIFEST_BLOB_UNKNOWN", 404, "manifest references content that is unknown to the repository"}
	ManifestInvalid     = &Code{"MANIFEST_INVALID", 400, "manifest invalid"}
	ManifestTooLarge    = &Code{"MANIFEST_INVALID", 413, "manifest is too large"}
	ManifestStalled     = &Code{"MANIFEST_INVALID", 408, "the body of the request stayed away too long"}
	ManifestUnknown     = &Code{"MANIFEST_UNKNOWN", 404, "manifest unknown to registry"}
	NameInvalid         = &Code{"NAME_INVALID", 400, "invalid repository name"}
	NameUnknown         = &Code{"NAME_UNKNOWN", 404, "repository name not known to registry"}
	SizeInvalid         = &Code{"SIZE_INVALID", 413, "provided length is too large"}
	Unauthorized        = &Code{"UNAUTHORIZED", 401, "authentication required"}
	Denied              = &Code{"DENIED", 403, "requested access to the resource is denied"}
	TagImmutable        = &Code{"DENIED", 409, "tag is immutable"}
	Unsupported         = &Code{"UNSUPPORTED", 405, "the operation is unsupported"}
	TooManyRequests     = &Code{"TOOMANYREQUESTS", 429, "too many requests"}

	TagInvalid        = &Code{"TAG_INVALID", 400, "invalid tag"}
	PaginationInvalid = &Code{"PAGINATION_NUMBER_INVALID", 400, "invalid page"}
	RequestInvalid    = &Code{"REQUEST_INVALID", 400, "invalid request"}
	RequestStalled    = &Code{"REQUEST_INVALID", 408, "the body of the request stayed away too long"}
	Missing           = &Code{"NOT_FOUND", 404, "not found"}
	Conflict          = &Code{"CONFLICT", 409, "it conflicts with the current state"}
	Taken             = &Code{"TAKEN", 409, "the name is taken"}
	RuleInvalid       = &Code{"RULE_INVALID", 400, "invalid rule"}
	RuleUnknown       = &Code{"RULE_UNKNOWN", 404, "no such rule"}
	NotFound          = &Code{"NOT_FOUND", 404, "no such endpoint"}
	Misdirected       = &Code{"DENIED", 421, "the request is for another host"}
	ConditionFailed   = &Code{"PRECONDITION_FAILED", 412, "the condition of the request is not met"}
	AddressTooLong    = &Code{"UNSUPPORTED", 414, "the address is too long"}
	RangeUnknown      = &Code{"RANGE_INVALID", 416, "the blob does not have the range that was asked for"}
	UpstreamFailed    = &Code{"UNAVAILABLE", 502, "the upstream registry failed"}
	StorageFull       = &Code{"STORAGE_FULL", 507, "the registry's storage is full"}
	Overloaded        = &Code{"UNAVAILABLE", 503, "the registry cannot open more files at the moment"}
	Internal          = &Code{"UNKNOWN", 500, "internal error"}
)

// RetryAfter is the detail of a TooManyRequests error that knows how long to wait.
type RetryAfter time.Duration

// MarshalJSON says it in words.
func (d RetryAfter) MarshalJSON() ([]byte, error) {
	return []byte(fmt.Sprintf(`"try again in %d seconds"`, d.Seconds())), nil
}

// Seconds is the time to wait, rounded up.
func (d RetryAfter) Seconds() int { return int(math.Ceil(time.Duration(d).Seconds())) }

// Error is what every method of Registry fails with. Detail goes to the client, Err only to the log.
type Error struct {
	Code   *Code
	Detail any
	Err    error
}

func (e *Error) Error() string {
	s := e.Code.Message
	if e.Detail != nil {
		s += fmt.Sprintf(": %v", e.Detail)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Is lets errors.Is tell errors apart by their row of the table: errors.Is(err, registry.BlobUnknown.With(nil)).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Detail == nil && t.Err == nil
}

// With makes an error of the row with a detail for the client.
func (c *Code) With(detail any) *Error { return &Error{Code: c, Detail: detail} }

// Is says whether err is an error of this row.
func (c *Code) Is(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == c
}

// AsError returns err as a row of the table. What no method foresaw is Internal, without a word to the client.
func AsError(err error) *Error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, db.ErrFull), errors.Is(err, blobs.ErrFull):
		return &Error{Code: StorageFull, Err: err}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return &Error{Code: Overloaded, Err: err}
	case errors.Is(err, db.ErrReadOnly):
		return &Error{Code: Unsupported, Detail: "the registry can only be read", Err: err}
	case errors.Is(err, db.ErrBusy):
		return &Error{Code: TooManyRequests, Detail: "the database is busy", Err: err}
	}
	return &Error{Code: Internal, Err: err}
}

// Unknown translates the one word that means something else for each noun: db.ErrNotFound becomes the error of code.
// Everything else becomes what AsError makes of it, and nil stays nil.
func Unknown(err error, code *Code, detail any) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, db.ErrNotFound):
		return code.With(detail)
	}
	return AsError(err)
}
