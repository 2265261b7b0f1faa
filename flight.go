package geocache

import (
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// An answer is what a fill ends with: an entry and where it came from, or an
// error. The entry may be a negative one.
type answer struct {
	entry  *store.Entry
	source Source
	err    error
}

// fresh reports whether a is a live value or absence.
func (a answer) fresh() bool { return a.err == nil && a.source != SourceStale }

// flights are the fills under way at one level, at most one for each key: a
// singleflight whose flights belong to nobody. A flight runs under a context of
// its own until it ends, its time is up, or nobody waits for it any more; a
// caller that gives up takes nobody with it.
//
// golang.org/x/sync/singleflight is not used because it neither counts those
// who wait, so that a load nobody wants could be ended, nor can be told that a
// flight is too old to be joined.
type flights struct {
	parent context.Context   // ends all flights
	limit  time.Duration     // ends each flight
	spawn  func(func()) bool // starts a goroutine, or reports that it is too late for that

	mu    sync.Mutex
	byKey map[string]*flight // guarded by mu
}

type flight struct {
	key string

	// floor was the key's floor when the flight began.
	// Invariant: the flight's answer is newer than it. Hence a caller that
	// knows of a later write, and so has a higher floor, must not join.
	floor expiry.Generation

	ctx    context.Context
	cancel context.CancelFunc

	waiters int // guarded by flights.mu

	done   chan struct{} // closed by finish
	answer answer        // set before done is closed
}

func newFlights(parent context.Context, limit time.Duration, spawn func(func()) bool) *flights {
	return &flights{parent: parent, limit: limit, spawn: spawn, byKey: make(map[string]*flight)}
}

// do returns the answer of the flight for key, which it starts with run if there
// is none that its floor allows it to join.
func (fs *flights) do(ctx context.Context, key string, floor expiry.Generation, run func(context.Context) answer) answer {
	return fs.wait(ctx, fs.begin(key, floor, run))
}

// begin is do without the wait: wait must be called for what it returns.
func (fs *flights) begin(key string, floor expiry.Generation, run func(context.Context) answer) *flight {
	f, leads := fs.join(key, floor)
	if leads {
		fs.start(f, run)
	}
	return f
}

// start has run do the work of the flight.
func (fs *flights) start(f *flight, run func(context.Context) answer) {
	if !fs.spawn(func() { fs.finish(f, run(f.ctx)) }) {
		fs.finish(f, answer{err: ErrClosed})
	}
}

// join counts the caller among those who wait for the flight for key. If it
// leads, the flight is new, and the caller must see to it that finish is called.
func (fs *flights) join(key string, floor expiry.Generation) (f *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.byKey[key]; f != nil && f.floor >= floor {
		f.waiters++
		return f, false
	}
	// A flight that is there but too old loses its place and nothing else:
	// those who wait for it were there before the write.
	f = &flight{key: key, floor: floor, waiters: 1, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithTimeout(fs.parent, fs.limit)
	fs.byKey[key] = f
	return f, true
}

// wait returns the flight's answer, or why ctx ended if that ends first. The
// last one to give up ends the flight.
func (fs *flights) wait(ctx context.Context, f *flight) answer {
	select {
	case <-f.done:
		return f.answer
	case <-ctx.Done():
	}
	select {
	case <-f.done: // both: the answer is there, which GetMany's waits one after the other count on
		return f.answer
	default:
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		// Out of the table before it is cancelled: who comes now must not
		// join a flight that is ending.
		fs.forgetLocked(f)
		f.cancel()
	}
	return answer{err: endOf(context.Cause(ctx))}
}

// finish ends the flight with a.
func (fs *flights) finish(f *flight, a answer) {
	fs.mu.Lock()
	fs.forgetLocked(f)
	fs.mu.Unlock()
	f.answer = a
	close(f.done)
	f.cancel()
}

func (fs *flights) forgetLocked(f *flight) {
	if fs.byKey[f.key] == f {
		delete(fs.byKey, f.key)
	}
}
