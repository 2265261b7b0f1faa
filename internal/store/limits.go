package store

import "math"

// A limit bounds what a class may hold.
type limit struct {
	bytes   int64
	entries int
}

// limits returns the limits of the classes, given the limit of both together. If total.entries is not
// positive, the number of entries is unbounded.
func limits(total limit, copyShare float64) [classes]limit {
	if total.entries <= 0 {
		total.entries = math.MaxInt
	}
	copies := total
	if copyShare < 1 { // 1 × MaxInt64, rounded to a float64, would not fit an int64
		copies = limit{int64(copyShare * float64(total.bytes)), int(copyShare * float64(total.entries))}
		if copyShare > 0 {
			copies.entries = max(copies.entries, 1)
		}
	}
	return [classes]limit{Owned: total, Copy: copies}
}

// exceeded reports whether held and more together exceed l.
func (l limit) exceeded(held Usage, more limit) bool {
	return held.Bytes > l.bytes-more.bytes || held.Entries > l.entries-more.entries
}

// victimClassLocked returns the class that an entry has to be evicted from before class c can grow by more.
// ok is false if there is room.
func (s *Store) victimClassLocked(c Class, more limit) (victim Class, ok bool) {
	owned, copies := s.usage[Owned], s.usage[Copy]
	both := Usage{Bytes: owned.Bytes + copies.Bytes, Entries: owned.Entries + copies.Entries}
	switch {
	case more.bytes <= 0 && more.entries <= 0:
		return 0, false
	case c == Copy && s.limits[Copy].exceeded(copies, more):
		return Copy, true
	case !s.limits[Owned].exceeded(both, more):
		return 0, false
	case owned.Entries > 0:
		return Owned, true
	default:
		return Copy, true
	}
}

// Resize changes the bounds of the store. The arguments mean the same as in Config. When it returns, the
// store no longer exceeds the new bounds.
//
// Resize evicts in batches, and releases the lock in between. Until it is done, the bound follows what the
// store still holds, so that a concurrent Set has to make room for its own entry only.
func (s *Store) Resize(maxBytes int64, maxEntries int) {
	s.resizing.Lock()
	defer s.resizing.Unlock()
	goal := limits(limit{maxBytes, maxEntries}, s.config.CopyShare)
	for !s.resizeStep(goal) {
	}
}

// resizeStep moves the limits towards goal by one batch of entries, and reports whether it reached goal.
func (s *Store) resizeStep(goal [classes]limit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	fits := func() bool {
		owned, copies := s.usage[Owned], s.usage[Copy]
		both := Usage{Bytes: owned.Bytes + copies.Bytes, Entries: owned.Entries + copies.Entries}
		return !goal[Owned].exceeded(both, limit{}) && !goal[Copy].exceeded(copies, limit{})
	}
	for range sweepBatch {
		if fits() {
			s.limits = goal
			return true
		}
		if goal[Copy].exceeded(s.usage[Copy], limit{}) || s.usage[Owned].Entries == 0 {
			s.evictLocked(Copy)
		} else {
			s.evictLocked(Owned)
		}
	}
	owned, copies := s.usage[Owned], s.usage[Copy]
	s.limits[Owned] = limit{
		bytes:   max(goal[Owned].bytes, owned.Bytes+copies.Bytes),
		entries: max(goal[Owned].entries, owned.Entries+copies.Entries),
	}
	s.limits[Copy] = limit{
		bytes:   max(goal[Copy].bytes, copies.Bytes),
		entries: max(goal[Copy].entries, copies.Entries),
	}
	return false
}
