package store

import "math"

// Stats says what a Store holds at one moment, and what it has done since New.
type Stats struct {
	Owned, Copies Usage

	MaxBytes   int64 // the present bounds; MaxEntries is 0 if there is none
	MaxEntries int

	Leaving      int    // entries that Leavers has still to give
	LeavingBytes int64  // the sum of their charges
	Untold       uint64 // entries that Leavers has not given, for want of room

	TooLarge uint64 // Sets refused because the entry was larger than its class may be
	Outdated uint64 // Sets refused because a newer entry was there
}

// Usage is the Stats of one class.
type Usage struct {
	Entries int
	Bytes   int64 // sum of the charges

	Left [reasons]uint64 // entries that have left, by reason
}

// Entries returns the number of entries of both classes.
func (s Stats) Entries() int { return s.Owned.Entries + s.Copies.Entries }

// Left returns the number of entries of both classes that have left for the given
// reason.
func (s Stats) Left(r Reason) uint64 { return s.Owned.Left[r] + s.Copies.Left[r] }

// Bytes returns the bytes charged for both classes; never more than
// the bound.
func (s Stats) Bytes() int64 { return s.Owned.Bytes + s.Copies.Bytes }

// Stats returns the present Stats. It takes the writers' lock for a moment: sums
// of separate atomic counters would show states that never were, such as more
// bytes than the bound.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		Owned:      s.usage[Owned],
		Copies:     s.usage[Copy],
		MaxBytes:   s.limits[Owned].bytes,
		MaxEntries: s.limits[Owned].entries,
		TooLarge:   s.tooLarge,
		Outdated:   s.outdated,
	}
	if l := s.leavers; l != nil {
		stats.Leaving, stats.LeavingBytes, stats.Untold = len(l.queue), l.bytes, l.untold
	}
	if stats.MaxEntries == math.MaxInt {
		stats.MaxEntries = 0
	}
	return stats
}
