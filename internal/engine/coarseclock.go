package engine

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/expiry"
)

// A coarseClock is the clock that hits read: an instant a moment ago.
type coarseClock struct {
	exact *expiry.Clock
	now   atomic.Int64 // an expiry.Instant, or noCoarse
}

// coarseGuard is by how much the coarse clock may be late: longer than a machine
// that is overloaded many times keeps a ready goroutine waiting. Only reads so
// near to the expiry pay for the exact clock, so a long guard costs little: with
// a time to live of five minutes, one read in 150 if it is read evenly.
const coarseGuard = 2 * time.Second

// coarseTick is how often the coarse clock is set. An idle process wakes up for it, and what
// is refreshed ahead is so by up to that later.
const coarseTick = 20 * time.Millisecond

// noCoarse is the coarse clock when nobody keeps it: later than everything, so
// that the exact clock decides.
const noCoarse = math.MaxInt64

// before reports whether t is still to come, as a hit asks it. Reading the clock costs as much
// as the rest of a hit, so while t is further away than the coarse clock may be
// late, that one decides.
//
// The goroutine that keeps it may be late: on a machine with much more to do than
// it can, or just after the process was stopped for a while. So one hit in 64
// reads the exact clock, see exactlyBefore.
func (c *coarseClock) before(t expiry.Instant) bool {
	return expiry.Instant(c.now.Load()) < t.Add(-coarseGuard) || c.exactlyBefore(t)
}

// exactlyBefore is before by the exact clock. It moves the coarse one on for all: those who
// read keep it themselves, the more of them the better. (Without, 400 busy readers on two
// cores saw values up to 1.2 s past their time, and none with.)
func (c *coarseClock) exactlyBefore(t expiry.Instant) bool {
	coarse, now := c.now.Load(), c.exact.Instant()
	if int64(now) > coarse {
		c.now.CompareAndSwap(coarse, int64(now))
	}
	return now < t
}

// reached reports whether t may have come. It reads no clock: it may be late by as
// much as the coarse clock, and says yes when nobody keeps that.
func (c *coarseClock) reached(t expiry.Instant) bool { return expiry.Instant(c.now.Load()) >= t }

// tick keeps the coarse clock.
func (c *coarseClock) tick(ctx context.Context) {
	ticker := time.NewTicker(coarseTick)
	defer ticker.Stop()
	for {
		c.now.Store(int64(c.exact.Instant()))
		select {
		case <-ticker.C:
		case <-ctx.Done():
			c.now.Store(noCoarse)
			return
		}
	}
}
