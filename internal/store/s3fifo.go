package store

import "hash/maphash"

// s3fifo is the default policy: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO Queues Are
// All You Need for Cache Eviction", SOSP '23, with a small queue whose size
// follows the workload.
//
// A new entry starts in the small queue. One that was read there more than once
// goes on to the main queue when it reaches the end; the others, in most caches
// most, leave before they have cost anything better its place, which is why a
// scan does no harm. Who comes back soon after leaving, as the ghost remembers,
// starts in the main queue. That one is a CLOCK: an entry read since it was last
// looked at goes round again.
//
// The mark counts reads, to at most hotReads, less those that the main queue has
// used up.
//
// In the paper the small queue has a tenth. Here that is where it begins: a
// workload of many keys that come once wants less, one whose keys are popular for
// a short time wants much more (a tenth costs it eight points of hit ratio and
// more). What would help is seen from the misses. A key that left the small queue
// no longer ago than a tenth of the entries would have been there still, had that
// queue been a tenth larger, and the same goes for the main queue. Those are the
// two queues' marginal hits. In each epoch, in which as many entries are evicted
// as there are, they are counted; where one queue has had more than twice as many
// as the other, it gets a part of the other's share.
//
// The shares of ARC follow every hit in a ghost, at once and by as much, and so
// does this rule without its thresholds; then a loop that is a little longer than
// the cache, of which a still policy keeps most, drives it to and fro and it keeps
// little. It is meant to gain what a workload offers for longer than that, and to
// lose next to nothing where it offers nothing.
//
// Sizes are in bytes, and shares are of what is held, not of a capacity:
// entries of a class are only evicted when the class has no more room than it
// uses, and what room an owned entry has changes with every copy.
type s3fifo struct {
	small, main queue
	seed        maphash.Seed
	left        ghost // who left the small queue
	dropped     ghost // who left the main queue

	share    float64 // the small queue's, of the bytes
	epoch    int     // entries evicted in this epoch
	marginal [2]int  // hits in this epoch that a larger small queue would have had, and a larger main queue
}

const (
	// hotReads is where counting stops. A hot entry is there always, so that
	// reading it writes no memory that other cores read.
	hotReads = 3

	// promoteReads are the reads in the small queue that lead to the main one.
	promoteReads = 2

	// startShare is the small queue's share of the bytes at first, as in the
	// paper. It may become minShare to maxShare.
	startShare, minShare, maxShare = .1, .01, .9

	// marginShare is by how much of the entries a queue is thought larger.
	marginShare = 10 // a tenth

	// maxShift is by how much the share may change in an epoch.
	maxShift = .02

	// maxSteps bounds the entries that evict looks at, and with it the time
	// that a Set holds the lock for one victim. Nearly always the first few
	// decide, but after an hour of reads alone every entry may have its
	// hotReads, and the first Set would go round all of them that often. From
	// there on the oldest of the small queue goes, whatever its reads; the main
	// queue has just been seen to be worth more. 128 would do for real traces, and
	// cost four points in a loop of 10,000 entries, where nearly all are hot.
	maxSteps = 1000
)

func newS3FIFO(seed maphash.Seed) *s3fifo {
	return &s3fifo{seed: seed, small: queue{id: smallQueue}, main: queue{id: mainQueue}, left: newGhost(), dropped: newGhost(), share: startShare}
}

// touch loses the count of one of two reads at the same moment, and a read at
// the moment evict takes one off; neither is worth trying again.
func (p *s3fifo) touch(e *Entry) {
	if n := e.mark.Load(); n < hotReads {
		e.mark.CompareAndSwap(n, n+1)
	}
}

func (p *s3fifo) add(e *Entry) {
	e.mark.Store(0)
	q, hash := &p.small, p.hash(e)
	if age, ok := p.left.take(hash, p.remembered()); ok {
		q = &p.main
		if age <= p.margin() {
			p.marginal[0]++
		}
	} else if _, ok := p.dropped.take(hash, p.margin()+1); ok {
		p.marginal[1]++
	}
	q.pushFront(e)
}

func (p *s3fifo) replace(old, e *Entry) {
	e.mark.Store(old.mark.Load())
	p.queueOf(old).replace(old, e)
}

func (p *s3fifo) remove(e *Entry) { p.queueOf(e).remove(e) }

func (p *s3fifo) evict() *Entry {
	for step := 1; p.length() > 0; step++ {
		late := step >= maxSteps
		if float64(p.small.bytes) >= p.share*float64(p.small.bytes+p.main.bytes) || late && p.small.length > 0 {
			e := p.small.back
			p.small.remove(e)
			if e.mark.Load() < promoteReads || late {
				p.left.add(p.hash(e), p.remembered())
				p.learn()
				return e
			}
			e.mark.Store(0) // they have earned it its place; counted again they cost a point of hit ratio
			p.main.pushFront(e)
			continue
		}
		e := p.main.back
		p.main.remove(e)
		reads := e.mark.Load()
		if reads == 0 || late {
			p.dropped.add(p.hash(e), p.margin())
			p.learn()
			return e
		}
		e.mark.Store(reads - 1)
		p.main.pushFront(e)
	}
	return nil
}

// learn notes an eviction, and at the end of an epoch moves the share.
func (p *s3fifo) learn() {
	if p.epoch++; p.epoch < p.length() {
		return
	}
	small, main := p.marginal[0], p.marginal[1]
	if max(small, main) > 2*min(small, main) {
		shift := float64(small-main) / float64(2*p.epoch)
		p.share += min(max(shift, -maxShift), maxShift)
		p.share = min(max(p.share, minShare), maxShare)
	}
	p.epoch, p.marginal = 0, [2]int{}
}

func (p *s3fifo) hash(e *Entry) uint32 { return uint32(maphash.String(p.seed, e.Key())) }

func (p *s3fifo) queueOf(e *Entry) *queue {
	if e.place == mainQueue {
		return &p.main
	}
	return &p.small
}

func (p *s3fifo) length() int { return p.small.length + p.main.length }

// margin is how many entries more a queue would have that is as much larger as
// learn imagines.
func (p *s3fifo) margin() int { return p.length() / marginShare }

// remembered is how many of those that left the small queue may come back to the
// main one: as many as that holds when it has the paper's share of the bytes. What
// it holds at the moment would be too few while the cache warms up: the first
// entries to leave the small queue would never be remembered.
func (p *s3fifo) remembered() int { return p.length() - p.length()/10 }
