package store

import "math"

// A limit is the most that a class may hold.
type limit struct {
	bytes   int64
	entries int
}

// limits returns the bounds of the classes where both together have the bound most.
// A number of entries that is not positive bounds nothing.
func limits(most limit, copyShare float64) [classes]limit {
	if most.entries <= 0 {
		most.entries = math.MaxInt
	}
	copies := most
	if copyShare < 1 { // 1 × MaxInt64, rounded to a float64, would not fit an int64
		copies = limit{int64(copyShare * float64(most.bytes)), int(copyShare * float64(most.entries))}
		if copyShare > 0 {
			copies.entries = max(copies.entries, 1)
		}
	}
	return [classes]limit{Owned: most, Copy: copies}
}

// exceeded reports whether held and more would be more than l.
func (l limit) exceeded(held Usage, more limit) bool {
	return held.Bytes > l.bytes-more.bytes || held.Entries > l.entries-more.entries
}

// crowdedLocked returns the class that has to give way before class c can grow
// by more, if one has to.
func (s *Store) crowdedLocked(c Class, more limit) (victim Class, ok bool) {
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

// Resize changes the bounds, to what New would have made of them. What is more
// than the new ones is gone when it returns. Meanwhile it holds the lock for some
// entries at a time, and the bound is what is held by then, so that no Set finds
// more to make room for than itself.
func (s *Store) Resize(maxBytes int64, maxEntries int) {
	s.resizing.Lock()
	defer s.resizing.Unlock()
	goal := limits(limit{maxBytes, maxEntries}, s.config.CopyShare)
	for !s.approach(goal) {
	}
}

// approach moves the bounds towards goal, by some entries, and reports whether they
// are there.
func (s *Store) approach(goal [classes]limit) bool {
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
	s.limits[Owned] = limit{max(goal[Owned].bytes, owned.Bytes+copies.Bytes), max(goal[Owned].entries, owned.Entries+copies.Entries)}
	s.limits[Copy] = limit{max(goal[Copy].bytes, copies.Bytes), max(goal[Copy].entries, copies.Entries)}
	return false
}
