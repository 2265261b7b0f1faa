package message

import (
	"math"
	"time"

	"github.com/geocache/geocache/internal/wire"
)

// A MembersRequest asks a node of the same region which nodes its discovery lists.
//
//	u64  Known
type MembersRequest struct {
	Known uint64 // a hash of the nodes that the sender knows as members
}

// Append appends the encoding of m.
func (m MembersRequest) Append(b []byte) []byte { return wire.AppendUint64(b, m.Known) }

// DecodeMembersRequest is the reverse of Append.
func DecodeMembersRequest(b []byte) (MembersRequest, error) {
	r := wire.NewReader(b)
	return whole(&r, MembersRequest{Known: r.Uint64()})
}

// A MembersReply answers a MembersRequest.
//
//	flags     1 Established
//	micros    For
//	count     Nodes
//	  each string8 ID, string8 Region, string16 Address, u64 Weight (IEEE 754)
type MembersReply struct {
	// Established is set if all other regions are known to know of this region. For is how long they have
	// known of it at least, sent in microseconds and rounded down.
	Established bool
	For         time.Duration

	Nodes []Node // empty if they are the nodes that the sender of the request knows
}

// A Node is a regions.Node, as a discovery lists it.
type Node struct {
	ID      string
	Region  string
	Address string
	Weight  float64
}

const nodeSize = 1 + 1 + 2 + 8 // without the strings

// Append appends the encoding of m.
func (m MembersReply) Append(b []byte) []byte {
	b = wire.AppendMicros(wire.AppendFlags(b, m.Established), m.For)
	b = wire.AppendCount(b, len(m.Nodes))
	for _, n := range m.Nodes {
		b = wire.AppendString16(wire.AppendString8(wire.AppendString8(b, n.ID), n.Region), n.Address)
		b = wire.AppendUint64(b, math.Float64bits(n.Weight))
	}
	return b
}

// DecodeMembersReply is the reverse of Append.
func DecodeMembersReply(b []byte) (MembersReply, error) {
	r := wire.NewReader(b)
	var m MembersReply
	r.Flags(&m.Established)
	m.For = r.Micros()
	for range r.Count(nodeSize) {
		n := Node{ID: r.String8(), Region: r.String8(), Address: r.String16()}
		n.Weight = math.Float64frombits(r.Uint64())
		m.Nodes = append(m.Nodes, n)
	}
	return whole(&r, m)
}

// A RecallRequest asks a node of another region for the last write of a key that its region knows. That
// region may have been the key's home before, and updates of the key may have taken place there.
//
//	string8   Group
//	string16  Key
//	u64       Regions
type RecallRequest struct {
	Group, Key string
	Regions    uint64 // a hash of all regions that the sender knows
}

// Append appends the encoding of m.
func (m RecallRequest) Append(b []byte) []byte {
	b = wire.AppendString16(wire.AppendString8(b, m.Group), m.Key)
	return wire.AppendUint64(b, m.Regions)
}

// DecodeRecallRequest is the reverse of Append.
func DecodeRecallRequest(b []byte) (RecallRequest, error) {
	r := wire.NewReader(b)
	return whole(&r, RecallRequest{Group: r.String8(), Key: readKey(&r), Regions: r.Uint64()})
}

// A RecallReply answers a RecallRequest.
//
//	flags  1 Agrees
//	  only if Agrees: a Write
type RecallReply struct {
	// Agrees is set if the node and its region know the same regions as the sender of the request. Then they
	// consider their region the key's home only if the sender does.
	Agrees bool
	Write  Write // the key's last write; its stamp is zero if there is none
}

// Append appends the encoding of m.
func (m RecallReply) Append(b []byte) []byte {
	if b = wire.AppendFlags(b, m.Agrees); m.Agrees {
		b = m.Write.Append(b)
	}
	return b
}

// DecodeRecallReply is the reverse of Append.
func DecodeRecallReply(b []byte) (RecallReply, error) {
	r := wire.NewReader(b)
	var m RecallReply
	if r.Flags(&m.Agrees); m.Agrees {
		m.Write.read(&r)
	}
	return whole(&r, m)
}
