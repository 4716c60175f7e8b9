package db

import (
	"context"
	"sync"
)

// queryCache remembers answers for as long as nothing is committed, by whatever process. What is pulled often is asked for
// again and again, and finding it once more would be half of the work of answering.
//
// Whether something was committed is seen without asking SQLite: the head of the log's index, which is memory that all
// processes share, changes with every commit before that is answered (https://sqlite.org/walformat.html, "WAL-Index
// Header"). An answer is remembered with the head it was found under, and is good while the head is the same.
type queryCache struct {
	mu      sync.Mutex
	index   *logIndex // nil: nothing is remembered
	under   logHead   // of all answers
	answers map[Key]any
	bytes   int // that they take, about
}

// logHead has a counter of transactions, the length of the log and the checksum of everything in it.
type logHead [48]byte

// isInit is the byte of a head that is 0 while the index is made anew.
const isInit = 12

// A Key is asked of a repository. Equal ones have equal answers.
type Key struct {
	What       string
	Repository RepoName
	Item       string
}

const (
	maxRecall  = 2 << 20 // bytes; then everything is forgotten
	maxAnswer  = 16 << 10
	bareAnswer = 512 // bytes of an answer without its content
)

// Cached is Lookup for a question whose answer is remembered. It is shared: nobody may change what it points at.
func Cached[T any](ctx context.Context, d *DB, q Key, fn func(*Tx) (T, error)) (answer T, err error) {
	found, head := d.cache.get(q)
	if answer, ok := found.(T); ok {
		return answer, nil
	}
	err = d.Lookup(ctx, func(tx *Tx) (err error) { answer, err = fn(tx); return err })
	if err == nil {
		d.cache.put(q, head, answer)
	}
	return answer, err
}

// get returns the answer, nil if there is none, and the head it is good for.
func (r *queryCache) get(q Key) (any, logHead) {
	r.mu.Lock()
	defer r.mu.Unlock()
	head := r.head()
	if r.under != head {
		return nil, head
	}
	return r.answers[q], head
}

// put remembers an answer that was found after the head was seen. If nothing was committed since, it is of this head.
func (r *queryCache) put(q Key, head logHead, answer any) {
	size := bareAnswer
	if m, ok := answer.(Manifest); ok {
		size += len(m.Content)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if size > maxAnswer || head[isInit] == 0 || head != r.head() {
		return
	}
	if r.under != head || r.bytes+size > maxRecall {
		r.under, r.answers, r.bytes = head, map[Key]any{}, 0
	}
	r.answers[q] = answer
	r.bytes += size
}

// head is all zero if it cannot be seen, and then there are no answers.
func (r *queryCache) head() (h logHead) {
	if r.index != nil {
		copy(h[:], r.index.page)
	}
	return h
}

func (r *queryCache) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.index != nil {
		r.index.close()
	}
	r.index, r.under, r.answers = nil, logHead{}, nil
}
