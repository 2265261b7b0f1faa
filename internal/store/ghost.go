package store

import "math/bits"

// ghost remembers the hashes of the entries evicted last. It is the table that
// the S3-FIFO paper describes in §4.2: each slot has part of a hash and the time
// of its insertion, counted in insertions, and a hash is remembered as long as no
// more than a given number were inserted after it. So nothing has to be deleted to
// keep the bound; what is too old is simply not found, and its slot used again.
//
// A slot is four bytes: 16 of the hash, beside those that choose the bucket, and
// 16 of the time, which in a large table counts many insertions as one. So it is
// an approximation, in harmless ways: two keys in some thousand look the same (an
// entry goes to the main queue that should not), a bucket may overflow (the oldest
// is forgotten early), a time is right to a few thousandths of the limit, and a
// slot that nobody used again looks new when as many insertions as four limits
// have passed.
type ghost struct {
	buckets []ghostBucket
	now     uint32 // insertions so far
	shift   uint   // a slot's time counts 1<<shift insertions
}

// A ghostBucket is one cache line. The hash is in the upper half of a slot and
// never zero there; zero is a free slot.
type ghostBucket [16]uint32

const (
	// minGhostBuckets is 1 KiB, little beside any cache worth having.
	minGhostBuckets = 16

	// timeBits is how many bits of a slot's time the limit takes at most. The two
	// above them tell what is too old.
	timeBits = 14
)

func newGhost() ghost { return ghost{buckets: make([]ghostBucket, minGhostBuckets)} }

// at returns the bucket of a hash and its part of a slot. They come from the two
// ends of the hash.
func (g *ghost) at(hash uint32) (b *ghostBucket, part uint32) {
	b = &g.buckets[uint64(hash)*uint64(len(g.buckets))>>32]
	return b, max(hash&0xffff, 1) << 16
}

// age returns how many insertions ago the slot was written, about.
func (g *ghost) age(slot uint32) int {
	return int(uint16(g.now>>g.shift)-uint16(slot)) << g.shift
}

// add remembers hash. limit is how many the caller wants remembered now.
func (g *ghost) add(hash uint32, limit int) {
	g.resize(limit)
	g.now++
	b, part := g.at(hash)
	oldest, highest := 0, -1
	for i, slot := range b {
		if slot == 0 || slot&^0xffff == part {
			oldest = i
			break
		}
		if age := g.age(slot); age > highest {
			oldest, highest = i, age
		}
	}
	b[oldest] = part | uint32(uint16(g.now>>g.shift))
}

// take reports how many were added since hash was, and forgets hash. It finds none
// that was added more than limit additions ago.
func (g *ghost) take(hash uint32, limit int) (age int, ok bool) {
	b, part := g.at(hash)
	for i, slot := range b {
		if slot&^0xffff == part {
			b[i] = 0
			age = g.age(slot)
			return age, age < limit
		}
	}
	return 0, false
}

// resize makes a new table, which remembers nothing, when this one has become too
// small or much too large. A store evicts only when it is full, so that seldom
// happens.
func (g *ghost) resize(limit int) {
	need := max(minGhostBuckets, limit*5/4/len(ghostBucket{})+1) // buckets that are four fifths full
	if need <= len(g.buckets) && len(g.buckets) <= max(minGhostBuckets, 3*need) {
		return
	}
	if need > minGhostBuckets {
		need += need / 8
	}
	g.buckets = make([]ghostBucket, need)
	g.shift = uint(max(0, bits.Len(uint(limit))-timeBits))
}
