package store

import "fmt"

// A Reason says why an entry left the store.
type Reason uint8

const (
	Capacity Reason = iota // to make room for another entry
	Expired                // its time to live was over
	Removed                // it was removed explicitly
	Replaced               // another entry took the place of its key
	reasons                // the number of reasons
)

func (r Reason) String() string {
	if r < reasons {
		return [...]string{"capacity", "expired", "removed", "replaced"}[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// An Eviction is an entry that has left the store, for whatever reason.
type Eviction struct {
	*Entry
	Reason Reason
}

// An evictionQueue holds the entries that have left the store and wait for the consumer of Evictions, oldest
// first. Its bound is the number of bytes that the store may hold, so there is room for everything that the
// store can lose at once. Store.mu guards it, so that an entry taken from it is no longer in the store.
type evictionQueue struct {
	entries  []Eviction
	bytes    int64         // the sum of their charges
	maxBytes int64         // the highest bound that the store has had
	dropped  uint64        // entries for which there was no room
	ready    chan struct{} // holds an element if entries is not empty, or was not until a moment ago
}

// put appends e, with the given charge. bound is the store's current bound. Store.mu must be held.
func (q *evictionQueue) put(e Eviction, charge, bound int64) {
	q.maxBytes = max(q.maxBytes, bound)
	if q.bytes+charge > q.maxBytes {
		q.dropped++
		return
	}
	q.entries = append(q.entries, e)
	q.bytes += charge
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// Evictions makes the store queue the entries that leave it, except absent ones. take returns the next one,
// oldest first, and reports whether there was one. ready receives an element when there may be entries to
// take.
//
// It must be called at most once, before the store is used. The store never waits for the consumer. So the
// queue takes memory on top of the store's entries, at most as much again. Entries that leave while it is
// full are dropped from it, and counted in Stats.EvictDropped.
func (s *Store) Evictions() (ready <-chan struct{}, take func() (Eviction, bool)) {
	q := &evictionQueue{ready: make(chan struct{}, 1)}
	s.evictions = q
	return q.ready, func() (first Eviction, ok bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(q.entries) == 0 {
			q.entries = nil
			return first, false
		}
		first, q.entries[0] = q.entries[0], Eviction{}
		q.entries = q.entries[1:]
		q.bytes -= s.charge(first.Entry)
		return first, true
	}
}
