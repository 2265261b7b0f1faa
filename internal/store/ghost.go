package store

// ghost remembers the hashes of the entries evicted last. It is the table that
// the S3-FIFO paper describes in §4.2: each slot has a hash and the time of its
// insertion, counted in insertions, and a hash is remembered as long as no more
// than a given number were inserted after it. So nothing has to be deleted to
// keep the bound; what is too old is simply not found, and its slot used again.
//
// It is an approximation in three harmless ways: two keys may share a hash (an
// entry goes to the main queue that should not), a bucket may overflow, which
// at half load is rare (the oldest is forgotten early), and after 2³² further
// insertions a slot looks new again.
type ghost struct {
	buckets []ghostBucket // a power of two
	now     uint32        // insertions so far
}

// A ghostBucket is one cache line. A slot is a hash in the upper half and a
// time in the lower; zero is a free slot.
type ghostBucket [8]uint64

// minGhostBuckets is 4 KiB, little beside any cache worth having.
const minGhostBuckets = 64

func newGhost() ghost { return ghost{buckets: make([]ghostBucket, minGhostBuckets)} }

func (g *ghost) bucket(hash uint32) *ghostBucket {
	return &g.buckets[int(hash)&(len(g.buckets)-1)]
}

// age returns how many insertions ago the slot was written.
func (g *ghost) age(slot uint64) uint32 {
	if slot == 0 {
		return ^uint32(0)
	}
	return g.now - uint32(slot)
}

// add remembers hash. limit is how many the caller wants remembered now.
func (g *ghost) add(hash uint32, limit int) {
	g.resize(limit)
	g.now++
	g.put(uint64(hash)<<32 | uint64(g.now))
}

// put writes slot over the one with the same hash, else over the oldest of its
// bucket.
func (g *ghost) put(slot uint64) {
	b := g.bucket(uint32(slot >> 32))
	at := 0
	for i, other := range b {
		if other != 0 && other>>32 == slot>>32 {
			at = i
			break
		}
		if g.age(other) > g.age(b[at]) {
			at = i
		}
	}
	b[at] = slot
}

// take reports whether hash is among the last limit added, and forgets it.
func (g *ghost) take(hash uint32, limit int) bool {
	b := g.bucket(hash)
	for i, slot := range b {
		if slot != 0 && uint32(slot>>32) == hash {
			b[i] = 0
			return int64(g.age(slot)) < int64(limit)
		}
	}
	return false
}

// resize keeps the table between an eighth and a half full. Each time it moves
// as many slots as were added since the last, or more are gone, so an insertion
// pays for a constant number of them.
func (g *ghost) resize(limit int) {
	n := len(g.buckets)
	for 2*limit > n*len(ghostBucket{}) {
		n *= 2
	}
	for n > minGhostBuckets && 8*limit < n*len(ghostBucket{}) {
		n /= 2
	}
	if n == len(g.buckets) {
		return
	}
	old := g.buckets
	g.buckets = make([]ghostBucket, n)
	for i := range old {
		for _, slot := range old[i] {
			if int64(g.age(slot)) < int64(limit) {
				g.put(slot)
			}
		}
	}
}
