package store

import "sync/atomic"

// ordered is LRU and LFU: it always evicts the entry with the lowest priority.
//
// A read updates the priority of its entry, in extended.priority, without a lock. For LRU the priority is
// the next value of a clock that counts reads and writes. For LFU it is the number of reads, with the same
// clock in the lower bits, which breaks ties between entries that were read equally often.
//
// The entries are in a heap, by the priorities that the heap last saw. Priorities only rise. So evict
// examines the entry on top: if its priority has risen since, the entry moves down accordingly; if not, it
// has the lowest priority of all. So the cost of a read is paid at most once, by the eviction that notices
// it. But after an hour of nothing but reads, one eviction may notice all of them, and holds the lock
// meanwhile. That is the price of an exact order, which S3-FIFO does not pay.
type ordered struct {
	lfu   bool // LFU, not LRU
	clock atomic.Uint64

	// heap is a binary heap, lowest priority on top.
	// Invariant: heap[i].entry.policyWord == i+1, and heap[i].priority ≤ heap[i].entry.ext().priority.
	heap []heapItem
}

type heapItem struct {
	priority uint64 // as last seen
	entry    *Entry
}

// For LFU the upper 20 bits of a priority count reads. Beyond a million reads entries are not distinguished
// by their number. The lower 44 bits are the clock, enough for half a year of a million reads a second.
const (
	clockBits = 44
	maxReads  = 1<<(64-clockBits) - 1
)

func (p *ordered) touch(e *Entry) {
	for {
		priority := e.ext().priority.Load() // before the clock, so that the priority rises
		next := p.clock.Add(1)
		if p.lfu {
			next |= min(priority>>clockBits+1, maxReads) << clockBits
		}
		if e.ext().priority.CompareAndSwap(priority, next) {
			return
		}
	}
}

func (p *ordered) add(e *Entry) {
	priority := p.clock.Add(1)
	e.ext().priority.Store(priority)
	e.place = inHeap
	p.heap = append(p.heap, heapItem{priority, e})
	p.up(len(p.heap) - 1)
}

// replace counts as a use, but not as a read. It makes e the most recently used of the entries that have
// been read as often.
func (p *ordered) replace(old, e *Entry) {
	priority := p.clock.Add(1)
	if p.lfu {
		priority |= old.ext().priority.Load() >> clockBits << clockBits
	}
	e.ext().priority.Store(priority)
	i := int(old.policyWord.Load()) - 1
	e.place, old.place = inHeap, nowhere
	p.heap[i] = heapItem{priority, e}
	p.down(i)
}

func (p *ordered) remove(e *Entry) {
	i, last := int(e.policyWord.Load())-1, len(p.heap)-1
	e.place = nowhere
	moved := p.heap[last]
	p.heap[last] = heapItem{}
	p.heap = p.heap[:last]
	if cap(p.heap) > 4*last+1024 {
		p.heap = append(make([]heapItem, 0, 2*last), p.heap...)
	}
	if i == last {
		return
	}
	p.heap[i] = moved
	p.up(i)
	p.down(int(moved.entry.policyWord.Load()) - 1)
}

func (p *ordered) evict() *Entry {
	for len(p.heap) > 0 {
		first := &p.heap[0]
		if priority := first.entry.ext().priority.Load(); priority != first.priority {
			first.priority = priority
			p.down(0)
			continue
		}
		e := first.entry
		p.remove(e)
		return e
	}
	return nil
}

// up moves the entry at i towards the root, until its parent's priority is not higher.
func (p *ordered) up(i int) {
	moving := p.heap[i]
	for i > 0 {
		parent := (i - 1) / 2
		if p.heap[parent].priority <= moving.priority {
			break
		}
		p.put(i, p.heap[parent])
		i = parent
	}
	p.put(i, moving)
}

// down moves the entry at i away from the root, until its children's priorities are not lower.
func (p *ordered) down(i int) {
	moving := p.heap[i]
	for {
		child := 2*i + 1
		if child >= len(p.heap) {
			break
		}
		if right := child + 1; right < len(p.heap) && p.heap[right].priority < p.heap[child].priority {
			child = right
		}
		if p.heap[child].priority >= moving.priority {
			break
		}
		p.put(i, p.heap[child])
		i = child
	}
	p.put(i, moving)
}

// put stores item at i of the heap, and records the position in its entry.
func (p *ordered) put(i int, item heapItem) {
	p.heap[i] = item
	item.entry.policyWord.Store(uint32(i + 1))
}
