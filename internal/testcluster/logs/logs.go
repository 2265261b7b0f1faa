// Package logs has what tests read logs from. It imports nothing of this module, so that every package's
// tests can use it.
package logs

import (
	"bytes"
	"slices"
	"strings"
	"sync"
)

// A Buffer takes what a logger writes while a test reads it. The zero value is ready. Its methods are safe
// for concurrent use.
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

// String returns all that has been written.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Count returns how many lines contain all of the words.
func (b *Buffer) Count(words ...string) (n int) {
	for line := range strings.Lines(b.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}
