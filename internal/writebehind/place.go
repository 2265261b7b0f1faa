package writebehind

import (
	"slices"

	"github.com/geocache/geocache/expiry"
)

// usageOf returns the account of queued or held writes.
func (q *Queue) usageOf(held bool) *usage {
	if held {
		return &q.held
	}
	return &q.queued
}

// A growth is what taking a write in adds to its account, and to both.
type growth struct{ bytes, total int64 }

// neededLocked reports whether w is newer than what is here and than what the
// origin is known to have.
func (q *Queue) neededLocked(w *Write) bool {
	if it := q.items[w.Key]; it != nil && !it.write.Stamp.Below(w.Stamp) {
		return false
	}
	return q.recent.of(w.Key).Below(w.Stamp)
}

// growthLocked returns what placing w, held or queued, will add.
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

// fitsLocked reports whether there is room. There always is for what adds
// nothing, even if Adopt has filled the queue above its bound.
func (q *Queue) fitsLocked(g growth, held bool) bool {
	return (g.bytes <= 0 || q.usageOf(held).bytes+g.bytes <= q.config.MaxBytes) &&
		(g.total <= 0 || q.queued.bytes+q.held.bytes+g.total <= 2*q.config.MaxBytes)
}

// placeLocked makes w the write of its key if it is needed. There is room.
func (q *Queue) placeLocked(w Write, held bool) {
	it := q.items[w.Key]
	if !q.neededLocked(&w) {
		// The very write that another node was to store is now for this one.
		if it != nil && it.write.Stamp == w.Stamp && !held {
			it.obsolete = false
			if it.held {
				q.moveLocked(it, false)
			}
		}
		return
	}
	q.overtakeLocked(w.Key, w.Stamp)
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
	case it.storing(): // the older one is in memory, and in the account, until its call has ended
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

// overtakeLocked ends the wait of those writes of key that are not above s. They
// are not needed any more, and must not come in when the one that is has
// gone.
func (q *Queue) overtakeLocked(key string, s expiry.Stamp) {
	q.line = slices.DeleteFunc(q.line, func(o *waiter) bool {
		if o.write.Key != key || s.Below(o.write.Stamp) {
			return false
		}
		close(o.done)
		return true
	})
}

// storing reports whether the newest write is the one that is being stored.
func (it *item) storing() bool { return it.running != nil && it.running.write.Stamp == it.write.Stamp }

// moveLocked makes a queued item a held one or the other way round. It is not
// running.
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

// dropLocked lets go of the write of key if it is not above s.
func (q *Queue) dropLocked(key string, s expiry.Stamp) {
	q.overtakeLocked(key, s)
	it := q.items[key]
	switch {
	case it == nil || s.Below(it.write.Stamp):
	case it.running == nil:
		q.removeLocked(it)
	case it.storing() || it.write.Stamp.Below(s):
		it.obsolete = true
	default: // the newest that is known of, while an older one may reach the origin yet
	}
}

// removeLocked removes an item, which is not running.
func (q *Queue) removeLocked(it *item) {
	u := q.usageOf(it.held)
	u.writes--
	u.bytes -= it.write.charge()
	delete(q.items, it.write.Key)
	if !it.held {
		q.due.remove(it)
	}
}

// changedLocked does what a change makes possible: it lets those in that wait
// for room, has due writes stored, and tells Flush that nothing is left.
func (q *Queue) changedLocked() {
	for len(q.line) > 0 && q.endLocked() == nil {
		first := q.line[0]
		if !q.fitsLocked(q.growthLocked(&first.write, false), false) {
			break
		}
		q.line[0] = nil
		q.line = q.line[1:]
		q.placeLocked(first.write, false)
		close(first.done)
	}
	if q.queued.writes == 0 && q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
	q.scheduleLocked()
}
