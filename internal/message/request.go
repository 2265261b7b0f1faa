package message

import (
	"bytes"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// An Op is the operation of a WriteRequest. The numbers are part of the wire format.
type Op uint8

// The operations.
const (
	Set    Op = 1
	Remove Op = 2
	Clear  Op = 3
	Swap   Op = 4 // Set, if the key's present value has the stamp Expected

	RemoveScope Op = 5 // Remove all keys with a prefix, or all values with a tag; Key is that scope
	RemoveKeys  Op = 6 // Remove Key and Keys
)

// A WriteRequest asks a node to perform a write as the owner of the key.
//
//	u8        Op
//	flags     1 Absent, 2 AckOwner, 4 Tagged, 8 Unleased, 16 Member
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

	// ID identifies the write. It becomes the Origin of the stamp of a Set or Swap.
	ID uint64

	// First is the sender's clock when the write began. It is set only if another node was asked for the
	// same write before and may have performed it. Writes since then may depend on this one, which must not
	// replace them.
	First expiry.Generation

	// Unleased is set if the sender held no lease when the write began, so it may not have been told of all
	// earlier writes. First may then be below writes that this one must replace.
	Unleased bool

	// Member is set if the sender serves the keys that it owns. A node that does not have it in its view
	// would not broadcast the write to it, so it must not perform the write.
	Member bool

	AckOwner bool          // answer when the owner has the write, before its region has
	Life     time.Duration // Set, Swap: the item's own time to live, or 0; sent in microseconds, rounded up
	Tagged   bool          // Set, Swap: tags precede the value
	Value    []byte        // Set, Swap: encoded
	Keys     []string      // RemoveKeys: the keys after Key

	// The following are for Swap only. They describe the value that the sender expects, or its knowledge
	// that there is none.

	Expected expiry.Stamp
	Absent   bool           // there is no value
	Tags     []string       // of the value
	Age      time.Duration  // of the value, measured at each node; sent in microseconds, rounded up
	Born     expiry.Instant // when Age was zero, by this node's clock; not sent

	// Regions is a hash of the regions from which the sender has chosen the key's home; 0 if the home region
	// is configured.
	Regions uint64
}

// Subject returns the key or scope that m is about. For a Clear it is the empty key.
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

// DecodeWriteRequest is the reverse of Append. It refuses an unknown Op.
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

// A WriteReply answers a WriteRequest. Late and IncompleteView report that the write was not performed.
//
//	flags    1 Swapped, 2 Unconfirmed, 4 Late, 8 IncompleteView, 16 OwnerLeft
//	stamp    Stamp
//	string8  By
type WriteReply struct {
	Stamp   expiry.Stamp
	Swapped bool // false if a Swap did nothing because it found another value than it expected

	// Unconfirmed is set if the write was performed, but time ran out before the whole region had it.
	Unconfirmed bool

	// Late is set if the request took so long that its sender may have given up. Nothing was done.
	Late bool

	// IncompleteView is set if the node may not see all of its region, so that it would not tell every node
	// of the write. Nothing was done: ask another node.
	IncompleteView bool

	// OwnerLeft is set if the node performed the write, but closed, or left its region's ring, before all
	// nodes had it. It does nothing more about the write: ask the next owner to perform it.
	OwnerLeft bool

	// By is the node that carried the write out, if the one that answers has forwarded it.
	By string
}

// Append appends the encoding of m.
func (m WriteReply) Append(b []byte) []byte {
	b = wire.AppendFlags(b, m.Swapped, m.Unconfirmed, m.Late, m.IncompleteView, m.OwnerLeft)
	b = wire.AppendStamp(b, m.Stamp)
	return wire.AppendString8(b, m.By)
}

// DecodeWriteReply is the reverse of Append.
func DecodeWriteReply(b []byte) (WriteReply, error) {
	r := wire.NewReader(b)
	var m WriteReply
	r.Flags(&m.Swapped, &m.Unconfirmed, &m.Late, &m.IncompleteView, &m.OwnerLeft)
	m.Stamp = r.Stamp()
	m.By = r.String8()
	return whole(&r, m)
}

// An AwaitRequest asks a node to wait until another region has confirmed the writes of a key or scope that
// the node By has sent to it. The answer, which has no payload, comes then.
//
//	flags     1 Scope
//	string8   Group
//	string16  Key
//	string8   Region
//	string8   By
type AwaitRequest struct {
	Group, Key string
	Scope      bool // as in a Write
	Region     string
	By         string // forward to this node of the region if the request is from another one
}

// Subject returns the key or scope that m is about. For a Clear it is the empty key.
func (m *AwaitRequest) Subject() expiry.Subject { return subject(m.Key, m.Scope) }

// Append appends the encoding of m.
func (m AwaitRequest) Append(b []byte) []byte {
	b = wire.AppendFlags(b, m.Scope)
	b = wire.AppendString8(b, m.Group)
	b = wire.AppendString16(b, m.Key)
	b = wire.AppendString8(b, m.Region)
	return wire.AppendString8(b, m.By)
}

// DecodeAwaitRequest is the reverse of Append.
func DecodeAwaitRequest(b []byte) (AwaitRequest, error) {
	r := wire.NewReader(b)
	var m AwaitRequest
	r.Flags(&m.Scope)
	m.Group = r.String8()
	m.Key = r.String16()
	m.Region = r.String8()
	m.By = r.String8()
	checkKey(&r, m.Key, m.Scope)
	return whole(&r, m)
}
