// Package flight shares work among callers that want the same key. It is a singleflight whose flights
// belong to nobody: a flight runs under its own context until it is finished, its time is up, or its last
// waiter gives up. A waiter that gives up does not affect the others.
//
// golang.org/x/sync/singleflight does not serve here. It does not count waiters, so it cannot end a load
// that nobody wants any more, and it cannot be told that a flight is too old to join.
//
// A [Table] has at most one flight for each key that callers can join. Whoever waits gets the flight's
// answer, unless the waiter's own context ends first. A caller joins only flights that are not below its
// floor; an answer can be outdated for other reasons, of which this package knows nothing. Nor does it
// promise that the work stops when a flight's context ends: that is up to the work.
package flight

import (
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
)

// A Table has the flights under way whose answers are of type A. Make one with [NewTable]. The methods are
// safe for concurrent use.
type Table[A any] struct {
	parent context.Context   // ends all flights
	limit  time.Duration     // ends each flight
	spawn  func(func()) bool // starts a goroutine, or reports that it is too late for that
	closed A                 // the answer then

	mu    sync.Mutex
	byKey map[string]*Flight[A] // guarded by mu
}

// A Flight is one run of the work for a key. Its methods return what never changes.
type Flight[A any] struct {
	key      string
	floor    expiry.Stamp
	known    expiry.Seq
	deadline time.Time

	// The following are guarded by Table.mu. ctx, cancel and done are made on first use, since most flights
	// end before anybody needs them.
	waiters int
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed by Finish
	ended   bool
	answer  A // set when ended is
}

// NewTable returns an empty table. The contexts of its flights end with parent, and limit after the flight
// was made. spawn starts a goroutine for the work of a flight; if it returns false instead, the flight's
// answer is closed.
func NewTable[A any](
	parent context.Context, limit time.Duration, spawn func(func()) bool, closed A,
) *Table[A] {
	byKey := make(map[string]*Flight[A])
	return &Table[A]{parent: parent, limit: limit, spawn: spawn, closed: closed, byKey: byKey}
}

// Parent returns the parent of the flights' contexts.
func (t *Table[A]) Parent() context.Context { return t.parent }

// Limit returns how long a flight may run.
func (t *Table[A]) Limit() time.Duration { return t.limit }

// Key returns the key that the flight is for.
func (f *Flight[A]) Key() string { return f.key }

// Floor returns the key's floor when the flight was made. The flight's answer is not below it, but may be
// below a higher one. So a caller that knows of a later write, and hence has a higher floor, must not join.
func (f *Flight[A]) Floor() expiry.Stamp { return f.floor }

// Known returns the Seq of the last write that was known when the flight was made.
func (f *Flight[A]) Known() expiry.Seq { return f.known }

// JoinOrStart joins the flight for key as Join does, and starts run if the caller leads. Unlike singleflight's Do it
// returns at once. The caller must call Wait.
func (t *Table[A]) JoinOrStart(
	key string, floor expiry.Stamp, known expiry.Seq, run func(context.Context) A,
) (f *Flight[A], leads bool) {
	f, leads = t.Join(key, floor, known)
	if leads {
		t.Start(f, run)
	}
	return f, leads
}

// Join adds the caller to the waiters of the flight for key. If there is no flight, or its floor is below the
// caller's, it makes a new one and leads is true. Whoever leads must see to it that Finish is called: by
// calling it, or by Start. Everybody else must call Wait.
func (t *Table[A]) Join(key string, floor expiry.Stamp, known expiry.Seq) (f *Flight[A], leads bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.byKey[key]; f != nil && !f.floor.Below(floor) {
		f.waiters++
		return f, false
	}
	// A flight that is too old loses its place in the table and nothing else: its waiters came before the
	// write, so they may have its answer.
	return t.beginLocked(key, floor, known), true
}

// Seal lets nobody join f any more.
func (t *Table[A]) Seal(f *Flight[A]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[f.key] == f {
		delete(t.byKey, f.key)
	}
}

func (t *Table[A]) make(key string, floor expiry.Stamp, known expiry.Seq) *Flight[A] {
	return &Flight[A]{key: key, floor: floor, known: known, waiters: 1, deadline: time.Now().Add(t.limit)}
}

// Lead makes a flight for key unless there is one, whatever its floor. The caller leads it, as in Join. It
// counts as a waiter that never gives up, so the flight goes on when all that have joined it do.
func (t *Table[A]) Lead(key string, floor expiry.Stamp, known expiry.Seq) (f *Flight[A], ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[key] != nil {
		return nil, false
	}
	return t.beginLocked(key, floor, known), true
}

// Detach takes all flights out of the table, so nobody joins them any more. Those who wait for one already
// still get its answer.
func (t *Table[A]) Detach() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.byKey)
}

// Start calls run on a goroutine of its own, with the flight's context, and finishes the flight with what it
// returns. Only the caller that leads the flight may call it.
func (t *Table[A]) Start(f *Flight[A], run func(context.Context) A) {
	ctx := t.Context(f)
	if !t.spawn(func() { t.Finish(f, run(ctx)) }) {
		t.Finish(f, t.closed)
	}
}

// Context returns the context for the work of the flight. It ends when the flight is finished, when its time
// is up, or when its last waiter gives up.
func (t *Table[A]) Context(f *Flight[A]) context.Context {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.contextLocked(f)
}

// Wait waits for the flight's answer. ok is false if ctx ends first; then the caller is no waiter any more,
// and if it was the last one the flight's context ends. Each waiter calls Wait once.
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
	if f.ended { // both have happened: callers that wait for several flights in turn rely on getting the answer
		return f.answer, true
	}
	if f.waiters--; f.waiters == 0 {
		// First out of the table, so that nobody joins a flight that is being cancelled.
		t.forgetLocked(f)
		t.contextLocked(f) // made even now: the work may ask for it later, and must find it cancelled
		f.cancel()
	}
	return answer, false
}

// Finish ends the flight with an answer, which all waiters get. It must be called once for each flight, also
// for one whose context has ended.
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

// beginLocked makes a flight and puts it into the table, in place of an older one.
func (t *Table[A]) beginLocked(key string, floor expiry.Stamp, known expiry.Seq) *Flight[A] {
	f := t.make(key, floor, known)
	t.byKey[key] = f
	return f
}

func (t *Table[A]) contextLocked(f *Flight[A]) context.Context {
	if f.ctx == nil {
		f.ctx, f.cancel = context.WithDeadline(t.parent, f.deadline)
	}
	return f.ctx
}

// forgetLocked takes f out of the table, unless another flight has taken its place.
func (t *Table[A]) forgetLocked(f *Flight[A]) {
	if t.byKey[f.key] == f {
		delete(t.byKey, f.key)
	}
}
