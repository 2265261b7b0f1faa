// Package flight shares work among callers who want the same key: a singleflight whose flights belong to
// nobody. A flight runs under a context of its own until it ends, its time is up, or nobody waits for it
// any more. A caller that gives up takes nobody with it.
//
// golang.org/x/sync/singleflight is not used because it does not count those who wait, so a load that
// nobody wants could not be ended, and because it cannot be told that a flight is too old to join.
//
// The package promises at most one joinable flight for each key in a [Table], and that whoever waits for a flight
// gets its answer, or its own context's error. It does not know what an answer is, nor what makes one too
// old beyond the floor that a caller names.
package flight

import (
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
)

// A Table has the flights under way whose answers are of type A. Its methods are safe for concurrent use.
type Table[A any] struct {
	parent context.Context   // ends all flights
	limit  time.Duration     // ends each flight
	spawn  func(func()) bool // starts a goroutine, or reports that it is too late for that
	closed A                 // the answer then

	mu    sync.Mutex
	byKey map[string]*Flight[A] // guarded by mu
}

// A Flight is one run of the work for a key.
type Flight[A any] struct {
	key      string
	floor    expiry.Stamp
	known    expiry.Seq
	deadline time.Time

	// The following are guarded by Table.mu. Most flights end before anybody needs a context or a channel, so
	// these are made when they are first asked for.
	waiters int
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed by Finish
	ended   bool
	answer  A // set when ended is
}

// NewTable returns a table whose flights end with parent, or when they have taken limit. spawn starts their
// goroutines; a flight that it refuses to start has the answer closed.
func NewTable[A any](parent context.Context, limit time.Duration, spawn func(func()) bool, closed A) *Table[A] {
	return &Table[A]{parent: parent, limit: limit, spawn: spawn, closed: closed, byKey: make(map[string]*Flight[A])}
}

// Parent returns the context that ends all flights.
func (t *Table[A]) Parent() context.Context { return t.parent }

// Limit returns how long a flight may take.
func (t *Table[A]) Limit() time.Duration { return t.limit }

// Key returns the key that the flight is for.
func (f *Flight[A]) Key() string { return f.key }

// Floor returns the key's floor when the flight began.
// Invariant: the flight's answer is not below it. So a caller that knows of a later write, and has a higher
// floor, must not join.
func (f *Flight[A]) Floor() expiry.Stamp { return f.floor }

// Known returns what was known of writes when the flight began.
func (f *Flight[A]) Known() expiry.Seq { return f.known }

// Do joins the flight for key, or begins one that does run. The caller must call Wait.
func (t *Table[A]) Do(key string, floor expiry.Stamp, known expiry.Seq, run func(context.Context) A) (f *Flight[A], leads bool) {
	f, leads = t.Join(key, floor, known)
	if leads {
		t.Start(f, run)
	}
	return f, leads
}

// Join counts the caller among those who wait for the flight for key, and makes one if there is none or its
// floor is too low. If the caller leads, the flight is new, and the caller must see to it that Finish is
// called, by Start for example.
func (t *Table[A]) Join(key string, floor expiry.Stamp, known expiry.Seq) (f *Flight[A], leads bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.byKey[key]; f != nil && !f.floor.Below(floor) {
		f.waiters++
		return f, false
	}
	// A flight that is there but too old loses its place and nothing else: those who wait for it came before
	// the write.
	return t.beginLocked(key, floor, known), true
}

// Private is Join for a caller that may share no flight: it makes one that nobody else joins.
func (t *Table[A]) Private(key string, floor expiry.Stamp, known expiry.Seq) *Flight[A] {
	return &Flight[A]{key: key, floor: floor, known: known, waiters: 1, deadline: time.Now().Add(t.limit)}
}

// Lead is Join for a caller that wants no other's answer: it reports false if there is a flight for key.
func (t *Table[A]) Lead(key string, floor expiry.Stamp, known expiry.Seq) (f *Flight[A], ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[key] != nil {
		return nil, false
	}
	return t.beginLocked(key, floor, known), true
}

// Detach lets nobody join the present flights any more.
func (t *Table[A]) Detach() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.byKey)
}

// Start has run do the work of the flight on a goroutine.
func (t *Table[A]) Start(f *Flight[A], run func(context.Context) A) {
	ctx := t.Context(f)
	if !t.spawn(func() { t.Finish(f, run(ctx)) }) {
		t.Finish(f, t.closed)
	}
}

// Context returns the context for the work of the flight. It ends when the flight does.
func (t *Table[A]) Context(f *Flight[A]) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.contextLocked(f)
}

// Wait returns the flight's answer. ok is false if ctx ends first; the last caller to give up ends the flight.
func (t *Table[A]) Wait(ctx context.Context, f *Flight[A]) (answer A, ok bool) {
	t.mu.Lock()
	if f.ended {
		t.mu.Unlock()
		return f.answer, true
	}
	if f.done == nil {
		f.done = make(chan struct{})
	}
	t.mu.Unlock()
	select {
	case <-f.done:
		return f.answer, true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.ended { // both: the answer is there, which callers that wait for several flights in turn count on
		return f.answer, true
	}
	if f.waiters--; f.waiters == 0 {
		// Out of the table before it is cancelled: whoever comes now must not join a flight that is ending.
		t.forgetLocked(f)
		t.contextLocked(f) // for the work, which may not have asked for it yet
		f.cancel()
	}
	return answer, false
}

// Finish ends the flight with an answer.
func (t *Table[A]) Finish(f *Flight[A], answer A) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(f)
	f.answer, f.ended = answer, true
	if f.done != nil {
		close(f.done)
	}
	if f.cancel != nil {
		f.cancel()
	}
}

// beginLocked makes a flight, which the caller waits for.
func (t *Table[A]) beginLocked(key string, floor expiry.Stamp, known expiry.Seq) *Flight[A] {
	f := t.Private(key, floor, known)
	t.byKey[key] = f
	return f
}

func (t *Table[A]) contextLocked(f *Flight[A]) context.Context {
	if f.ctx == nil {
		f.ctx, f.cancel = context.WithDeadline(t.parent, f.deadline)
	}
	return f.ctx
}

func (t *Table[A]) forgetLocked(f *Flight[A]) {
	if t.byKey[f.key] == f {
		delete(t.byKey, f.key)
	}
}
