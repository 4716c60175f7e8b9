package registry

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
)

// The journal is a file beside the blobs that says what the database says about manifests and tags, and about who may do
// what, so that a registry whose database is lost can be rebuilt from its blob directory alone. No push waits for it: changes are rows of the
// database, in the transaction of what they change, and are copied to the file every two seconds while a server runs,
// and by each collection.
//
// A line is a checksum and a JSON object, and says what is since a change. Saying it twice changes nothing, so lines are
// only ever added. When most of the file is old news, or it is not as it was left, it is written anew from the database.

// JournalLine is one line. A manifest has a media type and content, or is deleted; a tag has the digest it points at or
// none; the rest are entries of the policy, which have no repository.
type JournalLine struct {
	ID         int64         `json:"id"` // of the change; lines of a lower one are older
	At         time.Time     `json:"at"`
	Repository RepoName      `json:"repository"`
	Tag        Tag           `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	Deleted    bool          `json:"deleted,omitempty"`
	MediaType  string        `json:"mediaType,omitempty"`
	Content    []byte        `json:"content,omitempty"`
	Copy       bool          `json:"copy,omitempty"` // of what an upstream has: it may be evicted, and lacks what was not asked for
	Policy     *JournalEntry `json:"policy,omitempty"`
}

// JournalEntry is a db.PolicyEntry. It has hashes and never what they are of.
type JournalEntry struct {
	Kind       string    `json:"kind"`
	Name       string    `json:"name"`
	Item       string    `json:"item,omitempty"`
	Hash       []byte    `json:"hash,omitempty"`
	Admin      bool      `json:"admin,omitempty"`
	Disabled   bool      `json:"disabled,omitempty"`
	Generation int64     `json:"generation,omitempty"`
	Actions    int64     `json:"actions,omitempty"`
	Scopes     string    `json:"scopes,omitempty"`
	CreatedAt  time.Time `json:"createdAt,omitzero"`
	ExpiresAt  time.Time `json:"expiresAt,omitzero"`
}

func journalEntryOf(e db.PolicyEntry) *JournalEntry {
	return &JournalEntry{Kind: e.Kind, Name: e.Name, Item: e.Item, Hash: e.Hash, Admin: e.Admin, Disabled: e.Disabled, Generation: e.Generation,
		Actions: e.Actions, Scopes: e.Scopes, CreatedAt: e.CreatedAt, ExpiresAt: e.ExpiresAt}
}

// Key is what the entry is about.
func (e *JournalEntry) Key() db.PolicyKey {
	return db.PolicyKey{Kind: e.Kind, Name: e.Name, Item: e.Item}
}

// Entry is the entry as the database has it.
func (e *JournalEntry) Entry() db.PolicyEntry {
	return db.PolicyEntry{PolicyKey: e.Key(), Hash: e.Hash, Admin: e.Admin, Disabled: e.Disabled, Generation: e.Generation,
		Actions: e.Actions, Scopes: e.Scopes, CreatedAt: e.CreatedAt, ExpiresAt: e.ExpiresAt}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (l JournalLine) encode(w io.Writer) (n int, err error) {
	text, err := json.Marshal(l)
	if err != nil {
		return 0, err
	}
	return fmt.Fprintf(w, "%08x %s\n", crc32.Checksum(text, castagnoli), text)
}

// position is how far the journal has come. It changes with every line, and its epoch when the file is written anew, so
// that two processes cannot both believe to have copied what only one of them has.
type position struct {
	Epoch int64 `json:"epoch"`
	ID    int64 `json:"id"`    // of the last change copied
	Bytes int64 `json:"bytes"` // of the file
	Base  int64 `json:"base"`  // bytes of it when it was written anew
	// What the journal knows of: journals of earlier programs say nothing of the policy, and are written anew.
	Format int `json:"format"`
}

// journalFormat is position.Format of what this program writes.
const journalFormat = 1

const journalNote = "journal"

func journalPosition(tx *db.Tx) (p position, err error) {
	text, err := tx.Note(journalNote)
	if err != nil || text == "" {
		return p, err
	}
	return p, json.Unmarshal([]byte(text), &p)
}

// errMoved means that another process has copied changes meanwhile.
var errMoved = errors.New("another process writes the journal")

// setPosition notes how far the journal has come; errMoved unless it was at from. A nil from does not ask.
func (r *Registry) setPosition(ctx context.Context, from *position, to position) error {
	return r.db.Relaxed(ctx, func(tx *db.Tx) error {
		now, err := journalPosition(tx)
		if err != nil {
			return err
		}
		if from != nil && now != *from {
			return errMoved
		}
		text, err := json.Marshal(to)
		if err != nil {
			return err
		}
		return tx.SetNote(journalNote, string(text))
	})
}

// JournaledChange returns the last change that the journal has.
func JournaledChange(tx *db.Tx) (id int64, err error) {
	p, err := journalPosition(tx)
	return p.ID, err
}

// ExportJournal copies the changes that are not there yet to the journal beside the blobs. It waits so long for another
// process that writes the whole journal; who comes back soon need not.
func (r *Registry) ExportJournal(ctx context.Context, wait time.Duration) error {
	if r.db.ReadOnly() {
		return nil
	}
	const batch, maxBytes, worthwhile = 500, 8 << 20, 64 << 20
	for {
		var at position
		var last int64
		err := r.db.View(ctx, func(tx *db.Tx) (err error) {
			if at, err = journalPosition(tx); err == nil {
				last, err = tx.LastChange()
			}
			return err
		})
		if err != nil {
			return AsError(err)
		}
		if at.Epoch == 0 || at.Format < journalFormat || at.Bytes > 2*at.Base+worthwhile {
			return r.writeJournal(ctx, at, wait)
		}
		if at.ID >= last {
			return nil
		}
		var lines bytes.Buffer
		next := at
		err = r.db.View(ctx, func(tx *db.Tx) error {
			changes, err := tx.Changes(at.ID, batch)
			for _, c := range changes {
				if err == nil && lines.Len() < maxBytes { // the rest comes with the next batch
					next.ID = c.ID
					err = journalChange(tx, c, &lines)
				}
			}
			return err
		})
		if err != nil {
			return AsError(err)
		}
		if lines.Len() > 0 {
			err := r.blobs.AppendJournal(ctx, at.Bytes, lines.Bytes())
			if errors.Is(err, blobs.ErrChanged) {
				return r.writeJournal(ctx, at, wait)
			}
			if err != nil {
				return AsError(err)
			}
		}
		next.Bytes += int64(lines.Len())
		if err := r.setPosition(ctx, &at, next); err != nil {
			if errors.Is(err, errMoved) {
				return nil
			}
			return AsError(err)
		}
	}
}

// journalChange writes the line of a change. A manifest that was stored and is gone by now has none: the line of its
// deletion follows.
func journalChange(tx *db.Tx, c db.Change, w io.Writer) error {
	if key, ok := c.PolicyKey(); ok {
		return journalPolicy(tx, c.ID, c.At, key, w)
	}
	l := JournalLine{ID: c.ID, At: c.At, Repository: c.Repository, Tag: c.Tag, Digest: c.After}
	switch {
	case c.Tag != "":
	case c.After == "":
		l.Digest, l.Deleted = c.Before, true
	default:
		m, err := tx.Manifest(c.Repository, c.After)
		if errors.Is(err, db.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		l.MediaType, l.Content = m.MediaType, m.Content
		if l.Copy, err = tx.IsCached(m.ID); err != nil {
			return err
		}
	}
	_, err := l.encode(w)
	return err
}

// journalPolicy writes what an entry says now.
func journalPolicy(tx *db.Tx, id int64, at time.Time, key db.PolicyKey, w io.Writer) error {
	e, err := tx.PolicyEntry(key)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return err
	}
	_, err = JournalLine{ID: id, At: at, Deleted: err != nil, Policy: journalEntryOf(e)}.encode(w)
	return err
}

// writeJournal writes the whole journal anew, unless another process is doing that. Changes that come meanwhile are
// copied after it.
func (r *Registry) writeJournal(ctx context.Context, at position, wait time.Duration) error {
	begin := func(fn func(*db.Tx) error) error { return r.db.Relaxed(ctx, fn) }
	err := r.withLock(ctx, journalNote, "journal", wait, begin, func(ctx context.Context, x *MaintenanceLock) error {
		next := position{Epoch: max(time.Now().UnixNano(), at.Epoch+1), Format: journalFormat}
		err := r.db.View(ctx, func(tx *db.Tx) (err error) { next.ID, err = tx.LastChange(); return err })
		if err == nil {
			err = r.blobs.ReplaceJournal(ctx, func(w io.Writer) (err error) {
				next.Bytes, err = r.journalAll(ctx, next.ID, w)
				return err
			})
		}
		if err != nil {
			return err
		}
		// Whatever another has appended to the old file meanwhile is not in this one.
		next.Base = next.Bytes
		return r.setPosition(ctx, nil, next)
	})
	if err != nil && !errors.Is(err, ErrLocked) {
		return AsError(err)
	}
	return nil
}

// journalAll writes lines for everything there is, as of the change id, and returns how many bytes they are.
func (r *Registry) journalAll(ctx context.Context, id int64, w io.Writer) (size int64, err error) {
	if size, err = r.journalPolicies(ctx, id, w); err != nil {
		return size, err
	}
	for after := int64(0); ; {
		var list []db.JournalManifest
		err := r.db.View(ctx, func(tx *db.Tx) (err error) { list, err = tx.JournalManifests(after, 100); return err })
		if err != nil || len(list) == 0 {
			return size, err
		}
		for _, m := range list {
			after = m.ID
			lines := []JournalLine{{ID: id, At: m.PushedAt, Repository: m.Repository, Digest: m.Digest, MediaType: m.MediaType, Content: m.Content, Copy: m.Cached}}
			for _, t := range m.Tags {
				lines = append(lines, JournalLine{ID: id, At: t.Updated, Repository: m.Repository, Tag: t.Name, Digest: m.Digest})
			}
			for _, l := range lines {
				n, err := l.encode(w)
				if size += int64(n); err != nil {
					return size, err
				}
			}
		}
	}
}

// journalPolicies writes lines for every entry of the policy.
func (r *Registry) journalPolicies(ctx context.Context, id int64, w io.Writer) (size int64, err error) {
	var keys []db.PolicyKey
	if err := r.db.View(ctx, func(tx *db.Tx) (err error) { keys, err = tx.PolicyKeys(); return err }); err != nil {
		return 0, err
	}
	for some := range slices.Chunk(keys, 500) {
		var lines bytes.Buffer
		err := r.db.View(ctx, func(tx *db.Tx) error {
			for _, key := range some {
				if err := journalPolicy(tx, id, tx.Now, key, &lines); err != nil {
					return err
				}
			}
			return nil
		})
		size += int64(lines.Len())
		if err == nil {
			_, err = lines.WriteTo(w)
		}
		if err != nil {
			return size, err
		}
	}
	return size, nil
}

// ReadJournal calls fn for the lines of the journal that are whole, in the order of the file. broken counts the others.
// blobs.ErrNotFound if there is no journal.
func ReadJournal(ctx context.Context, store blobs.Store, fn func(JournalLine) error) (broken int, err error) {
	f, err := store.OpenJournal(ctx)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewReaderSize(f, 1<<20)
	for {
		text, err := lines.ReadString('\n')
		if err != nil && err != io.EOF {
			return broken, err
		}
		if text = strings.TrimSuffix(text, "\n"); text != "" {
			l, ok := decodeJournalLine(text)
			if !ok {
				broken++
			} else if err := fn(l); err != nil {
				return broken, err
			}
		}
		if err == io.EOF {
			return broken, ctx.Err()
		}
	}
}

func decodeJournalLine(text string) (l JournalLine, ok bool) {
	sum, rest, _ := strings.Cut(text, " ")
	want, err := strconv.ParseUint(sum, 16, 32)
	if err != nil || crc32.Checksum([]byte(rest), castagnoli) != uint32(want) || json.Unmarshal([]byte(rest), &l) != nil {
		return l, false
	}
	if l.Policy != nil {
		return l, l.Policy.Kind != "" && l.Policy.Name != ""
	}
	_, nameErr := ParseRepoName(string(l.Repository))
	return l, nameErr == nil
}

// ForgetJournal makes a copied database write a journal of its own at the next export.
func ForgetJournal(tx *db.Tx) error { return tx.SetNote(journalNote, "") }

// RestoreManifest stores the manifest of a line in a database that is rebuilt. whole is false if the line cannot be a
// manifest's.
func (r *Registry) RestoreManifest(ctx context.Context, tx *db.Tx, l JournalLine) (whole bool, err error) {
	doc, err := parseStored(l.MediaType, l.Content)
	if err != nil || l.Digest.Validate() != nil || l.Digest.Algorithm().FromBytes(l.Content) != l.Digest {
		return false, nil
	}
	repositoryID, err := tx.MakeRepository(l.Repository, false)
	if err != nil {
		return false, err
	}
	for _, ref := range append(append([]reference{}, doc.blobs...), doc.children...) {
		stored, err := tx.StoredBlob(ref.digest)
		if errors.Is(err, db.ErrNotFound) {
			continue // the manifest misses it
		}
		if err == nil && stored.Size != ref.size && !stored.Damaged && stored.Stamp == 0 {
			err = r.whichIsWrong(ctx, tx, stored)
		}
		if err == nil {
			err = tx.LinkBlob(repositoryID, stored.ID, ref.digest)
		}
		if err != nil {
			return false, err
		}
	}
	m := db.Manifest{RepositoryID: repositoryID, Digest: l.Digest, MediaType: l.MediaType, Size: int64(len(l.Content)), Content: l.Content}
	if m.ID, err = storeManifest(tx, m, doc, SparseAll, acceptSize); err == nil && l.Copy {
		err = tx.CacheManifest(m.ID)
	}
	return err == nil, err
}

// whichIsWrong reads a blob that has another size than a manifest says: a power cut may have left a part of it, or the
// manifest was taken as it is.
func (r *Registry) whichIsWrong(ctx context.Context, tx *db.Tx, stored db.StoredBlob) error {
	name := blobs.Name{Digest: stored.Digest, Generation: stored.Generation}
	info, err := r.HashFile(ctx, name, stored.Size, nil)
	if errors.Is(err, ErrDamaged) {
		return tx.MarkDamaged(stored.Digest, stored.Generation)
	}
	if err != nil {
		return err
	}
	return tx.MarkVerified(stored.Digest, stored.Generation, info.Stamp)
}
