package registry

import (
	"context"
	"errors"
	"io"

	"registry/blobs"
)

// CopyIn copies the bytes of a blob into a store and verifies them on the way: ErrDamaged.
func CopyIn(ctx context.Context, f io.Reader, to blobs.Store, target blobs.Name, size int64) (stamp int64, err error) {
	stage, err := to.Stage(ctx, target.Generation, 0)
	if err != nil {
		return 0, err
	}
	v := target.Digest.Verifier()
	buf := buffers.Get().(*[PieceSize]byte)
	defer buffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(stage, v)}, contextReader{ctx, f}, buf[:])
	err = errors.Join(err, stage.Close())
	if err == nil && (n != size || !v.Verified()) {
		err = ErrDamaged
	}
	if err == nil {
		stamp, err = to.Commit(ctx, target.Generation, target, size)
	}
	if err != nil {
		err = errors.Join(err, to.Discard(context.WithoutCancel(ctx), target.Generation))
	}
	return stamp, err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
