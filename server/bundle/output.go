package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
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

// Output is the file, or the files, that a bundle is written to. They have their names only when Commit returns nil. A
// device or a pipe is written to at once.
type Output struct {
	path     string
	split    int64 // bytes of a part; 0: one file
	asCaller func(func() error) error
	parts    []Part
	files    []*newFile // of the parts
	open     bool       // the last file is being written
	hash     hash.Hash
	size     int64 // of the part that is being written
}

// Create begins a bundle at path, in parts of split bytes unless split is 0. asCaller, unless it is nil, runs what opens,
// names or removes a file. The caller calls Commit or Abort.
func Create(path string, split int64, asCaller func(func() error) error) (*Output, error) {
	if asCaller == nil {
		asCaller = func(fn func() error) error { return fn() }
	}
	o := &Output{path: path, split: split, asCaller: asCaller}
	return o, o.next()
}

// IsFile says whether the bundle becomes a file, and is not written to a device or a pipe.
func (o *Output) IsFile() bool { return o.files[0].final != "" }

// next begins a part.
func (o *Output) next() (err error) {
	path := o.path
	if o.split > 0 {
		path = fmt.Sprintf("%s.%03d", o.path, len(o.parts)+1)
	}
	var file *newFile
	if err := o.asCaller(func() (err error) { file, err = createFile(path, o.split > 0); return err }); err != nil {
		return err
	}
	o.files, o.open = append(o.files, file), true
	o.parts = append(o.parts, Part{Name: filepath.Base(path)})
	o.hash, o.size = sha256.New(), 0
	return nil
}

// end completes a part.
func (o *Output) end() error {
	if !o.open {
		return nil
	}
	o.open = false
	part := &o.parts[len(o.parts)-1]
	part.Size, part.SHA256 = o.size, hex.EncodeToString(o.hash.Sum(nil))
	return o.files[len(o.files)-1].end()
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
		m, err := o.files[len(o.files)-1].Write(piece)
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
	err := o.end()
	if err == nil && o.split > 0 {
		err = o.list()
	}
	if err == nil {
		err = o.asCaller(func() error {
			for _, file := range o.files {
				if err := file.install(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		o.Abort()
		return nil, err
	}
	return o.parts, nil
}

// list writes the list of parts, which is installed after them.
func (o *Output) list() error {
	text, err := json.MarshalIndent(Parts{Version: version, Parts: o.parts}, "", " ")
	if err != nil {
		return err
	}
	var file *newFile
	if err := o.asCaller(func() (err error) { file, err = createFile(o.path+partsSuffix, true); return err }); err != nil {
		return err
	}
	o.files = append(o.files, file)
	_, err = file.Write(append(text, '\n'))
	return errors.Join(err, file.end())
}

// Abort removes what was written.
func (o *Output) Abort() {
	o.asCaller(func() error {
		for _, file := range o.files {
			file.discard()
		}
		return nil
	})
}

// Compress returns a writer that compresses with zstd. The caller closes it before to is closed.
func Compress(to io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1)) // with more, blocks end where they happen to
}
