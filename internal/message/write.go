// Package message defines the messages that nodes exchange about writes, floors and members, and their
// encoding. An encoded message is the payload of a call between peers.
//
// The layouts are documented beside the types and pinned by testdata/messages.txt: a change of one is a
// change of the protocol. A decoder accepts only what an encoder can write; for anything else its error
// wraps wire.ErrMalformed. It allocates no more than a small multiple of the bytes that it is given, and
// keeps none of them. The package knows nothing of transports, and does not check whether a message makes
// sense to its receiver.
package message

import (
	"bytes"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// A Method is what a call between peers asks for. It determines the types of the payload and of the answer.
// The numbers are part of the wire format.
type Method = uint8

// The methods, with the payloads of the call and of its answer.
const (
	MethodWrite     Method = 1 // WriteRequest, WriteReply
	MethodBroadcast Method = 2 // Broadcast, BroadcastReply
	MethodPush      Method = 3 // Push, PushReply
	MethodAwait     Method = 4 // AwaitRequest, empty
	MethodJournal   Method = 5 // JournalRequest, Floors
	MethodFlushed   Method = 6 // Flushed, empty

	// MethodHandoff hands a new owner the entries of its keys. The payload is a Broadcast whose
	// writes may have values with any stamp, those of loads included. The answer is empty.
	MethodHandoff Method = 7

	MethodMembers Method = 8 // MembersRequest, MembersReply
	MethodRecall  Method = 9 // RecallRequest, RecallReply

	MethodOffer Method = 10 // Offer, OfferReply
)

// A Write is the effect of one write: the new floor of its key, scope or group, and the value for nodes
// that need it. Applying a Write twice, late or out of order is safe: floors only rise, and of two values
// the one with the higher stamp wins.
//
//	flags     1 Clear, 2 HasValue, 4 Dirty, 8 Collapsed, 16 Tagged, 32 Scope, 64 Relayed
//	string8   Group
//	string16  Key
//	stamp     Stamp
//	  only if HasValue:
//	micros    Age, rounded up
//	micros    Life
//	bytes32   Value
//
// A Clear is malformed if it has a key or a value, or if its stamp is not a removal. A Scope is malformed
// if its key is not the encoding of a scope, or if it has anything but a stamp.
type Write struct {
	Group string
	Key   string // empty for a Clear
	Clear bool   // the write concerns every key of the group; Stamp is a removal
	Scope bool   // Key is an expiry.Subject that is a scope, not a user's key

	// Collapsed is set if no user asked for this Clear: it stands for writes for which there was
	// no room. It concerns only the region that it is sent to.
	Collapsed bool

	// Relayed is set in a Broadcast if its sender does not send the write to the other regions: it
	// came from one of them, say.
	Relayed bool

	Stamp expiry.Stamp

	// Dirty is set if the origin does not have the write yet. The receiver keeps the write until the
	// origin does.
	Dirty bool

	// HasValue is set if the following fields are.
	HasValue bool
	Value    []byte        // encoded
	Tagged   bool          // tags precede the value
	Age      time.Duration // the value's, measured at each node; sent in microseconds, rounded up
	Life     time.Duration // the age at which the value expires; sent in microseconds, rounded down
}

const (
	writeSize = 1 + 1 + 2 + 16 // without the group, the key, and what HasValue adds
	valueSize = 8 + 8 + 4      // without the value itself
)

// Subject returns the key or scope that w is about. For a Clear it is the empty key.
func (w *Write) Subject() expiry.Subject { return subject(w.Key, w.Scope) }

// subject is the inverse of expiry.Subject.Key and IsScope.
func subject(key string, scope bool) expiry.Subject {
	if scope {
		return expiry.Subject(key)
	}
	return expiry.Key(key)
}

// Size returns the size of w within a message, in bytes.
func (w *Write) Size() int {
	size := writeSize + len(w.Group) + len(w.Key)
	if w.HasValue {
		size += valueSize + len(w.Value)
	}
	return size
}

// Append appends the encoding of w within a message.
func (w *Write) Append(b []byte) []byte {
	tagged := w.Tagged && w.HasValue // tags without a value are malformed
	b = wire.AppendFlags(b, w.Clear, w.HasValue, w.Dirty, w.Collapsed, tagged, w.Scope, w.Relayed)
	b = wire.AppendString8(b, w.Group)
	b = wire.AppendString16(b, w.Key)
	b = wire.AppendStamp(b, w.Stamp)
	if w.HasValue {
		b = wire.AppendMicrosUp(b, w.Age) // a value may seem older than it is, never younger
		b = wire.AppendMicros(b, w.Life)
		b = wire.AppendBytes32(b, w.Value)
	}
	return b
}

func (w *Write) read(r *wire.Reader) {
	r.Flags(&w.Clear, &w.HasValue, &w.Dirty, &w.Collapsed, &w.Tagged, &w.Scope, &w.Relayed)
	if group := r.Bytes8(); string(group) != w.Group {
		w.Group = string(group)
	}
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

func appendWrites(b []byte, writes []Write) []byte {
	size := 4
	for i := range writes {
		size += writes[i].Size()
	}
	b = wire.AppendCount(slices.Grow(b, size), len(writes))
	for i := range writes {
		b = writes[i].Append(b)
	}
	return b
}

func readWrites(r *wire.Reader) []Write {
	writes := make([]Write, r.Count(writeSize))
	for i := range writes {
		if i > 0 {
			writes[i].Group = writes[i-1].Group // most have the same, which need not be copied for each
		}
		if writes[i].read(r); r.Err() != nil {
			return nil
		}
	}
	return writes
}

// A Broadcast asks a node of the same region to apply writes.
//
//	u64    Sender
//	count  Writes
//	  each a Write
type Broadcast struct {
	// Sender identifies the process that must send the writes to the other regions, except for those that
	// are Relayed: the one that broadcasts them.
	Sender uint64
	Writes []Write
}

// Append appends the encoding of m.
func (m Broadcast) Append(b []byte) []byte {
	return appendWrites(wire.AppendUint64(b, m.Sender), m.Writes)
}

// BeginBroadcast appends the encoding of a Broadcast up to its n writes. What Write.Append appends for each of
// them is to follow.
func BeginBroadcast(b []byte, sender uint64, n int) []byte {
	return wire.AppendCount(wire.AppendUint64(b, sender), n)
}

// DecodeBroadcast is the reverse of Append.
func DecodeBroadcast(b []byte) (Broadcast, error) {
	r := wire.NewReader(b)
	return whole(&r, Broadcast{Sender: r.Uint64(), Writes: readWrites(&r)})
}

// A BroadcastReply answers a Broadcast once its writes have been applied, except for some. It is empty if all have.
//
//	count  Refused, not 0
//	  each a u32
type BroadcastReply struct {
	// Refused has the indexes of the writes that have not been applied because there was no room to keep
	// them for the origin.
	Refused []uint32
}

// Append appends the encoding of m.
func (m BroadcastReply) Append(b []byte) []byte {
	if len(m.Refused) == 0 {
		return b
	}
	b = wire.AppendCount(b, len(m.Refused))
	for _, i := range m.Refused {
		b = wire.AppendUint32(b, i)
	}
	return b
}

// DecodeBroadcastReply is the reverse of Append.
func DecodeBroadcastReply(b []byte) (BroadcastReply, error) {
	if len(b) == 0 {
		return BroadcastReply{}, nil
	}
	r := wire.NewReader(b)
	m := BroadcastReply{Refused: make([]uint32, r.Count(4))}
	for i := range m.Refused {
		m.Refused[i] = r.Uint32()
	}
	if len(m.Refused) == 0 {
		r.Fail("it refuses no writes, and says so")
	}
	return whole(&r, m)
}

// A Push asks the owner of keys in another region to apply writes and to broadcast them to its region. The
// pushes from one node to another form a numbered stream.
//
//	u64    Epoch
//	u64    Number
//	u64    Low
//	count  Writes
//	  each a Write
type Push struct {
	Epoch  expiry.Generation // when the stream began; a restarted sender has a higher one
	Number uint64            // of this push, counted from 1; of a probe, the highest number sent
	Low    uint64            // lower numbers were acknowledged, or given up and their writes queued again
	Writes []Write           // none in a probe, which only asks what has arrived
}

// Append appends the encoding of m.
func (m Push) Append(b []byte) []byte {
	b = wire.AppendGeneration(b, m.Epoch)
	b = wire.AppendUint64(b, m.Number)
	b = wire.AppendUint64(b, m.Low)
	return appendWrites(b, m.Writes)
}

// DecodePush is the reverse of Append.
func DecodePush(b []byte) (Push, error) {
	r := wire.NewReader(b)
	return whole(&r, Push{Epoch: r.Generation(), Number: r.Uint64(), Low: r.Uint64(), Writes: readWrites(&r)})
}

// A PushReply answers a Push once the whole region has its writes.
//
//	u64    Have
//	flags  1 Unconfirmed
type PushReply struct {
	Have uint64 // every number up to this one has arrived or was given up

	// Unconfirmed says that the node sees no majority of its region: other nodes may not have the writes.
	Unconfirmed bool
}

// Append appends the encoding of m.
func (m PushReply) Append(b []byte) []byte {
	return wire.AppendFlags(wire.AppendUint64(b, m.Have), m.Unconfirmed)
}

// DecodePushReply is the reverse of Append.
func DecodePushReply(b []byte) (PushReply, error) {
	r := wire.NewReader(b)
	m := PushReply{Have: r.Uint64()}
	r.Flags(&m.Unconfirmed)
	return whole(&r, m)
}
