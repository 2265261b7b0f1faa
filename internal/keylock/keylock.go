// Package keylock provides a mutex for each key. Unlike a sync.Mutex it is fair, and waiting for it ends
// with a context. A key that nobody holds takes no memory.
//
// It promises that waiters get a key's lock in the order in which they came, and that a lock handed to a
// waiter that gives up at the same moment goes to the next one. Locks are not reentrant: a caller that
// locks a key it holds waits for itself until its context ends.
package keylock

import (
	"context"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"
)

// Locks has the locks of all keys. The zero value is ready for use. The methods are safe for concurrent
// use. Locks must not be copied after first use.
type Locks struct{ shards [64]shard }

type shard struct {
	mu sync.Mutex

	// held has an entry for each locked key: those who wait for it, longest first. Guarded by mu.
	held map[string][]*waiter
}

type waiter struct {
	turn  chan struct{} // closed when the lock is handed to this waiter
	given bool          // whether that has happened; guarded by shard.mu
}

// Held is a lock that the caller of Lock holds. The caller must call Unlock exactly once.
type Held struct {
	shard *shard
	key   string
}

// Lock locks a key. If ctx ends while Lock waits, the error is context.Cause(ctx). A free key is locked
// even if ctx has ended already.
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
	given := w.given // since select chooses at random if both have happened
	if !given {
		s.held[key] = slices.DeleteFunc(s.held[key], func(other *waiter) bool { return other == w })
	}
	s.mu.Unlock()
	if given {
		h.Unlock()
	}
	return Held{}, context.Cause(ctx)
}

// Unlock hands the lock to the caller of Lock that has waited longest.
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
