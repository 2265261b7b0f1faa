// Package note has what nodes say to each other about writes, and how it is
// put into bytes. The bytes are the payload of calls between peers; their
// layouts stand beside the types and are pinned by testdata/messages.txt.
package message

import (
	"bytes"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// A Method says what a call between peers asks for, and so what its payload
// is. Its numbers are part of the wire format.
type Method = uint8

// The methods, each with its payload and that of its answer.
const (
	MethodWrite     Method = 1 // Write, Wrote
	MethodBroadcast Method = 2 // Tell, empty
	MethodPush      Method = 3 // Push, Pushed
	MethodAwait     Method = 4 // Await, empty
	MethodJournal   Method = 5 // Journal, Floors
	MethodCompare   Method = 6 // Compare, Floors
	MethodFlushed   Method = 7 // Clean, empty

	// MethodHandoff gives keys' new owner what the old one has of them. It is
	// a Tell whose notes have values with any stamp, those of loads too. The
	// answer is empty.
	MethodHandoff Method = 8

	MethodMembers Method = 9  // Members, Listed
	MethodRecall  Method = 10 // Recall, Recalled
)

// A Note tells of one write: what the key's floor is from now on, and where it
// is wanted, the value. It can be told twice, late and out of order: the floor
// only rises, and of two values the higher stamp wins.
//
//	flags     1 Clear, 2 HasValue, 4 Dirty, 8 Folded, 16 Tagged, 32 Scope
//	string8   Group
//	string16  Key
//	stamp     Stamp
//	  only if HasValue:
//	micros    Age, rounded up
//	micros    Life
//	bytes32   Value
//
// A Clear with a key, with a value or with a stamp that is not a removal is
// malformed. So is a Scope whose key is none, and one with anything but a stamp.
type Write struct {
	Group string
	Key   string // empty for a Clear
	Clear bool   // for every key of the group; Stamp is a removal
	Scope bool   // Key is an expiry.Subject that is a scope, not a user's key

	// Folded says that a Clear is none that a user asked for, but stands for notes
	// that could not be kept. It concerns the region that it is sent to alone.
	Collapsed bool

	Stamp expiry.Stamp

	Dirty bool // the origin does not have the write yet: whoever is told keeps it until it does

	// HasValue says that the rest is set.
	HasValue bool
	Value    []byte        // encoded
	Tagged   bool          // tags come before the value
	Age      time.Duration // since Stamp, as measured on the way; in microseconds when sent
	Life     time.Duration // the age at which the value expires
}

const (
	noteSize  = 1 + 1 + 2 + 16 // without the group, the key and what HasValue adds
	valueSize = 8 + 8 + 4      // without the value itself
)

// Subject returns what n is about if it is no Clear.
func (w *Write) Subject() expiry.Subject { return subject(w.Key, w.Scope) }

// subject is the reverse of expiry.Subject.Key.
func subject(key string, scope bool) expiry.Subject {
	if scope {
		return expiry.Subject(key)
	}
	return expiry.Key(key)
}

// Size returns how many bytes n takes within a message.
func (w *Write) Size() int {
	size := noteSize + len(w.Group) + len(w.Key)
	if w.HasValue {
		size += valueSize + len(w.Value)
	}
	return size
}

func (w *Write) append(b []byte) []byte {
	tagged := w.Tagged && w.HasValue // tags without a value are malformed
	b = wire.AppendFlags(b, w.Clear, w.HasValue, w.Dirty, w.Collapsed, tagged, w.Scope)
	b = wire.AppendString8(b, w.Group)
	b = wire.AppendString16(b, w.Key)
	b = wire.AppendStamp(b, w.Stamp)
	if w.HasValue {
		b = wire.AppendMicrosUp(b, w.Age) // taken for older than it is, never for younger
		b = wire.AppendMicros(b, w.Life)
		b = wire.AppendBytes32(b, w.Value)
	}
	return b
}

func (w *Write) read(r *wire.Reader) {
	r.Flags(&w.Clear, &w.HasValue, &w.Dirty, &w.Collapsed, &w.Tagged, &w.Scope)
	w.Group = r.String8()
	w.Key = r.String16()
	w.Stamp = r.Stamp()
	if w.HasValue {
		w.Age = r.Micros()
		w.Life = r.Micros()
		w.Value = bytes.Clone(r.Bytes32())
	}
	switch {
	case w.Collapsed && !w.Clear:
		r.Fail("a write is collapsed and not a clear")
	case w.Tagged && !w.HasValue:
		r.Fail("a write has tags and no value")
	case w.Clear && (w.Key != "" || w.HasValue):
		r.Fail("a clear has a key or a value")
	case w.Clear && !w.Stamp.IsRemoval():
		r.Fail("a clear has a stamp that is not a removal")
	case w.Scope && (w.Clear || w.HasValue || w.Dirty):
		r.Fail("a scope has more than a stamp")
	}
	checkKey(r, w.Key, w.Scope)
}

func appendNotes(b []byte, notes []Write) []byte {
	size := 4
	for i := range notes {
		size += notes[i].Size()
	}
	b = slices.Grow(b, size)
	b = wire.AppendCount(b, len(notes))
	for i := range notes {
		b = notes[i].append(b)
	}
	return b
}

func readWrites(r *wire.Reader) []Write {
	notes := make([]Write, r.Count(noteSize))
	for i := range notes {
		if notes[i].read(r); r.Err() != nil {
			return nil
		}
	}
	return notes
}

// Tell asks a node of the same region to take notes in.
//
//	u64    Sender
//	count  Notes
//	  each a Note
type Broadcast struct {
	// Sender stands for the node that sends the notes to the other regions: the one that tells
	// of them. It is 0 where they come from another region.
	Sender uint64
	Writes []Write
}

// Append appends the encoding of m.
func (m Broadcast) Append(b []byte) []byte {
	return appendNotes(wire.AppendUint64(b, m.Sender), m.Writes)
}

// DecodeTell is the reverse of Append.
func DecodeBroadcast(b []byte) (Broadcast, error) {
	r := wire.NewReader(b)
	return whole(&r, Broadcast{Sender: r.Uint64(), Writes: readWrites(&r)})
}

// Push asks the owner of keys in another region to take notes in and tell its
// region. Pushes from one node to another are a numbered stream.
//
//	u64    Epoch
//	u64    Number
//	u64    Low
//	count  Notes
//	  each a Note
type Push struct {
	Epoch  expiry.Generation // when the stream began: a restarted sender has a higher one
	Number uint64            // of this push, from 1
	Low    uint64            // every number below has been acknowledged, or has been given up for another stream
	Writes []Write           // none: the sender only asks what has arrived
}

// Append appends the encoding of m.
func (m Push) Append(b []byte) []byte {
	b = wire.AppendGeneration(b, m.Epoch)
	b = wire.AppendUint64(b, m.Number)
	b = wire.AppendUint64(b, m.Low)
	return appendNotes(b, m.Writes)
}

// DecodePush is the reverse of Append.
func DecodePush(b []byte) (Push, error) {
	r := wire.NewReader(b)
	return whole(&r, Push{Epoch: r.Generation(), Number: r.Uint64(), Low: r.Uint64(), Writes: readWrites(&r)})
}

// Pushed is the answer, given when the region has been told.
//
//	u64  Have
type PushReply struct {
	Have uint64 // every number up to this one has arrived
}

// Append appends the encoding of m.
func (m PushReply) Append(b []byte) []byte { return wire.AppendUint64(b, m.Have) }

// DecodePushed is the reverse of Append.
func DecodePushReply(b []byte) (PushReply, error) {
	r := wire.NewReader(b)
	return whole(&r, PushReply{Have: r.Uint64()})
}
