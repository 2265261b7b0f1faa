package writebehind

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
)

// The wait before each retry of a key doubles from minBackoff to maxBackoff. It is shortened by up to a
// half at random, so that keys that failed together are not retried together.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// warningInterval is the least time between two logged failures.
const warningInterval = time.Second

// A call is one call of Store.
type call struct {
	item  *item
	write Write
	since expiry.Instant // the item's since when the call began
	end   expiry.Instant // when it times out
}

// scheduleLocked wakes the scheduler, or starts it if there is something to do.
func (q *Queue) scheduleLocked() {
	if q.scheduled {
		select {
		case q.wake <- struct{}{}:
		default: // it has yet to look since it was last woken
		}
		return
	}
	if len(q.due) == 0 || q.stopped {
		return
	}
	q.scheduled = q.config.Spawn(q.schedule)
	q.stopped = !q.scheduled
}

// schedule is the scheduler: it starts calls of Store when they are due. It returns when nothing is
// queued that it would start, and no call is running that could time out.
func (q *Queue) schedule() {
	timer := time.NewTimer(time.Hour) // reset below
	defer timer.Stop()
	for {
		wait, more := q.start()
		if !more {
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-q.wake:
		case <-q.config.Context.Done():
		}
	}
}

// start starts as many of the due calls as may run. It returns how long the scheduler can wait until it
// must call start again, or false if the scheduler must end.
func (q *Queue) start() (wait time.Duration, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.config.Context.Err() != nil {
		q.stopped = true
	}
	now := q.config.Now()

	// A call that has timed out but still runs makes room for another key, and blocks only its own.
	q.active = slices.DeleteFunc(q.active, func(c *call) bool { return c.end <= now })
	for !q.stopped && len(q.active) < q.config.parallel && len(q.due) > 0 && q.due[0].due <= now {
		it := q.due[0]
		c := &call{item: it, write: it.write, since: it.since, end: now.Add(q.config.Timeout)}
		if !q.config.Spawn(func() { q.store(c) }) {
			q.stopped = true
			break
		}
		q.due.remove(it)
		it.running = c
		q.active = append(q.active, c)
	}
	if q.stopped || len(q.active) == 0 && len(q.due) == 0 {
		q.scheduled = false
		return 0, false
	}

	next := expiry.Instant(1<<63 - 1)
	for _, c := range q.active {
		next = min(next, c.end)
	}
	if len(q.active) < q.config.parallel && len(q.due) > 0 {
		next = min(next, q.due[0].due)
	}
	return max(next.Sub(now), 1), true
}

var errGoexit = errors.New("the setter called runtime.Goexit")

// A panicError is the error of a call of Store that panicked.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("the setter panicked: %v", e.value) }

// store calls Store and settles the call, even if Store panics or ends the goroutine.
func (q *Queue) store(c *call) {
	ctx, cancel := context.WithTimeout(q.config.Context, q.config.Timeout)
	err := errGoexit // if Store does not return
	defer func() {
		cancel()
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
		if err == nil {
			q.config.Stored(c.write)
		}
		q.settle(c, err)
	}()
	err = q.config.Store(ctx, c.write)
}

// settle records the outcome of a call, and logs it if it failed.
func (q *Queue) settle(c *call, err error) {
	if warning := q.record(c, err); warning != nil {
		q.config.Logger.Warn("write to the origin failed, will be retried", warning...)
	}
}

// record does the work of settle under the lock. It returns what to log, if anything.
func (q *Queue) record(c *call, err error) (warning []any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now, it := q.config.Now(), c.item
	replaced := !it.storing()
	if replaced {
		q.queued.bytes -= c.write.charge()
	}
	it.running = nil
	if i := slices.Index(q.active, c); i >= 0 {
		q.active = slices.Delete(q.active, i, i+1)
	}

	it.due = now
	if err == nil {
		q.stored++
		q.recent.add(it.write.Key, c.write.Stamp)
		it.failures = 0
	} else {
		it.failures++
		it.due = now.Add(q.backoffLocked(it.failures))
		it.since = c.since
		if replaced {
			q.coalesced++
		}
		warning = q.failedLocked(c, err, now)
	}
	q.due.add(it)
	if it.obsolete || err == nil && !replaced {
		q.removeLocked(it)
	}
	q.changedLocked()
	return warning
}

// failedLocked counts a failed call, and returns what to log about it, if anything.
func (q *Queue) failedLocked(c *call, err error, now expiry.Instant) (warning []any) {
	if q.config.Context.Err() != nil {
		return nil // this node ended the call, so the origin is not to blame
	}
	q.failed++
	q.failure = err
	if now < q.nextWarning {
		return nil
	}
	q.nextWarning = now.Add(warningInterval)
	warning = []any{
		"key", c.write.Key, "err", err,
		"in a row", c.item.failures, "so far", q.failed, "queued", q.queued.writes,
	}
	if p := (*panicError)(nil); errors.As(err, &p) {
		warning = append(warning, "stack", string(p.stack))
	}
	return warning
}

// backoffLocked returns how long to wait after that many failures in a row. During a Flush it is never
// more than minBackoff.
func (q *Queue) backoffLocked(failures int) time.Duration {
	d := minBackoff
	for ; failures > 1 && d < maxBackoff && q.flushes == 0; failures-- {
		d *= 2
	}
	d = min(d, maxBackoff)
	return d - rand.N(d/2)
}

// Flush stores all queued writes now, including those that are put in the meantime, and shortens the waits
// between retries to the least. It returns nil as soon as nothing is queued. If ctx or the queue's own
// context ends first, it returns an error that says how many writes are left; they stay queued.
func (q *Queue) Flush(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flushes++
	defer func() { q.flushes-- }()
	now := q.config.Now()
	for _, it := range q.due {
		it.due = now // equal for all, so any order is a heap
	}
	q.scheduleLocked()

	for q.queued.writes > 0 {
		why := ctx.Err()
		if why != nil {
			why = context.Cause(ctx)
		} else {
			why = q.closedLocked()
		}
		if why != nil {
			if q.failure != nil {
				why = fmt.Errorf("%w; the last failure: %w", why, q.failure)
			}
			return fmt.Errorf("%d writes have not reached the origin: %w", q.queued.writes, why)
		}
		if q.idle == nil {
			q.idle = make(chan struct{})
		}
		idle := q.idle
		q.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
		case <-q.config.Context.Done():
		}
		q.mu.Lock()
	}
	return nil
}

// A schedule is a heap of items, ordered by due.
type schedule []*item

func (s *schedule) add(it *item)    { heap.Push(s, it) }
func (s *schedule) remove(it *item) { heap.Remove(s, it.index) }

// These methods implement heap.Interface.
func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due < s[j].due }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}

func (s *schedule) Push(x any) {
	it := x.(*item)
	it.index = len(*s)
	*s = append(*s, it)
}

func (s *schedule) Pop() any {
	last := len(*s) - 1
	it := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return it
}
