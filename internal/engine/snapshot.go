package engine

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// This file is Snapshot. Its output is
//
//	magic   which has the version
//	blocks  header, floors…, entries…, end
//
// and a block is, big endian,
//
//	u8   kind
//	u32  length
//	     as many bytes
//	u64  xxh3 of kind, length and bytes, with that of the block before as its seed
//
// so that blocks that are damaged, left out or changed in order are found. Every floor comes
// before every entry: who takes in what has come by any block has nothing that was
// written over.
//
//	header   string8 group, u64 nanoseconds of the wall clock since 1970, u64 generation
//	floors   a message.Floors
//	entries  a message.Tell; ages are those at the header's time
//	end      u64 number of floors of keys, u64 number of entries

const snapshotMagic = "geocache snapshot 1\n"

const (
	blockHeader byte = iota + 1
	blockFloors
	blockEntries
	blockEnd
)

const blockHead = 1 + 4 // kind and length

// Snapshot writes what this process owns to w, and what it knows of writes.
func (g *Group) Snapshot(w io.Writer) error {
	if w == nil {
		return errors.New("the writer is nil")
	}
	s := &snapshot{g: g, w: w, start: g.cache.clock.Instant()}
	header := append([]byte{byte(len(g.name))}, g.name...)
	header = binary.BigEndian.AppendUint64(header, uint64(g.cache.clock.Wall().UnixNano()))
	header = binary.BigEndian.AppendUint64(header, uint64(g.cache.clock.Read()))
	_, s.err = io.WriteString(w, snapshotMagic)
	s.block(blockHeader, header)
	s.floors()
	for _, used := range []bool{true, false} {
		s.entries(used)
	}
	s.block(blockEnd, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.floorsWritten), s.entriesWritten))
	return s.err
}

// A snapshot is one call of Snapshot.
type snapshot struct {
	g     *Group
	w     io.Writer
	start expiry.Instant // of the header's time
	sum   uint64
	err   error // of w; then nothing more is written

	floorsWritten, entriesWritten uint64
}

func (s *snapshot) block(kind byte, payload []byte) {
	if s.err != nil {
		return
	}
	b := make([]byte, 0, blockHead+len(payload)+8)
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	s.sum = xxh3.HashSeed(b, s.sum)
	_, s.err = s.w.Write(binary.BigEndian.AppendUint64(b, s.sum))
}

// floors writes what another node would get as this one's journal.
func (s *snapshot) floors() {
	m := message.JournalRequest{Group: s.g.name}
	for s.err == nil {
		page := s.g.journal.handle(&m).Value
		f, err := message.DecodeFloors(page)
		if err != nil {
			s.err = err
			return
		}
		s.floorsWritten += uint64(len(f.Keys))
		if s.block(blockFloors, page); !f.More {
			return
		}
		m.Cursor = f.Next
	}
}

// entries writes the entries that have been read since they came, or the others.
func (s *snapshot) entries(used bool) {
	g := s.g
	var writes []message.Write
	size := 0
	flush := func() {
		if len(writes) > 0 {
			s.entriesWritten += uint64(len(writes))
			s.block(blockEntries, message.Broadcast{Writes: writes}.Append(nil))
			writes, size = nil, 0
		}
	}
	for e := range g.store.All() {
		if s.err != nil {
			return
		}
		if e.Used() != used || len(e.Payload()) > g.cache.config.Limits.MaxValue || !g.fresh.passesOn(e, g.cache.clock.Instant()) {
			continue
		}
		w := g.writeOf(e)
		w.Group, w.Age = "", max(s.start.Sub(e.Born()), 0)
		if size > 0 && size+len(w.Value) > handoffBytes {
			flush()
		}
		writes = append(writes, w)
		if size += w.Size(); size >= handoffBytes {
			flush()
		}
	}
	flush()
}
