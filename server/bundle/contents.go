package bundle

import (
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// contents are manifests as they were when they were planned: others may delete them before they are written.
type contents struct {
	file  *os.File
	end   int64
	spans map[digest.Digest]span
}

func newContents(tmp string) (*contents, error) {
	file, err := temporary(tmp)
	return &contents{file: file, spans: map[digest.Digest]span{}}, err
}

func (c *contents) add(d digest.Digest, content []byte) error {
	if _, has := c.spans[d]; has {
		return nil
	}
	n, err := c.file.WriteAt(content, c.end)
	if err != nil {
		return err
	}
	c.spans[d] = span{c.end, int64(n)}
	c.end += int64(n)
	return nil
}

// open returns a manifest that was added.
func (c *contents) open(d digest.Digest) (io.Reader, error) {
	s, has := c.spans[d]
	if !has {
		return nil, fmt.Errorf("manifest %s is not in the plan", d)
	}
	return io.NewSectionReader(c.file, s.at, s.size), nil
}

func (c *contents) read(d digest.Digest) ([]byte, error) {
	r, err := c.open(d)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Close frees the space.
func (c *contents) Close() error { return c.file.Close() }
