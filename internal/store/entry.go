package store

import (
	"bytes"
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/geocache/geocache/expiry"
)

// A Class says whether this node owns an entry's key. Each class has its own eviction policy and its own
// part of the store; see [Config.CopyShare].
type Class uint8

const (
	Owned   Class = iota // this node owns the key
	Copy                 // another node owns the key
	classes              // the number of classes
)

// An Item has the contents of an [Entry].
type Item struct {
	Key   string // less than 64 KiB
	Value []byte // encoded, less than 4 GiB; must not be modified afterwards

	expiry.Stamp                // of the load or the write, by the cluster's clock
	Born         expiry.Instant // when the load or the write began, or earlier, by this node's clock
	Expires      expiry.Instant // when it ceases to be fresh

	Class  Class
	Absent bool // the origin has no value for the key; Value is empty
	Tagged bool // Value begins with tags; see AppendTags
}

// An Entry is what the store has for a key. The contents it was created from never change, so a reader may
// continue to use an Entry after the store has dropped it. An Entry must not be copied, and belongs to one
// store. Its methods are safe for concurrent use.
//
// There are millions of entries, so an Entry is as small as possible: 80 bytes, with next to no redundancy.
// The key and the value are pointers and lengths, without the capacity and the padding of Go's own types. A
// hit reads the first 56 bytes and then the key, which follows the Entry in the same allocation unless it is
// long.
type Entry struct {
	expiry.Stamp
	Expires expiry.Instant

	key, value *byte
	valueLen   uint32
	keyLen     uint16
	flags      flags

	// place, prev and next locate the entry in its policy. They are guarded by Store.mu. place is nowhere if
	// and only if the entry is in no policy.
	place place

	// policyWord belongs to the policy. S3-FIFO counts reads in it, without Store.mu; nothing else about an
	// entry's position changes without that lock. LRU and LFU keep the entry's position in their heap there,
	// guarded by Store.mu, and record reads in extended.priority.
	policyWord atomic.Uint32

	// state is what may change about an entry in the store other than its position; see SetLeased and
	// SetSeen.
	state atomic.Uint32

	born       expiry.Instant
	prev, next *Entry
}

// extended is an Entry of a store that keeps decoded values, or whose policy is LRU or LFU.
type extended struct {
	Entry
	priority atomic.Uint64  // see type ordered
	decoded  unsafe.Pointer // accessed atomically; nil if there is no decoded value
}

// flags are immutable properties of an entry. The lowest bit is its Class.
type flags uint8

const (
	isAbsent flags = 1 << (iota + 1)
	isTagged
	isExtended
)

// NewEntry returns an entry for s with the contents of i. It copies the key, and retains the value. If the
// value's capacity is much larger than its length, NewEntry copies it too, because all of it would remain in
// memory. It panics if the key or the value exceeds the size that Item allows.
func (s *Store) NewEntry(i Item) *Entry { return newEntry(i, s.extended) }

func newEntry(i Item, isExt bool) *Entry {
	if len(i.Key) > math.MaxUint16 || uint64(len(i.Value)) > math.MaxUint32 {
		panic("store: key or value is too large")
	}
	if cap(i.Value)-len(i.Value) > len(i.Value)/8+16 {
		i.Value = bytes.Clone(i.Value)
	}
	var e *Entry
	var key []byte
	if isExt {
		var x *extended
		x, key = allocate[extended](len(i.Key))
		e, x.flags = &x.Entry, isExtended
	} else {
		e, key = allocate[Entry](len(i.Key))
	}
	copy(key, i.Key)
	e.Stamp = i.Stamp
	e.Expires = i.Expires
	e.born = i.Born
	e.key, e.keyLen = unsafe.SliceData(key), uint16(len(i.Key))
	e.value, e.valueLen = unsafe.SliceData(i.Value), uint32(len(i.Value))
	e.flags |= flags(i.Class)
	if i.Absent {
		e.flags |= isAbsent
	}
	if i.Tagged {
		e.flags |= isTagged
	}
	return e
}

// withKey is an entry with room for its key. Go's allocation size classes are 16 bytes apart up to 256
// bytes.
type withKey[E any, Key any] struct {
	entry E
	key   Key
}

// allocate returns a new entry and room for a key of n bytes. Unless the key is long, the room directly
// follows the entry. So a hit finds the key in the cache line that it has just read or in the next one, and
// the garbage collector has one object per entry to mark instead of two. That makes a hit among 65,536 keys
// a fifth faster.
func allocate[E any](n int) (*E, []byte) {
	switch (n + 15) / 16 {
	case 0, 1:
		x := new(withKey[E, [16]byte])
		return &x.entry, x.key[:]
	case 2:
		x := new(withKey[E, [32]byte])
		return &x.entry, x.key[:]
	case 3:
		x := new(withKey[E, [48]byte])
		return &x.entry, x.key[:]
	case 4:
		x := new(withKey[E, [64]byte])
		return &x.entry, x.key[:]
	}
	return new(E), make([]byte, n)
}

// ext returns e as an extended entry. e must be one.
func (e *Entry) ext() *extended { return (*extended)(unsafe.Pointer(e)) }

// Key returns the key. It shares the entry's memory, so clone it if it is to outlive the entry.
func (e *Entry) Key() string { return unsafe.String(e.key, e.keyLen) }

// Value returns the encoded value, with its tags if it is tagged. It must not be modified.
func (e *Entry) Value() []byte { return unsafe.Slice(e.value, e.valueLen) }

// Born returns when the load or the write began, or an earlier instant, by this node's clock.
func (e *Entry) Born() expiry.Instant { return e.born }

// Class returns the class of the entry.
func (e *Entry) Class() Class { return Class(e.flags & 1) }

// Absent reports whether the origin has no value for the key.
func (e *Entry) Absent() bool { return e.flags&isAbsent != 0 }

// Tagged reports whether Value begins with tags.
func (e *Entry) Tagged() bool { return e.flags&isTagged != 0 }

// size returns the bytes that e takes, without a decoded value and what an extended entry adds.
func (e *Entry) size() int64 { return int64(e.keyLen) + int64(e.valueLen) + overhead }

// Used reports whether e has been read since S3-FIFO last examined it. Other policies do not keep track of
// that: with LRU and LFU it is true for all entries of the store, with FIFO for none.
func (e *Entry) Used() bool { return e.policyWord.Load() != 0 }

// leased is the bit of Entry.state that says whether the entry is leased. The other bits are the lower bits
// of the Seq that SetSeen was called with.
const leased = 1 << 31

// Leased reports whether e may be served only while this node is told of all writes.
func (e *Entry) Leased() bool { return e.state.Load()&leased != 0 }

// SetLeased sets whether e may be served only while this node is told of all writes. That changes when this
// node becomes the owner of the key, or ceases to be.
func (e *Entry) SetLeased(is bool) {
	if is {
		e.state.Or(leased)
	} else {
		e.state.And(^uint32(leased))
	}
}

// Seen returns the Seq that SetSeen was last called with, provided that it is less than 2³¹ before now.
func (e *Entry) Seen(now expiry.Seq) expiry.Seq {
	return now - expiry.Seq((uint32(now)-e.state.Load())&^leased)
}

// SetSeen records that e is not affected by any tag or prefix removed before Seq seen.
func (e *Entry) SetSeen(seen expiry.Seq) {
	for {
		old := e.state.Load()
		if e.state.CompareAndSwap(old, old&leased|uint32(seen)&^leased) {
			return
		}
	}
}

// Decoded returns the decoded value that SetDecoded stored, or nil if there is none. V must be the same type
// for all entries of a store. The Config of the store must have a DecodedSize: otherwise decoded values are
// not charged, and may not be stored.
func Decoded[V any](e *Entry) *V {
	if e.flags&isExtended == 0 {
		return nil
	}
	return (*V)(atomic.LoadPointer(&e.ext().decoded))
}

// SetDecoded stores v, the decoded value, for later readers, unless another reader was first. It returns the
// value that is stored, or v if e cannot store one. v must not be nil, and must not be modified afterwards.
func SetDecoded[V any](e *Entry, v *V) *V {
	if e.flags&isExtended == 0 || atomic.CompareAndSwapPointer(&e.ext().decoded, nil, unsafe.Pointer(v)) {
		return v
	}
	return Decoded[V](e)
}
