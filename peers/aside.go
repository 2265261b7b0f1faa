package peers

import (
	"context"
	"errors"
	"time"
)

// This file decides who reads a client's connection: its goroutine, or a caller that waits for the only
// answer.
//
// To a caller that is alone, a goroutine that reads for it costs a switch of goroutines, and often waking a
// thread, which is as much as the rest of the exchange. So after a few answers with no other request under
// way, the goroutine steps aside: the next caller finds the connection free and reads its answer itself.
// With company it is better the other way round, since one read brings many answers. So the goroutine comes
// back as soon as there is a request whose answer nobody reads. It also comes back for a ping, and when
// there has been no caller for a while, so that the end of the connection and a goodbye are noticed.
//
// Invariant: while a request waits for its answer, or a ping for its pong, somebody reads: the goroutine,
// unless it is aside, or a caller; or the only caller has not begun to wait yet.

// asideFor is for how long, and less than twice that, the goroutine stays aside when no caller
// reads. So much later the end of a connection that was just used may be noticed.
const asideFor = 5 * time.Millisecond

// asideAfter is after how many answers in a row that had no company, each within asideFor of
// the one before, the goroutine steps aside. With two callers, or one that seldom comes, it
// would come and go all the time.
const asideAfter = 8

var (
	// errYield ends the reading of a caller who has waited for long enough.
	errYield = errors.New("the caller does not read any more")

	// errReaderGone ends a connection whose reader has not come back.
	errReaderGone = errors.New("the caller who read has panicked")
)

// turns says whose turn to read is. It is guarded by clientConn.mu.
type turns struct {
	alone  uint          // answers in a row that the goroutine has read and that had no company
	last   time.Time     // when the last answer was read, by whomever
	aside  bool          // the goroutine does not read
	caller bool          // a caller does; only while aside
	count  uint          // callers that have read
	failed error         // what the last one came upon
	back   chan struct{} // wakes the goroutine, which looks at aside then; has room for one
}

// idleLocked reports whether there is nothing for anybody to read now.
func (c *clientConn) idleLocked() bool {
	return len(c.slots) == 0 && c.draining == nil && c.ponged == c.pinged
}

// returnLocked has the goroutine read again, unless a caller does: that one sees to it.
func (c *clientConn) returnLocked() {
	if !c.turns.aside || c.turns.caller {
		return
	}
	c.turns.aside = false
	select {
	case c.turns.back <- struct{}{}:
	default:
	}
}

// stepAside lets callers read, if there is nothing for anybody to read now, and returns when it
// is the goroutine's turn again. The error is what a caller has come upon.
func (c *clientConn) stepAside() error {
	if !c.reader.empty() {
		return nil // one read has brought several answers
	}
	now := time.Now()
	c.mu.Lock()
	if now.Sub(c.turns.last) > asideFor {
		c.turns.alone = 0
	}
	c.turns.alone++
	c.turns.last = now
	aside, seen := c.turns.alone >= asideAfter && c.idleLocked(), c.turns.count
	c.turns.aside = aside
	c.mu.Unlock()
	if !aside {
		return nil
	}
	timer, closed := time.NewTimer(asideFor), c.closed
	defer timer.Stop()
	for {
		ticked, ended := false, false
		select {
		case <-c.turns.back:
		case <-timer.C:
			timer.Reset(asideFor)
			ticked = true
		case <-closed:
			closed, ended = nil, true // a caller that reads notices too, and comes back
		}
		c.mu.Lock()
		if ended || ticked && seen == c.turns.count {
			c.turns.aside = c.turns.caller
		}
		seen = c.turns.count
		aside, err := c.turns.aside, c.turns.failed
		c.mu.Unlock()
		if !aside {
			return err
		}
	}
}

// readFor reads until w is ready, if its answer is the only one that is waited for and
// the goroutine is aside. It gives up after limit, if that is positive, and when ctx ends.
// It reports whether w is ready or it has given up; if not, the answer will come by itself.
func (c *clientConn) readFor(ctx context.Context, w *waiter, limit time.Duration) (over bool) {
	if w.take() {
		return true
	}
	if !c.takeTurn(w) {
		return false
	}
	err := errReaderGone // a hook that is called with what has been read may panic
	defer func() { c.endTurn(err) }()

	c.reader.mayYield = true
	c.reader.yield.Store(false)
	var until time.Time
	if limit > 0 {
		until = time.Now().Add(limit)
	}
	c.reader.yieldAt = until
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.reader.interrupt)
		defer stop()
	}
	var failed error
	for !w.ready && failed == nil {
		_, failed = c.readFrame()
		w.take()
	}
	over = w.ready
	if failed == errYield {
		failed = nil
		over = over || ctx.Err() != nil || limit > 0 && !time.Now().Before(until) // or the interruption was meant for another
	}
	err = failed
	return over
}

// takeTurn makes it the turn of w's caller to read, if there is no other request and nobody
// reads.
func (c *clientConn) takeTurn(w *waiter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.turns.aside || c.turns.caller || len(c.slots) != 1 {
		return false
	}
	for _, s := range c.slots {
		if s.waiter != w {
			return false // the answer for w has just come
		}
	}
	c.turns.caller = true
	return true
}

// endTurn ends the turn of a caller, who has come upon err.
func (c *clientConn) endTurn(err error) {
	c.reader.mayYield, c.reader.yieldAt = false, time.Time{}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turns.caller = false
	c.turns.count++
	c.turns.last = now
	c.turns.failed = err
	if err != nil || !c.idleLocked() {
		c.returnLocked()
	}
}

// take makes the waiter ready if its result is there, and reports whether it is.
func (w *waiter) take() bool {
	select {
	case w.result = <-w.results:
		w.ready = true
	default:
	}
	return w.ready
}
