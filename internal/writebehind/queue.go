// Package writebehind is the write-behind queue of one group on one node: the writes that the origin does
// not have yet.
//
// A write is either queued or held. The owner of the key queues it: it stores the write at the origin and
// retries until that succeeds. The owner's successor holds it: it only keeps the write until it learns that
// the origin has it, or until it becomes the key's owner itself.
//
// A Queue promises that
//
//   - it has one write of each key, the newest: it does not start storing a write that a newer one
//     has replaced;
//   - a write it has accepted stays until the origin has it, a newer write replaces it, or the caller
//     says that it is not needed here; a write that does not fit is refused with an error;
//   - it stores a key with one call at a time, in rising order of stamps;
//   - queued and held writes together take no more than twice Config.MaxBytes.
//
// It does not keep two nodes from storing the same key at once. That happens when one of them takes the
// other for dead, and while a key is handed over. Stamps make sure that both agree on which write the
// origin ends up with (see Hold and Drop). Nor does a queue survive its process; what successors hold does.
package writebehind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
)

// A Write is a value for the origin, or the removal of one. Nobody may modify it once it has been
// given to a Queue.
type Write struct {
	Key     string
	Stamp   expiry.Stamp
	Value   []byte // encoded
	Tagged  bool   // tags precede the value; the queue only carries this
	Removed bool   // the write is a removal: Value is unused

	Born, Expires expiry.Instant // of the cache entry with this value
}

// overhead is what a write costs in bytes beyond its key and its value. The item and its slots in the map
// and the schedule take 172 to 191; the rest is for its call.
const overhead = 256

// charge returns how many bytes w counts for.
func (w *Write) charge() int64 { return int64(len(w.Key)) + int64(cap(w.Value)) + overhead }

// Config configures a Queue. Fields without a default must be set.
type Config struct {
	// Store writes w to the origin. Calls for the same key never overlap. A panic counts as
	// an error. Store should return when its context ends. If it does not, other keys proceed, but
	// its own waits: the call may still change the origin, and could overwrite a newer write stored
	// in the meantime.
	Store func(ctx context.Context, w Write) error

	// Stored is called when Store has succeeded, before w leaves the queue. It must not block.
	Stored func(w Write)

	MaxBytes int64         // bounds the queued writes, and separately those held; default 64 MiB
	Timeout  time.Duration // of one call of Store; default 10 s

	Now     func() expiry.Instant
	Context context.Context // ends every call of Store, and closes the queue
	Logger  *slog.Logger

	// Spawn starts a goroutine, or returns false if it is too late for that: Context has ended
	// or is about to. It is called with a lock held, so it must not block or use the queue.
	Spawn func(func()) bool

	parallel int // how many keys are stored at a time; default 16, and only tests change it
}

var (
	// ErrFull reports that there is no room for a write.
	ErrFull = errors.New("the write-behind queue is full")

	// ErrTooLarge reports that a write would not fit even into an empty queue.
	ErrTooLarge = errors.New("too large for the write-behind queue")
)

// errStopped reports that Spawn no longer starts goroutines.
var errStopped = errors.New("the write-behind queue is closing")

// A Queue has the writes of one group that the origin does not have. Its methods are safe for concurrent
// use, and only Put and Flush block.
type Queue struct {
	config Config
	wake   chan struct{} // makes the scheduler look again

	mu    sync.Mutex // guards the following
	items map[string]*item

	// due has the queued items that are not being stored; the next one to store comes first.
	// Invariant: an item is in due exactly if it is neither held nor running.
	due schedule

	// active has the calls of Store that have not timed out.
	// Invariant: there are at most config.parallel.
	active []*call

	// queued and held are the usage of the items of either kind. queued includes the writes that
	// a call is still storing although a newer one has replaced them.
	// Invariant: queued.bytes + held.bytes ≤ 2 × MaxBytes.
	queued, held usage

	// waiting has the calls of Put that wait for room, in the order in which they came.
	// Invariant: each write is above the present write of its key, and above any of that key
	// dropped since the call came.
	waiting []*waiter

	recent      recent
	scheduled   bool           // whether the scheduler runs
	stopped     bool           // whether starting goroutines has become impossible
	flushes     int            // calls of Flush under way
	idle        chan struct{}  // closed when nothing is queued any more; nil if nobody waits for that
	failure     error          // of the last call of Store that failed
	nextWarning expiry.Instant // when a failure may be logged again

	stored, failed, coalesced, refused uint64
}

// An item is the write of one key.
type item struct {
	write Write          // the newest
	since expiry.Instant // since when the origin has lacked a write of the key

	// held is set if another node stores the write.
	// Invariant: a held item is not running.
	held bool

	running *call // the call of Store for this key, even if it has timed out

	// obsolete is set if the write was dropped while a call was running. The item stays until the call
	// ends, but only the usage still counts it.
	obsolete bool

	failures int            // in a row
	due      expiry.Instant // when to store it
	index    int            // in Queue.due
}

// A waiter is a call of Put that waits for room.
type waiter struct {
	write Write
	done  chan struct{} // closed when the write has been accepted or is not needed
}

// A usage is the number and the size of the queued or of the held writes.
type usage struct {
	writes int
	bytes  int64
}

// New returns an empty queue. It runs goroutines only while something is queued.
func New(config Config) *Queue {
	if config.parallel <= 0 {
		config.parallel = 16
	}
	if config.MaxBytes <= 0 {
		config.MaxBytes = 64 << 20
	}
	config.MaxBytes = min(config.MaxBytes, math.MaxInt64/4) // so that sums of sizes do not overflow
	if config.Timeout <= 0 {
		config.Timeout = 10 * time.Second
	}
	return &Queue{config: config, wake: make(chan struct{}, 1), items: make(map[string]*item)}
}

// Put queues w, a write of a key that this node owns. w replaces an older write of the key; if that is
// being stored, w is stored when the call has ended. If the queue has the same or a newer write, or
// the origin is known to have one, w is not needed and Put returns nil.
//
// If there is no room, Put waits for it until ctx ends, and then returns ErrFull. If w would not fit even
// into an empty queue, Put returns ErrTooLarge at once. When the queue is closing, Put returns the cause of
// Config.Context's end or another error, and w may be in the queue all the same. After ErrFull and
// ErrTooLarge it is not.
func (q *Queue) Put(ctx context.Context, w Write) error {
	q.mu.Lock()
	if err := q.closedLocked(); err != nil {
		q.mu.Unlock()
		return err
	}
	if n := w.charge(); n > q.config.MaxBytes {
		q.refused++
		q.mu.Unlock()
		return fmt.Errorf("%w: a write of %d bytes, at most %d fit", ErrTooLarge, n, q.config.MaxBytes)
	}
	// A write that needs no more room overtakes those that wait for some.
	growth := q.growthLocked(&w, false)
	if q.fitsLocked(growth, false) && (len(q.waiting) == 0 || growth.bytes <= 0) {
		q.placeLocked(w, false)
		q.changedLocked()
		err := q.closedLocked()
		q.mu.Unlock()
		return err
	}
	me := &waiter{write: w, done: make(chan struct{})}
	q.waiting = append(q.waiting, me)
	q.mu.Unlock()

	select {
	case <-me.done:
		return nil
	case <-ctx.Done():
	case <-q.config.Context.Done():
	}

	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, me)
	if i < 0 { // done was closed at the same time
		return nil
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	q.changedLocked() // the next in line may need less room
	if err := q.closedLocked(); err != nil {
		return err
	}
	q.refused++
	return fmt.Errorf("%w: %d writes wait for the origin: %w", ErrFull, q.queued.writes, context.Cause(ctx))
}

// Hold keeps w, which another node stores. It replaces an older write of the key, held or queued: the node
// with the newer write is the owner now. If w is not needed, as for Put, Hold does nothing. It does not
// wait for room: if there is none it returns ErrFull and does not keep w.
//
// If an older write is being stored here, w is queued instead of held. The older one may reach the origin
// after the owner has stored w, so this node must store w again.
func (q *Queue) Hold(w Write) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[w.Key]
	held := it == nil || it.running == nil
	if !q.fitsLocked(q.growthLocked(&w, held), held) {
		q.refused++
		return fmt.Errorf("%w: it has %d bytes of its own writes and %d of other nodes'",
			ErrFull, q.queued.bytes, q.held.bytes)
	}
	q.placeLocked(w, held)
	q.changedLocked()
	return nil
}

// Release declares that the origin has the write of key with stamp s, or a newer one. The write here is
// dropped unless it is above s. The queue remembers s for a while, in case a Hold comes late.
func (q *Queue) Release(key string, s expiry.Stamp) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.recent.add(key, s)
	q.dropLocked(key, s)
	q.changedLocked()
}

// Drop declares that another node takes care of the write of key with stamp s. The write here is dropped
// unless it is above s.
//
// If an older write is being stored here, a queued write with stamp s itself remains and is
// stored again, as with Hold.
func (q *Queue) Drop(key string, s expiry.Stamp) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(key, s)
	q.changedLocked()
}

// Adopt queues the held writes of the keys that this node owns now. There is always room for them. owned
// is called with the queue locked, so it must not use it.
func (q *Queue) Adopt(owned func(key string) bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, it := range q.items {
		if it.held && owned(key) {
			q.moveLocked(it, false)
		}
	}
	q.changedLocked()
}

// Disown holds the queued writes of the keys that this node no longer owns, and returns them: it must not
// store them while their new owners do. The caller hands them to the new owners, which Put them; here they
// stay held until they are dropped. A write that is being stored stays queued, and a later call
// returns it if storing fails. owned is called with the queue locked, so it must not use it.
func (q *Queue) Disown(owned func(key string) bool) []Write {
	q.mu.Lock()
	defer q.mu.Unlock()
	var disowned []Write
	for key, it := range q.items {
		if !it.held && it.running == nil && !owned(key) {
			q.moveLocked(it, true)
			disowned = append(disowned, it.write)
		}
	}
	q.changedLocked()
	return disowned
}

// Lookup returns the newest write of key, queued or held. The origin may not have it, so a read of
// the key must be answered from it.
func (q *Queue) Lookup(key string) (Write, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.items[key]; it != nil && !it.obsolete {
		return it.write, true
	}
	return Write{}, false
}

// Unwritten returns all writes that the origin may not have, queued or held, in no particular order.
func (q *Queue) Unwritten() []Write {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]Write, 0, len(q.items))
	for _, it := range q.items {
		if !it.obsolete {
			all = append(all, it.write)
		}
	}
	return all
}

// closedLocked returns the error that says why the queue no longer accepts writes, or nil if it does.
func (q *Queue) closedLocked() error {
	if q.config.Context.Err() != nil {
		return context.Cause(q.config.Context)
	}
	if q.stopped {
		return errStopped
	}
	return nil
}
