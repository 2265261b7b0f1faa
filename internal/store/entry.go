package store

import (
	"bytes"
	"math"
	"sync/atomic"
	"unsafe"

	"github.com/geocache/geocache/expiry"
)

// A Class says whose an entry is. Each has an eviction policy of its own and
// its own part of the store; see [Config.CopyShare].
type Class uint8

const (
	Owned   Class = iota // of a key that this node owns
	Copy                 // of a key that another node owns
	classes              // how many there are
)

// An Item is what an [Entry] is made of.
type Item struct {
	Key   string // at most 64 KiB
	Value []byte // encoded, at most 4 GiB; must not change any more

	expiry.Stamp                // of its load or write, on the cluster's clock
	Born         expiry.Instant // the same on this node's clock, or earlier
	Expires      expiry.Instant // from then on it is not fresh

	Class  Class
	Absent bool // the origin said that there is no value; Value is empty
	Tagged bool // tags come before the value, see AppendTags
}

// An Entry is what the store keeps for a key. What it was made of never changes,
// so a reader that holds an Entry may go on using it after the store has dropped
// it. An Entry must not be copied, and belongs to one store.
//
// There are millions of them, so it is as small as it can be made: 80 bytes, with
// next to nothing that another field could tell. Key and value are pointers and
// lengths without the capacities and the second words that Go would give them. A
// hit reads the first 56 bytes, and then the key, which follows the Entry in the
// same piece of memory unless it is long.
type Entry struct {
	expiry.Stamp
	Expires expiry.Instant

	key, value *byte
	valueLen   uint32
	keyLen     uint16
	traits     traits

	// place, prev and next say where in its policy the entry is. They are
	// guarded by Store.mu. place is 0 exactly if the entry is in no policy.
	place place

	// mark is what reads tell S3-FIFO about the entry: it is the only thing about an
	// entry's place that changes without Store.mu. An exact order, which is told in
	// extended.used, has there, by Store.mu, where in its heap the entry is.
	mark atomic.Uint32

	// flags is what changes about an entry in the store beside its place: see
	// SetLeased and SetSeen.
	flags atomic.Uint32

	born       expiry.Instant
	prev, next *Entry
}

// extended is an Entry of a store that decodes values or whose order is exact.
type extended struct {
	Entry
	used    atomic.Uint64  // what reads tell an exact order
	decoded unsafe.Pointer // to the decoded value, atomically; nil if there is none
}

// traits are an entry's class, in the lowest bit, and what else it is.
type traits uint8

const (
	isAbsent traits = 1 << (iota + 1)
	isTagged
	isExtended
)

// NewEntry returns an entry for s of the item. It copies the key, and keeps the value.
// One whose capacity is much more than its length is copied first, since all of it
// would stay in memory.
func (s *Store) NewEntry(i Item) *Entry { return newEntry(i, s.extended) }

func newEntry(i Item, isExt bool) *Entry {
	if len(i.Key) > math.MaxUint16 || uint64(len(i.Value)) > math.MaxUint32 {
		panic("store: key or value is larger than can be")
	}
	if cap(i.Value)-len(i.Value) > len(i.Value)/8+16 {
		i.Value = bytes.Clone(i.Value)
	}
	var e *Entry
	var key []byte
	if isExt {
		var x *extended
		x, key = allocate[extended](len(i.Key))
		e, x.traits = &x.Entry, isExtended
	} else {
		e, key = allocate[Entry](len(i.Key))
	}
	copy(key, i.Key)
	e.Stamp = i.Stamp
	e.Expires = i.Expires
	e.born = i.Born
	e.key, e.keyLen = unsafe.SliceData(key), uint16(len(i.Key))
	e.value, e.valueLen = unsafe.SliceData(i.Value), uint32(len(i.Value))
	e.traits |= traits(i.Class)
	if i.Absent {
		e.traits |= isAbsent
	}
	if i.Tagged {
		e.traits |= isTagged
	}
	return e
}

// with is an entry and room for its key. The sizes in which Go gives out memory are
// 16 bytes apart up to 256.
type with[E any, Key any] struct {
	entry E
	key   Key
}

// allocate returns a new entry and room for a key of n bytes. It is behind the entry,
// where a hit has the key in the cache line that it has just read or in the next one,
// and the collector has one object to look at for each entry instead of two. (A hit
// among 65,536 keys takes a fifth less time for it.)
func allocate[E any](n int) (*E, []byte) {
	switch (n + 15) / 16 {
	case 0, 1:
		x := new(with[E, [16]byte])
		return &x.entry, x.key[:]
	case 2:
		x := new(with[E, [32]byte])
		return &x.entry, x.key[:]
	case 3:
		x := new(with[E, [48]byte])
		return &x.entry, x.key[:]
	case 4:
		x := new(with[E, [64]byte])
		return &x.entry, x.key[:]
	}
	return new(E), make([]byte, n)
}

// ext returns the rest of an entry that is extended.
func (e *Entry) ext() *extended { return (*extended)(unsafe.Pointer(e)) }

// Key returns the key. It shares the entry's memory, so who keeps it for longer than
// the entry makes a copy.
func (e *Entry) Key() string { return unsafe.String(e.key, e.keyLen) }

// Value returns the encoded value, which must not be modified.
func (e *Entry) Value() []byte { return unsafe.Slice(e.value, e.valueLen) }

// Born returns when its load or write began, on this node's clock, or earlier.
func (e *Entry) Born() expiry.Instant { return e.born }

// Class returns whose the entry is.
func (e *Entry) Class() Class { return Class(e.traits & 1) }

// Absent reports whether the origin said that there is no value.
func (e *Entry) Absent() bool { return e.traits&isAbsent != 0 }

// Tagged reports whether tags come before the value.
func (e *Entry) Tagged() bool { return e.traits&isTagged != 0 }

// size is what e takes, but for its decoded value.
func (e *Entry) size() int64 { return int64(e.keyLen) + int64(e.valueLen) + Overhead }

// Used reports whether e has been read since the policy last looked at it.
func (e *Entry) Used() bool { return e.mark.Load() != 0 }

// The highest of the flags is whether the entry is leased; the others are the lower
// bits of the mark that it was seen at.
const leased = 1 << 31

// Leased reports whether e may be served only as long as this node is told of
// writes.
func (e *Entry) Leased() bool { return e.flags.Load()&leased != 0 }

// SetLeased sets whether e may be served only as long as this node is told of
// writes: when the node becomes the key's owner, or ceases to be it, that changes.
func (e *Entry) SetLeased(is bool) {
	if is {
		e.flags.Or(leased)
	} else {
		e.flags.And(^uint32(leased))
	}
}

// Seen returns the last mark that SetSeen was called with, given that it was not more than 2³¹
// before now.
func (e *Entry) Seen(now expiry.Seq) expiry.Seq {
	return now - expiry.Seq((uint32(now)-e.flags.Load())&^leased)
}

// SetSeen notes that no tag or prefix that had been removed by then concerns e.
func (e *Entry) SetSeen(m expiry.Seq) {
	for {
		old := e.flags.Load()
		if e.flags.CompareAndSwap(old, old&leased|uint32(m)&^leased) {
			return
		}
	}
}

// Decoded returns what SetDecoded has kept, or nil. V must be the type of all
// values of the store. One without a DecodedSize keeps none.
func Decoded[V any](e *Entry) *V {
	if e.traits&isExtended == 0 {
		return nil
	}
	return (*V)(atomic.LoadPointer(&e.ext().decoded))
}

// SetDecoded keeps v, the decoded value, for later readers unless another
// reader was first, and returns the one that is kept. v must not be nil and must not
// be modified any more.
func SetDecoded[V any](e *Entry, v *V) *V {
	if e.traits&isExtended == 0 || atomic.CompareAndSwapPointer(&e.ext().decoded, nil, unsafe.Pointer(v)) {
		return v
	}
	return Decoded[V](e)
}
