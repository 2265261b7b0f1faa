package outbox

import (
	"cmp"
	"container/list"
	"slices"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

const (
	maxWrites    = 1000 // in one push
	maxDoublings = 4    // bounds how often the wait before an unanswered push is sent again doubles
	pauseDivisor = 8    // a target that failed gets nothing new for Probe / pauseDivisor
)

// A Batch is a push for the caller to send. The caller must report the outcome by calling Answered
// or Failed.
type Batch struct {
	Target string
	Push   message.Push

	seq uint64 // Next returned it as the seq-th batch
}

// A Target returns the node to send a write to: the owner of its key in the other region, or "" if it
// has none. ok is false if there is no such node, or it cannot be reached at present. A Target is called
// with the Outbox locked, so it must not use the Outbox.
type Target func(w *message.Write) (node string, ok bool)

// A stream carries numbered pushes to one target.
type stream struct {
	target string
	active *list.Element // in Outbox.active; set if the stream has queued items or pushes

	// queue has the items assigned to this target. Ownership may change afterwards, so Next asks
	// for the target again before it sends them.
	queue list.List

	last   uint64  // the highest number used; numbers are never reused
	pushes []*push // in flight, ordered by number

	resumeAt expiry.Instant // after a failure, when something new may be sent
	heard    expiry.Instant // when the target last answered
	checkAt  expiry.Instant // when to look for overdue pushes, while any are in flight
	have     uint64         // the target has received every number up to this one
}

// A push is in flight.
type push struct {
	number  uint64
	items   []*item        // at least one
	seq     uint64         // of the batch that sent it last
	at      expiry.Instant // when it was sent last
	retries int
	resend  bool // it must be sent again
}

// Next returns the push to send now: one that was lost, a probe that asks what has arrived, or the
// writes that have waited longest for their target. If it returns false, the caller calls it again after
// Wake or at NextAt.
func (o *Outbox) Next(now expiry.Instant, target Target) (Batch, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.askAgainLocked(now)
	for {
		moved := o.assignLocked(target)
		for range o.active.Len() {
			s := o.active.Front().Value.(*stream)
			if s.queue.Len() == 0 && len(s.pushes) == 0 {
				o.active.Remove(s.active)
				s.active = nil
				continue
			}
			o.active.MoveToBack(s.active) // the targets take turns
			b, ok := o.retryLocked(s, now)
			if !ok {
				items, reassigned := o.dequeueLocked(s, now, target)
				moved = moved || reassigned
				if ok = len(items) > 0; ok {
					b = o.newPushLocked(s, items, now)
				}
			}
			if ok {
				return b, true
			}
		}
		if !moved {
			return Batch{}, false
		}
	}
}

// NextAt returns when Next, which has nothing to send at now, may have something merely because time
// has passed. ok is false if time alone changes nothing.
func (o *Outbox) NextAt(now expiry.Instant) (at expiry.Instant, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	soonest := func(t expiry.Instant) {
		if !ok || t < at {
			at, ok = t, true
		}
	}
	if o.doubts.list.Len() > 0 {
		soonest(o.askAtLocked())
	}
	for e := o.active.Front(); e != nil; e = e.Next() {
		s := e.Value.(*stream)
		if len(s.pushes) > 0 {
			soonest(s.checkAt)
		}
		if s.queue.Len() > 0 && now < s.resumeAt {
			soonest(s.resumeAt)
		}
	}
	return at, ok
}

// Answered reports that the target has answered b: its whole region has the writes in b. have is the
// answer's message.PushReply.Have.
func (o *Outbox) Answered(b Batch, have uint64, now expiry.Instant) {
	o.end(b, have, now, o.confirmLocked)
}

// end takes in an answer, and calls arrived for each item that the region has.
func (o *Outbox) end(b Batch, have uint64, now expiry.Instant, arrived func(*item)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.streams[b.Target]
	s.heard = now
	if i, ok := s.find(b.Push.Number); ok && len(b.Push.Writes) > 0 {
		for _, it := range s.pushes[i].items {
			arrived(it)
		}
		s.pushes = slices.Delete(s.pushes, i, i+1)
	}
	s.have = max(s.have, have) // answers may arrive in any order
	for _, p := range s.pushes {
		// A push sent after b may still be under way.
		if p.number > have && p.seq < b.seq && !p.resend {
			p.resend = true
			o.stats.Lost++
		}
	}
	o.wakeUp()
}

// Failed reports that b will not be answered: the node is gone, the connection broke, or the call timed
// out. Its writes are queued again, ahead of all others, for whichever node owns the keys by then. If
// that is the same node, they wait for a short pause first, so that a node that fails at once does not
// keep the sender busy.
func (o *Outbox) Failed(b Batch, now expiry.Instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.streams[b.Target]
	i, ok := s.find(b.Push.Number)
	if !ok || s.pushes[i].seq != b.seq {
		// The push has been answered, b was a probe, or the push was sent again, and that batch ends too.
		return
	}
	p := s.pushes[i]
	s.pushes = slices.Delete(s.pushes, i, i+1)
	s.resumeAt = now.Add(o.config.Probe / pauseDivisor)
	// Each PushFront reverses the order of the items: this one, and the one that assigns them a target.
	// So they keep their order.
	for _, it := range p.items {
		o.endFlightLocked(it)
		if c := o.coverLocked(&it.write); c != nil {
			o.stats.Coalesced++
			o.removeLocked(it, c)
		} else { // the slot has no queued item: it would cover this one
			o.queueLocked(it, o.unassigned.PushFront)
		}
	}
	o.makeRoomLocked()
	o.wakeUp()
}

// assignLocked moves the unassigned items to the queues of their targets, and reports whether it moved
// any.
func (o *Outbox) assignLocked(target Target) (moved bool) {
	for o.unassigned.Len() > 0 {
		it := o.unassigned.Front().Value.(*item)
		if o.dropLocked(it) {
			continue
		}
		node, _ := target(&it.write) // in its own queue an unreachable target does not hold up the others
		o.moveLocked(it, node)
		moved = true
	}
	return moved
}

// moveLocked moves a queued item to the queue for node: to the front if it has been sent before.
func (o *Outbox) moveLocked(it *item, node string) {
	s := o.streams[node]
	if s == nil {
		s = &stream{target: node}
		o.streams[node] = s
	}
	if s.active == nil {
		s.active = o.active.PushBack(s)
	}
	it.queue.Remove(it.queueElem)
	it.queue = &s.queue
	if it.sent {
		it.queueElem = s.queue.PushFront(it)
	} else {
		it.queueElem = s.queue.PushBack(it)
	}
}

// retryLocked returns a push of s that must be sent again, or a probe.
func (o *Outbox) retryLocked(s *stream, now expiry.Instant) (Batch, bool) {
	probe := false
	if len(s.pushes) > 0 && now >= s.checkAt {
		probe = o.checkOverdueLocked(s, now)
	}
	if probe {
		o.stats.probes++
		o.seq++
		return o.batch(s, s.last, nil), true
	}
	for _, p := range s.pushes {
		if p.resend {
			p.retries++
			return o.sendLocked(s, p, now), true
		}
	}
	return Batch{}, false
}

// checkOverdueLocked marks the overdue pushes of s for sending again. It reports whether the target is
// silent and must be asked what has arrived.
//
// A push that has arrived is overdue if its answer is still missing after two probe intervals: the answer
// may be lost. But the target's region may just be slow, so the interval doubles with each retry.
func (o *Outbox) checkOverdueLocked(s *stream, now expiry.Instant) (silent bool) {
	probe := o.config.Probe
	silent = now.Sub(s.heard) >= probe
	s.checkAt = s.heard.Add(probe)
	if silent {
		s.checkAt = now.Add(probe)
	}
	for _, p := range s.pushes {
		if p.number <= s.have && now.Sub(p.at) >= 2*probe<<min(p.retries, maxDoublings) {
			p.resend = true
		}
	}
	return silent
}

// dequeueLocked takes the items for one new push from the queue of s; it takes none if the target cannot
// be sent one now. Those at the front that now belong to other targets need not wait for this one: it
// moves them to the queues of theirs, and reports whether it moved any.
func (o *Outbox) dequeueLocked(s *stream, now expiry.Instant, target Target) (items []*item, moved bool) {
	ready := len(s.pushes) < o.config.window && now >= s.resumeAt
	bytes := 0
	for s.queue.Len() > 0 && len(items) < maxWrites {
		it := s.queue.Front().Value.(*item)
		if o.dropLocked(it) {
			continue
		}
		node, ok := target(&it.write)
		if node != s.target {
			o.moveLocked(it, node)
			moved = true
			continue
		}
		if !ready || !ok {
			break
		}
		if it.write.HasValue && !it.write.Dirty && it.writeAt(now).Age >= it.write.Life {
			o.dropValueLocked(it) // the value has expired, but the region still needs the floor
		}
		bytes += it.write.Size()
		if len(items) > 0 && bytes > o.config.batchBytes {
			break
		}
		o.unqueueLocked(it)
		sl := o.slots[idOf(&it.write)]
		sl.inFlight = append(sl.inFlight, it)
		o.inFlightBytes += size(&it.write)
		o.stats.InFlight++
		items = append(items, it)
	}
	return items, moved
}

// endFlightLocked takes an item out of flight.
func (o *Outbox) endFlightLocked(it *item) {
	sl := o.slots[idOf(&it.write)]
	i := slices.Index(sl.inFlight, it)
	sl.inFlight = slices.Delete(sl.inFlight, i, i+1)
	o.inFlightBytes -= size(&it.write)
	o.stats.InFlight--
}

// newPushLocked puts items into a new push and returns the batch that sends it.
func (o *Outbox) newPushLocked(s *stream, items []*item, now expiry.Instant) Batch {
	if len(s.pushes) == 0 {
		s.checkAt = now.Add(o.config.Probe)
	}
	s.last++
	p := &push{number: s.last, items: items}
	s.pushes = append(s.pushes, p)
	return o.sendLocked(s, p, now)
}

// sendLocked returns the batch that sends p at now.
func (o *Outbox) sendLocked(s *stream, p *push, now expiry.Instant) Batch {
	o.seq++
	p.seq, p.at, p.resend = o.seq, now, false
	writes := make([]message.Write, len(p.items))
	for i, it := range p.items {
		o.stats.Sent++
		if it.sent {
			o.stats.Resent++
		}
		it.sent = true
		writes[i] = it.writeAt(now)
	}
	return o.batch(s, p.number, writes)
}

// batch returns a batch for s, which has at least one push in flight. Its Low is the lowest number in
// flight: a higher one would give up that push.
func (o *Outbox) batch(s *stream, number uint64, writes []message.Write) Batch {
	return Batch{
		Target: s.target,
		Push:   message.Push{Epoch: o.config.Epoch, Number: number, Low: s.pushes[0].number, Writes: writes},
		seq:    o.seq,
	}
}

// writeAt returns the item's write with its age at now.
func (it *item) writeAt(now expiry.Instant) message.Write {
	w := it.write
	if w.HasValue {
		w.Age += now.Sub(it.at)
	}
	return w
}

// find returns the index in pushes of the push with that number, or where it would be.
func (s *stream) find(number uint64) (int, bool) {
	return slices.BinarySearchFunc(s.pushes, number, func(p *push, n uint64) int {
		return cmp.Compare(p.number, n)
	})
}
