package engine

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// freshness decides, for one group, what an entry may be used for. It is the only place where that is
// decided: every reader, peer answer, handoff, snapshot and refresh asks it.
//
// Five facts matter. An entry is
//
//	expired       if its time to live is over: expired
//	superseded    if it is below the floor of its key, of the group, or of a scope it is in: superseded
//	maybe older   if it was loaded, and its generation is higher than a write's by less than clocks
//	              may differ: maybeOlder
//	leased        if this node does not own its key, so that it serves the entry only while it is told
//	              of every write: store.Entry.Leased and leased
//	owned         if this node holds it as the key's owner, former owner or successor: store.Owned
//
// And it may be
//
//	served            to a reader of this process: serves
//	served as owner   to a node that knows the key's floor: servesAsOwner
//	served stale      past its time to live, marked as such: servesStale, servesRevalidating
//	admitted          to the store, or passed to readers who began at some point: admissible
//	passed on         to the key's next owner, or to a snapshot: passesOn
//
// Stamps show most of what is superseded, but not all. A load that began before a write may bear a higher
// generation, because the clock of the node that loaded is ahead. Ages, however, are measured: a value
// that has existed for longer than this node has known of the write was loaded before it. See admissible.
//
// A removed tag or prefix may concern every entry. Nothing looks for them: each entry is checked when it
// is next read, see scopeRemoved, and in the sweep.
type freshness struct {
	floors     *expiry.Floors
	clock      *expiry.Clock
	maxDrift   time.Duration
	staleness  time.Duration // how long past its life a value may be served, marked
	revalidate time.Duration // the part of staleness during which it is loaded anew

	leaseEnd *atomic.Int64 // an expiry.Instant: until then this node is told of every write
	caughtUp atomic.Bool   // this node has caught up with the writes to this group
	rejected atomic.Uint64 // entries that were not admissible because they may be older than a write
}

// anySeq is later than every Seq: who passes it counts all writes known by now.
const anySeq = expiry.Seq(math.MaxUint64)

// leased reports whether this node is told of every write to the group now.
func (f *freshness) leased(now expiry.Instant) bool {
	return int64(now) < f.leaseEnd.Load() && f.caughtUp.Load()
}

// expired reports whether e's time to live is over.
func (f *freshness) expired(e *store.Entry, now expiry.Instant) bool { return now >= e.Expires }

// superseded reports whether e is below a floor, which is not below its key's, or in a scope that was
// removed after it was loaded.
func (f *freshness) superseded(e *store.Entry, floor expiry.Stamp) bool {
	return e.Below(floor) || f.scopeRemoved(e)
}

// maybeOlder reports whether e may have been loaded before a write with this stamp although its
// generation is higher.
func (f *freshness) maybeOlder(e *store.Entry, write expiry.Stamp) bool {
	return e.IsLoad() && write.Below(e.Stamp) && e.Generation.Sub(write.Generation) <= 2*f.maxDrift
}

// serves reports whether e, an entry of the store, may be served to a reader of this process.
func (f *freshness) serves(e *store.Entry, now expiry.Instant) bool {
	return f.servesUnexpired(e) && !f.expired(e, now)
}

// servesUnexpired is serves except for the expiry, which a hit checks by a cheaper clock. It need not look at
// the key's floor: a write that raises it drops the entry from the store (see admit).
func (f *freshness) servesUnexpired(e *store.Entry) bool {
	return e.Generation > f.floors.Group() && !f.scopeRemoved(e) && !(e.Leased() && !f.leased(f.clock.Instant()))
}

// servesAsOwner reports whether e answers a node, or a fill, that knows the key's floor. It need not hold
// the lease for what this node has as the key's owner, former owner or successor: who asks would
// otherwise load what is here.
func (f *freshness) servesAsOwner(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return f.current(e, floor, now) && (e.Class() == store.Owned || f.leased(now))
}

// current reports whether e is the key's present value as far as this node knows, whoever may serve it.
func (f *freshness) current(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return !f.expired(e, now) && !f.superseded(e, floor)
}

// servesStale reports whether e may be served as a stale value.
func (f *freshness) servesStale(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return !e.Absent() && !f.superseded(e, floor) && now < e.Expires.Add(f.staleness) && !(e.Leased() && !f.leased(now))
}

// revalidates reports whether e has expired so recently that it may be served while it is loaded anew.
func (f *freshness) revalidates(e *store.Entry, now expiry.Instant) bool {
	return f.expired(e, now) && now < e.Expires.Add(f.revalidate)
}

// servesRevalidating reports whether e, which has expired, may be served by the key's owner while it loads the
// key anew.
func (f *freshness) servesRevalidating(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return e.Class() == store.Owned && !e.Leased() && f.revalidates(e, now) && f.servesStale(e, floor, now)
}

// passesOn reports whether e is this node's to hand to the key's next owner, or to write to a snapshot.
func (f *freshness) passesOn(e *store.Entry, now expiry.Instant) bool {
	return e.Class() == store.Owned && !e.Leased() && !e.Absent() && f.current(e, f.floors.Floor(e.Key()), now)
}

// admissible reports whether a value that has come here may be kept, or given to those who began to ask
// at a Seq. exact is true if its age was measured on this node alone.
func (f *freshness) admissible(e *store.Entry, exact bool, known expiry.Seq) bool {
	ok := true
	f.floors.Visit(e.Key(), e.Tags(), func(r expiry.RaisedFloor) bool {
		if r.First >= known {
			return true // no write of that name was known then
		}
		older := f.maybeOlder(e, r.Floor) && f.precedes(e, exact, r.At)
		if older {
			f.rejected.Add(1)
		}
		// If the floor has been raised since then, what it was at that Seq is lost. A key's is in the
		// request, which decides for what was set. A tag's is not, nor whether a load may have been older
		// than that. So what is below the present floor is asked for again.
		below := e.Below(r.Floor) && (r.Seq < known || r.Scope || e.IsLoad())
		ok = !below && !older
		return ok
	})
	return ok
}

// precedes reports whether e may have been loaded before this node learnt of a write at a moment of its
// Elapsed clock.
func (f *freshness) precedes(e *store.Entry, exact bool, at time.Duration) bool {
	elapsed := f.clock.Elapsed()
	age := f.clock.Instant().Sub(e.Born()) // read after elapsed: what passes in between makes e older
	if !exact {
		age += age / 1000 // no clock is slower by more
	}
	return age >= elapsed-at
}

// scopeRemoved reports whether e, an entry of the store, is in a tag or a prefix that was removed after
// the entry came. As a rule none was, and comparing two numbers shows it.
func (f *freshness) scopeRemoved(e *store.Entry) bool {
	now := f.floors.ScopeSeq()
	return e.Seen(now) != now && f.scopeRemovedSince(e, now)
}

// scopeRemovedSince is scopeRemoved for an entry that was not checked at Seq now. It is separate so that
// a hit makes no call.
func (f *freshness) scopeRemovedSince(e *store.Entry, now expiry.Seq) bool {
	dead := f.overtaken(e, e.Seen(now), anySeq)
	if !dead {
		e.SetSeen(now)
	}
	return dead
}

// overtaken reports whether e may have been loaded before a write whose name was raised at or after one
// Seq, and was first raised before another.
func (f *freshness) overtaken(e *store.Entry, from, to expiry.Seq) bool {
	dead := false
	f.floors.Visit(e.Key(), e.Tags(), func(r expiry.RaisedFloor) bool {
		dead = r.Seq >= from && r.First < to && (e.Below(r.Floor) || f.maybeOlder(e, r.Floor))
		return !dead
	})
	return dead
}

// floorOf returns the highest floor that concerns e: its key's, its scopes' or the group's.
func (f *freshness) floorOf(e *store.Entry) (floor expiry.Stamp) {
	f.floors.Visit(e.Key(), e.Tags(), func(r expiry.RaisedFloor) bool {
		floor = floor.Max(r.Floor)
		return true
	})
	return floor
}
