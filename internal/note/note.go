// Package note has what nodes say to each other about writes, and how it is
// put into bytes. The bytes are the payload of calls between peers; their
// layouts stand beside the types and are pinned by testdata/messages.txt.
package note

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
	MethodWrite   Method = 1 // Write, Wrote
	MethodTell    Method = 2 // Tell, empty
	MethodPush    Method = 3 // Push, Pushed
	MethodAwait   Method = 4 // Await, empty
	MethodJournal Method = 5 // Journal, Floors
	MethodCompare Method = 6 // Compare, Floors
	MethodClean   Method = 7 // Clean, empty

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
type Note struct {
	Group string
	Key   string // empty for a Clear
	Clear bool   // for every key of the group; Stamp is a removal
	Scope bool   // Key is an expiry.Subject that is a scope, not a user's key

	// Folded says that a Clear is none that a user asked for, but stands for notes
	// that could not be kept. It concerns the region that it is sent to alone.
	Folded bool

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
func (n *Note) Subject() expiry.Subject { return subject(n.Key, n.Scope) }

// subject is the reverse of expiry.Subject.Key.
func subject(key string, scope bool) expiry.Subject {
	if scope {
		return expiry.Subject(key)
	}
	return expiry.Key(key)
}

// Size returns how many bytes n takes within a message.
func (n *Note) Size() int {
	size := noteSize + len(n.Group) + len(n.Key)
	if n.HasValue {
		size += valueSize + len(n.Value)
	}
	return size
}

func (n *Note) append(b []byte) []byte {
	tagged := n.Tagged && n.HasValue // tags without a value are malformed
	b = wire.AppendFlags(b, n.Clear, n.HasValue, n.Dirty, n.Folded, tagged, n.Scope)
	b = wire.AppendString8(b, n.Group)
	b = wire.AppendString16(b, n.Key)
	b = wire.AppendStamp(b, n.Stamp)
	if n.HasValue {
		b = wire.AppendMicrosUp(b, n.Age) // taken for older than it is, never for younger
		b = wire.AppendMicros(b, n.Life)
		b = wire.AppendBytes32(b, n.Value)
	}
	return b
}

func (n *Note) read(r *wire.Reader) {
	r.Flags(&n.Clear, &n.HasValue, &n.Dirty, &n.Folded, &n.Tagged, &n.Scope)
	n.Group = r.String8()
	n.Key = r.String16()
	n.Stamp = r.Stamp()
	if n.HasValue {
		n.Age = r.Micros()
		n.Life = r.Micros()
		n.Value = bytes.Clone(r.Bytes32())
	}
	switch {
	case n.Folded && !n.Clear:
		r.Fail("a note is folded and not a clear")
	case n.Tagged && !n.HasValue:
		r.Fail("a note has tags and no value")
	case n.Clear && (n.Key != "" || n.HasValue):
		r.Fail("a clear has a key or a value")
	case n.Clear && !n.Stamp.IsRemoval():
		r.Fail("a clear has a stamp that is not a removal")
	case n.Scope && (n.Clear || n.HasValue || n.Dirty):
		r.Fail("a scope has more than a stamp")
	}
	checkKey(r, n.Key, n.Scope)
}

func appendNotes(b []byte, notes []Note) []byte {
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

func readNotes(r *wire.Reader) []Note {
	notes := make([]Note, r.Count(noteSize))
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
type Tell struct {
	// Sender stands for the node that sends the notes to the other regions: the one that tells
	// of them. It is 0 where they come from another region.
	Sender uint64
	Notes  []Note
}

// Append appends the encoding of m.
func (m Tell) Append(b []byte) []byte {
	return appendNotes(wire.AppendUint64(b, m.Sender), m.Notes)
}

// DecodeTell is the reverse of Append.
func DecodeTell(b []byte) (Tell, error) {
	r := wire.NewReader(b)
	return whole(&r, Tell{Sender: r.Uint64(), Notes: readNotes(&r)})
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
	Notes  []Note            // none: the sender only asks what has arrived
}

// Append appends the encoding of m.
func (m Push) Append(b []byte) []byte {
	b = wire.AppendGeneration(b, m.Epoch)
	b = wire.AppendUint64(b, m.Number)
	b = wire.AppendUint64(b, m.Low)
	return appendNotes(b, m.Notes)
}

// DecodePush is the reverse of Append.
func DecodePush(b []byte) (Push, error) {
	r := wire.NewReader(b)
	return whole(&r, Push{Epoch: r.Generation(), Number: r.Uint64(), Low: r.Uint64(), Notes: readNotes(&r)})
}

// Pushed is the answer, given when the region has been told.
//
//	u64  Have
type Pushed struct {
	Have uint64 // every number up to this one has arrived
}

// Append appends the encoding of m.
func (m Pushed) Append(b []byte) []byte { return wire.AppendUint64(b, m.Have) }

// DecodePushed is the reverse of Append.
func DecodePushed(b []byte) (Pushed, error) {
	r := wire.NewReader(b)
	return whole(&r, Pushed{Have: r.Uint64()})
}
