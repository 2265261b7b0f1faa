package message

import (
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// Journal asks a node for its floors.
//
//	string8  Group
//	u64      Since
//	u64      Cursor
type JournalRequest struct {
	Group  string
	Since  expiry.Generation // only those of this generation or later
	Cursor uint64            // where the last answer ended; 0 begins
}

// Append appends the encoding of m.
func (m JournalRequest) Append(b []byte) []byte {
	b = wire.AppendString8(b, m.Group)
	b = wire.AppendGeneration(b, m.Since)
	return wire.AppendUint64(b, m.Cursor)
}

// DecodeJournal is the reverse of Append.
func DecodeJournalRequest(b []byte) (JournalRequest, error) {
	r := wire.NewReader(b)
	return whole(&r, JournalRequest{Group: r.String8(), Since: r.Generation(), Cursor: r.Uint64()})
}

// Floors is the answer to Journal and to Compare.
//
//	flags  1 More
//	u64    Cleared
//	u64    ClearedBy
//	u64    Group
//	u64    Next
//	count  Keys
//	  each a Floor
type Floors struct {
	Cleared   expiry.Generation // of the last Clear
	ClearedBy uint64            // and its sender
	Group     expiry.Generation // the floor of every key, at least Cleared
	Keys      []Floor
	Next      uint64 // the cursor for the rest
	More      bool   // whether there is a rest
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
	Scope  bool // as in a Note
	Stamp  expiry.Stamp
	Sender uint64 // as in a Tell
}

// FloorOf returns w as it is sent.
func FloorOf(w expiry.KeyFloor) Floor {
	return Floor{Key: w.Subject.Key(), Scope: w.Subject.IsScope(), Stamp: w.Floor, Sender: w.Sender}
}

const floorSize = 1 + 2 + 16 + 8 // without the key

// Size returns how many bytes f takes within a message.
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

// Compare asks a node in another region for the floors that the two do not have
// in common: those in the slices whose digests differ. The first slice begins
// at From.
//
//	string8  Group
//	u64      From
//	micros   Width, not zero
//	count    Digests
//	  each a u64
type CompareRequest struct {
	Group   string
	From    expiry.Generation
	Width   time.Duration // of a slice, in whole microseconds
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

// DecodeCompare is the reverse of Append.
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

// Clean tells the successor of a key's owner that the origin has the values
// with these stamps.
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

// DecodeClean is the reverse of Append.
func DecodeFlushed(b []byte) (Flushed, error) {
	r := wire.NewReader(b)
	return whole(&r, Flushed{Group: r.String8(), Keys: readFloors(&r)})
}
