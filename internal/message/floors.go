package message

import (
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/wire"
)

// A JournalRequest asks a node for one page of floors: of those that the asking node lacks by its digest, or, if
// there are any, of the Selected ones. Without slices in the digest, and with Later, these are all floors.
//
//	flags    1 Later
//	string8  Group
//	u64      Start
//	u32      Width, in seconds, not zero
//	count    Wide
//	  each a u64
//	count    Narrow
//	  each a u64
//	count    Selected
//	  each u64 Second, u64 Parts
//	2 u64    Cursor
type JournalRequest struct {
	Group string
	expiry.Digest
	Selected []expiry.Selection // of the slices whose Hashes were in the answer to a request with this digest
	Cursor   expiry.Cursor      // Next of the previous answer to the same request; zero for the first page
}

// Append appends the encoding of m.
func (m JournalRequest) Append(b []byte) []byte {
	b = wire.AppendFlags(b, m.Later)
	b = wire.AppendString8(b, m.Group)
	b = wire.AppendUint64(b, m.Start)
	b = wire.AppendUint32(b, uint32(m.Width))
	b = appendHashes(b, m.Wide)
	b = appendHashes(b, m.Narrow)
	b = wire.AppendCount(b, len(m.Selected))
	for _, s := range m.Selected {
		b = wire.AppendUint64(wire.AppendUint64(b, s.Second), s.Parts)
	}
	return appendCursor(b, m.Cursor)
}

// DecodeJournalRequest is the reverse of Append.
func DecodeJournalRequest(b []byte) (JournalRequest, error) {
	r := wire.NewReader(b)
	var m JournalRequest
	r.Flags(&m.Later)
	m.Group = r.String8()
	m.Start = r.Uint64()
	m.Width = uint64(r.Uint32())
	m.Wide = readHashes(&r)
	m.Narrow = readHashes(&r)
	m.Selected = make([]expiry.Selection, r.Count(16))
	for i := range m.Selected {
		m.Selected[i] = expiry.Selection{Second: r.Uint64(), Parts: r.Uint64()}
	}
	m.Cursor = readCursor(&r)
	if m.Width == 0 {
		r.Fail("a digest has slices of no width")
	}
	return whole(&r, m)
}

func appendHashes(b []byte, hashes []uint64) []byte {
	b = wire.AppendCount(b, len(hashes))
	for _, hash := range hashes {
		b = wire.AppendUint64(b, hash)
	}
	return b
}

func readHashes(r *wire.Reader) []uint64 {
	hashes := make([]uint64, r.Count(8))
	for i := range hashes {
		hashes[i] = r.Uint64()
	}
	return hashes
}

func appendCursor(b []byte, c expiry.Cursor) []byte {
	return wire.AppendUint64(wire.AppendUint64(b, c.Second), c.Seq)
}

func readCursor(r *wire.Reader) expiry.Cursor {
	return expiry.Cursor{Second: r.Uint64(), Seq: r.Uint64()}
}

// Floors answers a JournalRequest.
//
//	flags  1 More
//	u64    Cleared
//	u64    ClearedBy
//	u64    Group
//	2 u64  Next
//	count  Keys
//	  each a Floor
//	count  Hashes
//	  each u64 Second, then a u64 for each part
type Floors struct {
	Cleared   expiry.Generation // the generation of the last Clear
	ClearedBy uint64            // the sender of that Clear, as in a Broadcast
	Group     expiry.Generation // the floor of all keys, at least Cleared
	Keys      []Floor           // the floors of keys and scopes
	Next      expiry.Cursor     // where the next page begins
	More      bool              // whether there is a next page

	// Hashes are of the slices that differ from the digest of the request, and whose floors are not sent. They
	// are in the first page.
	Hashes []expiry.Hashes
}

// Append appends the encoding of m.
func (m Floors) Append(b []byte) []byte {
	b = wire.AppendFlags(b, m.More)
	b = wire.AppendGeneration(b, m.Cleared)
	b = wire.AppendUint64(b, m.ClearedBy)
	b = wire.AppendGeneration(b, m.Group)
	b = appendCursor(b, m.Next)
	b = appendFloors(b, m.Keys)
	b = wire.AppendCount(b, len(m.Hashes))
	for i := range m.Hashes {
		b = wire.AppendUint64(b, m.Hashes[i].Second)
		for _, hash := range m.Hashes[i].Parts {
			b = wire.AppendUint64(b, hash)
		}
	}
	return b
}

// DecodeFloors is the reverse of Append.
func DecodeFloors(b []byte) (Floors, error) {
	r := wire.NewReader(b)
	var m Floors
	r.Flags(&m.More)
	m.Cleared = r.Generation()
	m.ClearedBy = r.Uint64()
	m.Group = r.Generation()
	m.Next = readCursor(&r)
	m.Keys = readFloors(&r)
	m.Hashes = make([]expiry.Hashes, r.Count(HashesSize))
	for i := range m.Hashes {
		m.Hashes[i].Second = r.Uint64()
		for j := range m.Hashes[i].Parts {
			m.Hashes[i].Parts[j] = r.Uint64()
		}
	}
	return whole(&r, m)
}

// HashesSize is the size of an element of Floors.Hashes within a message, in bytes.
const HashesSize = 8 + 8*expiry.Parts

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

// An Offer says which values another node can be given.
//
//	string8  Group
//	count    Keys
//	  each a Floor
type Offer struct {
	Group string
	Keys  []Floor // no scopes; each with the stamp of the value, and without a sender
}

// Append appends the encoding of m.
func (m Offer) Append(b []byte) []byte { return appendFloors(wire.AppendString8(b, m.Group), m.Keys) }

// DecodeOffer is the reverse of Append.
func DecodeOffer(b []byte) (Offer, error) {
	r := wire.NewReader(b)
	return whole(&r, Offer{Group: r.String8(), Keys: readFloors(&r)})
}

// An OfferReply answers an Offer.
//
//	count  Lacks
//	  each a u32
type OfferReply struct {
	Lacks []uint32 // the indexes of the keys whose values the node lacks
}

// Append appends the encoding of m.
func (m OfferReply) Append(b []byte) []byte {
	b = wire.AppendCount(b, len(m.Lacks))
	for _, i := range m.Lacks {
		b = wire.AppendUint32(b, i)
	}
	return b
}

// DecodeOfferReply is the reverse of Append.
func DecodeOfferReply(b []byte) (OfferReply, error) {
	r := wire.NewReader(b)
	m := OfferReply{Lacks: make([]uint32, r.Count(4))}
	for i := range m.Lacks {
		m.Lacks[i] = r.Uint32()
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
