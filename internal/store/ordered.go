package store

import "sync/atomic"

// ordered evicts the entry with the lowest mark, exactly: LRU and LFU.
//
// A read marks its entry, in extended.used and without a lock, with what the policy orders by. For
// LRU that is the next number of a clock that counts reads and writes. For LFU it
// is the number of reads, and below it the same clock, which decides between
// entries that were read equally often.
//
// The entries are in a heap by the marks that it saw last. Marks only rise, so
// evict looks at the one with the lowest mark seen: if it has risen since, the
// entry is put back under that, and if not, it is the true least. So a read is
// paid for at most once, by the eviction that notices it; but one eviction after
// an hour of reads alone may notice all of them, and holds the lock meanwhile.
// That is the price of an exact order, which S3-FIFO does not pay.
type ordered struct {
	frequency bool // LFU
	clock     atomic.Uint64

	// heap is a binary heap by seen.
	// Invariant: heap[i].entry.mark == i+1, and seen is at most what reads have told.
	heap []seen
}

type seen struct {
	mark  uint64
	entry *Entry
}

// In a mark of LFU the upper 20 bits are the reads: an entry that has been read a
// million times is not told from one that has been read more often. The lower 44
// are the clock, enough for half a year of a million reads a second.
const (
	clockBits = 44
	maxReads  = 1<<(64-clockBits) - 1
)

func (p *ordered) touch(e *Entry) {
	for {
		mark := e.ext().used.Load() // before the clock, so that the mark rises
		next := p.clock.Add(1)
		if p.frequency {
			next |= min(mark>>clockBits+1, maxReads) << clockBits
		}
		if e.ext().used.CompareAndSwap(mark, next) {
			return
		}
	}
}

func (p *ordered) add(e *Entry) {
	mark := p.clock.Add(1)
	e.ext().used.Store(mark)
	e.place = inHeap
	p.heap = append(p.heap, seen{mark, e})
	p.up(len(p.heap) - 1)
}

// replace is a use. It counts as no read, but it makes the entry the last used of
// those that have been read as often.
func (p *ordered) replace(old, e *Entry) {
	mark := p.clock.Add(1)
	if p.frequency {
		mark |= old.ext().used.Load() >> clockBits << clockBits
	}
	e.ext().used.Store(mark)
	i := int(old.mark.Load()) - 1
	e.place, old.place = inHeap, nowhere
	p.heap[i] = seen{mark, e}
	p.down(i)
}

func (p *ordered) remove(e *Entry) {
	i, last := int(e.mark.Load())-1, len(p.heap)-1
	e.place = nowhere
	moved := p.heap[last]
	p.heap[last] = seen{}
	p.heap = p.heap[:last]
	if cap(p.heap) > 4*last+1024 {
		p.heap = append(make([]seen, 0, 2*last), p.heap...)
	}
	if i == last {
		return
	}
	p.heap[i] = moved
	p.up(i)
	p.down(int(moved.entry.mark.Load()) - 1)
}

func (p *ordered) evict() *Entry {
	for len(p.heap) > 0 {
		first := &p.heap[0]
		if mark := first.entry.ext().used.Load(); mark != first.mark {
			first.mark = mark
			p.down(0)
			continue
		}
		e := first.entry
		p.remove(e)
		return e
	}
	return nil
}

// up moves the entry at i towards the root until what is above is not higher.
func (p *ordered) up(i int) {
	moving := p.heap[i]
	for i > 0 {
		parent := (i - 1) / 2
		if p.heap[parent].mark <= moving.mark {
			break
		}
		p.put(i, p.heap[parent])
		i = parent
	}
	p.put(i, moving)
}

// down moves the entry at i away from the root until what is below is not lower.
func (p *ordered) down(i int) {
	moving := p.heap[i]
	for {
		child := 2*i + 1
		if child >= len(p.heap) {
			break
		}
		if right := child + 1; right < len(p.heap) && p.heap[right].mark < p.heap[child].mark {
			child = right
		}
		if p.heap[child].mark >= moving.mark {
			break
		}
		p.put(i, p.heap[child])
		i = child
	}
	p.put(i, moving)
}

func (p *ordered) put(i int, s seen) {
	p.heap[i] = s
	s.entry.mark.Store(uint32(i + 1))
}
