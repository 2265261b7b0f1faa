// Package origin calls user code: getters, setters, removers, codecs, functions passed to Update, Memoize
// and WithOnEvict, discoveries, dialers, listeners and loggers.
//
// Every such call goes through a [Guard], which promises:
//
//   - A panic becomes an error of the caller that waits for the call, and of nobody else.
//   - So does runtime.Goexit, which a test's FailNow calls, if the goroutine belongs to this module.
//     On the user's own goroutine it ends that goroutine, which holds no lock at that point.
//   - A call that does not return occupies its own goroutine and delays only those that choose to wait.
//
// A Guard cannot contain a stack overflow or concurrent map writes: Go ends the process for both.
//
// [Waits] finds getters and setters that wait for themselves.
package origin

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// A Guard counts and reports the failed calls of one owner's user code: a group's, or the whole cache's. A
// nil Guard does neither. Its methods are safe for concurrent use.
type Guard struct {
	// NewPanicError makes the error for a call that panicked. If nil, the error has only the value's text.
	NewPanicError func(value any, stack []byte) error

	// Report is called for each call that did not return, with what was called, what it did, the key, and
	// the number of failed calls so far. Nil reports nothing. It must not call user code.
	Report func(what, did, key string, failed uint64, args ...any)

	failed atomic.Uint64
}

// Failed returns how many calls panicked or ended their goroutine.
func (g *Guard) Failed() uint64 { return g.failed.Load() }

// Call calls f on this goroutine. what names f in errors and logs; key is the key that f is called for.
//
// The error that f returns is user code too: methods of a typed nil may panic. So Call calls them once,
// where a panic does no harm.
func Call[R any](g *Guard, what, key string, f func() (R, error)) (r R, err error) {
	defer func() {
		if p := recover(); p != nil {
			stack := debug.Stack()
			g.failedCall(what, "panicked", key, "panic", p, "stack", string(stack))
			err = g.panicError(p, stack)
		}
	}()
	r, err = f()
	if err != nil {
		_ = err.Error()
		_ = errors.Is(err, ErrGoexit)
	}
	return r, err
}

// A Result is what a call returned.
type Result[R any] struct {
	Value R
	Err   error
}

// Go calls f as Call does, on a goroutine that spawn starts. If f calls runtime.Goexit, the result's error
// wraps ErrGoexit. If f does not return, the caller can abandon it. ok is false if spawn could not start a
// goroutine.
func Go[R any](
	g *Guard, spawn func(func()) bool, what, key string, f func() (R, error),
) (done <-chan Result[R], ok bool) {
	c := make(chan Result[R], 1)
	return c, spawn(func() {
		o, returned := Result[R]{}, false
		defer func() {
			if !returned {
				g.failedCall(what, ErrGoexit.Error(), key)
				o.Err = fmt.Errorf("%s %w", what, ErrGoexit)
			}
			c <- o
		}()
		o.Value, o.Err = Call(g, what, key, f)
		returned = true
	})
}

// Grace is how long a call gets to notice that its context has ended.
const Grace = 20 * time.Millisecond

// Await waits until a call that was given ctx returns, or until ctx has ended and the call has had Grace to
// notice. ok is false if the call is still running then.
func Await[R any](ctx context.Context, done <-chan Result[R]) (o Result[R], ok bool) {
	select {
	case o = <-done:
		return o, true
	case <-ctx.Done():
	}
	select {
	case o = <-done: // it noticed, or had finished anyway
		return o, true
	case <-time.After(Grace):
		return o, false
	}
}

// Spawn starts a goroutine that nothing waits for, except a reader of Go's result.
func Spawn(f func()) bool {
	go f()
	return true
}

// ErrGoexit is wrapped by the error of a call that ended its goroutine.
var ErrGoexit = errors.New("called runtime.Goexit")

// None is the result type of a call that returns only an error.
type None = struct{}

// NoValue adapts a function that returns only an error to Call and Go.
func NoValue(f func() error) func() (None, error) {
	return func() (None, error) { return None{}, f() }
}

func (g *Guard) failedCall(what, did, key string, args ...any) {
	if g == nil {
		return
	}
	failed := g.failed.Add(1)
	if g.Report != nil {
		g.Report(what, did, key, failed, args...)
	}
}

func (g *Guard) panicError(value any, stack []byte) error {
	if g == nil || g.NewPanicError == nil {
		return fmt.Errorf("panicked: %v", value)
	}
	return g.NewPanicError(value, stack)
}
