package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// partsSuffix is that of the file beside the parts of a bundle.
const partsSuffix = ".parts.json"

// Parts is what lies beside a bundle in parts: enough to tell which of them is missing or damaged. The parts are nothing
// but pieces, so that `cat b.tar.0*` is the bundle.
type Parts struct {
	Version int    `json:"version"`
	Parts   []Part `json:"parts"`
}

// Part is one file of a bundle.
type Part struct {
	Name   string `json:"name"` // without a directory
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Output is the file, or the files, that a bundle is written to. They have their names only when Commit returns nil.
type Output struct {
	path  string
	split int64 // bytes of a part; 0: one file
	parts []Part
	file  *os.File
	hash  hash.Hash
	size  int64 // of the part that is being written
}

// Create begins a bundle at path, in parts of split bytes unless split is 0. The caller calls Commit or Abort.
func Create(path string, split int64) (*Output, error) {
	o := &Output{path: path, split: split}
	return o, o.next()
}

// next begins a part.
func (o *Output) next() (err error) {
	name := filepath.Base(o.path)
	if o.split > 0 {
		name = fmt.Sprintf("%s.%03d", name, len(o.parts)+1)
	}
	o.parts = append(o.parts, Part{Name: name})
	o.hash, o.size = sha256.New(), 0
	o.file, err = os.OpenFile(o.temporary(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	return err
}

func (o *Output) final(name string) string     { return filepath.Join(filepath.Dir(o.path), name) }
func (o *Output) temporary(name string) string { return o.final(name + ".partial") }

// end completes a part.
func (o *Output) end() error {
	if o.file == nil {
		return nil
	}
	part := &o.parts[len(o.parts)-1]
	part.Size, part.SHA256 = o.size, hex.EncodeToString(o.hash.Sum(nil))
	err := errors.Join(o.file.Sync(), o.file.Close())
	o.file = nil
	return err
}

func (o *Output) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if o.split > 0 && o.size == o.split {
			if err := errors.Join(o.end(), o.next()); err != nil {
				return n, err
			}
		}
		piece := p
		if o.split > 0 {
			piece = p[:min(int64(len(p)), o.split-o.size)]
		}
		m, err := o.file.Write(piece)
		o.hash.Write(piece[:m])
		o.size += int64(m)
		n += m
		if err != nil {
			return n, err
		}
		p = p[m:]
	}
	return n, nil
}

// Commit makes what was written durable and gives it its name. It returns the parts.
func (o *Output) Commit() ([]Part, error) {
	if err := o.end(); err != nil {
		o.Abort()
		return nil, err
	}
	for _, part := range o.parts {
		if err := os.Rename(o.temporary(part.Name), o.final(part.Name)); err != nil {
			o.Abort()
			return nil, err
		}
	}
	if o.split == 0 {
		return o.parts, nil
	}
	text, err := json.MarshalIndent(Parts{Version: version, Parts: o.parts}, "", " ")
	if err != nil {
		return nil, err
	}
	return o.parts, os.WriteFile(o.path+partsSuffix, append(text, '\n'), 0o666)
}

// Abort removes what was written.
func (o *Output) Abort() {
	if o.file != nil {
		o.file.Close()
	}
	for _, part := range o.parts {
		os.Remove(o.temporary(part.Name))
	}
}

// Compress returns a writer that compresses with zstd. The caller closes it before he closes to.
func Compress(to io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1)) // with more, blocks end where they happen to
}
