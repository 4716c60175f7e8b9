package match

import "sync"

// Cache remembers compiled globs by their text. The zero Cache is ready, and safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	globs map[string]Glob
}

// maxCached bounds how many globs are remembered; then all are forgotten.
const maxCached = 1000

// Compile is the function Compile that remembers what it has compiled.
func (c *Cache) Compile(text string) (Glob, error) {
	c.mu.Lock()
	g, ok := c.globs[text]
	c.mu.Unlock()
	if ok {
		return g, nil
	}
	g, err := Compile(text)
	if err != nil {
		return Glob{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.globs == nil || len(c.globs) >= maxCached {
		c.globs = map[string]Glob{}
	}
	c.globs[text] = g
	return g, nil
}
