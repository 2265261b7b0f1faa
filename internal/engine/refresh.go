package engine

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// This file is fills that no reader waits for: WithRefreshAhead's before a value
// expires, and WithStaleWhileRevalidate's after.
//
// Both are fills like those of a miss, with flights, marks and floors, and only the
// key's owner calls for a load. A value that is still alive would end such a fill
// before it has loaded anything, here and in every node on its way. So one that
// refreshes ahead asks for what is not below a floor of its own: just above the value that is
// there.

// A refresher has the keys that are being refreshed, and those for which that has failed
// a moment ago.
type refresher struct {
	g     *Group
	until *xsync.Map[string, expiry.Instant] // when the key may be refreshed again; the highest instant while it is being

	// together gathers keys for a BatchGetter; else nil. It never knows of all that are
	// to come, so it waits for as long as it is patient, which nobody else does here.
	together *batchLoad
}

// refreshRetry is the longest pause before a refresh is tried again.
const refreshRetry = time.Second

// begin reports whether the caller is to refresh the key now. It must call end then.
func (r *refresher) begin(key string, now expiry.Instant) bool {
	began := false
	r.until.Compute(key, func(until expiry.Instant, there bool) (expiry.Instant, xsync.ComputeOp) {
		if began = !there || now >= until; !began {
			return until, xsync.CancelOp
		}
		return math.MaxInt64, xsync.UpdateOp
	})
	return began
}

// end lets the next one refresh the key from an instant on.
func (r *refresher) end(key string, from expiry.Instant) { r.until.Store(key, from) }

// forget frees the memory of keys that may be refreshed again.
func (r *refresher) forget(now expiry.Instant) {
	for key := range r.until.All() {
		r.until.Compute(key, func(until expiry.Instant, there bool) (expiry.Instant, xsync.ComputeOp) {
			if there && now >= until {
				return 0, xsync.DeleteOp
			}
			return until, xsync.CancelOp
		})
	}
}

// ahead has a live entry that is read near its expiry refreshed.
func (r *refresher) ahead(e *store.Entry) {
	now := r.g.cache.clock.Instant()
	window := min(r.g.config.RefreshAhead, e.Expires.Sub(e.Born())/2)
	if e.Absent() || now < e.Expires.Add(-window) {
		return
	}
	if until, ok := r.until.Load(e.Key()); ok && now < until {
		return // as most hits in the window find
	}
	r.start(e, now, min(window/4, refreshRetry))
}

// whileRevalidating answers with a value that has expired, and has it refreshed. It
// is for whoever owns the key: others ask there, and so have the new value as soon as there
// is one.
func (r *refresher) whileRevalidating(key string) (answer, bool) {
	if r.g.config.Revalidate == 0 {
		return answer{}, false
	}
	e, ok := r.g.store.Peek(key)
	now := r.g.cache.clock.Instant()
	if !ok || !r.g.fresh.servesRevalidating(e, r.g.floors.Floor(key), now) {
		return answer{}, false
	}
	if r.g.origin.isQueued(key) {
		return answer{}, false // what is queued is fresher than any load
	}
	r.start(e, now, min(r.g.config.Revalidate/4, refreshRetry))
	return answer{entry: e, source: SourceStale, revalidated: true}, true
}

// atHand answers a read of this process from memory: lookup, or an expired value
// that is being refreshed.
func (g *Group) atHand(key string) (answer, bool) {
	a, ok := g.lookup(key)
	if !ok {
		a, ok = g.refreshing.whileRevalidating(key)
	}
	return a, ok
}

// refresh replaces e by a newer value in the background, unless that is being done, or
// has failed less than a pause ago.
func (r *refresher) start(e *store.Entry, now expiry.Instant, pause time.Duration) {
	key := strings.Clone(e.Key()) // which would keep e, as the key of a flight or of what is being refreshed
	if !r.begin(key, now) {
		return
	}
	if there, _ := r.g.store.Peek(key); there != e {
		r.end(key, now) // it has been replaced since it was looked up, by the last refresh perhaps
		return
	}
	r.g.cache.spawn(func() {
		r.g.stats.refreshes.Add(1)
		again := r.g.cache.clock.Instant()
		if home := r.g.cache.topology().Home; r.g.readsFrom(home, key).ID != r.g.cache.node.ID {
			again = r.renewCopy(e, key, pause)
		} else if !r.reload(e, key) {
			again = r.g.cache.clock.Instant().Add(pause)
		}
		r.end(key, again)
	})
}

// reload fills e's key as its owner. It reports false if nothing newer has replaced e.
func (r *refresher) reload(e *store.Entry, key string) bool {
	known, f := r.g.floors.Seq(), r.g.newFill(key)
	if !r.g.fresh.expired(e, r.g.cache.clock.Instant()) {
		if r.g.origin.isQueued(key) {
			return false // the queue is the origin until it is written
		}
		f = f.above(expiry.Removal(e.Generation))
	}
	fl, ok := r.g.asOwner.Lead(key, f.floor, known)
	if !ok {
		return false // a reader has been first, and what that finds replaces e
	}
	f.ticket = r.together.ticket(key)
	a := f.runAsOwner(r.g.asOwner.Context(fl))
	r.g.asOwner.Finish(fl, a)
	f.ticket.leave()
	there, ok := r.g.store.Peek(key)
	return a.fresh() && (!ok || e.Below(there.Stamp)) // an absence may not have been kept
}

// renewCopy asks the owner of e's key for a newer value, and returns when to ask again. The owner
// answers from memory, and that it is asked has it refresh what it has. So the first answer
// is the old value, as a rule, and the next one the new.
func (r *refresher) renewCopy(e *store.Entry, key string, pause time.Duration) expiry.Instant {
	owner := r.g.readsFrom(r.g.cache.topology().Home, key)
	req := r.g.newFill(key).copyRequest()
	req.discard = true
	ctx, cancel := context.WithTimeout(r.g.cache.ctx, r.g.config.LoadTimeout)
	defer cancel()
	a, ok := req.send(ctx, owner)
	if ok && a.fresh() && e.Below(a.entry.Stamp) && a.entry.Expires > a.entry.Born() {
		r.g.admit(a, req.start)
		return r.g.cache.clock.Instant()
	}
	return r.g.cache.clock.Instant().Add(pause)
}
