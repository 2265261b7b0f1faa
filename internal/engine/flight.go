package engine

import (
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
)

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
	// Invariant: the flight's answer is not below it. Hence a caller that
	// knows of a later write, and so has a higher floor, must not join.
	floor expiry.Stamp

	// known is what was known of writes when the flight began. See current.
	known expiry.Mark

	deadline time.Time

	// The following are guarded by flights.mu. Most flights end before anybody needs a
	// context or a channel, so these are made when they are first asked for.
	waiters int
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed by finish
	ended   bool
	answer  answer // set when ended is
}

func newFlights(parent context.Context, limit time.Duration, spawn func(func()) bool) *flights {
	return &flights{parent: parent, limit: limit, spawn: spawn, byKey: make(map[string]*flight)}
}

// begin starts the flight for key with run, or joins one: wait must be called for what it returns.
func (fs *flights) begin(key string, floor expiry.Stamp, known expiry.Mark, run func(context.Context) answer) (f *flight, leads bool) {
	f, leads = fs.join(key, floor, known)
	if leads {
		fs.start(f, run)
	}
	return f, leads
}

// start has run do the work of the flight.
func (fs *flights) start(f *flight, run func(context.Context) answer) {
	ctx := fs.context(f)
	if !fs.spawn(func() { fs.finish(f, run(ctx)) }) {
		fs.finish(f, answer{err: ErrClosed})
	}
}

// join counts the caller among those who wait for the flight for key. If it
// leads, the flight is new, and the caller must see to it that finish is called.
func (fs *flights) join(key string, floor expiry.Stamp, known expiry.Mark) (f *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.byKey[key]; f != nil && !f.floor.Below(floor) {
		f.waiters++
		return f, false
	}
	// A flight that is there but too old loses its place and nothing else:
	// those who wait for it were there before the write.
	return fs.beginLocked(key, floor, known), true
}

// apart is join for one that may share no flight, and with whom nobody shares its own.
func (fs *flights) apart(key string, floor expiry.Stamp, known expiry.Mark) *flight {
	return &flight{key: key, floor: floor, known: known, waiters: 1, deadline: time.Now().Add(fs.limit)}
}

// part has nobody join the flights that there are any more.
func (fs *flights) part() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	clear(fs.byKey)
}

// lead is join for one that does not wait: it starts a flight for a key that has none.
func (fs *flights) lead(key string, floor expiry.Stamp, known expiry.Mark) (f *flight, ok bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byKey[key] != nil {
		return nil, false
	}
	return fs.beginLocked(key, floor, known), true
}

// beginLocked makes a flight, which the caller waits for.
func (fs *flights) beginLocked(key string, floor expiry.Stamp, known expiry.Mark) *flight {
	f := fs.apart(key, floor, known)
	fs.byKey[key] = f
	return f
}

// context returns the flight's context: what works for it runs under that.
func (fs *flights) context(f *flight) context.Context {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.contextLocked(f)
}

func (fs *flights) contextLocked(f *flight) context.Context {
	if f.ctx == nil {
		f.ctx, f.cancel = context.WithDeadline(fs.parent, f.deadline)
	}
	return f.ctx
}

// wait returns the flight's answer, or why ctx ended if that ends first. The
// last one to give up ends the flight.
func (fs *flights) wait(ctx context.Context, f *flight) answer {
	fs.mu.Lock()
	if f.ended {
		fs.mu.Unlock()
		return f.answer
	}
	if f.done == nil {
		f.done = make(chan struct{})
	}
	fs.mu.Unlock()
	select {
	case <-f.done:
		return f.answer
	case <-ctx.Done():
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.ended { // both: the answer is there, which GetMany's waits one after the other count on
		return f.answer
	}
	if f.waiters--; f.waiters == 0 {
		// Out of the table before it is cancelled: who comes now must not
		// join a flight that is ending.
		fs.forgetLocked(f)
		fs.contextLocked(f) // for who has still to ask for it
		f.cancel()
	}
	return answer{err: endOf(context.Cause(ctx))}
}

// finish ends the flight with a.
func (fs *flights) finish(f *flight, a answer) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.forgetLocked(f)
	f.answer, f.ended = a, true
	if f.done != nil {
		close(f.done)
	}
	if f.cancel != nil {
		f.cancel()
	}
}

func (fs *flights) forgetLocked(f *flight) {
	if fs.byKey[f.key] == f {
		delete(fs.byKey, f.key)
	}
}
