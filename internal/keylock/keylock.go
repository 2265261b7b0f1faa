// Package keylock has one lock for each key. Waiters get a key's lock in the order in which they came,
// and may give up waiting. Keys that nobody holds take no memory.
package keylock

import (
	"context"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"
)

// Locks are the locks of all keys. The zero value is ready for use. Its methods are safe for concurrent
// use.
type Locks struct{ shards [64]shard }

type shard struct {
	mu sync.Mutex

	// held are the keys that are locked, and who waits for each, first come first served. Guarded by mu.
	held map[string][]*waiter
}

type waiter struct {
	turn  chan struct{} // closed when the lock is handed to this waiter
	given bool          // it has been; guarded by shard.mu
}

// Held is a key's lock in the hands of a caller, who must call Unlock once.
type Held struct {
	shard *shard
	key   string
}

// Lock locks a key, unless ctx ends first; then the error is its cause.
func (l *Locks) Lock(ctx context.Context, key string) (Held, error) {
	s := &l.shards[xxh3.HashString(key)%uint64(len(l.shards))]
	h := Held{s, key}
	s.mu.Lock()
	waiting, locked := s.held[key]
	if !locked {
		if s.held == nil {
			s.held = make(map[string][]*waiter)
		}
		s.held[key] = nil
		s.mu.Unlock()
		return h, nil
	}
	w := &waiter{turn: make(chan struct{})}
	s.held[key] = append(waiting, w)
	s.mu.Unlock()

	select {
	case <-w.turn:
		return h, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	given := w.given
	if !given {
		s.held[key] = slices.DeleteFunc(s.held[key], func(other *waiter) bool { return other == w })
	}
	s.mu.Unlock()
	if given {
		h.Unlock()
	}
	return Held{}, context.Cause(ctx)
}

// Unlock hands the lock to whoever has waited longest.
func (h Held) Unlock() {
	s := h.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.held[h.key]
	if len(waiting) == 0 {
		delete(s.held, h.key)
		return
	}
	next := waiting[0]
	next.given = true
	close(next.turn)
	s.held[h.key] = waiting[1:]
}
