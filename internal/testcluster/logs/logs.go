// Package logs lets tests read what a logger writes. It does not parse log lines. It imports
// nothing of this module, so that the tests of every package can use it.
package logs

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

// A Buffer keeps what a logger writes, and can be read meanwhile. The zero value is ready to use.
// Its methods are safe for concurrent use.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns everything written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Count returns the number of lines that contain all of the words.
func (b *Buffer) Count(words ...string) (n int) {
	for line := range strings.Lines(b.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}
