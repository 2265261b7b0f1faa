package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/internal/keylock"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file answers reads on a node that may not hear of every write: it has lost its lease, has just come,
// or is a guest; or it sees no majority of the region, and the group is strict. A write may have completed
// without it. So neither what it has in memory, nor a load that began before the read, will do.
//
// Such a read asks a node that does hear of every write. If the owner of the key is this node, or does not
// hear of every write either, it loads the key.
//
// Most often the lease is back within milliseconds: the nodes took different views of the region for a
// moment, or the process stood still. If all lost their leases at once, and each loaded at once what it is
// asked for, the origin would be overrun. So a read first waits for the lease, but not beyond a lease from
// when that ran out. Nor do nodes that start together load a key again and again before they have found each
// other: they wait for a lease from when the group was made.

// An unleased answers the reads of a group without a lease.
type unleased struct {
	g       *Group
	flights *flight.Table[answer]
	turns   keylock.Locks // held by the flight that loads a key
	created expiry.Instant
}

// hearsAll reports whether this node hears of every write to the group, if need be after a wait. A node that
// has just come need not wait: it has others to ask.
func (u *unleased) hearsAll(ctx context.Context) bool {
	return u.g.fresh.leased(u.g.cache.clock.Instant()) || u.g.fresh.caughtUp.Load() && u.awaitLease(ctx)
}

// awaitLease waits for this node to hear of every write to the group, as said above, and reports whether it
// does.
func (u *unleased) awaitLease(ctx context.Context) bool {
	g, c := u.g, u.g.cache
	for {
		resumed := c.resumed.wait()
		now := c.clock.Instant()
		if g.fresh.leased(now) {
			return true
		}
		lapsed := c.leases.Lapsed(now)
		if !g.fresh.caughtUp.Load() {
			lapsed = max(lapsed, u.created)
		}
		left := lapsed.Add(c.config.Lease).Sub(now)
		if lapsed == 0 || left <= 0 {
			return false
		}
		timer := time.NewTimer(left)
		select {
		case <-resumed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// askUnleased answers a reader of this process.
func (f fill) askUnleased(ctx context.Context) answer {
	home := f.g.cache.topology().Home // without this node if it is a guest
	if !f.g.servesAsOwner(home, f.key) {
		for _, n := range home.Owners(f.key, 2) {
			if n.ID == f.g.cache.node.ID {
				continue
			}
			if a, ok := f.askConfirmed(ctx, n); ok {
				return f.orStaleForWaiter(ctx, a)
			}
		}
		f.g.stats.fallbacks.Add(1)
	}
	return f.orStaleForWaiter(ctx, f.loadUnleased(ctx))
}

// askConfirmed asks a node that is to answer by what it knows of writes, not by what this node knows.
func (f fill) askConfirmed(ctx context.Context, n regions.Node) (answer, bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.g.viaOwner.Limit(), ErrTimeout)
	defer cancel()
	req := f.copyRequest()
	req.hop = peers.HopConfirmed
	return req.send(ctx, n)
}

// loadUnleased loads the key for a read that begins now, on behalf of this process or of another node. Reads
// share a load that has not begun yet. So for each key one load runs and one waits for it to end, however
// many reads there are.
func (f fill) loadUnleased(ctx context.Context) answer {
	u := &f.g.unleased
	if u.awaitLease(ctx) {
		return f.g.newFill(f.key).above(f.floor).asOwner(ctx)
	}
	fl, leads := u.flights.Join(f.key, f.floor, f.g.floors.Seq())
	if leads {
		u.flights.Start(fl, func(ctx context.Context) answer {
			turn, err := u.turns.Lock(ctx, f.key)
			if err != nil {
				return answer{err: f.g.located(contextError(err))}
			}
			defer turn.Unlock()
			u.flights.Seal(fl)
			return f.g.newFill(f.key).above(f.floor).runUnleased(ctx)
		})
	}
	return awaitFlight(ctx, u.flights, fl)
}

// runUnleased does the work of loadUnleased.
func (f fill) runUnleased(ctx context.Context) answer {
	if f.g.fresh.leased(f.g.cache.clock.Instant()) {
		return f.asOwner(ctx)
	}
	if a, ok := f.g.origin.unwritten(ctx, f.key, f.floor); ok {
		return a // the queue is the origin
	}
	if f.floor.IsSet() && !f.g.origin.any() {
		if a, ok := f.setUnconfirmed(ctx); ok {
			return a
		}
	}
	// Whatever was loaded before now is below this floor, here and in other regions.
	a := f.above(expiry.Removal(f.g.cache.clock.Now())).asOwner(ctx)
	return f.orStale(ctx, a)
}

// setUnconfirmed answers with a value that was Set and that no origin has. No getter can tell whether it is
// still the key's value, and a load would hide it for good.
func (f fill) setUnconfirmed(ctx context.Context) (answer, bool) {
	a, ok := f.fromStore()
	if !ok {
		if a, _ = f.peekFormerOwners(ctx, f.g.cache.topology()); a.entry == nil {
			return answer{}, false
		}
	}
	if a.entry.IsLoad() {
		return answer{}, false // somebody has loaded the key since, so that a load hides nothing
	}
	if f.g.config.Strict {
		return answer{err: f.g.located(fmt.Errorf("%w: no origin has the value that was set", ErrCutOff))}, true
	}
	a.unconfirmed = true
	return a, true
}

// unleasedAtOnce bounds the keys of a GetMany that are asked for at the same time without a lease.
const unleasedAtOnce = 64

// fillMany is Group.fillMany without a lease: the keys are asked for one by one, some at a time.
func (u *unleased) fillMany(ctx context.Context, keys []string, answered func(key string, a answer)) {
	type found struct {
		key string
		answer
	}
	todo, done := make(chan string), make(chan found)
	var asking sync.WaitGroup
	for range min(unleasedAtOnce, len(keys)) {
		asking.Go(func() {
			for key := range todo {
				done <- found{key, u.g.fill(ctx, key)}
			}
		})
	}
	go func() {
		for _, key := range keys {
			todo <- key
		}
		close(todo)
		asking.Wait()
		close(done)
	}()
	for f := range done {
		answered(f.key, f.answer)
	}
}
