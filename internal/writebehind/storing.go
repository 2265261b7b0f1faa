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

// Retries of a key wait from firstRetry to lastRetry, twice as long each time,
// less up to a half: keys that failed together do not all come back together.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// warnEvery is how often a failure is logged: of a thousand equal warnings one
// is read.
const warnEvery = time.Second

// A call is one call of Store.
type call struct {
	item  *item
	write Write
	since expiry.Instant // the item's when the call began
	end   expiry.Instant // when its time is up
}

// scheduleLocked sees to it that the scheduler runs and looks at what has
// changed.
func (q *Queue) scheduleLocked() {
	if q.scheduled {
		select {
		case q.wake <- struct{}{}:
		default: // it has not looked yet since the last one
		}
		return
	}
	if len(q.due) == 0 || q.stopped {
		return
	}
	q.scheduled = q.config.Spawn(q.schedule)
	q.stopped = !q.scheduled
}

// schedule starts calls of Store when they are due, until nothing is and no
// call's time has to be watched.
func (q *Queue) schedule() {
	timer := time.NewTimer(time.Hour) // set below
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

// start starts the calls that are due and for which there is a place. It returns how
// long nothing else has to be done, or false if the scheduler is to end.
func (q *Queue) start() (wait time.Duration, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.config.Context.Err() != nil {
		q.stopped = true
	}
	now := q.config.Now()

	// A call that goes on when its time is up gives its place to another key,
	// and keeps its own.
	q.active = slices.DeleteFunc(q.active, func(c *call) bool { return c.end <= now })
	for !q.stopped && len(q.active) < q.config.Parallel && len(q.due) > 0 && q.due[0].due <= now {
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
	if len(q.active) < q.config.Parallel && len(q.due) > 0 {
		next = min(next, q.due[0].due)
	}
	return max(next.Sub(now), 1), true
}

var errGoexit = errors.New("the setter ended its goroutine")

// A panicError is what a panic of Store becomes.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("the setter panicked: %v", e.value) }

// store calls Store, and always comes back from it.
func (q *Queue) store(c *call) {
	ctx, cancel := context.WithTimeout(q.config.Context, q.config.Timeout)
	err := errGoexit // what stands if Store does not return
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

// settle takes in how a call ended.
func (q *Queue) settle(c *call, err error) {
	if warning := q.settled(c, err); warning != nil {
		q.config.Logger.Warn("writing to the origin failed, will be tried again", warning...)
	}
}

// settled is settle but for the warning, which it returns.
func (q *Queue) settled(c *call, err error) (warning []any) {
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

// failedLocked counts a failure, and returns what is to be logged of it, if
// anything is.
func (q *Queue) failedLocked(c *call, err error, now expiry.Instant) (warning []any) {
	if q.config.Context.Err() != nil {
		return nil // it was this node that ended the call
	}
	q.failed++
	q.failure = err
	if now < q.warn {
		return nil
	}
	q.warn = now.Add(warnEvery)
	warning = []any{"key", c.write.Key, "err", err, "in a row", c.item.failures, "so far", q.failed, "queued", q.queued.writes}
	if p := (*panicError)(nil); errors.As(err, &p) {
		warning = append(warning, "stack", string(p.stack))
	}
	return warning
}

// backoffLocked returns how long to wait after that many failures in a row.
// Flush has no time for more than the least.
func (q *Queue) backoffLocked(failures int) time.Duration {
	d := firstRetry
	for ; failures > 1 && d < lastRetry && q.flushes == 0; failures-- {
		d *= 2
	}
	d = min(d, lastRetry)
	return d - rand.N(d/2)
}

// Flush stores all queued writes now, without the waits between retries, and
// those that are put meanwhile. It returns nil as soon as nothing is queued. If
// ctx ends before that, or the queue's own context, the error says how many are left.
func (q *Queue) Flush(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flushes++
	defer func() { q.flushes-- }()
	now := q.config.Now()
	for _, it := range q.due {
		it.due = now // all of them: any order is a heap
	}
	q.scheduleLocked()

	for q.queued.writes > 0 {
		why := ctx.Err()
		if why != nil {
			why = context.Cause(ctx)
		} else {
			why = q.endLocked()
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

// A schedule is a heap of items by when they are due.
type schedule []*item

func (s *schedule) add(it *item)    { heap.Push(s, it) }
func (s *schedule) remove(it *item) { heap.Remove(s, it.index) }

// The methods of heap.Interface.
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

// recentKeys is how many keys recent remembers at least.
const recentKeys = 4096

// recent remembers what the origin has of the keys that were stored last, so
// that a write which comes late is not stored or held again. It forgets half of
// them at a time.
type recent struct{ young, old map[string]expiry.Stamp }

// of returns the highest stamp of key that the origin is known to have.
func (r *recent) of(key string) expiry.Stamp { return r.young[key].Max(r.old[key]) }

func (r *recent) add(key string, s expiry.Stamp) {
	s = s.Max(r.of(key))
	if r.young == nil || len(r.young) >= recentKeys {
		r.young, r.old = make(map[string]expiry.Stamp), r.young
	}
	r.young[key] = s
}
