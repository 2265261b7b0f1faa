package store

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"sync/atomic"

	"github.com/geocache/geocache/expiry"
)

// A table is the map from keys to entries. Any number of goroutines read it, without
// a lock, while one at a time writes.
//
// It is a hash table with open addressing in groups of eight slots, as in Google's
// Swiss tables: a word of eight tags, each a part of the hash, tells which of the
// group's entries to look at. Keys are in the entries alone. It is made of shards,
// which grow and shrink one by one, so that nobody waits for all of it to be copied.
//
// An entry stays in its slot as long as it is in the shard's present groups. So a
// reader finds it there, or the one that has replaced it, whatever becomes of the
// slots around it; tags are only a hint, which the key itself has to confirm. When a
// shard is resized, a copy takes its place, and whoever is still reading the old one reads
// the shard as it was at that moment.
//
// Each group knows a time before which none of its entries expires. So those that
// have expired are found by looking at one word in eight slots, and at the entries
// only where there is something to find.
type table struct {
	seed   maphash.Seed // so that nobody outside can choose keys that collide
	shards [256]shard
	_      [64]byte    // what follows is not on a cache line that readers need
	counts [256]counts // of each shard; for writers
}

type shard struct {
	groups atomic.Pointer[groups] // nil while it is empty
}

// counts are a shard's slots with an entry, and those whose entry has been removed
// while its group was full, which have to be passed by whoever looks for another.
type counts struct{ used, dead int }

type groups struct {
	groups   []slotGroup
	earliest []atomic.Int64 // expiry.Instant, by group; never later than the first expiry
}

type slotGroup struct {
	tags    atomic.Uint64
	entries [groupSize]atomic.Pointer[Entry]
}

const (
	groupSize = 8

	// Tags that are not a part of a hash.
	emptyTag, deadTag = 0, 1

	// A shard is copied when less than one slot in eight is empty, or three in four
	// are, to one that is full to seven tenths, or less if it is small.
	fullShare = 8
)

const (
	eachByte = 0x0101010101010101
	highBits = 0x8080808080808080
)

// hash returns the hash of a key. Its upper eight bits choose the shard, those
// below the group, and the lowest eight are the tag.
func (t *table) hash(key string) uint32 { return uint32(maphash.String(t.seed, key)) }

func (t *table) shard(hash uint32) *shard { return &t.shards[hash>>24] }

func tagOf(hash uint32) uint64 { return uint64(max(hash&0xff, deadTag+1)) }

// first returns the group at which the search for hash begins.
func (g *groups) first(hash uint32) int { return int(uint64(hash<<8) * uint64(len(g.groups)) >> 32) }

// matches returns a word with the high bit of each byte that is tag, and now and
// then of one that is not.
func matches(tags, tag uint64) uint64 {
	x := tags ^ tag*eachByte
	return (x - eachByte) &^ x & highBits
}

// find returns the slot of key in s, or a nil entry.
func (s *shard) find(key string, hash uint32) (e *Entry, g *groups, group, slot int) {
	g = s.groups.Load()
	if g == nil {
		return nil, nil, 0, 0
	}
	tag := tagOf(hash)
	group = g.first(hash)
	for range g.groups {
		tags := g.groups[group].tags.Load()
		for m := matches(tags, tag); m != 0; m &= m - 1 {
			slot = bits.TrailingZeros64(m) / 8
			if e := g.groups[group].entries[slot].Load(); e != nil && e.Key() == key {
				return e, g, group, slot
			}
		}
		if matches(tags, emptyTag) != 0 {
			break
		}
		if group++; group == len(g.groups) {
			group = 0
		}
	}
	return nil, g, 0, 0
}

// load returns the entry of key, or nil.
func (t *table) load(key string) *Entry {
	hash := t.hash(key)
	e, _, _, _ := t.shard(hash).find(key, hash)
	return e
}

// store makes e the entry of its key. One writer at a time.
func (t *table) store(e *Entry) {
	hash := t.hash(e.Key())
	s := t.shard(hash)
	if old, g, group, slot := s.find(e.Key(), hash); old != nil {
		g.groups[group].entries[slot].Store(e)
		g.expires(group, e)
		return
	}
	g, c := s.groups.Load(), &t.counts[hash>>24]
	if g == nil || (c.used+c.dead+1)*fullShare > len(g.groups)*groupSize*(fullShare-1) {
		g = t.resize(s, c)
	}
	if g.insert(e, hash) == deadTag {
		c.dead--
	}
	c.used++
}

// insert puts e, whose key is not there, into the first slot that is free, and
// returns the tag that this had.
func (g *groups) insert(e *Entry, hash uint32) (was uint64) {
	group := g.first(hash)
	for {
		sg := &g.groups[group]
		tags := sg.tags.Load()
		// The lowest bit is exact, and the highest of a tag below 2.
		if free := (tags - 2*eachByte) &^ tags & highBits; free != 0 {
			slot := bits.TrailingZeros64(free) / 8
			was = tags >> (8 * slot) & 0xff
			sg.entries[slot].Store(e) // before its tag: who sees that finds e
			sg.tags.Store(tags&^(0xff<<(8*slot)) | tagOf(hash)<<(8*slot))
			g.expires(group, e)
			return was
		}
		if group++; group == len(g.groups) {
			group = 0
		}
	}
}

// expires notes that e is in the group.
func (g *groups) expires(group int, e *Entry) {
	if at := &g.earliest[group]; int64(e.Expires) < at.Load() {
		at.Store(int64(e.Expires))
	}
}

// resize copies s, without the dead, into as many slots as it needs for one more and
// for some time.
func (t *table) resize(s *shard, c *counts) *groups {
	n := (c.used+1)*10/7/groupSize + 1
	g := &groups{groups: make([]slotGroup, n), earliest: make([]atomic.Int64, n)}
	for i := range g.earliest {
		g.earliest[i].Store(never)
	}
	for e := range s.all() {
		g.insert(e, t.hash(e.Key()))
	}
	c.dead = 0
	s.groups.Store(g)
	return g
}

const never = 1<<63 - 1

// remove removes e, if it is there. One writer at a time.
func (t *table) remove(e *Entry) {
	hash := t.hash(e.Key())
	s := t.shard(hash)
	if present, g, group, slot := s.find(e.Key(), hash); present == e {
		sg, c := &g.groups[group], &t.counts[hash>>24]
		tags := sg.tags.Load()
		tag := uint64(deadTag)
		if matches(tags, emptyTag) != 0 { // nobody had to pass this group
			tag = emptyTag
		} else {
			c.dead++
		}
		c.used--
		sg.tags.Store(tags&^(0xff<<(8*slot)) | tag<<(8*slot))
		sg.entries[slot].Store(nil)
		if (c.used+groupSize)*4 < len(g.groups)*groupSize {
			t.resize(s, c)
		}
	}
}

// all returns the entries of s.
func (s *shard) all() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		g := s.groups.Load()
		if g == nil {
			return
		}
		for i := range g.groups {
			for j := range g.groups[i].entries {
				if e := g.groups[i].entries[j].Load(); e != nil && !yield(e) {
					return
				}
			}
		}
	}
}

// all returns the entries in no order, without a lock.
func (t *table) all() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for i := range t.shards {
			for e := range t.shards[i].all() {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// due returns groups in which an entry may have expired at now. They are looked for
// without a lock.
func (t *table) due(now expiry.Instant) iter.Seq2[*groups, int] {
	return func(yield func(*groups, int) bool) {
		for i := range t.shards {
			g := t.shards[i].groups.Load()
			if g == nil {
				continue
			}
			for group := range g.earliest {
				if g.earliest[group].Load() <= int64(now) && !yield(g, group) {
					return
				}
			}
		}
	}
}

// expired returns the entries of the group that have expired at now, and notes when
// the next of the others does. One writer at a time.
func (g *groups) expired(group int, now expiry.Instant) (dead []*Entry) {
	next := int64(never)
	for slot := range g.groups[group].entries {
		switch e := g.groups[group].entries[slot].Load(); {
		case e == nil:
		case e.Expires <= now:
			dead = append(dead, e)
		default:
			next = min(next, int64(e.Expires))
		}
	}
	g.earliest[group].Store(next)
	return dead
}
