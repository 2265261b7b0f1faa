package outbox

import (
	"container/list"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// This file is about writes that a node of the region has, while no node there that can be reached sees a
// majority of it: another part may lack them. They need not be sent again, since the parts give each other
// what they lack when they meet. But the region has not confirmed them, and whoever asks must not be told
// that nothing is outstanding. While somebody waits for a write, it is sent again from time to time.

// maxDoubts bounds the writes that are remembered as doubted. They take about 20 MB.
const maxDoubts = 1 << 16

// doubts are the doubted writes, as items that are neither queued nor in flight. Only those that somebody
// waits for keep their values.
//
// Invariant: an item is in the list exactly if it is the doubted one of its slot.
type doubts struct {
	list    list.List      // in the order in which they came
	askedAt expiry.Instant // when those that somebody waits for were last sent again

	// forgotten has, by group, the highest generation of those dropped to stay within maxDoubts. While it
	// matters, no write of the group counts as confirmed.
	forgotten map[string]expiry.Generation
}

// Doubted reports that the target has answered b, and that no part of its region which can be reached has a
// majority. have is as in Answered.
func (o *Outbox) Doubted(b Batch, have uint64, now expiry.Instant) {
	o.end(b, have, now, func(it *item) { o.doubtLocked(it, now) })
}

// confirmLocked ends the flight of an item that the region has confirmed.
func (o *Outbox) confirmLocked(it *item) {
	o.endFlightLocked(it)
	d := o.slots[idOf(&it.write)].doubted
	o.removeLocked(it, nil)
	if d != nil && !it.write.Stamp.Below(d.write.Stamp) {
		o.forgetLocked(d)
	}
}

// doubtLocked ends the flight of an item that the region has, and has not confirmed.
func (o *Outbox) doubtLocked(it *item, now expiry.Instant) {
	o.endFlightLocked(it)
	if c := o.coverLocked(&it.write); c != nil {
		o.removeLocked(it, c)
		return
	}
	s := o.slots[idOf(&it.write)]
	d := s.doubted
	if d == nil {
		if o.doubts.list.Len() == 0 {
			o.doubts.askedAt = now
		}
		d = &item{write: it.write, at: it.at}
		s.doubted, d.queueElem = d, o.doubts.list.PushBack(d)
	} else if !it.write.Stamp.Below(d.write.Stamp) {
		d.write, d.at = it.write, it.at
	}
	it.transferWaiters(d)
	if len(d.waiters) == 0 {
		dropValue(&d.write)
	}
	o.removeLocked(it, nil)
	if o.doubts.list.Len() > maxDoubts {
		o.dropDoubtLocked(o.doubts.list.Front().Value.(*item))
	}
}

// dropDoubtLocked removes a doubted item to make room. Its waiters go on waiting.
func (o *Outbox) dropDoubtLocked(d *item) {
	if o.doubts.forgotten == nil {
		o.doubts.forgotten = make(map[string]expiry.Generation)
	}
	group := d.write.Group
	o.doubts.forgotten[group] = max(o.doubts.forgotten[group], d.write.Stamp.Generation)
	d.waiters = nil
	o.forgetLocked(d)
}

// askAgainLocked queues the doubted writes that somebody waits for, once in a probe interval.
func (o *Outbox) askAgainLocked(now expiry.Instant) {
	if o.doubts.list.Len() == 0 || now < o.askAtLocked() {
		return
	}
	o.doubts.askedAt = now
	for e := o.doubts.list.Front(); e != nil; e = e.Next() {
		d := e.Value.(*item)
		switch s := o.slots[idOf(&d.write)]; {
		case len(d.waiters) == 0:
			dropValue(&d.write)
		case s.queued == nil && len(s.inFlight) == 0:
			o.addLocked(&item{write: d.write, at: d.at, since: now, sent: true})
		}
	}
	o.makeRoomLocked()
}

// askAtLocked returns when the doubted writes are due.
func (o *Outbox) askAtLocked() expiry.Instant { return o.doubts.askedAt.Add(o.config.Probe) }

// forgetLocked removes a doubted item. Its waiters are done with it.
func (o *Outbox) forgetLocked(d *item) {
	o.doubts.list.Remove(d.queueElem)
	d.transferWaiters(nil)
	id := idOf(&d.write)
	s := o.slots[id]
	s.doubted = nil
	o.releaseLocked(id, s)
}

// forgetDoubtsLocked forgets what no longer matters, as far as nothing older is before it.
func (o *Outbox) forgetDoubtsLocked() {
	for e := o.doubts.list.Front(); e != nil; e = o.doubts.list.Front() {
		d := e.Value.(*item)
		if !o.isOverLocked(&d.write) {
			break
		}
		o.forgetLocked(d)
	}
	for group, g := range o.doubts.forgotten {
		if g < o.horizon[group] {
			delete(o.doubts.forgotten, group)
		}
	}
}

// isOverLocked reports whether a write no longer matters, see Forget.
func (o *Outbox) isOverLocked(w *message.Write) bool { return w.Stamp.Generation < o.horizon[w.Group] }
