package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
)

// Restore reads what Snapshot has written, and returns how many entries it has put into memory.
func (g *Group) Restore(r io.Reader) (n int, err error) {
	if r == nil {
		return 0, errors.New("the reader is nil")
	}
	s := &restore{g: g, r: r, evicted: g.store.Stats().Owned.Left[store.Capacity]}
	err = s.run()
	g.cache.redundancy.due() // its keys' other keepers have none of it
	return s.restored, err
}

// A restore is one call of Restore.
type restore struct {
	g       *Group
	r       io.Reader
	sum     uint64
	elapsed time.Duration // since the snapshot, at most
	evicted uint64        // the evictions before the restore

	floors, entries uint64 // read
	restored        int
}

// badSnapshot returns an ErrSnapshot that says why.
func badSnapshot(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSnapshot, fmt.Errorf(format, args...))
}

func (s *restore) run() error {
	magic := make([]byte, len(snapshotMagic))
	if err := s.read(magic); err != nil {
		return err
	}
	if string(magic) != snapshotMagic {
		return badSnapshot("it is not in a format that this version can read")
	}
	for last := byte(0); ; {
		kind, payload, err := s.block()
		switch {
		case err != nil:
			return err
		case last == 0 && kind != blockHeader, last != 0 && kind == blockHeader,
			kind < last, kind > blockEnd:
			return badSnapshot("a block of kind %d after one of kind %d", kind, last)
		}
		switch last = kind; kind {
		case blockHeader:
			err = s.header(payload)
		case blockFloors:
			err = s.applyFloors(payload)
		case blockEntries:
			err = s.applyEntries(payload)
		case blockEnd:
			return s.end(payload)
		}
		if err != nil {
			return err
		}
	}
}

// read fills b.
func (s *restore) read(b []byte) error {
	_, err := io.ReadFull(s.r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return badSnapshot("it has been cut off")
	}
	return err
}

// snapshotRoom is how much larger a block may be than the largest value: a batch of entries, or a page of
// floors with the longest keys on top of an ordinary page.
const snapshotRoom = 3 << 20

// block reads and checks a block. It allocates only for what has been read, whatever the length claims.
func (s *restore) block() (kind byte, payload []byte, err error) {
	head := make([]byte, blockHead)
	if err := s.read(head); err != nil {
		return 0, nil, err
	}
	length := int64(binary.BigEndian.Uint32(head[1:]))
	if most := int64(s.g.cache.config.Limits.MaxValue) + snapshotRoom; length > most {
		return 0, nil, badSnapshot("a block of %d bytes, at most %d are allowed (see WithMaxValueBytes)",
			length, most)
	}
	var buf bytes.Buffer
	buf.Write(head)
	if n, err := io.CopyN(&buf, s.r, length); n < length {
		if err == io.EOF {
			err = badSnapshot("it has been cut off")
		}
		return 0, nil, err
	}
	var sum [8]byte
	if err := s.read(sum[:]); err != nil {
		return 0, nil, err
	}
	s.sum = xxh3.HashSeed(buf.Bytes(), s.sum)
	if s.sum != binary.BigEndian.Uint64(sum[:]) {
		return 0, nil, badSnapshot("it is damaged")
	}
	return head[0], buf.Bytes()[blockHead:], nil
}

// header reads the header, and works out how old the snapshot is.
func (s *restore) header(b []byte) error {
	name := 0
	if len(b) > 0 {
		name = int(b[0])
	}
	if len(b) != 1+name+16 {
		return badSnapshot("its header is malformed")
	}
	if group := string(b[1 : 1+name]); group != s.g.name {
		return badSnapshot("it is of group %q", group)
	}
	c := s.g.cache
	at := time.Unix(0, int64(binary.BigEndian.Uint64(b[1+name:])))
	s.elapsed = max(c.clock.Wall().Sub(at), 0) + c.config.MaxDrift
	return s.merge(expiry.Generation(binary.BigEndian.Uint64(b[1+name+8:])))
}

// merge makes sure that whatever is loaded or written from now on is newer than what is restored.
func (s *restore) merge(latest expiry.Generation) error {
	if err := s.g.cache.clock.Merge(latest); err != nil {
		return badSnapshot("it is from the future: this machine's clock has been set back, "+
			"or the clock of the snapshot's machine was wrong: %w", err)
	}
	return nil
}

// applyFloors applies floors, and tells the region of those that this node did not know: the whole region
// may have been restarted.
func (s *restore) applyFloors(b []byte) error {
	g := s.g
	f, err := message.DecodeFloors(b)
	if err != nil {
		return badSnapshot("%w", err)
	}
	latest := max(f.Cleared, f.Group)
	for _, k := range f.Keys {
		latest = max(latest, k.Stamp.Generation)
	}
	if err := s.merge(latest); err != nil {
		return err
	}
	s.floors += uint64(len(f.Keys))
	alive := f.Keys[:0]
	for _, k := range f.Keys {
		if k.Stamp.Generation >= g.journal.deadBefore() {
			alive = append(alive, k)
		}
	}
	f.Keys = alive
	ctx, cancel := context.WithTimeout(g.cache.ctx, writeTimeout)
	defer cancel()
	for news := range slices.Chunk(g.journal.apply(&f, true), journalPage) {
		writes := make([]*message.Write, len(news))
		for i := range news {
			writes[i] = &news[i]
		}
		if err := g.cache.broadcast(ctx, writes...); err != nil {
			return fmt.Errorf("the region could not be told of writes: %w", err)
		}
	}
	return nil
}

// applyEntries stores the entries of a block that are still live.
func (s *restore) applyEntries(b []byte) error {
	m, err := message.DecodeBroadcast(b)
	if err != nil {
		return badSnapshot("%w", err)
	}
	var latest expiry.Generation
	for i := range m.Writes {
		w := &m.Writes[i]
		latest = max(latest, w.Stamp.Generation)
		if !w.HasValue || w.Clear || w.Dirty || w.Group != "" || w.Stamp.IsRemoval() {
			return badSnapshot("an entry is malformed")
		}
	}
	if err := s.merge(latest); err != nil {
		return err
	}
	s.entries += uint64(len(m.Writes))
	for i := range m.Writes {
		s.put(&m.Writes[i])
	}
	return nil
}

// put stores a write's value as an entry, if it is live and certainly not older than a known write, and if
// that does not evict an entry restored earlier: the ones used most come first.
func (s *restore) put(w *message.Write) {
	g := s.g
	age := w.Age + s.elapsed
	if age < w.Age || age >= w.Life || g.store.Stats().Owned.Left[store.Capacity] > s.evicted {
		return
	}
	w.Group, w.Age = g.name, age
	g.applyValue(w, 0, nil)
	if e, ok := g.store.Peek(w.Key); ok && e.Stamp == w.Stamp {
		s.restored++
	}
}

// end checks that everything has been read.
func (s *restore) end(b []byte) error {
	if len(b) != 16 {
		return badSnapshot("its end is malformed")
	}
	floors, entries := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	if floors != s.floors || entries != s.entries {
		return badSnapshot("it claims %d floors and %d entries, and has %d and %d",
			floors, entries, s.floors, s.entries)
	}
	return nil
}
