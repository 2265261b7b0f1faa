package message

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
)

// Op is what a Write does. Its numbers are part of the wire format.
type Op uint8

// The operations.
const (
	Set    Op = 1
	Remove Op = 2
	Clear  Op = 3
	Swap   Op = 4 // Set if the key's present value has the stamp Expected

	RemoveScope Op = 5 // Remove for all that have a tag, or a prefix; Key is an expiry.Subject that is a scope
	RemoveKeys  Op = 6 // Remove for Key and for Keys
)

// Write asks a node to be the owner of a key and to carry out a write.
//
//	u8        Op
//	flags     1 Absent, 2 Quick, 4 Tagged, 8 Untold, 16 Standing
//	string8   Group
//	string16  Key
//	u64       ID
//	u64       First
//	stamp     Expected
//	u64       Regions
//	micros    Life, rounded up
//	bytes32   Value
//	  only if Op is Swap:
//	micros    Age, rounded up
//	count     Tags
//	  each a string8
//	  only if Op is RemoveKeys:
//	count     Keys
//	  each a string16
type WriteRequest struct {
	Group string
	Key   string // empty for a Clear
	Op    Op

	// ID identifies the write: the Origin of the stamp that a Set gets.
	ID uint64

	// First is set if another node was asked for the same write before, and may have carried it
	// out: the sender's clock when the write began. What has been written since then may
	// have followed from it, and is not to be replaced by it.
	First expiry.Generation

	// Untold says that the sender may not have been told of all that had been written when it
	// began. First may then be below writes that are to be replaced.
	Unleased bool

	// Standing says that the sender serves what it takes for its own. So who does not see it, and would not
	// tell it, is not to carry out the write.
	Member bool

	Expected expiry.Stamp   // Swap only; of the value, or of the knowledge that there is none
	Absent   bool           // Swap only: there was none
	Tags     []string       // Swap only: those of the value that was expected
	Age      time.Duration  // Swap only: since Expected, as measured on the way; in microseconds when sent
	Born     expiry.Instant // the same by this node's clock; not sent
	Regions  uint64         // Swap only: a hash of the regions that the sender has chosen the key's home from; 0 if it is named
	Life     time.Duration  // Set and Swap: the item's own time to live, or 0; in microseconds when sent
	AckOwner bool           // answer when the owner has it
	Tagged   bool           // Set and Swap: tags come before the value
	Value    []byte         // Set and Swap; encoded
	Keys     []string       // RemoveKeys only: those after Key
}

// Subject returns what m is about, which for a Clear is the empty key.
func (m *WriteRequest) Subject() expiry.Subject { return subject(m.Key, m.Scope()) }

// Scope reports whether Key is an expiry.Subject that is a scope, not a user's key.
func (m *WriteRequest) Scope() bool { return m.Op == RemoveScope }

// Append appends the encoding of m.
func (m WriteRequest) Append(b []byte) []byte {
	b = slices.Grow(b, 64+len(m.Group)+len(m.Key)+len(m.Value))
	b = append(b, byte(m.Op))
	b = appendFlags(b, m.Absent, m.AckOwner, m.Tagged, m.Unleased, m.Member)
	b = appendString8(b, m.Group)
	b = appendString16(b, m.Key)
	b = binary.BigEndian.AppendUint64(b, m.ID)
	b = appendGeneration(b, m.First)
	b = appendStamp(b, m.Expected)
	b = binary.BigEndian.AppendUint64(b, m.Regions)
	b = appendMicrosUp(b, m.Life) // 0 would be none
	b = appendBytes32(b, m.Value)
	if m.Op == Swap {
		b = appendMicrosUp(b, m.Age)
		b = appendCount(b, len(m.Tags))
		for _, tag := range m.Tags {
			b = appendString8(b, tag)
		}
	}
	if m.Op == RemoveKeys {
		b = appendCount(b, len(m.Keys))
		for _, key := range m.Keys {
			b = appendString16(b, key)
		}
	}
	return b
}

// DecodeWrite is the reverse of Append. It refuses an unknown Op.
func DecodeWriteRequest(b []byte) (WriteRequest, error) {
	d := &decoder{b: b}
	m := WriteRequest{Op: Op(d.uint8())}
	d.flags(&m.Absent, &m.AckOwner, &m.Tagged, &m.Unleased, &m.Member)
	m.Group = d.string8()
	m.Key = d.string16()
	m.ID = d.uint64()
	m.First = d.generation()
	m.Expected = d.stamp()
	m.Regions = d.uint64()
	m.Life = d.micros()
	m.Value = d.bytes32()
	if m.Op == Swap {
		m.Age = d.micros()
		for range d.count(1) {
			m.Tags = append(m.Tags, d.string8())
		}
	}
	if m.Op == RemoveKeys {
		for range d.count(2) {
			m.Keys = append(m.Keys, d.key())
		}
	}
	d.named(m.Key, m.Scope())
	if m.Op < Set || m.Op > RemoveKeys || len(m.Tags) > MaxTags {
		d.bad = true
	}
	return whole(d, m)
}

// Wrote is the answer to a Write that was carried out.
//
//	flags  1 Swapped, 2 Unconfirmed, 4 Late, 8 Stranger, 16 Left
//	stamp  Stamp
type WriteReply struct {
	Stamp   expiry.Stamp
	Swapped bool // false if a Swap found another value than it expected, and did nothing

	// Unconfirmed says that time was up before the whole region had been told.
	Unconfirmed bool

	// Late says that the Write had been under way for so long that whoever has
	// sent it may have given it up: nothing has been done.
	Late bool

	// Stranger says that whoever has sent the Write is not seen from here, and would
	// not be told of it: nothing has been done, and another node is to be asked.
	IncompleteView bool

	// Left says that the node did the write, and left its region's ring before all nodes had been told.
	// It does no more about it: ask the next owner for the same write.
	OwnerLeft bool
}

// Append appends the encoding of m.
func (m WriteReply) Append(b []byte) []byte {
	return appendStamp(appendFlags(b, m.Swapped, m.Unconfirmed, m.Late, m.IncompleteView, m.OwnerLeft), m.Stamp)
}

// DecodeWrote is the reverse of Append.
func DecodeWriteReply(b []byte) (WriteReply, error) {
	d := &decoder{b: b}
	var m WriteReply
	d.flags(&m.Swapped, &m.Unconfirmed, &m.Late, &m.IncompleteView, &m.OwnerLeft)
	m.Stamp = d.stamp()
	return whole(d, m)
}

// Await asks a node whether another region has confirmed what this node has
// sent about a key or scope. It is answered, without a payload, when it has.
//
//	flags     1 Scope
//	string8   Group
//	string16  Key
//	string8   Region
type AwaitRequest struct {
	Group, Key string
	Scope      bool // as in a Note
	Region     string
}

// Subject returns what m is about, which for a Clear is the empty key.
func (m *AwaitRequest) Subject() expiry.Subject { return subject(m.Key, m.Scope) }

// Append appends the encoding of m.
func (m AwaitRequest) Append(b []byte) []byte {
	b = appendFlags(b, m.Scope)
	b = appendString8(b, m.Group)
	b = appendString16(b, m.Key)
	return appendString8(b, m.Region)
}

// DecodeAwait is the reverse of Append.
func DecodeAwaitRequest(b []byte) (AwaitRequest, error) {
	d := &decoder{b: b}
	var m AwaitRequest
	d.flags(&m.Scope)
	m.Group = d.string8()
	m.Key = d.string16()
	m.Region = d.string8()
	d.named(m.Key, m.Scope)
	return whole(d, m)
}
