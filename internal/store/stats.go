package store

import "math"

// Stats describes what a Store holds at one moment, and counts what happened since New.
type Stats struct {
	Owned, Copies Usage

	MaxBytes   int64 // the current bound
	MaxEntries int   // the current bound, or 0 if there is none

	EvictQueue      int    // entries waiting for the consumer of Evictions
	EvictQueueBytes int64  // the sum of their charges
	EvictDropped    uint64 // entries that Evictions did not return because its queue was full

	TooLarge uint64 // Sets refused because the entry alone exceeded the bound of its class
}

// Usage describes the entries of one class.
type Usage struct {
	Entries int
	Bytes   int64 // the sum of their charges

	Left [reasons]uint64 // entries that have left the store, by reason
}

// Entries returns the number of entries of both classes together.
func (s Stats) Entries() int { return s.Owned.Entries + s.Copies.Entries }

// Left returns the number of entries of both classes together that have left the store for reason r.
func (s Stats) Left(r Reason) uint64 { return s.Owned.Left[r] + s.Copies.Left[r] }

// Bytes returns the bytes charged for both classes together. It never exceeds MaxBytes.
func (s Stats) Bytes() int64 { return s.Owned.Bytes + s.Copies.Bytes }

// Stats returns a consistent snapshot. It briefly takes the writers' lock: separate atomic counters could
// add up to a state that never existed, such as more bytes than the bound.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		Owned:      s.usage[Owned],
		Copies:     s.usage[Copy],
		MaxBytes:   s.limits[Owned].bytes,
		MaxEntries: s.limits[Owned].entries,
		TooLarge:   s.tooLarge,
	}
	if q := s.evictions; q != nil {
		stats.EvictQueue, stats.EvictQueueBytes, stats.EvictDropped = len(q.entries), q.bytes, q.dropped
	}
	if stats.MaxEntries == math.MaxInt {
		stats.MaxEntries = 0
	}
	return stats
}
