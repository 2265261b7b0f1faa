package expiry

import (
	"fmt"
	"sync/atomic"
	"time"
)

// A Clock answers the two questions that freshness asks about time.
//
// Which of two events is later? Now stamps events with generations, and Merge takes in the generations of
// other nodes. So the answer is the same on every node, although their wall clocks differ.
//
// How long ago was an event? Instant measures the time since the clock was created on this node. Ages are
// measured, never computed from the wall clocks of two nodes: a node whose clock is 400 ms behind would
// then serve a value 400 ms too long.
//
// All methods are safe for concurrent use.
type Clock struct {
	now      func() time.Time
	maxDrift time.Duration
	start    time.Time // when the clock was created, by now
	created  time.Time // the same, by the machine's clock

	// last is the highest generation issued or merged.
	// Invariant: it never decreases, so the generations issued here strictly increase.
	last atomic.Uint64

	// ahead is how much more the wall clock had advanced than the monotonic clock since start, when the
	// wall clock last stepped. skipped is the sum of the forward steps. Both are in nanoseconds.
	// Invariant: skipped never decreases, so neither do instants.
	ahead, skipped atomic.Int64
}

// step is the smallest divergence between the wall clock and the monotonic clock that counts as a step.
// Without a step, readings of the two clocks diverge by less.
const step = 50 * time.Millisecond

// DefaultMaxDrift is the default for how far another node's clock may be ahead of this node's.
const DefaultMaxDrift = 500 * time.Millisecond

// NewClock returns a clock that reads the physical time from now, and refuses clocks that are more than
// maxDrift ahead of it. The default for now is time.Now, if it is nil; for maxDrift it is DefaultMaxDrift,
// if it is not positive. Times returned by now must have a monotonic reading, as those of time.Now do, or
// must never go back.
func NewClock(now func() time.Time, maxDrift time.Duration) *Clock {
	if now == nil {
		now = time.Now
	}
	if maxDrift <= 0 {
		maxDrift = DefaultMaxDrift
	}
	return &Clock{now: now, maxDrift: maxDrift, start: now(), created: time.Now()}
}

// Now issues the generation of an event that begins now. It is higher than every generation that this
// clock has issued or merged.
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

// Read returns the clock's current reading without issuing it. It is at least as high as every generation
// issued or merged so far. Messages carry it for the receiver to merge.
func (c *Clock) Read() Generation {
	return max(At(c.now()), Generation(c.last.Load()))
}

// Physical returns the reading of this node's wall clock alone. Other nodes pass it to Check.
func (c *Clock) Physical() Generation { return At(c.now()) }

// Check checks another node's Physical reading. It returns a *DriftError if that is more than the allowed
// drift ahead of this node's clock: a single bad clock must not win every write everywhere.
func (c *Clock) Check(physical Generation) error {
	return c.checkDrift(physical, c.maxDrift)
}

// Merge records that generation g exists in the cluster. From then on Now returns higher ones.
//
// The sender may have g from a third node. That one may be the allowed drift ahead of the sender, which
// may be the allowed drift ahead of this node. So the limit is twice the allowed drift. With a lower limit
// a node whose own clock is right would be refused for what it heard. Beyond the limit Merge returns a
// *DriftError and changes nothing.
func (c *Clock) Merge(g Generation) error {
	if g <= Generation(c.last.Load()) {
		return nil
	}
	if err := c.checkDrift(g, 2*c.maxDrift); err != nil {
		return err
	}
	for {
		last := c.last.Load()
		if uint64(g) <= last || c.last.CompareAndSwap(last, uint64(g)) {
			return nil
		}
	}
}

// checkDrift returns a *DriftError if g is more than limit ahead of this node's wall clock.
func (c *Clock) checkDrift(g Generation, limit time.Duration) error {
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
	const format = "clock is %v ahead of ours, the limit is %v: check time synchronisation on both machines"
	return fmt.Sprintf(format, e.Ahead, e.Limit)
}

// Elapsed returns the time since the clock was created, by the machine's monotonic clock. It never jumps,
// and does not count the time that a suspended machine slept. So the difference between two readings is at
// most the time that passed between them.
func (c *Clock) Elapsed() time.Duration { return time.Since(c.created) }

// Wall returns the physical time, for display.
func (c *Clock) Wall() time.Time { return c.now() }

// An Instant is a point in time on one node, in nanoseconds since its Clock was created. Instants of
// different nodes are not comparable.
type Instant int64

// Add returns the instant t+d.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub returns the duration t-u.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// Instant returns the current instant on this node. It never goes back, and never runs slower than the
// monotonic clock. So setting the wall clock back does not extend the life of a value. Setting it forward
// does shorten it: a machine that was suspended looks exactly like that, because its monotonic clock does
// not count the time it slept.
func (c *Clock) Instant() Instant {
	now := c.now()
	elapsed := now.Sub(c.start)                                  // monotonic
	ahead := int64(now.Round(0).Sub(c.start.Round(0)) - elapsed) // Round strips the monotonic reading
	if was := c.ahead.Load(); ahead-was >= int64(step) || was-ahead >= int64(step) {
		// If several goroutines notice the step, one of them adds it.
		if c.ahead.CompareAndSwap(was, ahead) && ahead > was {
			c.skipped.Add(ahead - was)
		}
	}
	return Instant(int64(elapsed) + c.skipped.Load())
}
