package store

import "math/bits"

// ghost remembers the hashes of the most recently evicted entries. It is the table of §4.2 of the S3-FIFO
// paper: each slot has part of a hash and the time of its insertion, measured in insertions. A hash is
// remembered until more than a given number of others were inserted after it. So nothing has to be deleted
// to maintain the bound: hashes that are too old are not found, and their slots are reused.
//
// A slot has 32 bits: 16 bits of the hash, besides those that select the bucket, and 16 bits of time, a unit
// of which is many insertions in a large table. So ghost is an approximation, in harmless ways. Two keys in
// a few thousand look alike, and an entry goes to the main queue that should not. A bucket may overflow, and
// its oldest hash is forgotten early. Times are accurate to a few thousandths of the limit. A slot that is
// not reused looks new again after four times the limit of insertions.
type ghost struct {
	buckets []ghostBucket
	now     uint32 // insertions so far
	shift   uint   // a unit of a slot's time is 1<<shift insertions
}

// A ghostBucket is one cache line. The upper half of a slot is part of a hash, and never zero. A slot that
// is zero is free.
type ghostBucket [16]uint32

const (
	// minGhostBuckets buckets take 1 KiB, which is little next to any cache worth having.
	minGhostBuckets = 16

	// timeBits is the maximum number of bits that the limit takes of a slot's time. The two bits above them
	// show that a slot is too old.
	timeBits = 14
)

func newGhost() ghost { return ghost{buckets: make([]ghostBucket, minGhostBuckets)} }

// locate returns the bucket of a hash, and the part of it that a slot has. They are from opposite ends of
// the hash.
func (g *ghost) locate(hash uint32) (b *ghostBucket, part uint32) {
	b = &g.buckets[uint64(hash)*uint64(len(g.buckets))>>32]
	return b, max(hash&0xffff, 1) << 16
}

// age returns approximately how many insertions ago the slot was written.
func (g *ghost) age(slot uint32) int {
	return int(uint16(g.now>>g.shift)-uint16(slot)) << g.shift
}

// add remembers hash. limit is the number of hashes that are to be remembered.
func (g *ghost) add(hash uint32, limit int) {
	g.resize(limit)
	g.now++
	b, part := g.locate(hash)
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

// take forgets hash, and returns how many hashes were added since. ok is false if hash is not remembered, or
// was not among the last limit hashes added.
func (g *ghost) take(hash uint32, limit int) (age int, ok bool) {
	b, part := g.locate(hash)
	for i, slot := range b {
		if slot&^0xffff == part {
			b[i] = 0
			age = g.age(slot)
			return age, age < limit
		}
	}
	return 0, false
}

// resize replaces the table with a new one, which remembers nothing, if it is too small or much too large
// for limit. That is rare, because a store only evicts when it is full.
func (g *ghost) resize(limit int) {
	need := max(minGhostBuckets, limit*5/4/len(ghostBucket{})+1) // buckets, if they are four fifths full
	if need <= len(g.buckets) && len(g.buckets) <= max(minGhostBuckets, 3*need) {
		return
	}
	if need > minGhostBuckets {
		need += need / 8
	}
	g.buckets = make([]ghostBucket, need)
	g.shift = uint(max(0, bits.Len(uint(limit))-timeBits))
}
