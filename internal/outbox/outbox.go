// Package outbox has both ends of what a node tells another region: an Outbox
// keeps what the region has not confirmed yet and says what is to be sent next,
// and an Inbox finds out what was lost on the way.
//
// Both are state machines: they do no I/O, start no goroutines and read no clock.
// Design: docs/design.md, "Between regions".
package outbox

import (
	"container/list"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// Overhead is what a note costs beside its key, its group's name and its value,
// in bytes. TestOverhead measures it.
const Overhead = 512

// Config says how much an Outbox holds and sends. Zero stands for the default.
type Config struct {
	MaxBytes   int64             // of all notes that are held, queued or in flight; 64 MiB
	BatchBytes int               // of the notes in one push, if they are several; 256 KiB
	Window     int               // the most pushes in flight to one target; 256
	Epoch      expiry.Generation // when this node started
	Probe      time.Duration     // a target that is silent for so long is asked what has arrived; 1 s
}

// An Outbox holds the notes that one other region has not confirmed. A note in it is
// queued, or in flight: sent in a push that has neither been answered nor failed.
//
// Invariant: for each note that was added, and is newer than Forget says, either
// the region has confirmed a note that covers it, or the outbox holds one. A note
// covers those of its subject with a lower stamp, and a Clear those of its whole group.
//
// The methods are safe for concurrent use. None of them waits for anything.
type Outbox struct {
	config Config
	wake   chan struct{}

	mu sync.Mutex // guards the following fields, and all items, streams and waiters

	// slots finds what is held by what it is about. Empty ones are removed.
	slots map[id]*slot

	// pending has all items, in the order of since.
	pending list.List
	// foldable has the queued items that are not Clears, and valued those of them with a
	// value: about the oldest first, as that is what room is made of first.
	foldable, valued list.List
	// unaddressed has the queued items that no target has been chosen for. All
	// other queued items are in the queue of a stream.
	unaddressed list.List

	streams map[string]*stream // by target
	active  list.List          // the streams that have items, and perhaps some others; the next in turn first

	sending uint64                       // counts what Next has returned
	before  map[string]expiry.Generation // by group: notes of older generations need not be sent
	bytes   int64                        // the sizes of all items
	flying  int64                        // and of those in flight
	stats   Stats                        // only what is counted
}

// An id is what a note is about.
type id struct {
	group   string
	subject expiry.Subject // empty for a Clear
	clear   bool
}

func idOf(w *message.Write) id { return id{w.Group, w.Subject(), w.Clear} }

// A slot has what is held about one id.
//
// Invariant: no two items of a slot have the same stamp, unless the second was needed
// to bring a value, and queued is above all that are in flight.
type slot struct {
	queued *item // or nil
	flying []*item
}

// An item is a note that is held.
type item struct {
	write message.Write  // Age is its age at the instant at
	at    expiry.Instant //
	since expiry.Instant // when the oldest note that it stands for was added
	sent  bool           // before

	age    *list.Element // in pending
	folded *list.Element // in foldable, or nil
	valued *list.Element // in valued, or nil

	queue *list.List // while queued: unaddressed, or the stream's
	place *list.Element

	waiters map[*waiter]struct{}
}

// Stats is what an Outbox holds, and what it has counted.
type Stats struct {
	Queued   int           // notes that wait to be sent
	InFlight int           // notes that wait for an answer
	Bytes    int64         // of both
	Oldest   time.Duration // for how long the oldest of them has waited

	Sent          uint64 // notes, with those that were sent again
	Resent        uint64 // notes that were sent again
	Probes        uint64 // pushes without notes
	Lost          uint64 // pushes that were lost, by what the receiver has
	Coalesced     uint64 // notes that a newer one has made superfluous
	DroppedValues uint64 // values that were dropped to make room
	Collapsed     uint64 // notes that became part of a floor for their whole group, to make room
	Expired       uint64 // notes that had become irrelevant before they were sent (see Forget)
}

// New returns an empty Outbox.
func New(config Config) *Outbox {
	if config.MaxBytes == 0 {
		config.MaxBytes = 64 << 20
	}
	if config.BatchBytes == 0 {
		config.BatchBytes = 256 << 10
	}
	if config.Window == 0 {
		config.Window = 256
	}
	if config.Probe == 0 {
		config.Probe = time.Second
	}
	return &Outbox{
		config:  config,
		wake:    make(chan struct{}, 1),
		slots:   make(map[id]*slot),
		streams: make(map[string]*stream),
		before:  make(map[string]expiry.Generation),
	}
}

// Wake returns a channel that something is sent on when Next may have something
// that it did not have before, other than by the passing of time (see NextAt).
// One goroutine should receive from it.
func (o *Outbox) Wake() <-chan struct{} { return o.wake }

func (o *Outbox) wakeUp() {
	select {
	case o.wake <- struct{}{}:
	default: // whoever takes what is in there looks after now
	}
}

// Add queues n, whose Age is that at now. If a note of its subject is queued already,
// the newer one of the two takes its place. The caller must not change Value any more.
func (o *Outbox) Add(w message.Write, now expiry.Instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.coverLocked(&w) != nil {
		o.stats.Coalesced++
		return
	}
	if w.HasValue && size(&w) > o.config.MaxBytes-o.flying {
		strip(&w) // to strip the others would not be enough
		o.stats.DroppedValues++
	}
	if s := o.slots[idOf(&w)]; s != nil && s.queued != nil {
		o.stats.Coalesced++
		o.replaceLocked(s.queued, w, now)
	} else {
		it := &item{write: w, at: now, since: now}
		it.age = o.pending.PushBack(it)
		o.bytes += size(&w)
		o.queueLocked(it, o.unaddressed.PushBack)
	}
	o.boundLocked()
	o.wakeUp()
}

// Forget says that notes of a group of generations below before need not be told any more. The
// caller promises what expiry.Floors.Forget asks for.
func (o *Outbox) Forget(group string, before expiry.Generation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.before[group] = max(o.before[group], before) // they go when their turn comes
}

// Stats returns the present numbers.
func (o *Outbox) Stats(now expiry.Instant) Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.stats
	s.Queued = o.pending.Len() - s.InFlight
	s.Bytes = o.bytes
	if e := o.pending.Front(); e != nil {
		s.Oldest = now.Sub(e.Value.(*item).since)
	}
	return s
}

// coverLocked returns an item that covers n: once the region has confirmed that, n
// need not be sent. It may be queued or in flight: if the push fails it is queued again.
// If there is none it returns nil.
func (o *Outbox) coverLocked(w *message.Write) *item {
	if it := o.slots[idOf(w)].cover(w); it != nil || w.Clear {
		return it
	}
	return o.slots[id{group: w.Group, clear: true}].cover(w)
}

func (s *slot) cover(w *message.Write) *item {
	if s == nil {
		return nil
	}
	if s.queued.covers(w) {
		return s.queued
	}
	for _, it := range s.flying {
		if it.covers(w) {
			return it
		}
	}
	return nil
}

func (it *item) covers(w *message.Write) bool {
	if it == nil || &it.write == w {
		return false
	}
	if w.Stamp == it.write.Stamp {
		return it.write.HasValue || !w.HasValue
	}
	return w.Stamp.Below(it.write.Stamp)
}

// queueLocked makes it the queued item of its slot. It is put into a queue with push.
func (o *Outbox) queueLocked(it *item, push func(any) *list.Element) {
	id := idOf(&it.write)
	s := o.slots[id]
	if s == nil {
		s = &slot{}
		o.slots[id] = s
	}
	s.queued = it
	it.queue, it.place = &o.unaddressed, push(it)
	o.roomLocked(it)
}

// roomLocked puts a queued item into the lists of what room can be made of.
func (o *Outbox) roomLocked(it *item) {
	push := (*list.List).PushBack
	if it.sent {
		push = (*list.List).PushFront // it is older than what has been queued since
	}
	if !it.write.Clear {
		it.folded = push(&o.foldable, it)
	}
	if it.write.HasValue {
		it.valued = push(&o.valued, it)
	}
}

func (o *Outbox) unroomLocked(it *item) {
	if it.folded != nil {
		o.foldable.Remove(it.folded)
		it.folded = nil
	}
	if it.valued != nil {
		o.valued.Remove(it.valued)
		it.valued = nil
	}
}

// unqueueLocked takes a queued item out of its queue and its slot.
func (o *Outbox) unqueueLocked(it *item) {
	it.queue.Remove(it.place)
	it.queue, it.place = nil, nil
	o.unroomLocked(it)
	o.slots[idOf(&it.write)].queued = nil
}

// replaceLocked puts n in the place of the queued note it, for whose waiters n will do.
func (o *Outbox) replaceLocked(it *item, w message.Write, now expiry.Instant) {
	o.bytes += size(&w) - size(&it.write)
	it.write, it.at, it.sent = w, now, false
	o.unroomLocked(it)
	o.roomLocked(it)
}

// removeLocked lets go of an item that is neither queued nor in flight any more.
// If heir is not nil the waiters wait for that instead, otherwise they are done.
func (o *Outbox) removeLocked(it, heir *item) {
	if heir != nil && it.since < heir.since {
		heir.since = it.since
		o.pending.MoveBefore(heir.age, it.age)
	}
	o.pending.Remove(it.age)
	o.bytes -= size(&it.write)
	it.leave(heir)
	id := idOf(&it.write)
	if s := o.slots[id]; s.queued == nil && len(s.flying) == 0 {
		delete(o.slots, id)
	}
}

// dropLocked removes a queued item if it need not be sent any more, and reports
// whether it has.
func (o *Outbox) dropLocked(it *item) bool {
	c := o.coverLocked(&it.write)
	if c == nil && it.write.Stamp.Generation >= o.before[it.write.Group] {
		return false
	}
	if c != nil {
		o.stats.Coalesced++
	} else {
		o.stats.Expired++
	}
	o.unqueueLocked(it)
	o.removeLocked(it, c)
	return true
}

// boundLocked makes room until the items are within the bound, or until there is nothing
// left but a Clear for each group and what is in flight.
func (o *Outbox) boundLocked() {
	for o.bytes > o.config.MaxBytes && o.valued.Len() > 0 {
		if it := o.valued.Front().Value.(*item); !o.dropLocked(it) {
			o.stripLocked(it)
			o.stats.DroppedValues++
		}
	}
	for o.bytes > o.config.MaxBytes && o.foldable.Len() > 0 {
		if it := o.foldable.Front().Value.(*item); !o.dropLocked(it) {
			o.foldLocked(it)
		}
	}
}

// stripLocked makes a queued note a mere floor.
func (o *Outbox) stripLocked(it *item) {
	o.bytes -= size(&it.write)
	strip(&it.write)
	o.bytes += size(&it.write)
	o.valued.Remove(it.valued)
	it.valued = nil
}

// foldLocked makes a queued note part of its group's queued Clear. Nobody has asked for
// that Clear, and only this region gets it: it is the floor that a full
// expiry.Floors would raise, in the same form.
func (o *Outbox) foldLocked(it *item) {
	w := message.Write{Group: it.write.Group, Clear: true, Collapsed: true, Stamp: expiry.Removal(it.write.Stamp.Generation)}
	o.stats.Collapsed++
	o.unqueueLocked(it)
	var floor *item
	if s := o.slots[idOf(&w)]; s != nil && s.queued != nil {
		floor = s.queued
		o.replaceLocked(floor, w, it.at) // it is below, otherwise it would cover the note
	} else {
		floor = &item{write: w, at: it.at, since: it.since}
		floor.age = o.pending.InsertBefore(floor, it.age)
		o.bytes += size(&w)
		o.queueLocked(floor, o.unaddressed.PushFront)
	}
	o.removeLocked(it, floor)
}

// strip leaves of n what it would be without a value.
func strip(w *message.Write) {
	*w = message.Write{Group: w.Group, Key: w.Key, Scope: w.Scope, Clear: w.Clear, Collapsed: w.Collapsed, Stamp: w.Stamp}
}

// size returns what a note is charged.
func size(w *message.Write) int64 {
	return int64(len(w.Group)+len(w.Key)+cap(w.Value)) + Overhead
}
