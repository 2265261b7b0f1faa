// Package store is the memory of one group on one node: a map from keys to
// encoded values that never holds more bytes than it may.
//
// It promises that
//
//   - Get takes no lock and allocates nothing, whatever writers do meanwhile;
//   - the bytes charged for its entries, their own overhead included, and the
//     number of the entries exceed their bounds at no moment, because room is
//     made before an entry is put in;
//   - an entry of a key is never replaced with one of a lower stamp, but by SetOver;
//   - which entry goes first is its Policy's to say, and copies of other nodes'
//     entries take no more than their share.
//
// It does not judge freshness: it has no clock, and returns an entry whether or
// not it has expired. What is dead is removed by who knows so, with Delete,
// DeleteIf and Sweep.
package store

import (
	"hash/maphash"
	"iter"
	"sync"

	"github.com/geocache/geocache/expiry"
)

// Overhead is what an entry costs beside its key and its value, in bytes: the
// Entry (80), its slot in the table (10, for 1.15 to 1.45 slots) and its part of the
// ghosts (5 to 6). TestOverhead measures it: 96 to 101 together.
const Overhead = 100

const (
	// extendedOverhead is what an extended entry takes more.
	extendedOverhead = 16

	// heapOverhead is what the heap of an exact order takes beyond the ghosts that it
	// does not need.
	heapOverhead = 14
)

// Config says how much a Store may hold.
type Config struct {
	// MaxBytes bounds the sum of the charges of all entries. Each is charged
	// len(Key) + len(Value) + Overhead, a little more by LRU and LFU and where values are
	// decoded, and for a decoded value what DecodedSize says.
	MaxBytes int64

	// MaxEntries, if positive, bounds the number of entries too.
	MaxEntries int

	// CopyShare is the part of MaxBytes, and of MaxEntries, that copies may take,
	// from 0 to 1. Owned entries may take all that copies do not; copies may take
	// their share from owned entries. If it is not 0, one copy is always allowed
	// by number.
	CopyShare float64

	// Policy is the order of eviction.
	Policy Policy

	// DecodedSize, if positive, says that decoded values are kept too, and that
	// one takes that many bytes more than len(Value). It is charged from the
	// beginning: an entry that grew when it is first read would break the
	// bound, or need the lock.
	DecodedSize int64
}

// A Store holds the entries of one group. Its methods are safe for concurrent
// use.
//
// Readers use the table alone. Writers hold mu, all the time that they change
// anything:
//
// Invariant: while mu is free, an entry is in the table exactly if it is in
// its class's policy, in one queue or heap there, and then its charge is in the
// class's usage, once.
//
// That leaves readers racing with one writer:
//
//   - Get finds an entry, then it is evicted, deleted or replaced. Get returns
//     it: the read took place before the write. The caller holds an immutable
//     entry, which is collected when the last one lets go; the touch that comes
//     late writes a mark that nobody reads.
//   - Get runs while the entry of its key is replaced. One store to its slot does
//     it, so Get finds the old or the new one, not neither. (Unless the old one
//     is itself evicted to make room for the new: then Get may miss, which is
//     always right.)
//
// Two writers of a key come one after the other. A fill that must not outlive
// a write is not the Store's to know of, beyond the comparison of stamps: that
// is what SetIf asks its caller.
type Store struct {
	entries  table
	policies [classes]policy
	config   Config // but for the bounds, which are in limits
	extended bool   // entries are
	extra    int64  // what that and the policy take for each entry beyond Overhead

	_ [64]byte // what readers need is above, and not on a cache line that writers change

	resizing sync.Mutex // held by Resize; before mu

	mu sync.Mutex // guards the following fields, and writes to entries

	// limits bounds each class; that of Owned bounds both together.
	limits [classes]limit

	// usage is the accounts of each class.
	// Invariant: they are within limits.
	usage              [classes]Usage
	tooLarge, outdated uint64

	// leavers is told of every entry that leaves, if anybody wants to know.
	leavers *leavers
}

// New returns an empty store. A MaxBytes that is not positive makes one that
// keeps nothing.
func New(config Config) *Store {
	s := &Store{
		entries:  table{seed: maphash.MakeSeed()},
		config:   config,
		extended: config.DecodedSize > 0 || config.Policy.exact(),
	}
	for c := range s.policies {
		s.policies[c] = config.Policy.new(s.entries.seed)
	}
	if s.extended {
		s.extra += extendedOverhead
	}
	if config.Policy.exact() {
		s.extra += heapOverhead
	}
	s.limits = limits(limit{config.MaxBytes, config.MaxEntries}, config.CopyShare)
	return s
}

// Get returns the entry of key, and counts that as a use. The entry may have
// expired. Get takes no lock and does not allocate.
func (s *Store) Get(key string) (*Entry, bool) {
	e := s.entries.load(key)
	if e != nil {
		s.policies[e.Class()].touch(e)
	}
	return e, e != nil
}

// Peek returns the entry of key without counting it as a use, so that the order
// of eviction stays as it is.
func (s *Store) Peek(key string) (*Entry, bool) {
	e := s.entries.load(key)
	return e, e != nil
}

// Set makes e the entry of its key and returns the one that is the key's
// entry afterwards:
//
//   - e, as a rule;
//   - a present entry of a higher stamp than e's, which is never replaced. Of
//     two of the same stamp the later Set wins;
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
func (s *Store) SetIf(e *Entry, admit func() bool) *Entry { return s.SetOver(e, nil, admit) }

// SetOver is SetIf and DeleteFunc in one: a present entry for which dead reports true
// gives way to e whatever its stamp, and is removed if e is not put in. No reader finds
// neither. If dead is nil none is dead.
func (s *Store) SetOver(e *Entry, dead func(*Entry) bool, admit func() bool) *Entry {
	charge := s.charge(e)

	s.mu.Lock()
	defer s.mu.Unlock()

	old := s.entries.load(e.Key())
	if old == e {
		return e
	}
	gone := old != nil && dead != nil && dead(old)
	if old != nil && !gone && e.Stamp.Below(old.Stamp) {
		s.outdated++
		return old
	}
	if !admit() {
		if gone {
			s.removeLocked(old, Removed)
			return nil
		}
		return old
	}
	if limit := s.limits[e.Class()]; charge > limit.bytes || limit.entries == 0 {
		s.tooLarge++
		if old != nil {
			s.removeLocked(old, Replaced)
		}
		return nil
	}
	// An entry of the other class gives its room back first. Readers find it in
	// the map until e takes its slot.
	if old != nil && old.Class() != e.Class() {
		s.policies[old.Class()].remove(old)
		s.releaseLocked(old, Replaced)
		old = nil
	}
	old = s.makeRoomLocked(e.Class(), charge, old)

	if old != nil {
		s.policies[e.Class()].replace(old, e)
		s.releaseLocked(old, Replaced)
	} else {
		s.policies[e.Class()].add(e)
	}
	s.usage[e.Class()].Entries++
	s.usage[e.Class()].Bytes += charge
	s.entries.store(e)
	return e
}

// Delete removes the entry of key and reports whether there was one.
func (s *Store) Delete(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries.load(key)
	if e != nil {
		s.removeLocked(e, Removed)
	}
	return e != nil
}

// DeleteFunc removes the entry of key if dead reports true for it, and returns
// the entry that it has removed, or nil. dead is called with the writers' lock
// held and must not call the store.
func (s *Store) DeleteFunc(key string, dead func(*Entry) bool) *Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries.load(key)
	if e == nil || !dead(e) {
		return nil
	}
	s.removeLocked(e, Removed)
	return e
}

// DeleteIf removes e, unless it is no longer the entry of its key, and reports
// whether it did.
func (s *Store) DeleteIf(e *Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removeIfLocked(e, Removed)
}

// All returns the entries in no order, without a lock. Those that are put in or
// removed meanwhile may be among them or not, and one that is replaced may come
// twice, old and new. The body may use every method of the store.
func (s *Store) All() iter.Seq[*Entry] {
	return s.entries.all()
}

// sweepBatch bounds how many entries Sweep and Resize remove in one hold of the
// lock: some ten microseconds.
const sweepBatch = 64

// Sweep goes through the store once, removes the entries for which dead reports
// true, for the given reason, and returns how many. dead is called without a lock,
// and what it says of an entry has to remain true. Sweep is for the background: it
// holds the lock for some entries at a time, and not at all while it finds none.
func (s *Store) Sweep(reason Reason, dead func(*Entry) bool) int {
	s.mu.Lock()
	//lint:ignore SA2001 what has been admitted by now is in the table when the lock is had
	s.mu.Unlock()
	removed := 0
	batch := make([]*Entry, 0, sweepBatch)
	flush := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e := range batch {
			if s.removeIfLocked(e, reason) {
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

// Expire removes the entries that have expired at now, for which it does not have
// to look at the others. It is for the background, and holds the lock for a few
// entries at a time.
func (s *Store) Expire(now expiry.Instant) {
	for g, group := range s.entries.due(now) {
		s.mu.Lock()
		for _, e := range g.expired(group, now) {
			s.removeIfLocked(e, Expired) // not if the table has grown, and e left the new one
		}
		s.mu.Unlock()
	}
}

// charge returns what e counts for.
func (s *Store) charge(e *Entry) int64 {
	charge := e.size() + s.extra
	if s.config.DecodedSize > 0 && !e.Absent() {
		charge += int64(e.valueLen) + s.config.DecodedSize
	}
	return charge
}

// makeRoomLocked evicts until an entry of class c and the given charge fits in
// place of old, which may be nil. It returns old, or nil if that was evicted too.
func (s *Store) makeRoomLocked(c Class, charge int64, old *Entry) *Entry {
	for {
		need := limit{charge, 1}
		if old != nil {
			need = limit{charge - s.charge(old), 0}
		}
		victim, ok := s.crowdedLocked(c, need)
		if !ok {
			return old
		}
		if s.evictLocked(victim) == old {
			old = nil
		}
	}
}

// evictLocked removes the entry of class c that its policy chooses.
func (s *Store) evictLocked(c Class) *Entry {
	e := s.policies[c].evict()
	s.forgetLocked(e, Capacity)
	return e
}

// removeIfLocked removes e if it is in the store, and reports whether it was.
func (s *Store) removeIfLocked(e *Entry, reason Reason) bool {
	if s.entries.load(e.Key()) != e {
		return false
	}
	s.removeLocked(e, reason)
	return true
}

// removeLocked removes e, which is in the store.
func (s *Store) removeLocked(e *Entry, reason Reason) {
	s.policies[e.Class()].remove(e)
	s.forgetLocked(e, reason)
}

// forgetLocked removes e, which its policy has let go of, from the map and the
// accounts.
func (s *Store) forgetLocked(e *Entry, reason Reason) {
	s.entries.remove(e)
	s.releaseLocked(e, reason)
}

// releaseLocked takes e, which has left its policy and which readers find no
// longer or not for long, off the accounts, and hands it to who wants to know.
func (s *Store) releaseLocked(e *Entry, reason Reason) {
	u := &s.usage[e.Class()]
	u.Entries--
	u.Bytes -= s.charge(e)
	u.Left[reason]++
	if s.leavers != nil && !e.Absent() {
		s.leavers.put(Leaver{e, reason}, s.charge(e), s.limits[Owned].bytes)
	}
}
