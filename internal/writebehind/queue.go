// Package behind is the write-behind queue of one group on one node: the
// writes that the origin does not have yet.
//
// A write is in it in one of two ways. As the key's owner a node has it queued:
// it stores it at the origin, and tries until that succeeds. As the successor it
// has it held: it does nothing with it but keep it, until it hears that the
// origin has it, or until the key has become its own.
//
// It promises that
//
//   - of each key there is one write, the newest: what a newer one has replaced
//     is not stored any more;
//   - what was taken in stays until the origin has it or the caller says that
//     it is not needed here; what cannot be taken in is refused with an error;
//   - a key is stored by one call at a time, and by this node in rising order of
//     stamps;
//   - queued and held writes together take no more than twice Config.MaxBytes.
//
// Two nodes that both store a key are not kept apart. That happens when one of
// them takes the other for dead, or while a key is handed over; stamps make sure
// that they agree on which write it is that the origin ends with (see Hold and
// Drop).
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

// A Write is a value, or the absence of one, that the origin is to get. It is
// not changed by anybody once it has been given to a Queue.
type Write struct {
	Key     string
	Stamp   expiry.Stamp
	Value   []byte // encoded
	Tagged  bool   // tags come before the value; the queue only carries it
	Removed bool   // there is no value

	Born, Expires expiry.Instant // of the cache entry that goes with it
}

// overhead is what a write costs beside its key and its value, in bytes: the
// item and its slots in the map and the schedule take 172 to 191, the rest is
// for its call.
const overhead = 256

// charge is what w counts for.
func (w *Write) charge() int64 { return int64(len(w.Key)) + int64(cap(w.Value)) + overhead }

// Config is what a Queue works with. Those fields that have no default must be
// set.
type Config struct {
	// Store writes w to the origin. For one key it is called once at a time.
	// If it panics that is an error like any other. It should return when its
	// context ends. If it does not, other keys go on, but its own waits for it:
	// nobody else knows whether it will still change the origin, and a newer
	// write that is stored meanwhile might be the one that is overwritten.
	Store func(ctx context.Context, w Write) error

	// Stored is called when Store has succeeded, and before w leaves the queue.
	// It must not block. Default: nothing.
	Stored func(w Write)

	Parallel int           // how many keys are stored at a time; default 16
	MaxBytes int64         // bounds what is queued, and again what is held; default 64 MiB
	Timeout  time.Duration // of one Store; default 10 s

	Now     func() expiry.Instant
	Context context.Context // when it ends, so does every Store
	Logger  *slog.Logger    // default slog.Default()

	// Spawn starts a goroutine, or reports that it is too late for that: then
	// Context has ended or will in a moment. It is called with a lock held.
	Spawn func(func()) bool
}

var (
	// ErrFull says that there is no room for a write.
	ErrFull = errors.New("the write-behind queue is full")

	// ErrTooLarge says that there would be no room for a write if there were no other.
	ErrTooLarge = errors.New("too large for the write-behind queue")
)

// errStopped says that Spawn does not start goroutines any more.
var errStopped = errors.New("the write-behind queue is closing")

// A Queue holds the writes of one group that the origin does not have. Its
// methods are safe for concurrent use.
type Queue struct {
	config Config
	wake   chan struct{} // tells the scheduler to look again

	mu    sync.Mutex // guards the following
	items map[string]*item

	// due has the queued writes that are not being stored, the next to be
	// tried first.
	// Invariant: an item is in due exactly if it is neither held nor running.
	due schedule

	// active are the calls of Store whose time is not up.
	// Invariant: there are at most config.Parallel.
	active []*call

	// queued and held account for the items of either kind, and queued for
	// those writes too that a call still stores and a newer one has replaced.
	// Invariant: queued.bytes + held.bytes ≤ 2 × MaxBytes.
	queued, held usage

	// line has the calls of Put that wait for room, in the order they came.
	// Invariant: none of them is below the present write of its key, or below
	// one that was dropped since it came.
	line []*waiter

	recent    recent
	scheduled bool          // whether the scheduler runs
	stopped   bool          // nothing is started any more
	flushes   int           // calls of Flush under way
	idle      chan struct{} // if not nil: closed when nothing is queued
	failure   error         // of the last Store that failed
	warn      expiry.Instant

	stored, failed, coalesced, refused uint64
}

// An item is what there is of one key.
type item struct {
	write Write          // the newest
	since expiry.Instant // since when the origin lacks a write of the key

	// held says that another node stores the write.
	// Invariant: a held item is not running.
	held bool

	running  *call // of Store for this key, whether its time is up or not
	obsolete bool  // the write has been dropped; nothing but the account knows it until running has ended

	failures int            // in a row
	due      expiry.Instant // when to try
	index    int            // in Queue.due
}

// A waiter is a Put that waits for room.
type waiter struct {
	write Write
	done  chan struct{} // closed when the write is in, or not needed
}

type usage struct {
	writes int
	bytes  int64
}

// New returns an empty queue. It starts goroutines only while something is
// queued.
func New(config Config) *Queue {
	if config.Stored == nil {
		config.Stored = func(Write) {}
	}
	if config.Parallel <= 0 {
		config.Parallel = 16
	}
	if config.MaxBytes <= 0 {
		config.MaxBytes = 64 << 20
	}
	config.MaxBytes = min(config.MaxBytes, math.MaxInt64/4) // twice it, and a write more, can be counted
	if config.Timeout <= 0 {
		config.Timeout = 10 * time.Second
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Queue{config: config, wake: make(chan struct{}, 1), items: make(map[string]*item)}
}

// Put queues w: this node owns the key. It takes the place of an older write of
// the key. If that is being stored, w is stored when the call has ended. If
// there is a newer one, or the origin is known to have it, w is not needed.
//
// If there is no room Put waits for it until ctx ends; the error then is
// ErrFull, or ErrTooLarge at once if there never is. With any error but one that says that the queue is closing, w is not
// in the queue.
func (q *Queue) Put(ctx context.Context, w Write) error {
	q.mu.Lock()
	if err := q.endLocked(); err != nil {
		q.mu.Unlock()
		return err
	}
	if n := w.charge(); n > q.config.MaxBytes {
		q.refused++
		q.mu.Unlock()
		return fmt.Errorf("%w: a write of %d bytes, which takes %d", ErrTooLarge, n, q.config.MaxBytes)
	}
	// One that needs no more room overtakes those that wait for some.
	if growth := q.growthLocked(&w, false); q.fitsLocked(growth, false) && (len(q.line) == 0 || growth.bytes <= 0) {
		q.placeLocked(w, false)
		q.changedLocked()
		err := q.endLocked()
		q.mu.Unlock()
		return err
	}
	me := &waiter{write: w, done: make(chan struct{})}
	q.line = append(q.line, me)
	q.mu.Unlock()

	select {
	case <-me.done:
		return nil
	case <-ctx.Done():
	case <-q.config.Context.Done():
	}

	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.line, me)
	if i < 0 { // both: it is in
		return nil
	}
	q.line = slices.Delete(q.line, i, i+1)
	q.changedLocked() // whoever stood behind it may need less
	if err := q.endLocked(); err != nil {
		return err
	}
	q.refused++
	return fmt.Errorf("%w: %d writes wait for the origin: %w", ErrFull, q.queued.writes, context.Cause(ctx))
}

// Hold keeps w, which another node stores, in place of an older write of the key,
// be it held or queued: who has the newer write is the owner now. It does not
// wait for room. If the error is ErrFull, w is not kept.
//
// While an older write is being stored here, w is queued instead. The older one may
// reach the origin after the owner has stored w, so w is stored once more.
func (q *Queue) Hold(w Write) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[w.Key]
	held := it == nil || it.running == nil
	if !q.fitsLocked(q.growthLocked(&w, held), held) {
		q.refused++
		return fmt.Errorf("%w: it has %d bytes, and %d of other nodes' writes", ErrFull, q.queued.bytes, q.held.bytes)
	}
	q.placeLocked(w, held)
	q.changedLocked()
	return nil
}

// Release says that the origin has the write of key that has stamp s, or a newer
// one: what is here is not needed any more unless it is above s. It is remembered
// for a while, for a Hold that comes late.
func (q *Queue) Release(key string, s expiry.Stamp) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.recent.add(key, s)
	q.dropLocked(key, s)
	q.changedLocked()
}

// Drop says that another node answers for the write of key that has stamp s: what
// is here is not needed any more unless it is above s.
//
// While an older write is being stored here, the one with stamp s itself remains
// and is stored once more, as with Hold.
func (q *Queue) Drop(key string, s expiry.Stamp) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dropLocked(key, s)
	q.changedLocked()
}

// Adopt queues the held writes of the keys that are this node's own now, and
// returns how many there were. There is always room for them. mine must not
// use the queue.
func (q *Queue) Adopt(mine func(key string) bool) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for key, it := range q.items {
		if it.held && mine(key) {
			q.moveLocked(it, false)
			n++
		}
	}
	q.changedLocked()
	return n
}

// Disown holds the queued writes of the keys that are not this node's own any
// more, so that it does not store them while their new owners do, and returns
// them. They are for these to Put, and then to be held or dropped here. One that
// is being stored is left: a later call has it, unless it succeeds. mine must
// not use the queue.
func (q *Queue) Disown(mine func(key string) bool) []Write {
	q.mu.Lock()
	defer q.mu.Unlock()
	var disowned []Write
	for key, it := range q.items {
		if !it.held && it.running == nil && !mine(key) {
			q.moveLocked(it, true)
			disowned = append(disowned, it.write)
		}
	}
	q.changedLocked()
	return disowned
}

// Lookup returns the newest write of key, queued, being stored or held. The
// origin does not have it, so a read of the key must be answered from it.
func (q *Queue) Lookup(key string) (Write, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.items[key]; it != nil && !it.obsolete {
		return it.write, true
	}
	return Write{}, false
}

// Dirty returns all writes, queued, being stored and held, in no order.
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

// endLocked returns why the queue takes nothing in any more, or nil.
func (q *Queue) endLocked() error {
	if q.config.Context.Err() != nil {
		return context.Cause(q.config.Context)
	}
	if q.stopped {
		return errStopped
	}
	return nil
}
