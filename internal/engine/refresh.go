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

// This file has the fills that no reader waits for: those of WithRefreshAhead before a value expires, and
// those of WithStaleWhileRevalidate after.
//
// Both work like the fill of a miss, with flights, Seqs and floors, and only the key's owner calls the
// getter. A value that is still alive would end such a fill before anything is loaded, here and on every
// node on the way. So a refresh ahead raises its fill's floor to just above the present value.

// A refresher tracks the keys that are being refreshed, and those whose refresh failed a moment ago.
type refresher struct {
	g *Group
	// until says when a key may be refreshed again: the highest instant while a refresh is running.
	until *xsync.Map[string, expiry.Instant]

	// together gathers keys for GetMany, or is nil without one. It never knows how many keys are still to
	// come, so it always waits for gatherTimeout. Nothing else here waits for that.
	together *batchLoad
}

// refreshRetry is the longest pause before a failed refresh is tried again.
const refreshRetry = time.Second

// begin reports whether the caller is to refresh the key now. If so it must call end.
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

// end allows the next refresh of the key from the instant from.
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

// ahead starts a refresh of a live entry that is read shortly before it expires.
func (r *refresher) ahead(e *store.Entry) {
	now := r.g.cache.clock.Instant()
	window := min(r.g.config.RefreshAhead, e.Expires.Sub(e.Born())/2)
	if e.Absent() || now < e.Expires.Add(-window) {
		return
	}
	if until, ok := r.until.Load(e.Key()); ok && now < until {
		return // the common case inside the window
	}
	r.start(e, now, min(window/4, refreshRetry))
}

// whileRevalidating answers with an expired value and starts a refresh. It is for the node that owns the
// key: others ask the owner, and so get the new value as soon as there is one.
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

// atHand answers a local read from memory: by lookup, or with an expired value that is being refreshed.
func (g *Group) atHand(key string) (answer, bool) {
	a, ok := g.lookup(key)
	if !ok {
		a, ok = g.refreshing.whileRevalidating(key)
	}
	return a, ok
}

// start replaces e by a newer value in the background, unless a refresh is running or failed less than
// pause ago.
func (r *refresher) start(e *store.Entry, now expiry.Instant, pause time.Duration) {
	key := strings.Clone(e.Key()) // a part of e, kept as a key here or of a flight, would keep all of e
	if !r.begin(key, now) {
		return
	}
	if there, _ := r.g.store.Peek(key); there != e {
		r.end(key, now) // replaced since it was looked up, perhaps by the last refresh
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

// reload fills e's key as its owner. It returns false if nothing newer has replaced e.
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
		return false // a reader came first, and what its fill finds replaces e
	}
	f.ticket = r.together.ticket(key)
	a := f.runAsOwner(r.g.asOwner.Context(fl))
	r.g.asOwner.Finish(fl, a)
	f.ticket.leave()
	there, ok := r.g.store.Peek(key)
	return a.fresh() && (!ok || e.Below(there.Stamp)) // an absence may not have been stored
}

// renewCopy asks the owner of e's key for a newer value, and returns when to ask again. The owner answers
// from memory, and being asked makes it refresh its own entry. So the first answer is usually the old
// value, and the next one the new.
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
