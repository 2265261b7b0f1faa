package message

import (
	"encoding/binary"
	"time"

	"github.com/geocache/geocache/expiry"
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
	b = appendString8(b, m.Group)
	b = appendGeneration(b, m.Since)
	return binary.BigEndian.AppendUint64(b, m.Cursor)
}

// DecodeJournalRequest is the reverse of Append.
func DecodeJournalRequest(b []byte) (JournalRequest, error) {
	d := &decoder{b: b}
	return whole(d, JournalRequest{Group: d.string8(), Since: d.generation(), Cursor: d.uint64()})
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
	b = appendFlags(b, m.More)
	b = appendGeneration(b, m.Cleared)
	b = binary.BigEndian.AppendUint64(b, m.ClearedBy)
	b = appendGeneration(b, m.Group)
	b = binary.BigEndian.AppendUint64(b, m.Next)
	return appendFloors(b, m.Keys)
}

// DecodeFloors is the reverse of Append.
func DecodeFloors(b []byte) (Floors, error) {
	d := &decoder{b: b}
	var m Floors
	d.flags(&m.More)
	m.Cleared = d.generation()
	m.ClearedBy = d.uint64()
	m.Group = d.generation()
	m.Next = d.uint64()
	m.Keys = d.floors()
	return whole(d, m)
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
	b = appendCount(b, len(floors))
	for _, f := range floors {
		b = appendFlags(b, f.Scope)
		b = appendString16(b, f.Key)
		b = appendStamp(b, f.Stamp)
		b = binary.BigEndian.AppendUint64(b, f.Sender)
	}
	return b
}

func (d *decoder) floors() []Floor {
	floors := make([]Floor, d.count(floorSize))
	for i := range floors {
		f := &floors[i]
		d.flags(&f.Scope)
		f.Key = d.string16()
		f.Stamp = d.stamp()
		f.Sender = d.uint64()
		if d.named(f.Key, f.Scope); d.bad {
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
	b = appendString8(b, m.Group)
	b = appendGeneration(b, m.From)
	b = appendMicros(b, m.Width)
	b = appendCount(b, len(m.Digests))
	for _, digest := range m.Digests {
		b = binary.BigEndian.AppendUint64(b, digest)
	}
	return b
}

// DecodeCompareRequest is the reverse of Append.
func DecodeCompareRequest(b []byte) (CompareRequest, error) {
	d := &decoder{b: b}
	m := CompareRequest{Group: d.string8(), From: d.generation(), Width: d.micros()}
	m.Digests = make([]uint64, d.count(8))
	for i := range m.Digests {
		m.Digests[i] = d.uint64()
	}
	if m.Width == 0 {
		d.bad = true
	}
	return whole(d, m)
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
func (m Flushed) Append(b []byte) []byte { return appendFloors(appendString8(b, m.Group), m.Keys) }

// DecodeFlushed is the reverse of Append.
func DecodeFlushed(b []byte) (Flushed, error) {
	d := &decoder{b: b}
	return whole(d, Flushed{Group: d.string8(), Keys: d.floors()})
}
