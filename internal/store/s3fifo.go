package store

// s3fifo is the default policy: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO Queues Are
// All You Need for Cache Eviction", SOSP '23. A new entry starts in a small
// queue, a tenth of the bytes. One that was read there more than once goes on
// to the main queue when it reaches the end; the others, in most caches most,
// leave before they have cost anything better its place, which is why a scan
// does no harm. Who comes back soon after leaving, as the ghost remembers,
// starts in the main queue. That one is a CLOCK: an entry read since it was
// last looked at goes round again.
//
// The mark counts reads, to at most maxReads, less those that the main queue
// has used up.
//
// Sizes are in bytes, and the tenth is of what is held, not of a capacity:
// entries of a class are only evicted when the class has no more room than it
// uses, and what room an owned entry has changes with every copy.
type s3fifo struct {
	small, main queue
	ghost       ghost
}

const (
	// maxReads is where counting stops. A hot entry is there always, so that
	// reading it writes no memory that other cores read.
	maxReads = 3

	// promoteReads are the reads in the small queue that lead to the main one.
	// With one instead, real traces gain up to 3.5 points of hit ratio in caches
	// of 1% of the keys, and lose up to one at 5% and 20%.
	promoteReads = 2

	// smallShare is the part of the bytes that the small queue holds: one in
	// smallShare.
	smallShare = 10

	// maxSteps bounds the entries that evict looks at, and with it the time
	// that a Set holds the lock for one victim. Nearly always the first few
	// decide, but after an hour of reads alone every entry may have its
	// maxReads, and the first Set would go round all of them that often. From
	// there on the oldest entry goes, whatever its reads. On real traces the
	// bound changes no hit ratio by more than a thousandth; 20 costs two.
	maxSteps = 128
)

func newS3FIFO() *s3fifo {
	return &s3fifo{small: queue{id: smallQueue}, main: queue{id: mainQueue}, ghost: newGhost()}
}

// touch loses the count of one of two reads at the same moment, and a read at
// the moment evict takes one off; neither is worth trying again.
func (p *s3fifo) touch(e *Entry) {
	if n := e.mark.Load(); n < maxReads {
		e.mark.CompareAndSwap(n, n+1)
	}
}

func (p *s3fifo) add(e *Entry) {
	e.mark.Store(0)
	if p.ghost.take(e.hash, p.ghostLimit()) {
		p.main.pushFront(e)
	} else {
		p.small.pushFront(e)
	}
}

func (p *s3fifo) replace(old, e *Entry) {
	e.mark.Store(old.mark.Load())
	p.queueOf(old).replace(old, e)
}

func (p *s3fifo) remove(e *Entry) { p.queueOf(e).remove(e) }

func (p *s3fifo) evict() *Entry {
	for step := 1; p.small.length+p.main.length > 0; step++ {
		if p.small.bytes*smallShare >= p.small.bytes+p.main.bytes {
			e := p.small.back
			p.small.remove(e)
			if e.mark.Load() < promoteReads || step >= maxSteps {
				p.ghost.add(e.hash, p.ghostLimit())
				return e
			}
			e.mark.Store(0) // they have earned it its place; counted again they cost a point of hit ratio
			p.main.pushFront(e)
			continue
		}
		e := p.main.back
		p.main.remove(e)
		reads := e.mark.Load()
		if reads == 0 || step >= maxSteps {
			return e
		}
		e.mark.Store(reads - 1)
		p.main.pushFront(e)
	}
	return nil
}

func (p *s3fifo) queueOf(e *Entry) *queue {
	if e.queue == mainQueue {
		return &p.main
	}
	return &p.small
}

// ghostLimit is how many entries the main queue holds when it has its share of
// the bytes. What it holds at the moment would be too few while the cache warms
// up: the first entries to leave the small queue would never be remembered.
func (p *s3fifo) ghostLimit() int {
	n := p.small.length + p.main.length
	return n - n/smallShare
}
