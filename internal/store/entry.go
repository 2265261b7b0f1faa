package store

import (
	"sync/atomic"

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

// An Entry is what the store keeps for a key. The exported fields are set
// before [Store.Set] and never change afterwards, so a reader that holds an
// Entry may go on using it after the store has dropped it. An Entry must not be
// copied, and belongs to one store.
type Entry struct {
	Key   string
	Value []byte // encoded; should own its memory, for its capacity is charged

	Generation expiry.Generation // when its load or write began, on the cluster's clock
	Born       expiry.Instant    // the same on this node's clock, or earlier
	Expires    expiry.Instant    // from then on it is not fresh
	Retry      expiry.Instant    // until then it is served although expired: loading it has just failed

	Class  Class
	Absent bool // the origin said that there is no value; Value is empty

	// queue, prev and next say where in its policy the entry is, hash and
	// charge are derived from the key and from the entry. All five are guarded
	// by Store.mu.
	queue      queueID
	hash       uint32
	charge     int64
	prev, next *Entry

	// mark is what reads tell the policy about the entry. Its meaning is the
	// policy's; it is the only thing about an entry's place that changes
	// without Store.mu.
	mark atomic.Uint64

	decoded atomic.Value
}

// Retrying returns an entry like e whose Retry is until, to be set in its place.
func (e *Entry) Retrying(until expiry.Instant) *Entry {
	r := &Entry{Key: e.Key, Value: e.Value, Generation: e.Generation, Born: e.Born, Expires: e.Expires, Retry: until, Class: e.Class, Absent: e.Absent}
	if v := e.Decoded(); v != nil {
		r.SetDecoded(v)
	}
	return r
}

// Decoded returns what SetDecoded has kept, or nil. It does not allocate.
func (e *Entry) Decoded() any { return e.decoded.Load() }

// SetDecoded keeps v, the decoded Value, for later readers unless another
// reader was first, and returns the one that is kept. v must not be nil, must
// not be modified any more, and is of the same type for all calls. Where v is a
// pointer, neither SetDecoded nor Decoded allocates.
func (e *Entry) SetDecoded(v any) any {
	if e.decoded.CompareAndSwap(nil, v) {
		return v
	}
	return e.decoded.Load()
}
