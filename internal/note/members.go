package note

import (
	"encoding/binary"
	"math"
	"time"
)

// Members asks a node of the same region which nodes its discovery lists.
//
//	u64  Known
type Members struct {
	Known uint64 // a hash of the nodes that the asker takes for members
}

// Append appends the encoding of m.
func (m Members) Append(b []byte) []byte { return binary.BigEndian.AppendUint64(b, m.Known) }

// DecodeMembers is the reverse of Append.
func DecodeMembers(b []byte) (Members, error) {
	d := &decoder{b: b}
	return whole(d, Members{Known: d.uint64()})
}

// Listed is the answer to Members.
//
//	count     Nodes
//	  each string8 ID, string8 Region, string16 Address, u64 Weight (IEEE 754)
//	u64       Regions
//	count     Agreed
//	  each string8 Region, micros For
type Listed struct {
	Nodes   []Node   // none if they are those that the asker knows
	Regions uint64   // a hash of all regions that the node knows
	Agreed  []Agreed // which others are known to know the same
}

// A Node is a node as a discovery lists it: regions.Node.
type Node struct {
	ID      string
	Region  string
	Address string
	Weight  float64
}

// Agreed says for how long at least another region has been known to know the same regions.
type Agreed struct {
	Region string
	For    time.Duration
}

const (
	nodeSize   = 1 + 1 + 2 + 8 // without the strings
	agreedSize = 1 + 8
)

// Append appends the encoding of m.
func (m Listed) Append(b []byte) []byte {
	b = appendCount(b, len(m.Nodes))
	for _, n := range m.Nodes {
		b = appendString16(appendString8(appendString8(b, n.ID), n.Region), n.Address)
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(n.Weight))
	}
	b = binary.BigEndian.AppendUint64(b, m.Regions)
	b = appendCount(b, len(m.Agreed))
	for _, a := range m.Agreed {
		b = appendMicros(appendString8(b, a.Region), a.For)
	}
	return b
}

// DecodeListed is the reverse of Append.
func DecodeListed(b []byte) (Listed, error) {
	d := &decoder{b: b}
	var m Listed
	for range d.count(nodeSize) {
		n := Node{ID: d.string8(), Region: d.string8(), Address: d.string16()}
		n.Weight = math.Float64frombits(d.uint64())
		m.Nodes = append(m.Nodes, n)
	}
	m.Regions = d.uint64()
	for range d.count(agreedSize) {
		m.Agreed = append(m.Agreed, Agreed{Region: d.string8(), For: d.micros()})
	}
	return whole(d, m)
}

// Recall asks a node of another region for the last write of a key that the region knows, because
// updates of the key may have taken place there before.
//
//	string8   Group
//	string16  Key
//	u64       Regions
type Recall struct {
	Group, Key string
	Regions    uint64 // a hash of all regions that the asker knows
}

// Append appends the encoding of m.
func (m Recall) Append(b []byte) []byte {
	b = appendString16(appendString8(b, m.Group), m.Key)
	return binary.BigEndian.AppendUint64(b, m.Regions)
}

// DecodeRecall is the reverse of Append.
func DecodeRecall(b []byte) (Recall, error) {
	d := &decoder{b: b}
	return whole(d, Recall{Group: d.string8(), Key: d.string16(), Regions: d.uint64()})
}

// Recalled is the answer to Recall.
//
//	flags  1 Agrees
//	count  Notes
//	  each a Note
type Recalled struct {
	// Agrees says that the node and its region know the same regions as the asker, and so do not
	// take themselves for the key's home unless the asker does. Otherwise there is no note.
	Agrees bool
	Notes  []Note // of the key's last write, or none
}

// Append appends the encoding of m.
func (m Recalled) Append(b []byte) []byte { return appendNotes(appendFlags(b, m.Agrees), m.Notes) }

// DecodeRecalled is the reverse of Append.
func DecodeRecalled(b []byte) (Recalled, error) {
	d := &decoder{b: b}
	var m Recalled
	d.flags(&m.Agrees)
	m.Notes = d.notes()
	return whole(d, m)
}
