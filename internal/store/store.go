// Package store is the memory of one group on one node: a map from keys to
// encoded values that never holds more bytes than it may.
//
// It promises that
//
//   - Get takes no lock and allocates nothing, whatever writers do meanwhile;
//   - the bytes charged for its entries, their own overhead included, exceed
//     the bound at no moment, because room is made before an entry is put in;
//   - an entry of a key is never replaced with one of an older generation;
//   - what is read often stays longest, in the order of S3-FIFO, and copies of
//     other nodes' entries take no more than their share.
//
// It does not judge freshness: it has no clock, and returns an entry whether or
// not it has expired. What is dead is removed by who knows so, with Delete,
// DeleteIf and Sweep.
package store

import (
	"hash/maphash"
	"iter"
	"sync"

	"github.com/puzpuzpuz/xsync/v4"
)

// Overhead is what an entry costs beside its key and its value, in bytes: the
// Entry (128), the map's slot for it (24 for the pair, 17 to 34 for its part of
// a bucket, as full as the map happens to be) and its part of the ghost (18 to
// 36). TestOverhead measures it: 194 to 199 together.
const Overhead = 208

// Config says how much a Store may hold.
type Config struct {
	// MaxBytes bounds the sum of the charges of all entries. Each is charged
	// len(Key) + cap(Value) + Overhead, and for a decoded value what
	// DecodedSize says.
	MaxBytes int64

	// CopyShare is the part of MaxBytes that copies may take, from 0 to 1.
	// Owned entries may take all that copies do not; copies may take their
	// share from owned entries.
	CopyShare float64

	// DecodedSize, if positive, says that decoded values are kept too, and that
	// one takes that many bytes more than len(Value). It is charged from the
	// beginning: an entry that grew when it is first read would break the
	// bound, or need the lock.
	DecodedSize int64
}

// A Store holds the entries of one group. Its methods are safe for concurrent
// use.
//
// Readers use the map alone. Writers hold mu, all the time that they change
// anything:
//
// Invariant: while mu is free, an entry is in the map exactly if it is in
// exactly one queue of its class's policy, and then its charge is in the
// class's usage, once. The map never calls back, so locks are taken in one
// order: mu, then the map's own.
//
// That leaves readers racing with one writer:
//
//   - Get finds an entry, then it is evicted, deleted or replaced. Get returns
//     it: the read took place before the write. The caller holds an immutable
//     entry, which is collected when the last one lets go; the touch that comes
//     late writes a mark that nobody reads.
//   - Get runs while the entry of its key is replaced. One store to the map does
//     it, so Get finds the old or the new one, not neither. (Unless the old one
//     is itself evicted to make room for the new: then Get may miss, which is
//     always right.)
//
// Two writers of a key come one after the other. A fill that must not outlive
// a write is not the Store's to know of, beyond the comparison of generations: that
// is what SetIf asks its caller.
type Store struct {
	entries  *xsync.Map[string, *Entry]
	policies [classes]policy
	config   Config
	limits   [classes]int64 // most bytes of each class
	seed     maphash.Seed   // so that nobody outside can choose keys that collide

	_ [64]byte // what readers need is above, and not on a cache line that writers change

	mu sync.Mutex // guards the following fields, and writes to entries

	// usage is the accounts of each class.
	// Invariant: 0 ≤ Bytes ≤ limits of the class, and the sum ≤ MaxBytes.
	usage              [classes]Usage
	tooLarge, outdated uint64
}

// New returns an empty store. A MaxBytes that is not positive makes one that
// keeps nothing.
func New(config Config) *Store {
	s := &Store{
		entries: xsync.NewMap[string, *Entry](),
		config:  config,
		seed:    maphash.MakeSeed(),
	}
	for c := range s.policies {
		s.policies[c] = newS3FIFO()
	}
	s.limits = [classes]int64{Owned: config.MaxBytes, Copy: config.MaxBytes}
	if config.CopyShare < 1 { // 1 × MaxInt64, rounded to a float64, would not fit an int64
		s.limits[Copy] = int64(config.CopyShare * float64(config.MaxBytes))
	}
	return s
}

// Get returns the entry of key, and counts that as a use. The entry may have
// expired. Get takes no lock and does not allocate.
func (s *Store) Get(key string) (*Entry, bool) {
	e, ok := s.entries.Load(key)
	if ok {
		s.policies[e.Class].touch(e)
	}
	return e, ok
}

// Peek returns the entry of key without counting it as a use, so that the order
// of eviction stays as it is.
func (s *Store) Peek(key string) (*Entry, bool) {
	return s.entries.Load(key)
}

// Set makes e the entry of its key and returns the one that is the key's
// entry afterwards:
//
//   - e, as a rule;
//   - a present entry of a higher generation than e's, which is never replaced.
//     Of two of the same generation the later Set wins;
//   - nil if e is larger than its class may ever be. An older entry is removed
//     all the same: it must not survive the value that was to replace it.
//
// An entry that replaces another of its class keeps its place in the order of
// eviction. One of the other class moves, and begins anew there.
func (s *Store) Set(e *Entry) *Entry {
	return s.SetIf(e, func() bool { return true })
}

// SetIf is Set provided that admit holds, and leaves the store as it is
// otherwise. admit is called with the writers' lock held: what it looks at, and
// whoever changes that and then deletes the entry, are in one order with this
// Set. It must not call the store.
func (s *Store) SetIf(e *Entry, admit func() bool) *Entry {
	hash := uint32(maphash.String(s.seed, e.Key))
	charge := s.charge(e)

	s.mu.Lock()
	defer s.mu.Unlock()

	old, _ := s.entries.Load(e.Key)
	if old == e {
		return e
	}
	if old != nil && old.Generation > e.Generation {
		s.outdated++
		return old
	}
	if !admit() {
		return old
	}
	if charge > s.limits[e.Class] {
		s.tooLarge++
		if old != nil {
			s.removeLocked(old)
		}
		return nil
	}
	// An entry of the other class gives its room back first. Readers find it in
	// the map until e takes its slot.
	if old != nil && old.Class != e.Class {
		s.policies[old.Class].remove(old)
		s.usage[old.Class].release(old)
		old = nil
	}
	old = s.makeRoomLocked(e.Class, charge, old)

	e.hash, e.charge = hash, charge // not earlier: under mu, and e is not in the store
	if old != nil {
		s.policies[e.Class].replace(old, e)
		s.usage[e.Class].release(old)
	} else {
		s.policies[e.Class].add(e)
	}
	s.usage[e.Class].hold(e)
	s.entries.Store(e.Key, e)
	return e
}

// Delete removes the entry of key and reports whether there was one.
func (s *Store) Delete(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries.Load(key)
	if ok {
		s.removeLocked(e)
	}
	return ok
}

// DeleteIf removes e, unless it is no longer the entry of its key, and reports
// whether it did.
func (s *Store) DeleteIf(e *Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removeIfLocked(e)
}

// All returns the entries in no order, without a lock. Those that are put in or
// removed meanwhile may be among them or not, and one that is replaced may come
// twice, old and new. The body may use every method of the store.
func (s *Store) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		s.entries.RangeRelaxed(func(_ string, e *Entry) bool { return yield(e) })
	}
}

// sweepBatch bounds how many entries Sweep removes in one hold of the lock:
// some ten microseconds.
const sweepBatch = 64

// Sweep goes through the store once, removes the entries for which dead reports
// true, and returns how many. dead is called without a lock, and what it says
// of an entry has to remain true. Sweep is for the background: it holds the
// lock for some entries at a time, and not at all while it finds none.
func (s *Store) Sweep(dead func(*Entry) bool) int {
	removed := 0
	batch := make([]*Entry, 0, sweepBatch)
	flush := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range batch {
			if s.removeIfLocked(e) {
				s.usage[e.Class].Swept++
				removed++
			}
		}
		batch = batch[:0]
	}
	for e := range s.All() {
		if !dead(e) {
			continue
		}
		if batch = append(batch, e); len(batch) == sweepBatch {
			flush()
		}
	}
	flush()
	return removed
}

// charge returns what e counts for.
func (s *Store) charge(e *Entry) int64 {
	charge := int64(len(e.Key)) + int64(cap(e.Value)) + Overhead
	if s.config.DecodedSize > 0 && !e.Absent {
		charge += int64(len(e.Value)) + s.config.DecodedSize
	}
	return charge
}

// makeRoomLocked evicts until an entry of class c and the given charge fits in
// place of old, which may be nil. It returns old, or nil if that was evicted too.
func (s *Store) makeRoomLocked(c Class, charge int64, old *Entry) *Entry {
	for {
		need := charge
		if old != nil {
			need -= old.charge
		}
		victim, ok := s.crowdedLocked(c, need)
		if !ok {
			return old
		}
		e := s.policies[victim].evict()
		s.forgetLocked(e)
		s.usage[victim].Evicted++
		if e == old {
			old = nil
		}
	}
}

// crowdedLocked returns the class that has to give way before class c can grow
// by need bytes, if one has to.
func (s *Store) crowdedLocked(c Class, need int64) (victim Class, ok bool) {
	owned, copies := &s.usage[Owned], &s.usage[Copy]
	switch {
	case need <= 0:
		return 0, false
	case c == Copy && copies.Bytes > s.limits[Copy]-need:
		return Copy, true
	case owned.Bytes+copies.Bytes <= s.config.MaxBytes-need:
		return 0, false
	case owned.Entries > 0:
		return Owned, true
	default:
		return Copy, true
	}
}

// removeIfLocked removes e if it is in the store, and reports whether it was.
func (s *Store) removeIfLocked(e *Entry) bool {
	present, _ := s.entries.Load(e.Key)
	if present != e {
		return false
	}
	s.removeLocked(e)
	return true
}

// removeLocked removes e, which is in the store.
func (s *Store) removeLocked(e *Entry) {
	s.policies[e.Class].remove(e)
	s.forgetLocked(e)
}

// forgetLocked removes e, which its policy has let go of, from the accounts and
// the map.
func (s *Store) forgetLocked(e *Entry) {
	s.usage[e.Class].release(e)
	s.entries.Delete(e.Key)
}
