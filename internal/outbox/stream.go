package outbox

import (
	"cmp"
	"container/list"
	"slices"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

const (
	maxNotes   = 1000 // in one push
	maxBackoff = 4    // how often the time until a push is repeated unasked is doubled
	pauses     = 8    // a target that has failed gets nothing new for Probe / pauses
)

// A Batch is a push to be sent. Whoever sends it says how that ended, with
// Answered or with Failed.
type Batch struct {
	Target string
	Push   message.Push

	sending uint64 // its place in the order in which Next returned them
}

// A Target says who is to be told a write: the owner of its key in the other region,
// or "" if there is none. ok is false if that node cannot be told at present, or is none.
// It is called with the Outbox locked.
type Target func(w *message.Write) (node string, ok bool)

// A stream is what goes to one target, in numbered pushes.
type stream struct {
	target string
	active *list.Element // in Outbox.active; set if it has queued items or pushes

	// queue has the items that were for this target when their turn came to be
	// addressed. Who owns a key may change: it is asked again before they are sent.
	queue list.List

	last   uint64  // the highest number used. Numbers are not used twice
	pushes []*push // in flight, in the order of their numbers

	resume expiry.Instant // when it can be sent something new, after it has failed
	quiet  expiry.Instant // since when nothing has been heard
	check  expiry.Instant // when to look for what is overdue, while pushes are in flight
	have   uint64         // the highest number up to which the target has had everything
}

// A push is in flight.
type push struct {
	number  uint64
	items   []*item        // at least one
	sending uint64         // of the last time it was sent
	at      expiry.Instant // when that was
	repeats int
	due     bool // to be sent again
}

// Next returns the push that is to be sent now: one that was lost, a question
// what has arrived, or the notes that have waited longest for their target. If there is
// none, there may be one after Wake or at NextAt.
func (o *Outbox) Next(now expiry.Instant, target Target) (Batch, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		moved := o.addressLocked(target)
		for range o.active.Len() {
			s := o.active.Front().Value.(*stream)
			if s.queue.Len() == 0 && len(s.pushes) == 0 {
				o.active.Remove(s.active)
				s.active = nil
				continue
			}
			o.active.MoveToBack(s.active) // the targets take turns
			b, ok := o.nextLocked(s, now)
			if !ok {
				items, readdressed := o.takeLocked(s, now, target)
				moved = moved || readdressed
				if ok = len(items) > 0; ok {
					b = o.pushLocked(s, items, now)
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

// NextAt returns when Next, which has nothing at now, may have something because
// time has passed. ok is false if that does not depend on time.
func (o *Outbox) NextAt(now expiry.Instant) (at expiry.Instant, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	soonest := func(t expiry.Instant) {
		if !ok || t < at {
			at, ok = t, true
		}
	}
	for e := o.active.Front(); e != nil; e = e.Next() {
		s := e.Value.(*stream)
		if len(s.pushes) > 0 {
			soonest(s.check)
		}
		if s.queue.Len() > 0 && now < s.resume {
			soonest(s.resume)
		}
	}
	return at, ok
}

// Answered says that the target has answered b: its region has been told all notes
// in it. have is what the answer says (message.Pushed).
func (o *Outbox) Answered(b Batch, have uint64, now expiry.Instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.streams[b.Target]
	s.quiet = now
	if i, ok := s.find(b.Push.Number); ok && len(b.Push.Writes) > 0 {
		for _, it := range s.pushes[i].items {
			o.landLocked(it)
			o.removeLocked(it, nil)
		}
		s.pushes = slices.Delete(s.pushes, i, i+1)
	}
	s.have = max(s.have, have) // answers, too, come in any order
	for _, p := range s.pushes {
		// What was sent after b may still be under way.
		if p.number > have && p.sending < b.sending && !p.due {
			p.due = true
			o.stats.Lost++
		}
	}
	o.wakeUp()
}

// Failed says that there will be no answer to b: the node is gone, the connection
// broken, or the time was up. Its notes are queued again, before all others, for
// whoever owns the keys then. If that is the same node it gets them after a short
// pause, so that one that fails at once does not keep everybody busy.
func (o *Outbox) Failed(b Batch, now expiry.Instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.streams[b.Target]
	i, ok := s.find(b.Push.Number)
	if !ok || s.pushes[i].sending != b.sending {
		return // it has been answered, it was a question, or it was sent once more, and that will end too
	}
	p := s.pushes[i]
	s.pushes = slices.Delete(s.pushes, i, i+1)
	s.resume = now.Add(o.config.Probe / pauses)
	// Being put in front of each other turns the notes round, once here and once
	// when they are addressed.
	for _, it := range p.items {
		o.landLocked(it)
		if c := o.coverLocked(&it.write); c != nil {
			o.stats.Coalesced++
			o.removeLocked(it, c)
		} else { // nothing is queued, as that would be above it
			o.queueLocked(it, o.unaddressed.PushFront)
		}
	}
	o.boundLocked()
	o.wakeUp()
}

// addressLocked moves the items that have no target to the queue of one. It
// reports whether it has moved any.
func (o *Outbox) addressLocked(target Target) (moved bool) {
	for o.unaddressed.Len() > 0 {
		it := o.unaddressed.Front().Value.(*item)
		if o.dropLocked(it) {
			continue
		}
		node, _ := target(&it.write) // who cannot be told does not hold up the others
		o.moveLocked(it, node)
		moved = true
	}
	return moved
}

// moveLocked moves a queued item to the queue for node: to the front if it was in
// flight before.
func (o *Outbox) moveLocked(it *item, node string) {
	s := o.streams[node]
	if s == nil {
		s = &stream{target: node}
		o.streams[node] = s
	}
	if s.active == nil {
		s.active = o.active.PushBack(s)
	}
	it.queue.Remove(it.place)
	it.queue = &s.queue
	if it.sent {
		it.place = s.queue.PushFront(it)
	} else {
		it.place = s.queue.PushBack(it)
	}
}

// nextLocked returns a push to s that is to be repeated, or a question.
func (o *Outbox) nextLocked(s *stream, now expiry.Instant) (Batch, bool) {
	probe := false
	if len(s.pushes) > 0 && now >= s.check {
		probe = o.checkLocked(s, now)
	}
	if probe {
		o.stats.Probes++
		o.sending++
		return o.batch(s, s.last, nil), true
	}
	for _, p := range s.pushes {
		if p.due {
			p.repeats++
			return o.sendLocked(s, p, now), true
		}
	}
	return Batch{}, false
}

// checkLocked finds what is overdue. It reports whether the target is to be
// asked what has arrived, because nothing is heard from it.
//
// A push that has arrived and is not answered for another such time is sent again: the answer may
// be lost. It may also just be that the target's region takes its time, so that
// is done less and less often.
func (o *Outbox) checkLocked(s *stream, now expiry.Instant) (silent bool) {
	probe := o.config.Probe
	silent = now.Sub(s.quiet) >= probe
	s.check = s.quiet.Add(probe)
	if silent {
		s.check = now.Add(probe)
	}
	for _, p := range s.pushes {
		if p.number <= s.have && now.Sub(p.at) >= 2*probe<<min(p.repeats, maxBackoff) {
			p.due = true
		}
	}
	return silent
}

// takeLocked takes items for one push to s from its queue, if s can be sent one. It
// reports whether it has found some to be for other targets: those need not
// wait for this one.
func (o *Outbox) takeLocked(s *stream, now expiry.Instant, target Target) (items []*item, moved bool) {
	ready := len(s.pushes) < o.config.Window && now >= s.resume
	bytes := 0
	for s.queue.Len() > 0 && len(items) < maxNotes {
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
		if it.write.HasValue && !it.write.Dirty && it.told(now).Age >= it.write.Life {
			o.stripLocked(it) // the value has expired; the floor is still wanted
		}
		bytes += it.write.Size()
		if len(items) > 0 && bytes > o.config.BatchBytes {
			break
		}
		o.unqueueLocked(it)
		sl := o.slots[idOf(&it.write)]
		sl.flying = append(sl.flying, it)
		o.flying += size(&it.write)
		o.stats.InFlight++
		items = append(items, it)
	}
	return items, moved
}

// landLocked ends an item's flight.
func (o *Outbox) landLocked(it *item) {
	sl := o.slots[idOf(&it.write)]
	i := slices.Index(sl.flying, it)
	sl.flying = slices.Delete(sl.flying, i, i+1)
	o.flying -= size(&it.write)
	o.stats.InFlight--
}

// pushLocked sends items in a new push.
func (o *Outbox) pushLocked(s *stream, items []*item, now expiry.Instant) Batch {
	if len(s.pushes) == 0 {
		s.check = now.Add(o.config.Probe)
	}
	s.last++
	p := &push{number: s.last, items: items}
	s.pushes = append(s.pushes, p)
	return o.sendLocked(s, p, now)
}

// sendLocked returns p as it is to be sent at now.
func (o *Outbox) sendLocked(s *stream, p *push, now expiry.Instant) Batch {
	o.sending++
	p.sending, p.at, p.due = o.sending, now, false
	notes := make([]message.Write, len(p.items))
	for i, it := range p.items {
		o.stats.Sent++
		if it.sent {
			o.stats.Resent++
		}
		it.sent = true
		notes[i] = it.told(now)
	}
	return o.batch(s, p.number, notes)
}

// batch returns what is being sent. It has the number of a push in flight, so that
// is the highest number that need not be given up.
func (o *Outbox) batch(s *stream, number uint64, notes []message.Write) Batch {
	return Batch{
		Target:  s.target,
		Push:    message.Push{Epoch: o.config.Epoch, Number: number, Low: s.pushes[0].number, Writes: notes},
		sending: o.sending,
	}
}

// told returns the note with its age at now.
func (it *item) told(now expiry.Instant) message.Write {
	w := it.write
	if w.HasValue {
		w.Age += now.Sub(it.at)
	}
	return w
}

// find returns where the push of that number is, or belongs.
func (s *stream) find(number uint64) (int, bool) {
	return slices.BinarySearchFunc(s.pushes, number, func(p *push, n uint64) int {
		return cmp.Compare(p.number, n)
	})
}
