package expiry

import (
	"fmt"
	"sync/atomic"
	"time"
)

// A Clock answers the two questions that freshness asks of time.
//
// Which of two events is later? Now stamps events with generations, and Merge
// learns of the generations of others, so that the answer is the same on every
// node although their wall clocks differ.
//
// How long ago was that? Instant measures what has passed on this node since
// the clock was made. Ages are measured, never computed from two nodes' wall
// clocks: a node that is 400 ms behind would serve a value 400 ms too long.
//
// All methods are safe for concurrent use.
type Clock struct {
	now      func() time.Time
	maxDrift time.Duration
	start    time.Time // on now
	made     time.Time // on this machine's clock

	// last is the highest generation issued or merged.
	// Invariant: it never falls, so generations issued here strictly rise.
	last atomic.Uint64

	// ahead is by how much the wall clock has advanced further than the
	// monotonic one since start, as of its last step; skipped is the sum of
	// its steps forward. Both in nanoseconds.
	// Invariant: skipped never falls, so instants never do.
	ahead, skipped atomic.Int64
}

// step is the least difference between the wall clock and the monotonic one that
// is taken for a step. Two readings of a machine's clocks differ by less.
const step = 50 * time.Millisecond

// DefaultMaxDrift is how far ahead of this node's clock another's may be.
const DefaultMaxDrift = 500 * time.Millisecond

// NewClock returns a clock that reads the physical time from now (time.Now if
// nil) and refuses clocks more than maxDrift ahead of it (DefaultMaxDrift if
// maxDrift is not positive). Times from now must have a
// monotonic reading, as those of time.Now do, or never go back.
func NewClock(now func() time.Time, maxDrift time.Duration) *Clock {
	if now == nil {
		now = time.Now
	}
	if maxDrift <= 0 {
		maxDrift = DefaultMaxDrift
	}
	return &Clock{now: now, maxDrift: maxDrift, start: now(), made: time.Now()}
}

// Now returns a generation for an event that begins now: higher than every
// generation this clock has issued or merged.
func (c *Clock) Now() Generation {
	wall := At(c.now())
	for {
		last := Generation(c.last.Load())
		next := max(wall, last+1)
		if c.last.CompareAndSwap(uint64(last), uint64(next)) {
			return next
		}
	}
}

// Read returns the clock's present reading without issuing it: no lower than
// any generation issued or merged so far. It is what a message carries for the
// receiver to merge.
func (c *Clock) Read() Generation {
	return max(At(c.now()), Generation(c.last.Load()))
}

// Physical returns the reading of this node's wall clock alone, by which others
// judge it.
func (c *Clock) Physical() Generation { return At(c.now()) }

// Check judges another node by its Physical reading. One more than the allowed
// drift ahead of this node's is refused with a *DriftError: one bad clock must
// not win every write everywhere.
func (c *Clock) Check(physical Generation) error {
	return c.within(physical, c.maxDrift)
}

// Merge learns that generation g exists somewhere in the cluster: from here on
// Now returns higher ones. Who tells of it may have it from a third node, which
// is the allowed drift ahead of the second as that may be of this one. So twice
// the allowed drift is the limit, beyond which g is refused with a *DriftError
// and changes nothing. With less, a node whose own clock is right would be
// refused for what it heard.
func (c *Clock) Merge(g Generation) error {
	if g <= Generation(c.last.Load()) {
		return nil
	}
	if err := c.within(g, 2*c.maxDrift); err != nil {
		return err
	}
	for {
		last := c.last.Load()
		if uint64(g) <= last || c.last.CompareAndSwap(last, uint64(g)) {
			return nil
		}
	}
}

// within returns a *DriftError if g is more than limit ahead of the wall clock.
func (c *Clock) within(g Generation, limit time.Duration) error {
	if ahead := g.Sub(At(c.now())); ahead > limit {
		return &DriftError{Ahead: ahead, Limit: limit}
	}
	return nil
}

// A DriftError says that another node's clock is too far ahead of this one's.
type DriftError struct {
	Ahead time.Duration // how far ahead it is
	Limit time.Duration // how far ahead it may be
}

func (e *DriftError) Error() string {
	return fmt.Sprintf("clock is %v ahead of ours, %v are allowed: check time synchronisation on both machines", e.Ahead, e.Limit)
}

// Elapsed returns the time that has passed since the clock was made, and nothing else: it never
// jumps, and does not count what a suspended machine has slept. Of two events it
// measures no more than has passed between them.
func (c *Clock) Elapsed() time.Duration { return time.Since(c.made) }

// Wall returns the physical time, for showing to people.
func (c *Clock) Wall() time.Time { return c.now() }

// An Instant is a moment on one node, in nanoseconds since its Clock was made.
// Instants of different nodes cannot be compared.
type Instant int64

// Add returns the instant d after t.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns how long before t the instant u was.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Instant returns the present moment on this node. It never goes back, and it
// never runs slower than the monotonic clock: a wall clock that is set back
// does not lengthen the life of a value. A wall clock that is set forward does
// shorten it, because a machine that was suspended looks just like that and
// its monotonic clock does not count the time it slept. Time can be found to
// have passed; it cannot be taken back.
func (c *Clock) Instant() Instant {
	now := c.now()
	elapsed := now.Sub(c.start)                                  // monotonic
	ahead := int64(now.Round(0).Sub(c.start.Round(0)) - elapsed) // Round strips the monotonic reading
	if was := c.ahead.Load(); ahead-was >= int64(step) || was-ahead >= int64(step) {
		// Of several who notice one adds the step.
		if c.ahead.CompareAndSwap(was, ahead) && ahead > was {
			c.skipped.Add(ahead - was)
		}
	}
	return Instant(int64(elapsed) + c.skipped.Load())
}
