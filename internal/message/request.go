package message

import (
	"bytes"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
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
	b = wire.AppendFlags(b, m.Absent, m.AckOwner, m.Tagged, m.Unleased, m.Member)
	b = wire.AppendString8(b, m.Group)
	b = wire.AppendString16(b, m.Key)
	b = wire.AppendUint64(b, m.ID)
	b = wire.AppendGeneration(b, m.First)
	b = wire.AppendStamp(b, m.Expected)
	b = wire.AppendUint64(b, m.Regions)
	b = wire.AppendMicrosUp(b, m.Life) // 0 would be none
	b = wire.AppendBytes32(b, m.Value)
	if m.Op == Swap {
		b = wire.AppendMicrosUp(b, m.Age)
		b = wire.AppendCount(b, len(m.Tags))
		for _, tag := range m.Tags {
			b = wire.AppendString8(b, tag)
		}
	}
	if m.Op == RemoveKeys {
		b = wire.AppendCount(b, len(m.Keys))
		for _, key := range m.Keys {
			b = wire.AppendString16(b, key)
		}
	}
	return b
}

// DecodeWrite is the reverse of Append. It refuses an unknown Op.
func DecodeWriteRequest(b []byte) (WriteRequest, error) {
	r := wire.NewReader(b)
	m := WriteRequest{Op: Op(r.Uint8())}
	r.Flags(&m.Absent, &m.AckOwner, &m.Tagged, &m.Unleased, &m.Member)
	m.Group = r.String8()
	m.Key = r.String16()
	m.ID = r.Uint64()
	m.First = r.Generation()
	m.Expected = r.Stamp()
	m.Regions = r.Uint64()
	m.Life = r.Micros()
	m.Value = bytes.Clone(r.Bytes32())
	if m.Op == Swap {
		m.Age = r.Micros()
		for range r.Count(1) {
			m.Tags = append(m.Tags, r.String8())
		}
	}
	if m.Op == RemoveKeys {
		for range r.Count(2) {
			m.Keys = append(m.Keys, readKey(&r))
		}
	}
	checkKey(&r, m.Key, m.Scope())
	switch {
	case m.Op < Set || m.Op > RemoveKeys:
		r.Fail("a write has an unknown operation")
	case len(m.Tags) > maxTags:
		r.Fail("a value has too many tags")
	}
	return whole(&r, m)
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
	return wire.AppendStamp(wire.AppendFlags(b, m.Swapped, m.Unconfirmed, m.Late, m.IncompleteView, m.OwnerLeft), m.Stamp)
}

// DecodeWrote is the reverse of Append.
func DecodeWriteReply(b []byte) (WriteReply, error) {
	r := wire.NewReader(b)
	var m WriteReply
	r.Flags(&m.Swapped, &m.Unconfirmed, &m.Late, &m.IncompleteView, &m.OwnerLeft)
	m.Stamp = r.Stamp()
	return whole(&r, m)
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
	b = wire.AppendFlags(b, m.Scope)
	b = wire.AppendString8(b, m.Group)
	b = wire.AppendString16(b, m.Key)
	return wire.AppendString8(b, m.Region)
}

// DecodeAwait is the reverse of Append.
func DecodeAwaitRequest(b []byte) (AwaitRequest, error) {
	r := wire.NewReader(b)
	var m AwaitRequest
	r.Flags(&m.Scope)
	m.Group = r.String8()
	m.Key = r.String16()
	m.Region = r.String8()
	checkKey(&r, m.Key, m.Scope)
	return whole(&r, m)
}
