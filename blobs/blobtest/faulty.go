package blobtest

import (
	"context"
	"errors"
	"sync"

	"registry/blobs"
)

// ErrInjected is how a Faulty store fails.
var ErrInjected = errors.New("injected fault")

// Op is an operation of a store that can fail.
type Op string

// The operations.
const (
	OpStage   Op = "stage"
	OpWrite   Op = "write"
	OpCommit  Op = "commit"
	OpOpen    Op = "open"
	OpRemove  Op = "remove"
	OpDiscard Op = "discard"
)

// Faulty is a store of which one operation fails. It stands here and not beside the contract because only tests want it.
type Faulty struct {
	blobs.Store

	mu       sync.Mutex
	op       Op
	left     int  // operations of this kind until the one that fails
	happened bool // the operation takes effect all the same
	fired    bool
}

// FailNext makes the k-th operation of a kind from now, counted from 1, fail with ErrInjected. With happened it takes
// effect and fails all the same, as when the answer of the disk is lost.
func (f *Faulty) FailNext(op Op, k int, happened bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.op, f.left, f.happened, f.fired = op, k, happened, false
}

// Fired says whether the fault has happened since FailNext.
func (f *Faulty) Fired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// do runs an operation, or what its fault leaves of it.
func (f *Faulty) do(op Op, run func() error) error {
	f.mu.Lock()
	fails := false
	if f.op == op && f.left > 0 {
		f.left--
		fails = f.left == 0
		f.fired = f.fired || fails
	}
	happened := f.happened
	f.mu.Unlock()
	if !fails {
		return run()
	}
	if happened {
		return errors.Join(ErrInjected, run())
	}
	return ErrInjected
}

// Stage implements blobs.Store.
func (f *Faulty) Stage(ctx context.Context, id string, offset int64) (s blobs.Stage, err error) {
	err = f.do(OpStage, func() (err error) { s, err = f.Store.Stage(ctx, id, offset); return err })
	if err != nil {
		if s != nil {
			s.Close()
		}
		return nil, err
	}
	return faultyStage{s, f}, nil
}

// Commit implements blobs.Store.
func (f *Faulty) Commit(ctx context.Context, id string, name blobs.Name, size int64) (stamp int64, err error) {
	err = f.do(OpCommit, func() (err error) { stamp, err = f.Store.Commit(ctx, id, name, size); return err })
	return stamp, err
}

// Open implements blobs.Store.
func (f *Faulty) Open(ctx context.Context, name blobs.Name) (file blobs.File, info blobs.Info, err error) {
	err = f.do(OpOpen, func() (err error) { file, info, err = f.Store.Open(ctx, name); return err })
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, info, err
	}
	return file, info, nil
}

// Remove implements blobs.Store.
func (f *Faulty) Remove(ctx context.Context, name blobs.Name) error {
	return f.do(OpRemove, func() error { return f.Store.Remove(ctx, name) })
}

// Discard implements blobs.Store.
func (f *Faulty) Discard(ctx context.Context, id string) error {
	return f.do(OpDiscard, func() error { return f.Store.Discard(ctx, id) })
}

type faultyStage struct {
	blobs.Stage
	f *Faulty
}

func (s faultyStage) Write(p []byte) (n int, err error) {
	err = s.f.do(OpWrite, func() (err error) { n, err = s.Stage.Write(p); return err })
	return n, err
}
