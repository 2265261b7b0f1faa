package message

import (
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// A JournalRequest asks a node for one page of its floors.
//
//	string8  Group
//	u64      Since
//	u64      Cursor
type JournalRequest struct {
	Group  string
	Since  expiry.Generation // the answer has only floors of this generation or later
	Cursor uint64            // Next of the previous answer; 0 for the first page
}

// Append appends the encoding of m.
func (m JournalRequest) Append(b []byte) []byte {
	b = wire.AppendString8(b, m.Group)
	b = wire.AppendGeneration(b, m.Since)
	return wire.AppendUint64(b, m.Cursor)
}

// DecodeJournalRequest is the reverse of Append.
func DecodeJournalRequest(b []byte) (JournalRequest, error) {
	r := wire.NewReader(b)
	return whole(&r, JournalRequest{Group: r.String8(), Since: r.Generation(), Cursor: r.Uint64()})
}

// Floors answers a JournalRequest or a CompareRequest.
//
//	flags  1 More
//	u64    Cleared
//	u64    ClearedBy
//	u64    Group
//	u64    Next
//	count  Keys
//	  each a Floor
type Floors struct {
	Cleared   expiry.Generation // the generation of the last Clear
	ClearedBy uint64            // the sender of that Clear, as in a Broadcast
	Group     expiry.Generation // the floor of all keys, at least Cleared
	Keys      []Floor           // the floors of keys and scopes
	Next      uint64            // the cursor of the next page
	More      bool              // whether there is a next page
}

// Append appends the encoding of m.
func (m Floors) Append(b []byte) []byte {
	b = wire.AppendFlags(b, m.More)
	b = wire.AppendGeneration(b, m.Cleared)
	b = wire.AppendUint64(b, m.ClearedBy)
	b = wire.AppendGeneration(b, m.Group)
	b = wire.AppendUint64(b, m.Next)
	return appendFloors(b, m.Keys)
}

// DecodeFloors is the reverse of Append.
func DecodeFloors(b []byte) (Floors, error) {
	r := wire.NewReader(b)
	var m Floors
	r.Flags(&m.More)
	m.Cleared = r.Generation()
	m.ClearedBy = r.Uint64()
	m.Group = r.Generation()
	m.Next = r.Uint64()
	m.Keys = readFloors(&r)
	return whole(&r, m)
}

// A Floor is the floor of one key or scope.
//
//	flags     1 Scope
//	string16  Key
//	stamp     Stamp
//	u64       Sender
type Floor struct {
	Key    string
	Scope  bool // as in a Write
	Stamp  expiry.Stamp
	Sender uint64 // as in a Broadcast
}

// FloorOf converts w for a message.
func FloorOf(w expiry.KeyFloor) Floor {
	return Floor{Key: w.Subject.Key(), Scope: w.Subject.IsScope(), Stamp: w.Floor, Sender: w.Sender}
}

const floorSize = 1 + 2 + 16 + 8 // without the key

// Size returns the size of f within a message, in bytes.
func (f Floor) Size() int { return floorSize + len(f.Key) }

func appendFloors(b []byte, floors []Floor) []byte {
	b = wire.AppendCount(b, len(floors))
	for _, f := range floors {
		b = wire.AppendFlags(b, f.Scope)
		b = wire.AppendString16(b, f.Key)
		b = wire.AppendStamp(b, f.Stamp)
		b = wire.AppendUint64(b, f.Sender)
	}
	return b
}

func readFloors(r *wire.Reader) []Floor {
	floors := make([]Floor, r.Count(floorSize))
	for i := range floors {
		f := &floors[i]
		r.Flags(&f.Scope)
		f.Key = r.String16()
		f.Stamp = r.Stamp()
		f.Sender = r.Uint64()
		if checkKey(r, f.Key, f.Scope); r.Err() != nil {
			return nil
		}
	}
	return floors
}

// A CompareRequest asks a node in another region for the floors on which the two nodes may differ. Floors
// are grouped by generation into slices of equal width, the first of which begins at From. The answer has
// the floors of the slices whose digests differ.
//
//	string8  Group
//	u64      From
//	micros   Width, not zero
//	count    Digests
//	  each a u64
type CompareRequest struct {
	Group   string
	From    expiry.Generation
	Width   time.Duration // of each slice, in whole microseconds
	Digests []uint64      // one for each slice
}

// Append appends the encoding of m.
func (m CompareRequest) Append(b []byte) []byte {
	b = wire.AppendString8(b, m.Group)
	b = wire.AppendGeneration(b, m.From)
	b = wire.AppendMicros(b, m.Width)
	b = wire.AppendCount(b, len(m.Digests))
	for _, digest := range m.Digests {
		b = wire.AppendUint64(b, digest)
	}
	return b
}

// DecodeCompareRequest is the reverse of Append.
func DecodeCompareRequest(b []byte) (CompareRequest, error) {
	r := wire.NewReader(b)
	m := CompareRequest{Group: r.String8(), From: r.Generation(), Width: r.Micros()}
	m.Digests = make([]uint64, r.Count(8))
	for i := range m.Digests {
		m.Digests[i] = r.Uint64()
	}
	if m.Width == 0 {
		r.Fail("a comparison has slices of no width")
	}
	return whole(&r, m)
}

// Flushed tells a node that may hold dirty writes for the owner of their keys that the origin now has the
// writes with these stamps. It need not keep them any longer.
//
//	string8  Group
//	count    Keys
//	  each a Floor
type Flushed struct {
	Group string
	Keys  []Floor
}

// Append appends the encoding of m.
func (m Flushed) Append(b []byte) []byte { return appendFloors(wire.AppendString8(b, m.Group), m.Keys) }

// DecodeFlushed is the reverse of Append.
func DecodeFlushed(b []byte) (Flushed, error) {
	r := wire.NewReader(b)
	return whole(&r, Flushed{Group: r.String8(), Keys: readFloors(&r)})
}
