package engine

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/internal/store"
)

// freshness decides, for one group, what an entry may be used for. It is the only place where that is
// decided: every reader, peer answer, handoff, snapshot and refresh asks it.
//
// Five facts matter. An entry is
//
//	expired       if its time to live is over: expired
//	superseded    if it is below the floor of its key, of the group, or of a scope it is in: superseded
//	maybe older   if it was loaded, and its generation exceeds a write's by less than clocks may
//	              differ: maybeOlder
//	leased        if this node hears of every write, and so knows the floors: leased, hearsOf. An entry
//	              whose key this node does not own now (store.Entry.Leased) needs a lease that others
//	              have granted; for its own, it may also be alone.
//	owned         if this node holds it as the key's owner, former owner or successor: store.Owned
//
// And it may be
//
//	served            to a reader of this process: serves; in a hit: servesHit
//	served as owner   to a node that knows the key's floor: servesAsOwner
//	served stale      past its time to live, marked as such: servesStale, servesRevalidating
//	admitted          to the store, or to readers who began at some point: admissible
//	passed on         to the key's next owner, or to a snapshot: passesOn
//
// Stamps show most of what is superseded, but not all. A load that began before a write may have a higher
// generation, because the clock of the node that loaded it is ahead. Ages, however, are measured: a value
// that has existed for longer than this node has known of the write was loaded before it. See admissible.
//
// Removing a tag or a prefix may affect any entry. Nothing searches for the affected ones: each entry is
// checked when it is next read (see scopeRemoved) and in the sweep.
type freshness struct {
	floors     *expiry.Floors
	clock      *expiry.Clock
	coarse     *coarseClock
	maxDrift   time.Duration
	staleness  time.Duration // how long after its expiry a value may be served, marked as stale
	revalidate time.Duration // the part of staleness during which it is served while it is reloaded

	leases   *lease.Table
	strict   bool          // what is not confirmed must not be served, see lease.Table.Unconfirmed
	caughtUp atomic.Bool   // whether this node knows of all earlier writes to this group
	rejected atomic.Uint64 // entries that were not admissible because they might predate a write
}

// anySeq is later than every Seq. Passing it takes all writes known by now into account.
const anySeq = expiry.Seq(math.MaxUint64)

// leased reports whether this node currently hears of every write to the group. Whatever it serves from
// memory, it serves only while that is so.
func (f *freshness) leased(now expiry.Instant) bool { return f.leases.Held(now) && f.hears() }

// hearsOf reports whether this node currently hears of every write that concerns e. One that is alone does
// not hear of those to the keys of others.
func (f *freshness) hearsOf(e *store.Entry, now expiry.Instant) bool {
	return f.leased(now) && !f.isForeign(e)
}

// isForeign reports whether e is not this node's own although it sees no others: they may be out of sight.
func (f *freshness) isForeign(e *store.Entry) bool { return e.Leased() && f.leases.Alone() }

// leasedHit is leased for a hit, by the coarse clock as long as that will do. Just after the process was
// stopped for a while, it holds until that clock's next tick.
func (f *freshness) leasedHit() bool {
	return (f.coarse.ahead(f.leases) || f.leases.Held(f.clock.Instant())) && f.hears()
}

// hears reports whether this node, while it holds the lease, hears of every write to the group.
func (f *freshness) hears() bool {
	return f.caughtUp.Load() && !(f.strict && f.leases.Unconfirmed())
}

// expired reports whether e's time to live is over.
func (f *freshness) expired(e *store.Entry, now expiry.Instant) bool { return now >= e.Expires }

// superseded reports whether e is below floor, which must be at least its key's, or in a scope that was
// removed after e was loaded.
func (f *freshness) superseded(e *store.Entry, floor expiry.Stamp) bool {
	return e.Below(floor) || f.scopeRemoved(e)
}

// maybeOlder reports whether e may have been loaded before the write with this stamp although e's
// generation is higher.
func (f *freshness) maybeOlder(e *store.Entry, write expiry.Stamp) bool {
	return e.IsLoad() && write.Below(e.Stamp) && e.Generation.Sub(write.Generation) <= 2*f.maxDrift
}

// mayPrecede reports whether e is, or may be, from before the write with this stamp.
func (f *freshness) mayPrecede(e *store.Entry, write expiry.Stamp) bool {
	return e.Below(write) || f.maybeOlder(e, write)
}

// serves reports whether e, an entry of the store, may be served to a reader of this process.
func (f *freshness) serves(e *store.Entry, now expiry.Instant) bool {
	return f.stands(e) && f.hearsOf(e, now) && !f.expired(e, now)
}

// servesHit is serves for a hit, which uses a cheaper clock.
func (f *freshness) servesHit(e *store.Entry) bool {
	return f.stands(e) && f.leasedHit() && !f.isForeign(e) && f.coarse.before(e.Expires)
}

// stands reports whether e, an entry of the store, is superseded by no write that this node knows of. It
// need not check the key's floor: a write that raises the floor drops the entry from the store (see admit).
func (f *freshness) stands(e *store.Entry) bool {
	return e.Generation > f.floors.Group() && !f.scopeRemoved(e)
}

// servesAsOwner reports whether e may answer a node, or a fill, that hears of every write and hence knows
// the key's floor. Then no lease is needed for an entry that this node has as the key's owner, former owner
// or successor: without it the asker would load the key.
func (f *freshness) servesAsOwner(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return f.current(e, floor, now) && (e.Class() == store.Owned || f.hearsOf(e, now))
}

// isUnconfirmed reports whether there may be a later write than the answer, which this node was not told of
// because its part of the region has no majority. What a getter has just returned is no older than any.
func (f *freshness) isUnconfirmed(a answer) bool {
	return a.err == nil && (a.unconfirmed || a.source != SourceGetter && f.leases.Unconfirmed())
}

// current reports whether e is the key's current value as far as this node knows, whoever may serve it.
func (f *freshness) current(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return !f.expired(e, now) && !f.superseded(e, floor)
}

// servesStale reports whether e may be served as a stale value.
func (f *freshness) servesStale(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return !e.Absent() && !f.superseded(e, floor) && now < e.Expires.Add(f.staleness) &&
		(!e.Leased() || f.hearsOf(e, now))
}

// revalidates reports whether e expired so recently that it may be served while it is reloaded.
func (f *freshness) revalidates(e *store.Entry, now expiry.Instant) bool {
	return f.expired(e, now) && now < e.Expires.Add(f.revalidate)
}

// servesRevalidating reports whether the key's owner may serve e, which has expired, while it reloads the
// key.
func (f *freshness) servesRevalidating(e *store.Entry, floor expiry.Stamp, now expiry.Instant) bool {
	return e.Class() == store.Owned && !e.Leased() && f.revalidates(e, now) && f.servesStale(e, floor, now)
}

// passesOn reports whether this node should hand e to the key's next owner, or write it to a snapshot.
func (f *freshness) passesOn(e *store.Entry, now expiry.Instant) bool {
	return e.Class() == store.Owned && !e.Leased() && !e.Absent() &&
		f.current(e, f.floors.Floor(e.Key()), now)
}

// admissible reports whether a value that has arrived here may be stored, or given to readers who began at
// the Seq known.
func (f *freshness) admissible(e *store.Entry, from provenance, known expiry.Seq) bool {
	ok := true
	f.floors.Visit(e.Key(), e.Tags(), func(r expiry.RaisedFloor) bool {
		if r.First >= known {
			return true // no write of that name was known at that time
		}
		older := f.maybeOlder(e, r.Floor) && !f.isSince(e, from, r) && f.precedes(e, from.exact, r.At)
		if older {
			f.rejected.Add(1)
		}
		// If the floor has been raised since known, its earlier value is lost. For a key, the request
		// carries that value, which is enough for what was Set. For a tag it does not, nor does it say
		// whether a load predates the earlier floor. So anything below the present floor is requested
		// again.
		below := e.Below(r.Floor) && (r.Seq < known || r.Scope || e.IsLoad())
		ok = !below && !older
		return ok
	})
	return ok
}

// isSince reports whether e is known to have been loaded after a floor was raised: the floor is that of the very
// Clear that the provenance names, and all else that it stands for is too long ago for clocks to hide.
func (f *freshness) isSince(e *store.Entry, from provenance, r expiry.RaisedFloor) bool {
	return r.Clear && r.Floor.Generation == from.cleared && e.Generation.Sub(f.floors.BeforeClear()) > 2*f.maxDrift
}

// precedes reports whether e may have been loaded before this node learned of a write. at is what the
// clock's Elapsed was at that moment.
func (f *freshness) precedes(e *store.Entry, exact bool, at time.Duration) bool {
	elapsed := f.clock.Elapsed()
	age := f.clock.Instant().Sub(e.Born()) // read after elapsed: the time in between makes e older
	if !exact {
		age += age / 1000 // no clock runs slow by more than that
	}
	return age >= elapsed-at
}

// scopeRemoved reports whether e, an entry of the store, has a tag or prefix that was removed after e
// arrived. Usually none was, which comparing two numbers shows.
func (f *freshness) scopeRemoved(e *store.Entry) bool {
	now := f.floors.ScopeSeq()
	return e.Seen(now) != now && f.scopeRemovedSince(e, now)
}

// scopeRemovedSince is scopeRemoved for an entry that was last checked before the Seq now. It is a
// separate function so that a hit makes no call.
func (f *freshness) scopeRemovedSince(e *store.Entry, now expiry.Seq) bool {
	dead := f.overtaken(e, e.Seen(now), anySeq)
	if !dead {
		e.SetSeen(now)
	}
	return dead
}

// overtaken reports whether e may have been loaded before a write whose name was raised at or after the Seq
// from, and raised for the first time before the Seq to.
func (f *freshness) overtaken(e *store.Entry, from, to expiry.Seq) bool {
	dead := false
	f.floors.Visit(e.Key(), e.Tags(), func(r expiry.RaisedFloor) bool {
		dead = r.Seq >= from && r.First < to && f.mayPrecede(e, r.Floor)
		return !dead
	})
	return dead
}

// floorOf returns the highest floor that applies to e: its key's, its scopes' or the group's.
func (f *freshness) floorOf(e *store.Entry) (floor expiry.Stamp) {
	f.floors.Visit(e.Key(), e.Tags(), func(r expiry.RaisedFloor) bool {
		floor = floor.Max(r.Floor)
		return true
	})
	return floor
}
