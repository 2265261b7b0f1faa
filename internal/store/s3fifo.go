package store

import "hash/maphash"

// s3fifo is the default policy: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO Queues Are All You Need for Cache
// Eviction", SOSP '23. Unlike there, the size of the small queue adapts to the workload.
//
// A new entry starts in the small queue. If it has been read more than once when it reaches the end of that
// queue, it moves to the main queue. Otherwise it is evicted. In most caches most entries are, before they
// have displaced anything better, which is why a scan does no harm. An entry that returns soon after it was
// evicted from the small queue, which a ghost remembers, starts in the main queue. The main queue is a
// CLOCK: an entry that was read since it was last examined goes round again.
//
// The policyWord of an entry counts its reads, up to hotReads, minus those that the main queue has used up.
//
// In the paper the small queue has a tenth of the cache. Here it starts with a tenth. A workload with many
// keys that are requested once needs less. One whose keys are popular for a short time needs much more; a
// tenth costs it eight points of hit ratio and more. The misses show what would help. If a key that was
// evicted from the small queue is requested again within the next n/10 evictions from that queue, where n
// is the number of entries, it would have been a hit with a small queue that is larger by n/10 entries. The
// same goes for the main queue. These are the marginal hits of the two queues. They are counted in epochs,
// in each of which as many entries are evicted as there are. A queue that has more than twice as many
// marginal hits as the other one gets part of the other one's share.
//
// ARC adapts at once, and in proportion, to every hit in a ghost. So would this rule without its thresholds.
// But then a loop slightly longer than the cache, most of which a static policy retains, drives the share
// back and forth, and little is retained. The rule is meant to gain what a workload offers over a longer
// time, and to lose next to nothing where it offers nothing.
//
// Sizes are in bytes, and shares are fractions of what is held, not of a capacity. Entries of a class are
// only evicted when the class has no room left, and the room that owned entries have changes with every
// copy.
type s3fifo struct {
	small, main queue
	seed        maphash.Seed
	smallGhost  ghost // keys evicted from the small queue
	mainGhost   ghost // keys evicted from the main queue

	share     float64 // the small queue's share of the bytes
	evictions int     // in this epoch

	// marginalHits are the hits that a larger small queue and a larger main queue would have had in this
	// epoch.
	marginalHits struct{ small, main int }
}

const (
	// hotReads is where counting stops. Hot entries are read all the time, and reading them then does not
	// write to memory that other cores read.
	hotReads = 3

	// promoteReads is the number of reads in the small queue that promotes an entry to the main queue.
	promoteReads = 2

	// startShare is the initial share of the small queue, as in the paper. It stays between minShare and
	// maxShare.
	startShare, minShare, maxShare = .1, .01, .9

	// marginShare is the inverse of the fraction of the entries by which the marginal hits assume a queue to
	// be larger: a tenth.
	marginShare = 10

	// maxShift is how much the share may change in an epoch.
	maxShift = .02

	// maxSteps bounds the number of entries that evict examines, and with it the time that a Set holds the
	// lock for one victim. Nearly always the first few entries suffice. But after an hour of nothing but
	// reads every entry may have its hotReads, and the first Set would go round all of them that many times.
	// After maxSteps, the oldest entry of the small queue is evicted regardless of its reads, since the
	// main queue has just proved to be worth more. For real traces 128 would be enough, but it costs four
	// points of hit ratio in a loop of 10,000 entries, where nearly all are hot.
	maxSteps = 1000
)

func newS3FIFO(seed maphash.Seed) *s3fifo {
	return &s3fifo{
		seed:       seed,
		small:      queue{id: smallQueue},
		main:       queue{id: mainQueue},
		smallGhost: newGhost(),
		mainGhost:  newGhost(),
		share:      startShare,
	}
}

// touch loses one of two simultaneous reads, and a read that is simultaneous with evict using one up.
// Neither is worth a retry.
func (p *s3fifo) touch(e *Entry) {
	if n := e.policyWord.Load(); n < hotReads {
		e.policyWord.CompareAndSwap(n, n+1)
	}
}

func (p *s3fifo) add(e *Entry) {
	e.policyWord.Store(0)
	q, hash := &p.small, p.hash(e)
	if age, ok := p.smallGhost.take(hash, p.smallGhostLimit()); ok {
		q = &p.main
		if age <= p.margin() {
			p.marginalHits.small++
		}
	} else if _, ok := p.mainGhost.take(hash, p.margin()+1); ok {
		p.marginalHits.main++
	}
	q.pushFront(e)
}

func (p *s3fifo) replace(old, e *Entry) {
	e.policyWord.Store(old.policyWord.Load())
	p.queueOf(old).replace(old, e)
}

func (p *s3fifo) remove(e *Entry) { p.queueOf(e).remove(e) }

func (p *s3fifo) evict() *Entry {
	for step := 1; p.length() > 0; step++ {
		last := step >= maxSteps
		if float64(p.small.bytes) >= p.share*float64(p.small.bytes+p.main.bytes) || last && p.small.length > 0 {
			e := p.small.back
			p.small.remove(e)
			if e.policyWord.Load() < promoteReads || last {
				p.smallGhost.add(p.hash(e), p.smallGhostLimit())
				p.adapt()
				return e
			}
			// These reads earned the promotion. Counting them again would cost a point of hit ratio.
			e.policyWord.Store(0)
			p.main.pushFront(e)
			continue
		}
		e := p.main.back
		p.main.remove(e)
		reads := e.policyWord.Load()
		if reads == 0 || last {
			p.mainGhost.add(p.hash(e), p.margin())
			p.adapt()
			return e
		}
		e.policyWord.Store(reads - 1)
		p.main.pushFront(e)
	}
	return nil
}

// adapt counts an eviction, and adjusts the share at the end of an epoch.
func (p *s3fifo) adapt() {
	if p.evictions++; p.evictions < p.length() {
		return
	}
	small, main := p.marginalHits.small, p.marginalHits.main
	if max(small, main) > 2*min(small, main) {
		shift := float64(small-main) / float64(2*p.evictions)
		p.share += min(max(shift, -maxShift), maxShift)
		p.share = min(max(p.share, minShare), maxShare)
	}
	p.evictions = 0
	p.marginalHits.small, p.marginalHits.main = 0, 0
}

func (p *s3fifo) hash(e *Entry) uint32 { return uint32(maphash.String(p.seed, e.Key())) }

func (p *s3fifo) queueOf(e *Entry) *queue {
	if e.place == mainQueue {
		return &p.main
	}
	return &p.small
}

func (p *s3fifo) length() int { return p.small.length + p.main.length }

// margin returns the number of entries by which the marginal hits assume a queue to be larger.
func (p *s3fifo) margin() int { return p.length() / marginShare }

// smallGhostLimit returns how many of the keys last evicted from the small queue may return to the main
// queue: as many as that queue holds when it has the share it has in the paper. Its current length would be
// too low while the cache warms up: the first keys evicted from the small queue would never be remembered.
func (p *s3fifo) smallGhostLimit() int { return p.length() - p.length()/10 }
