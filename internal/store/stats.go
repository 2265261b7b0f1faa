package store

// Stats says what a Store holds at one moment, and what it has done since New.
type Stats struct {
	Owned, Copies Usage

	TooLarge uint64 // Sets refused because the entry was larger than its class may be
	Outdated uint64 // Sets refused because a newer entry was there
}

// Usage is the Stats of one class.
type Usage struct {
	Entries int
	Bytes   int64 // sum of the charges

	Evicted uint64 // entries removed to make room
	Swept   uint64 // entries removed by Sweep
}

// Entries returns the number of entries of both classes.
func (s Stats) Entries() int { return s.Owned.Entries + s.Copies.Entries }

// Bytes returns the bytes charged for both classes; never more than MaxBytes.
func (s Stats) Bytes() int64 { return s.Owned.Bytes + s.Copies.Bytes }

// Stats returns the present Stats. It takes the writers' lock for a moment: sums
// of separate atomic counters would show states that never were, such as more
// bytes than the bound.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Owned:    s.usage[Owned],
		Copies:   s.usage[Copy],
		TooLarge: s.tooLarge,
		Outdated: s.outdated,
	}
}

// hold and release keep the accounts of an entry that comes and of one that goes.
func (u *Usage) hold(e *Entry) {
	u.Entries++
	u.Bytes += e.charge
}

func (u *Usage) release(e *Entry) {
	u.Entries--
	u.Bytes -= e.charge
}
