// Package outbox replicates writes between regions. A node keeps one Outbox for each other region: it
// holds the writes that the region has not confirmed yet and decides what to send next. The receiving
// node keeps an Inbox, which detects lost pushes.
//
// An Outbox keeps each write until the region has it, or a newer one that covers it, or until
// the write no longer matters (see Outbox.Forget). To stay within its bound it may drop values, and then
// collapse writes into one invalidation of their whole group: the region has misses, never stale values.
// It does not promise order, or that a write arrives only once, and it does not survive the process.
//
// Both types are state machines: they do no I/O, start no goroutines and read no clock.
// Design: docs/design.md, "Between regions".
package outbox

import (
	"container/list"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
)

// overhead is what a queued write costs in bytes beyond its key, its group's name and its value.
// TestOverhead measures it.
const overhead = 512

// Config configures an Outbox. A zero field stands for its default, except for Epoch.
type Config struct {
	MaxBytes int64             // bounds all writes held, queued or in flight; default 64 MiB
	Epoch    expiry.Generation // when this node started
	Probe    time.Duration     // a target silent for this long is asked what has arrived; default 1 s

	// Only tests change these.
	batchBytes int // bounds the writes in one push, unless there is only one; default 256 KiB
	window     int // bounds the pushes in flight to one target; default 256
}

// An Outbox holds the writes that one other region has not confirmed. A write in it is
// either queued, or in flight: sent in a push that has been neither answered nor failed; or it
// has arrived and is doubted, see Doubted.
//
// Invariant: for each write that was added and is not older than Forget allows, either the
// region has a write that covers it, or the outbox holds one that does. A write covers
// those of its subject with a lower stamp, and a Clear those of its whole group.
//
// The methods are safe for concurrent use and never block.
type Outbox struct {
	config Config
	wake   chan struct{}

	mu sync.Mutex // guards the following fields, and all items, streams and waiters

	// slots has the items held for each subject. Empty slots are removed.
	slots map[id]*slot

	// pending has all items, ordered by since.
	pending list.List
	// collapsible has the queued items that are not Clears, and valued those of them with a value.
	// The oldest come first, roughly: they are the first to make room.
	collapsible, valued list.List
	// unassigned has the queued items without a target. All other queued items are in the
	// queue of a stream.
	unassigned list.List

	doubts doubts

	streams map[string]*stream // by target
	active  list.List          // all streams with items, and perhaps others; the next in turn first

	seq           uint64                       // the number of batches that Next has returned
	horizon       map[string]expiry.Generation // by group: writes of older generations need not be sent
	bytes         int64                        // the sizes of all items
	inFlightBytes int64                        // the sizes of those in flight
	stats         Stats                        // the counters and InFlight; Stats computes the rest
}

// An id identifies what a write is about.
type id struct {
	group   string
	subject expiry.Subject // empty for a Clear
	clear   bool
}

func idOf(w *message.Write) id { return id{w.Group, w.Subject(), w.Clear} }

// A slot has the items with one id.
//
// Invariants: two items of a slot have the same stamp only if the second was needed
// to bring the value; queued covers all that are in flight.
type slot struct {
	queued   *item // or nil
	inFlight []*item
	doubted  *item // or nil; see doubts
}

// An item is a write that the outbox holds.
type item struct {
	write message.Write // Age is its age at the instant at
	at    expiry.Instant
	since expiry.Instant // when the oldest write that it stands for was added
	sent  bool           // whether it has been sent before

	pendingElem     *list.Element // in Outbox.pending
	collapsibleElem *list.Element // in Outbox.collapsible, or nil
	valuedElem      *list.Element // in Outbox.valued, or nil

	queue     *list.List    // while queued: unassigned, or the stream's queue
	queueElem *list.Element // there, or in Outbox.doubts

	waiters map[*waiter]struct{}
}

// Stats describes an Outbox: what it holds now, and what it has counted since it was made.
type Stats struct {
	Queued   int           // writes waiting to be sent
	InFlight int           // writes waiting for an answer
	Bytes    int64         // the size of both
	Oldest   time.Duration // how long the oldest of them has waited

	Sent          uint64 // writes sent, including those sent again
	Resent        uint64 // writes sent again
	Coalesced     uint64 // writes not sent because a newer one covered them
	Lost          uint64 // pushes lost, as the receiver's answers show
	DroppedValues uint64 // values dropped to make room
	Collapsed     uint64 // writes collapsed into an invalidation of their group to make room
	Expired       uint64 // writes that no longer mattered when their turn came (see Forget)

	probes uint64 // pushes without writes
}

// New returns an empty Outbox.
func New(config Config) *Outbox {
	if config.MaxBytes == 0 {
		config.MaxBytes = 64 << 20
	}
	if config.batchBytes == 0 {
		config.batchBytes = 256 << 10
	}
	if config.window == 0 {
		config.window = 256
	}
	if config.Probe == 0 {
		config.Probe = time.Second
	}
	return &Outbox{
		config:  config,
		wake:    make(chan struct{}, 1),
		slots:   make(map[id]*slot),
		streams: make(map[string]*stream),
		horizon: make(map[string]expiry.Generation),
	}
}

// Wake returns a channel that receives a value when Next may have something new to return.
// It does not report the passing of time; NextAt does. Only one goroutine should receive from it.
func (o *Outbox) Wake() <-chan struct{} { return o.wake }

func (o *Outbox) wakeUp() {
	select {
	case o.wake <- struct{}{}:
	default: // whoever receives the value already there calls Next after this change
	}
}

// Add queues w, whose Age is its age at now. If a write of the same subject is queued already,
// the newer of the two replaces the other. The caller must not modify w.Value afterwards.
func (o *Outbox) Add(w message.Write, now expiry.Instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.coverLocked(&w) != nil {
		o.stats.Coalesced++
		return
	}
	if w.HasValue && size(&w) > o.config.MaxBytes-o.inFlightBytes {
		dropValue(&w) // dropping all other queued values would not make enough room
		o.stats.DroppedValues++
	}
	if s := o.slots[idOf(&w)]; s != nil && s.queued != nil {
		o.stats.Coalesced++
		o.replaceLocked(s.queued, w, now)
	} else {
		o.addLocked(&item{write: w, at: now, since: now})
	}
	o.makeRoomLocked()
	o.wakeUp()
}

// addLocked adds a new item, the latest of all, and queues it.
func (o *Outbox) addLocked(it *item) {
	it.pendingElem = o.pending.PushBack(it)
	o.bytes += size(&it.write)
	o.queueLocked(it, o.unassigned.PushBack)
}

// Forget declares that the writes of a group with generations below before no longer matter, so
// they need not be sent. The caller makes the promise that expiry.Floors.Forget asks for.
func (o *Outbox) Forget(group string, before expiry.Generation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.horizon[group] = max(o.horizon[group], before) // they are dropped when their turn comes
	o.forgetDoubtsLocked()
}

// Stats returns the statistics at now.
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

// coverLocked returns an item that covers w, or nil: once the region has confirmed that item, w
// need not be sent. It may be queued, or in flight: if its push fails it is queued again.
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
	for _, it := range s.inFlight {
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

// queueLocked makes it the queued item of its slot, and adds it to unassigned with push.
func (o *Outbox) queueLocked(it *item, push func(any) *list.Element) {
	id := idOf(&it.write)
	s := o.slots[id]
	if s == nil {
		s = &slot{}
		o.slots[id] = s
	}
	s.queued = it
	it.queue, it.queueElem = &o.unassigned, push(it)
	o.trackLocked(it)
}

// trackLocked adds a queued item to the lists of items that can make room.
func (o *Outbox) trackLocked(it *item) {
	push := (*list.List).PushBack
	if it.sent {
		push = (*list.List).PushFront // it is older than what has been queued since
	}
	if !it.write.Clear {
		it.collapsibleElem = push(&o.collapsible, it)
	}
	if it.write.HasValue {
		it.valuedElem = push(&o.valued, it)
	}
}

// untrackLocked removes an item from the lists of items that can make room.
func (o *Outbox) untrackLocked(it *item) {
	if it.collapsibleElem != nil {
		o.collapsible.Remove(it.collapsibleElem)
		it.collapsibleElem = nil
	}
	if it.valuedElem != nil {
		o.valued.Remove(it.valuedElem)
		it.valuedElem = nil
	}
}

// unqueueLocked removes a queued item from its queue and its slot.
func (o *Outbox) unqueueLocked(it *item) {
	it.queue.Remove(it.queueElem)
	it.queue, it.queueElem = nil, nil
	o.untrackLocked(it)
	o.slots[idOf(&it.write)].queued = nil
}

// replaceLocked replaces the write of the queued item it with w, which covers it. The item keeps
// its place, and its waiters now wait for w.
func (o *Outbox) replaceLocked(it *item, w message.Write, now expiry.Instant) {
	o.bytes += size(&w) - size(&it.write)
	it.write, it.at, it.sent = w, now, false
	o.untrackLocked(it)
	o.trackLocked(it)
}

// removeLocked removes an item that is no longer queued or in flight. If cover is nil the item's
// waiters stop waiting for it; otherwise they wait for cover instead.
func (o *Outbox) removeLocked(it, cover *item) {
	if cover != nil && it.since < cover.since {
		cover.since = it.since
		o.pending.MoveBefore(cover.pendingElem, it.pendingElem)
	}
	o.pending.Remove(it.pendingElem)
	o.bytes -= size(&it.write)
	it.transferWaiters(cover)
	id := idOf(&it.write)
	o.releaseLocked(id, o.slots[id])
}

// releaseLocked removes a slot if it is empty.
func (o *Outbox) releaseLocked(id id, s *slot) {
	if s.queued == nil && len(s.inFlight) == 0 && s.doubted == nil {
		delete(o.slots, id)
	}
}

// dropLocked removes a queued item if it no longer needs to be sent, and reports whether it did.
func (o *Outbox) dropLocked(it *item) bool {
	c := o.coverLocked(&it.write)
	if c == nil && !o.isOverLocked(&it.write) {
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

// makeRoomLocked makes room until the items are within the bound, or until nothing is
// left but one Clear for each group and what is in flight.
func (o *Outbox) makeRoomLocked() {
	for o.bytes > o.config.MaxBytes && o.valued.Len() > 0 {
		if it := o.valued.Front().Value.(*item); !o.dropLocked(it) {
			o.dropValueLocked(it)
			o.stats.DroppedValues++
		}
	}
	for o.bytes > o.config.MaxBytes && o.collapsible.Len() > 0 {
		if it := o.collapsible.Front().Value.(*item); !o.dropLocked(it) {
			o.collapseLocked(it)
		}
	}
}

// dropValueLocked drops the value of a queued write and leaves only its floor.
func (o *Outbox) dropValueLocked(it *item) {
	o.bytes -= size(&it.write)
	dropValue(&it.write)
	o.bytes += size(&it.write)
	o.valued.Remove(it.valuedElem)
	it.valuedElem = nil
}

// collapseLocked makes a queued write part of its group's queued Clear. No user asked for that
// Clear, and only this region gets it: it is the floor that a full expiry.Floors would
// raise, in the same form.
func (o *Outbox) collapseLocked(it *item) {
	w := message.Write{
		Group: it.write.Group, Clear: true, Collapsed: true,
		Stamp: expiry.Removal(it.write.Stamp.Generation),
	}
	o.stats.Collapsed++
	o.unqueueLocked(it)
	var floor *item
	if s := o.slots[idOf(&w)]; s != nil && s.queued != nil {
		floor = s.queued
		o.replaceLocked(floor, w, it.at) // the present one is below w, else it would cover the item
	} else {
		floor = &item{write: w, at: it.at, since: it.since}
		floor.pendingElem = o.pending.InsertBefore(floor, it.pendingElem)
		o.bytes += size(&w)
		o.queueLocked(floor, o.unassigned.PushFront)
	}
	o.removeLocked(it, floor)
}

// dropValue removes the value from w, and with it all fields that go with one.
func dropValue(w *message.Write) {
	*w = message.Write{
		Group: w.Group, Key: w.Key, Scope: w.Scope, Clear: w.Clear, Collapsed: w.Collapsed, Stamp: w.Stamp,
	}
}

// size returns how many bytes a write counts for.
func size(w *message.Write) int64 {
	return int64(len(w.Group)+len(w.Key)+cap(w.Value)) + overhead
}
