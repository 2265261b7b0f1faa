package geocache

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// This file is how this package calls what its users have written: getters, setters, removers, codecs,
// functions of Update, Memoize and WithOnEvict, the discovery, the dialer, the listener and the
// logger. All of it is called through a guard, so that
//
//   - a panic is the error of who waits, a *PanicError, and nobody else's;
//   - so is a runtime.Goexit, as of a test's FailNow, where the goroutine is this package's own. On the
//     caller's it ends that one, which holds nothing then;
//   - what does not return keeps its own goroutine, and those who wait for it as long as they want to.
//
// A stack that overflows, and maps that are written by two at once, end the process all the same: Go
// lets nobody recover from these.

// A guard is for the code of users that belongs to a Group, or to the Cache.
type guard struct {
	cache  *Cache
	group  string
	failed atomic.Uint64 // calls that panicked or ended their goroutine
	log    throttle
}

// call calls f on this goroutine; what says what f is. A nil guard counts and logs nothing.
//
// The error that f returns is of the user's making too, and methods of a nil one may panic. They are
// called here, where that does no harm.
func call[R any](g *guard, what, key string, f func() (R, error)) (r R, err error) {
	defer func() {
		if p := recover(); p != nil {
			e := &PanicError{Value: p, Stack: debug.Stack()}
			g.note(what, "panicked", key, "panic", p, "stack", string(e.Stack))
			err = e
		}
	}()
	r, err = f()
	if err != nil {
		_ = err.Error()
		_ = errors.Is(err, ErrNotFound)
	}
	return r, err
}

// A result is what a call has returned.
type result[R any] struct {
	value R
	err   error
}

// apart calls f as call does, on a goroutine that spawn starts: one that calls runtime.Goexit
// does not end the caller's, and one that does not return can be left behind. What comes is
// received from done. ok is false if spawn could not.
func apart[R any](g *guard, spawn func(func()) bool, what, key string, f func() (R, error)) (done <-chan result[R], ok bool) {
	c := make(chan result[R], 1)
	return c, spawn(func() {
		o, returned := result[R]{}, false
		defer func() {
			if !returned {
				g.note(what, errGoexit.Error(), key)
				o.err = fmt.Errorf("%s %w", what, errGoexit)
			}
			c <- o
		}()
		o.value, o.err = call(g, what, key, f)
		returned = true
	})
}

// heed is how long a call has to notice that its context has ended.
const heed = 20 * time.Millisecond

// heeded waits for a call that was given ctx: until it returns, or until ctx has ended and the call has had
// heed to notice. ok is false if it is still running then.
func heeded[R any](ctx context.Context, done <-chan result[R]) (o result[R], ok bool) {
	select {
	case o = <-done:
		return o, true
	case <-ctx.Done():
	}
	select {
	case o = <-done: // it heeds its context, or was done anyway
		return o, true
	case <-time.After(heed):
		return o, false
	}
}

// within calls f apart and waits for it, or for the end of ctx.
func within[R any](ctx context.Context, g *guard, spawn func(func()) bool, what string, f func() (R, error)) (r R, err error) {
	done, ok := apart(g, spawn, what, "", f)
	if !ok {
		return r, ErrClosed
	}
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		return r, context.Cause(ctx)
	}
}

// goroutine starts one that nothing waits for but who calls apart.
func goroutine(f func()) bool {
	go f()
	return true
}

// errGoexit is in the error of a call that ended its goroutine.
var errGoexit = errors.New("called runtime.Goexit")

// nothing is what calls return that have only an error.
type nothing = struct{}

// returning makes a function that returns an error one that call and apart take.
func returning(f func() error) func() (nothing, error) {
	return func() (nothing, error) { return nothing{}, f() }
}

// note counts a call that has not returned, and logs it: of a thousand equal ones one in a second.
func (g *guard) note(what, did, key string, args ...any) {
	if g == nil {
		return
	}
	failed := g.failed.Add(1)
	if g.cache == nil || !g.log.ok(g.cache.clock.Instant()) {
		return
	}
	var about []any
	if g.group != "" {
		about = append(about, "group", g.group, "key", key)
	}
	g.cache.log.Error(what+" "+did, append(append(about, "so far", failed), args...)...)
}
