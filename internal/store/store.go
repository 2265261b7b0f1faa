// Package store is the memory of one group on one node: a map from keys to encoded values with a bound on
// its size.
//
// It promises:
//
//   - Get takes no lock and does not allocate, whatever writers do at the same time.
//   - The bytes charged for the entries, including their overhead, and the number of entries never exceed
//     their bounds, not even for a moment. Room is made before an entry is added.
//   - An entry is never replaced with one of a lower stamp, unless the caller of Set declares it dead.
//   - The Policy determines which entry is evicted first, and copies of other nodes' entries take no more
//     than their share.
//
// It does not decide freshness: it has no clock, and returns an entry whether or not it has expired. Its
// callers know which entries are dead, and remove them with DeleteFunc, DeleteIf, Sweep and Expire.
package store

import (
	"hash/maphash"
	"iter"
	"sync"

	"github.com/geocache/geocache/expiry"
)

const (
	// overhead is what an entry takes besides its key and its value, in bytes: the Entry (80), its slot in
	// the table (10, for 1.15 to 1.45 slots), and its part of the ghosts (5 to 6). TestOverhead measures it:
	// 96 to 101 in total.
	overhead = 100

	// extendedOverhead is what an extended entry takes in addition, in bytes.
	extendedOverhead = 16

	// heapOverhead is what LRU and LFU take in addition, in bytes: their heap, minus the ghosts that they do
	// not need.
	heapOverhead = 14
)

// Config configures a Store.
type Config struct {
	// MaxBytes bounds the sum of the charges of all entries. An entry is charged len(Key) + len(Value) + 100
	// bytes. LRU, LFU and decoded values add up to 30 bytes, and a decoded value adds what DecodedSize says.
	MaxBytes int64

	// MaxEntries, if positive, also bounds the number of entries. The default is no bound.
	MaxEntries int

	// CopyShare is the fraction of MaxBytes, and of MaxEntries, that copies may take, from 0 to 1. Owned
	// entries may take everything that copies do not. Copies may displace owned entries up to their share.
	// Unless it is 0, MaxEntries always allows at least one copy.
	CopyShare float64

	// Policy is the eviction policy. The default is S3FIFO.
	Policy Policy

	// DecodedSize, if positive, makes entries keep decoded values. A decoded value is charged
	// len(Value) + DecodedSize bytes. It is charged from the start: if an entry grew when it is first read,
	// that read would exceed the bound, or need the lock.
	DecodedSize int64
}

// A Store holds the entries of one group. Its methods are safe for concurrent use.
//
// Readers only use the table. Writers hold mu while they change anything.
//
// Invariant: while mu is not held, an entry is in the table if and only if it is in the policy of its class,
// in exactly one queue or heap there, and its charge is included in the usage of the class, exactly once.
//
// Readers may race with a single writer:
//
//   - Get finds an entry, which is then evicted, deleted or replaced. Get returns it: the read took place
//     before the write. The entry is immutable, and is garbage collected when its last user is done. The
//     late call of touch writes a policyWord that nobody reads.
//   - Get runs while the entry of its key is replaced. That is a single write to the slot, so Get finds the
//     old entry or the new one. The exception is an old entry that is evicted to make room for the new one.
//     Then Get may miss, which is always correct.
//
// Two writers of a key run one after the other. The Store compares stamps, but does not know whether a fill
// is still valid after a write. For that, Set asks its caller.
type Store struct {
	entries  table
	policies [classes]policy
	config   Config // without the bounds, which are in limits
	extended bool   // whether entries are extended
	extra    int64  // what each entry is charged beyond overhead, for being extended and for the policy

	_ [64]byte // keeps what readers need, which is above, off the cache lines that writers change

	resizing sync.Mutex // held by Resize; lock it before mu

	mu sync.Mutex // guards the following fields, and writes to entries

	// limits bounds each class; the limit of Owned bounds both classes together.
	limits [classes]limit

	// usage is what each class holds.
	// Invariant: it is within limits.
	usage    [classes]Usage
	tooLarge uint64

	// evictions receives every entry that leaves. It is nil unless Evictions was called.
	evictions *evictionQueue
}

// New returns an empty store. If MaxBytes is not positive, the store keeps nothing.
func New(config Config) *Store {
	s := &Store{
		entries:  table{seed: maphash.MakeSeed()},
		config:   config,
		extended: config.DecodedSize > 0 || config.Policy.ordered(),
	}
	for c := range s.policies {
		s.policies[c] = config.Policy.new(s.entries.seed)
	}
	if s.extended {
		s.extra += extendedOverhead
	}
	if config.Policy.ordered() {
		s.extra += heapOverhead
	}
	s.limits = limits(limit{config.MaxBytes, config.MaxEntries}, config.CopyShare)
	return s
}

// Get returns the entry of key, and counts as a use of it. The entry may have expired. Get takes no lock and
// does not allocate.
func (s *Store) Get(key string) (*Entry, bool) {
	e := s.entries.load(key)
	if e != nil {
		s.policies[e.Class()].touch(e)
	}
	return e, e != nil
}

// Peek is Get, but does not count as a use, so it does not affect the order of eviction.
func (s *Store) Peek(key string) (*Entry, bool) {
	e := s.entries.load(key)
	return e, e != nil
}

// Set makes e the entry of its key, if admit returns true. It returns the entry that the key has afterwards:
//
//   - usually e;
//   - the present entry, if its stamp is higher than that of e. If the stamps are equal, the later Set wins;
//   - the present entry, or nil, if admit returns false;
//   - nil, if e alone exceeds the limit of its class. An older present entry is removed anyway: it must
//     not outlive the value that was to replace it.
//
// A present entry for which dead returns true gives way to e whatever its stamp, and is removed even if
// admit returns false. A reader finds it or e, and does not miss in between. If dead is nil, no entry is
// dead.
//
// dead and admit are called with the writers' lock held, and must not call the store. So if a writer first
// changes what admit examines and then deletes the entry, either admit sees the change, or the delete comes
// after this Set.
//
// An entry that replaces one of the same class keeps its place in the order of eviction. One that replaces
// an entry of the other class starts afresh in its own.
func (s *Store) Set(e *Entry, dead func(*Entry) bool, admit func() bool) *Entry {
	charge := s.charge(e)

	s.mu.Lock()
	defer s.mu.Unlock()

	old := s.entries.load(e.Key())
	if old == e {
		return e
	}
	oldDead := old != nil && dead != nil && dead(old)
	if old != nil && !oldDead && e.Stamp.Below(old.Stamp) {
		return old
	}
	if !admit() {
		if oldDead {
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
	// An entry of the other class releases its room first. Readers find it in the table until e takes its
	// slot.
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

// DeleteFunc removes the entry of key if dead returns true for it. It returns the entry that it removed, or
// nil. dead is called with the writers' lock held, and must not call the store.
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

// DeleteIf removes e if it is still the entry of its key, and reports whether it did.
func (s *Store) DeleteIf(e *Entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removeIfLocked(e, Removed)
}

// All yields the entries in no particular order, without a lock. Entries that are added or removed in the
// meantime may or may not be among them. If an entry is replaced in the meantime, All may yield both the old
// and the new one. The loop body may call all methods of the store.
func (s *Store) All() iter.Seq[*Entry] {
	return s.entries.all()
}

// sweepBatch is the maximum number of entries that Sweep and Resize remove before they release the lock. A
// batch takes some ten microseconds.
const sweepBatch = 64

// Sweep goes through the store once and removes the entries for which dead returns true, for the given
// reason. It returns the number of entries removed. It finds every entry that was admitted before it was
// called, even by a Set that has not returned yet. dead is called without a lock; an entry that it finds
// dead must remain dead. Sweep is for background use: it only takes the lock to remove a batch of entries.
func (s *Store) Sweep(reason Reason, dead func(*Entry) bool) int {
	s.mu.Lock()
	//lint:ignore SA2001 once the lock is acquired, everything admitted before is in the table
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

// Expire removes the entries that have expired at now. It does not have to examine all the others. It is for
// background use, and releases the lock after every few entries.
func (s *Store) Expire(now expiry.Instant) {
	for g, group := range s.entries.due(now) {
		s.mu.Lock()
		for _, e := range g.expired(group, now) {
			s.removeIfLocked(e, Expired) // g may be out of date: e may have left since its shard was resized
		}
		s.mu.Unlock()
	}
}

// charge returns the bytes that e is charged.
func (s *Store) charge(e *Entry) int64 {
	charge := e.size() + s.extra
	if s.config.DecodedSize > 0 && !e.Absent() {
		charge += int64(e.valueLen) + s.config.DecodedSize
	}
	return charge
}

// makeRoomLocked evicts entries until one of class c with the given charge fits in place of old, which may
// be nil. It returns old, or nil if old was evicted too.
func (s *Store) makeRoomLocked(c Class, charge int64, old *Entry) *Entry {
	for {
		need := limit{charge, 1}
		if old != nil {
			need = limit{charge - s.charge(old), 0}
		}
		victim, ok := s.victimClassLocked(c, need)
		if !ok {
			return old
		}
		if s.evictLocked(victim) == old {
			old = nil
		}
	}
}

// evictLocked removes the entry that the policy of class c chooses, and returns it.
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

// removeLocked removes e, which must be in the store.
func (s *Store) removeLocked(e *Entry, reason Reason) {
	s.policies[e.Class()].remove(e)
	s.forgetLocked(e, reason)
}

// forgetLocked removes e, which has left its policy, from the table and from usage.
func (s *Store) forgetLocked(e *Entry, reason Reason) {
	s.entries.remove(e)
	s.releaseLocked(e, reason)
}

// releaseLocked subtracts e from usage, and passes it to evictions. e has left its policy, and has left the
// table or is about to.
func (s *Store) releaseLocked(e *Entry, reason Reason) {
	u := &s.usage[e.Class()]
	u.Entries--
	u.Bytes -= s.charge(e)
	u.Left[reason]++
	if s.evictions != nil && !e.Absent() {
		s.evictions.put(Eviction{e, reason}, s.charge(e), s.limits[Owned].bytes)
	}
}
