package store

import (
	"hash/maphash"
	"iter"
	"math/bits"
	"sync/atomic"

	"github.com/geocache/geocache/expiry"
)

// A table maps keys to entries. Any number of goroutines may read it without a lock while one writes.
//
// It is a hash table with open addressing in groups of eight slots, like Google's Swiss tables. A word of
// eight tags, each of which is part of a hash, tells which entries of the group to compare. Keys are stored
// in the entries only. The table consists of shards that grow and shrink one at a time, so that nobody waits
// for the whole table to be copied.
//
// An entry never moves within a shard's groups. So a reader finds the entry, or the one that replaced it,
// whatever happens to the slots around it. Tags are only hints; the key decides. Resizing a shard replaces
// its groups with a copy, and readers that still use the old groups see the shard as it was then.
//
// Each group has a time before which none of its entries expires. So finding expired entries takes one word
// for every eight slots, and only touches the entries where there is something to find.
type table struct {
	seed   maphash.Seed // keeps outsiders from choosing keys that collide
	shards [256]shard
	_      [64]byte    // keeps counts off the cache lines that readers need
	counts [256]counts // by shard; for writers only
}

type shard struct {
	groups atomic.Pointer[groups] // nil while the shard is empty
}

// counts counts a shard's slots that have an entry, and its tombstones. A tombstone is a slot whose entry
// was removed from a full group. A search for another key must not stop there.
type counts struct{ used, tombstones int }

type groups struct {
	groups      []slotGroup
	firstExpiry []atomic.Int64 // an expiry.Instant for each group, not after the first expiry in it
}

type slotGroup struct {
	tags    atomic.Uint64
	entries [groupSize]atomic.Pointer[Entry]
}

const (
	groupSize = 8

	// The tags that are not part of a hash.
	emptyTag, tombstoneTag = 0, 1

	// minEmptyShare is the inverse of the fraction of a shard's slots that must remain empty: an eighth. A
	// shard is resized when fewer are empty, or when about three quarters are unused. Then seven tenths of
	// its slots are used, or fewer if it is small.
	minEmptyShare = 8
)

const (
	eachByte = 0x0101010101010101
	highBits = 0x8080808080808080
)

// hash returns the hash of a key. Its upper eight bits select the shard, the bits below the group, and the
// lowest eight are the tag.
func (t *table) hash(key string) uint32 { return uint32(maphash.String(t.seed, key)) }

func (t *table) shard(hash uint32) *shard { return &t.shards[hash>>24] }

func tagOf(hash uint32) uint64 { return uint64(max(hash&0xff, tombstoneTag+1)) }

// first returns the index of the group at which the search for hash begins.
func (g *groups) first(hash uint32) int { return int(uint64(hash<<8) * uint64(len(g.groups)) >> 32) }

// matches returns a word that has the high bit set in each byte of tags that equals tag, and occasionally in
// one that does not.
func matches(tags, tag uint64) uint64 {
	x := tags ^ tag*eachByte
	return (x - eachByte) &^ x & highBits
}

// find returns the entry of key in s and its slot. The entry is nil if there is none.
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

// store makes e the entry of its key. There must be one writer at a time.
func (t *table) store(e *Entry) {
	hash := t.hash(e.Key())
	s := t.shard(hash)
	if old, g, group, slot := s.find(e.Key(), hash); old != nil {
		g.groups[group].entries[slot].Store(e)
		g.noteExpiry(group, e)
		return
	}
	g, c := s.groups.Load(), &t.counts[hash>>24]
	if g == nil || (c.used+c.tombstones+1)*minEmptyShare > len(g.groups)*groupSize*(minEmptyShare-1) {
		g = t.resize(s, c)
	}
	if g.insert(e, hash) == tombstoneTag {
		c.tombstones--
	}
	c.used++
}

// insert puts e, whose key must not be in g, into the first free slot, and returns the tag that the slot
// had.
func (g *groups) insert(e *Entry, hash uint32) (was uint64) {
	group := g.first(hash)
	for {
		sg := &g.groups[group]
		tags := sg.tags.Load()
		// The high bit of each byte whose tag is below 2. At least the lowest such bit is exact.
		if free := (tags - 2*eachByte) &^ tags & highBits; free != 0 {
			slot := bits.TrailingZeros64(free) / 8
			was = tags >> (8 * slot) & 0xff
			sg.entries[slot].Store(e) // before its tag, so that a reader that sees the tag finds e
			sg.tags.Store(tags&^(0xff<<(8*slot)) | tagOf(hash)<<(8*slot))
			g.noteExpiry(group, e)
			return was
		}
		if group++; group == len(g.groups) {
			group = 0
		}
	}
}

// noteExpiry maintains firstExpiry for e, which is in the group.
func (g *groups) noteExpiry(group int, e *Entry) {
	if at := &g.firstExpiry[group]; int64(e.Expires) < at.Load() {
		at.Store(int64(e.Expires))
	}
}

// resize copies s, without tombstones, into as many slots as it needs for one more entry, and some spare
// ones.
func (t *table) resize(s *shard, c *counts) *groups {
	n := (c.used+1)*10/7/groupSize + 1
	g := &groups{groups: make([]slotGroup, n), firstExpiry: make([]atomic.Int64, n)}
	for i := range g.firstExpiry {
		g.firstExpiry[i].Store(never)
	}
	for e := range s.all() {
		g.insert(e, t.hash(e.Key()))
	}
	c.tombstones = 0
	s.groups.Store(g)
	return g
}

// never is an expiry.Instant after all others.
const never = 1<<63 - 1

// remove removes e, if it is in the table. There must be one writer at a time.
func (t *table) remove(e *Entry) {
	hash := t.hash(e.Key())
	s := t.shard(hash)
	if present, g, group, slot := s.find(e.Key(), hash); present == e {
		sg, c := &g.groups[group], &t.counts[hash>>24]
		tags := sg.tags.Load()
		tag := uint64(tombstoneTag)
		if matches(tags, emptyTag) != 0 { // no search had to go beyond this group
			tag = emptyTag
		} else {
			c.tombstones++
		}
		c.used--
		sg.tags.Store(tags&^(0xff<<(8*slot)) | tag<<(8*slot))
		sg.entries[slot].Store(nil)
		if (c.used+groupSize)*4 < len(g.groups)*groupSize {
			t.resize(s, c)
		}
	}
}

// all yields the entries of s.
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

// all yields the entries in no particular order, without a lock.
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

// due yields the groups in which an entry may have expired at now. It needs no lock.
func (t *table) due(now expiry.Instant) iter.Seq2[*groups, int] {
	return func(yield func(*groups, int) bool) {
		for i := range t.shards {
			g := t.shards[i].groups.Load()
			if g == nil {
				continue
			}
			for group := range g.firstExpiry {
				if g.firstExpiry[group].Load() <= int64(now) && !yield(g, group) {
					return
				}
			}
		}
	}
}

// expired returns the entries of the group that have expired at now, and sets the group's firstExpiry to the
// first expiry of the others. There must be one writer at a time.
func (g *groups) expired(group int, now expiry.Instant) (expired []*Entry) {
	next := int64(never)
	for slot := range g.groups[group].entries {
		switch e := g.groups[group].entries[slot].Load(); {
		case e == nil:
		case e.Expires <= now:
			expired = append(expired, e)
		default:
			next = min(next, int64(e.Expires))
		}
	}
	g.firstExpiry[group].Store(next)
	return expired
}
