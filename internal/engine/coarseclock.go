package engine

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
)

// A coarseClock gives hits a slightly outdated instant without reading a clock.
type coarseClock struct {
	exact *expiry.Clock
	now   atomic.Int64 // an expiry.Instant, or noCoarse
}

// coarseMargin is how late the coarse clock is assumed to be at most: longer than a heavily overloaded
// machine keeps a runnable goroutine waiting. Only reads this close to the expiry pay for the exact clock,
// so a long margin is cheap: with a time to live of five minutes and evenly spread reads, one read in 150.
const coarseMargin = 2 * time.Second

// coarseTick is how often the coarse clock is set. It wakes up an idle process, and may delay a refresh
// ahead by that much.
const coarseTick = 20 * time.Millisecond

// noCoarse is the coarse clock's value when nothing sets it: later than every instant, so that the exact
// clock decides.
const noCoarse = math.MaxInt64

// before reports whether t is still in the future, for a hit. Reading the clock costs as much as the rest
// of a hit, so the coarse clock decides while t is further away than that clock may be late.
//
// The goroutine that sets the coarse clock may be later than that: on a badly overloaded machine, or just
// after the process was stopped for a while. So one hit in 64 reads the exact clock, see exactlyBefore.
func (c *coarseClock) before(t expiry.Instant) bool {
	return expiry.Instant(c.now.Load()) < t.Add(-coarseMargin) || c.exactlyBefore(t)
}

// exactlyBefore is before by the exact clock. It also advances the coarse clock: readers keep it up to date
// themselves, the more of them the better. (Without this, 400 busy readers on two cores saw values up to
// 1.2 s past their expiry; with it, none.)
func (c *coarseClock) exactlyBefore(t expiry.Instant) bool {
	coarse, now := c.now.Load(), c.exact.Instant()
	if int64(now) > coarse {
		c.now.CompareAndSwap(coarse, int64(now))
	}
	return now < t
}

// ahead reports whether the lease is certain to be held, for a hit: even if this clock is late by half a
// lease. Unless pongs are late, more is left of it than that.
func (c *coarseClock) ahead(t *lease.Table) bool { return t.HeldAhead(expiry.Instant(c.now.Load())) }

// reached reports whether t may have come. It reads no clock, so it may lag as far behind as the coarse
// clock does. It always returns true if nothing sets that clock.
func (c *coarseClock) reached(t expiry.Instant) bool { return expiry.Instant(c.now.Load()) >= t }

// tick sets the coarse clock until ctx ends.
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
