package blobs

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const journalFile = "journal"

func (d *Dir) journal() string { return filepath.Join(d.root, journalFile) }

// AppendJournal implements Store. It is one write, so that lines of two processes do not mix.
func (d *Dir) AppendJournal(ctx context.Context, size int64, lines []byte) error {
	f, err := os.OpenFile(d.journal(), os.O_WRONLY|os.O_APPEND, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrChanged
	}
	if err != nil {
		return translate(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return translate(err)
	}
	if info.Size() != size {
		return ErrChanged
	}
	if _, err := f.Write(lines); err != nil {
		return translate(err)
	}
	return translate(f.Sync())
}

// ReplaceJournal implements Store.
func (d *Dir) ReplaceJournal(ctx context.Context, write func(io.Writer) error) error {
	d.removeUnfinished()
	f, err := os.CreateTemp(filepath.Join(d.root, stagedDir), unfinished)
	if err != nil {
		return translate(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := d.owner.give(f); err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync()); err != nil {
		return translate(err)
	}
	if err := os.Rename(f.Name(), d.journal()); err != nil {
		return translate(err)
	}
	return translate(syncDir(d.root))
}

const unfinished = "journal-*"

// removeUnfinished removes what killed processes left of new journals.
func (d *Dir) removeUnfinished() {
	left, _ := filepath.Glob(filepath.Join(d.root, stagedDir, unfinished))
	for _, path := range left {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()).Abs() > time.Hour {
			os.Remove(path)
		}
	}
}

// OpenJournal implements Store.
func (d *Dir) OpenJournal(ctx context.Context) (io.ReadCloser, error) {
	f, err := os.Open(d.journal())
	if err != nil {
		return nil, translate(err)
	}
	return f, nil
}
