// Package blobs keeps the bytes of blobs. It knows nothing of repositories: which blob exists, and who may read it, is
// the database's word; this package answers only for bytes under a name.
//
// Invariants every Store keeps, and package blobtest proves:
//
//  1. A name is never used twice. A Name is a digest and the id of the upload that brought the bytes, so the file of a
//     later push of the same digest is another file, and nobody can remove it by removing an older one.
//  2. When Commit returns nil the bytes under the name are complete and survive a power cut. The caller commits the
//     database row after that, never before.
//  3. When Remove is called the row is gone already. A crash between the two leaves a file without a row: garbage that
//     collection removes, never a row without its file.
package blobs

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// The few words this package has for failure. They are wrapped with %w; the message carries the operation and the name.
var (
	ErrNotFound = errors.New("no such file")      // nothing is stored under the name
	ErrExists   = errors.New("name already used") // Commit to a name that has bytes: a broken random source, or a bug
	ErrFull     = errors.New("storage is full")   // no space, no inode, or a quota or file size limit is reached
	ErrChanged  = errors.New("the journal is not as it was left")
	ErrLost     = errors.New("written bytes are lost") // the disk did not take what it had accepted: the staged file is worthless
)

// Name is where the bytes of a blob are: its digest and the generation, which is the id of the upload session that
// brought them.
type Name struct {
	Digest     digest.Digest
	Generation string // 32 lower case hexadecimal digits
}

// Store keeps bytes: staged ones that grow while they arrive, and committed ones that never change.
// Its methods are safe for concurrent use; one staged file has one writer at a time, which the caller sees to.
type Store interface {
	// Stage opens the staged bytes of upload id for writing at offset. Bytes beyond offset, left by a writer that was
	// killed, are cut off; with offset 0 the staged bytes are created if they are missing. ErrNotFound if offset is
	// above 0 and fewer than offset bytes are there. The caller closes the Stage.
	Stage(ctx context.Context, id string, offset int64) (Stage, error)

	// Commit makes the first size staged bytes of upload id durable under name and takes the staged ones away. The caller
	// has hashed so many: what is beyond them must not become a blob, and there must not be fewer. On return nil the
	// bytes and every directory that leads to them have reached the disk, and stamp is the Info.Stamp they have from now
	// on. On error the name is not in use, or may be by bytes that no row will ever name; the staged bytes may be gone.
	Commit(ctx context.Context, id string, name Name, size int64) (stamp int64, err error)

	// Discard removes the staged bytes of upload id. It is no error if there are none.
	Discard(ctx context.Context, id string) error

	// Open opens the bytes under name. ErrNotFound if there are none. The caller closes the File.
	Open(ctx context.Context, name Name) (File, Info, error)

	// Stat is Open without opening.
	Stat(ctx context.Context, name Name) (Info, error)

	// Remove removes the bytes under name. It is no error if there are none.
	Remove(ctx context.Context, name Name) error

	// Names calls fn for everything committed, and Staged for everything staged, until fn returns an error, which is
	// returned. What is added or removed meanwhile may be seen or not. Names goes by algorithm and by the first two
	// digits of the hash, and begins with those of from unless it is empty.
	Names(ctx context.Context, from digest.Digest, fn func(Name, Info) error) error
	Staged(ctx context.Context, fn func(id string, info Info) error) error

	// The journal is a text beside the blobs that grows at its end. AppendJournal makes lines durable if it has size
	// bytes, and fails with ErrChanged if it has not: it is another journal, or a crash cut an earlier append short.
	// ReplaceJournal puts what write writes in its place, all or nothing. OpenJournal reads it: ErrNotFound if there is
	// none; the caller closes it.
	AppendJournal(ctx context.Context, size int64, lines []byte) error
	ReplaceJournal(ctx context.Context, write func(io.Writer) error) error
	OpenJournal(ctx context.Context) (io.ReadCloser, error)

	// Identity tells the store from every other one: what has the same identity has the same bytes, by whatever name it was
	// opened and whatever stands before it. See Same.
	Identity() (string, error)

	// Check writes, syncs, reads back and removes a few bytes, and asks whether committed ones have a place: nil says that
	// the store can take a blob now, whatever its digest.
	Check(ctx context.Context) error
}

// Same says whether two stores have the same bytes, so that nothing may be copied from one to the other and removed there.
func Same(a, b Store) (bool, error) {
	one, err := a.Identity()
	if err != nil {
		return false, err
	}
	other, err := b.Identity()
	return one == other, err
}

// A Linker is a store that can give its bytes to another one of its kind without copying them.
type Linker interface {
	// Link makes the bytes under name those of another store under the same name, durably. errors.ErrUnsupported if
	// that cannot be done and they have to be copied; ErrNotFound if there are none.
	Link(ctx context.Context, name Name, to Store) error
}

// A StagedReader is a store whose staged bytes can be read while there come more.
type StagedReader interface {
	// OpenStaged opens the staged bytes of upload id. What a Stage has written is there to be read, also after Commit or
	// Discard. ErrNotFound if there are none. The caller closes the StagedFile.
	OpenStaged(ctx context.Context, id string) (StagedFile, error)
}

// A Toucher is a store whose Info.Changed is this machine's clock, which may have been ahead when a file was written. It
// makes now the time at which bytes last changed, under a name or staged. It is no error if there are none.
type Toucher interface {
	Touch(ctx context.Context, name Name) error
	TouchStaged(ctx context.Context, id string) error
}

// StagedFile reads staged bytes, of which nobody has seen yet that they are right.
type StagedFile interface {
	io.ReaderAt
	io.Closer
}

// An Adopter is a store that can make a file of somebody else's its own without copying it.
type Adopter interface {
	// Adopt makes the bytes of an open file those under name, durably, by a second name of the same file. The first name
	// stays, and whoever writes to the file by it writes to the blob: the caller relies on the bytes only as long as the
	// file looks as it did when it was read. errors.ErrUnsupported if the file cannot have a second name here, as on
	// another file system, and has to be copied; ErrExists as for Commit.
	Adopt(ctx context.Context, file *os.File, name Name) (Info, error)
}

// Stage takes bytes at the end of a staged file. Writes are not durable before Store.Commit. A Write that fails leaves
// an unknown number of bytes beyond the offset the caller remembers; the next Store.Stage cuts them off. After ErrLost
// bytes before the offset may be gone too, and nobody will be told again: the caller discards the upload.
type Stage interface {
	io.WriteCloser
}

// File reads committed bytes. The concrete value of a directory store is an *os.File, which lets net/http use sendfile.
type File interface {
	io.ReadSeekCloser
}

// Info is what a store knows of a file without reading it.
type Info struct {
	Size    int64     // bytes
	Changed time.Time // when its bytes or its name last changed
	// Stamp is a fingerprint of size, time of writing and identity, never 0. As long as it stays the same, nobody has
	// written to the file or put another in its place. A disk that changes bits by itself does not change it.
	Stamp int64
}
