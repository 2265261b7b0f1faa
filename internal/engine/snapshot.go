package engine

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// This file writes snapshots. A snapshot is
//
//	magic   which includes the version
//	blocks  header, floors…, entries…, end
//
// and a block is, in big-endian order,
//
//	u8   kind
//	u32  length
//	     that many bytes
//	u64  xxh3 of kind, length and bytes, seeded with the xxh3 of the block before
//
// so that damaged, missing and reordered blocks are found. All floors come before all entries, so a reader
// that stops after any block has restored nothing that was overwritten before the snapshot.
//
//	header   string8 group, u64 wall clock in nanoseconds since 1970, u64 generation
//	floors   a message.Floors
//	entries  a message.Broadcast; ages are those at the time in the header
//	end      u64 number of floors of keys, u64 number of entries

const snapshotMagic = "geocache snapshot 1\n"

const (
	blockHeader byte = iota + 1
	blockFloors
	blockEntries
	blockEnd
)

const blockHead = 1 + 4 // kind and length

// Snapshot writes what this process owns, and what it knows of writes, to w.
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
	counts := binary.BigEndian.AppendUint64(nil, s.floorsWritten)
	s.block(blockEnd, binary.BigEndian.AppendUint64(counts, s.entriesWritten))
	return s.err
}

// A snapshot is one call of Snapshot.
type snapshot struct {
	g     *Group
	w     io.Writer
	start expiry.Instant // the time in the header
	sum   uint64
	err   error // from w; nothing is written after it

	floorsWritten, entriesWritten uint64
}

// block writes a block, unless an earlier write has failed.
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

// floors writes this node's journal, as another node would get it.
func (s *snapshot) floors() {
	m := message.JournalRequest{Digest: expiry.Digest{Width: 1, Later: true}} // of no floors: all are missing
	for s.err == nil {
		f := s.g.journal.page(&m)
		s.floorsWritten += uint64(len(f.Keys))
		if s.block(blockFloors, f.Append(nil)); !f.More {
			return
		}
		m.Cursor = f.Next
	}
}

// entries writes the entries that have been used since they were stored, or the others.
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
		if e.Used() != used || len(e.Payload()) > g.cache.config.Limits.MaxValue ||
			!g.fresh.passesOn(e, g.cache.clock.Instant()) {
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
