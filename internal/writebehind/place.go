package writebehind

import (
	"slices"

	"github.com/geocache/geocache/expiry"
)

// usageOf returns the usage of the held or of the queued writes.
func (q *Queue) usageOf(held bool) *usage {
	if held {
		return &q.held
	}
	return &q.queued
}

// A growth is what accepting a write adds to the usage of its kind, and to that of both kinds together.
type growth struct{ bytes, total int64 }

// neededLocked reports whether w is newer than the key's write here and than any that the origin is known
// to have.
func (q *Queue) neededLocked(w *Write) bool {
	if it := q.items[w.Key]; it != nil && !it.write.Stamp.Below(w.Stamp) {
		return false
	}
	return q.recent.of(w.Key).Below(w.Stamp)
}

// growthLocked returns the growth that placing w, held or queued, will cause.
func (q *Queue) growthLocked(w *Write, held bool) growth {
	if !q.neededLocked(w) {
		return growth{}
	}
	g := growth{w.charge(), w.charge()}
	if it := q.items[w.Key]; it != nil && !it.storing() {
		g.total -= it.write.charge()
		if it.held == held {
			g.bytes = g.total
		}
	}
	return g
}

// fitsLocked reports whether there is room for a growth. There always is for one that adds nothing, even
// if Adopt has filled the queue beyond its bound.
func (q *Queue) fitsLocked(g growth, held bool) bool {
	return (g.bytes <= 0 || q.usageOf(held).bytes+g.bytes <= q.config.MaxBytes) &&
		(g.total <= 0 || q.queued.bytes+q.held.bytes+g.total <= 2*q.config.MaxBytes)
}

// placeLocked makes w the write of its key if it is needed. The caller has checked that it fits.
func (q *Queue) placeLocked(w Write, held bool) {
	it := q.items[w.Key]
	if !q.neededLocked(&w) {
		// This very write was for another node to store, or dropped; now it is for this one.
		if it != nil && it.write.Stamp == w.Stamp && !held {
			it.obsolete = false
			if it.held {
				q.moveLocked(it, false)
			}
		}
		return
	}
	q.supersedeLocked(w.Key, w.Stamp)
	now := q.config.Now()
	switch {
	case it == nil:
		it = &item{write: w, since: now, held: held, due: now}
		q.items[w.Key] = it
		u := q.usageOf(held)
		u.writes++
		u.bytes += w.charge()
		if !held {
			q.due.add(it)
		}
		return
	case it.storing(): // the older write stays in memory, and counts, until its call has ended
		it.since = now
	default:
		if !it.held {
			q.coalesced++
		}
		q.usageOf(it.held).bytes -= it.write.charge()
	}
	q.usageOf(it.held).bytes += w.charge()
	it.write, it.obsolete = w, false
	if it.held != held {
		q.moveLocked(it, held)
	}
}

// supersedeLocked releases the waiting calls of Put whose writes of key are not above s. These writes are
// no longer needed. They must not be accepted later, when the newer one has left the queue.
func (q *Queue) supersedeLocked(key string, s expiry.Stamp) {
	q.waiting = slices.DeleteFunc(q.waiting, func(w *waiter) bool {
		if w.write.Key != key || s.Below(w.write.Stamp) {
			return false
		}
		close(w.done)
		return true
	})
}

// storing reports whether the newest write is the one being stored.
func (it *item) storing() bool {
	return it.running != nil && it.running.write.Stamp == it.write.Stamp
}

// moveLocked makes a queued item held, or a held one queued. The item must not be running.
func (q *Queue) moveLocked(it *item, held bool) {
	from, to := q.usageOf(it.held), q.usageOf(held)
	from.writes--
	to.writes++
	from.bytes -= it.write.charge()
	to.bytes += it.write.charge()
	it.held = held
	if held {
		q.due.remove(it)
		return
	}
	it.failures, it.due = 0, q.config.Now()
	q.due.add(it)
}

// dropLocked drops the write of key if it is not above s.
func (q *Queue) dropLocked(key string, s expiry.Stamp) {
	q.supersedeLocked(key, s)
	it := q.items[key]
	switch {
	case it == nil || s.Below(it.write.Stamp):
	case it.running == nil:
		q.removeLocked(it)
	case it.storing() || it.write.Stamp.Below(s):
		it.obsolete = true
	default: // it has stamp s, and an older one may still reach the origin: it must be stored again
	}
}

// removeLocked removes an item that is not running.
func (q *Queue) removeLocked(it *item) {
	u := q.usageOf(it.held)
	u.writes--
	u.bytes -= it.write.charge()
	delete(q.items, it.write.Key)
	if !it.held {
		q.due.remove(it)
	}
}

// changedLocked follows up on a change: it accepts waiting writes for which there is room, wakes
// Flush if nothing is queued, and starts the scheduler or makes it look again.
func (q *Queue) changedLocked() {
	for len(q.waiting) > 0 && q.closedLocked() == nil {
		first := q.waiting[0]
		if !q.fitsLocked(q.growthLocked(&first.write, false), false) {
			break
		}
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.placeLocked(first.write, false)
		close(first.done)
	}
	if q.queued.writes == 0 && q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
	q.scheduleLocked()
}
