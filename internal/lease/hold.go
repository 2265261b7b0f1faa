package lease

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/expiry"
)

// hold is what a node may do by the leases that it holds.
type hold struct {
	// end is the instant until which this node may serve what it has in memory: until the earliest of the leases that
	// the other nodes of the view have granted. It is alone for a node that sees no other.
	// Invariant: while it is in the future, this node has been told of every write that has been completed in
	// its region, as far as it sees that.
	end atomic.Int64

	// lapsed is when this node noticed that the lease had run out; 0 while it is held, and before the first.
	lapsed atomic.Int64

	// epoch numbers the times for which that was so without a break. A copy that was asked for in one is not kept
	// in the next.
	epoch atomic.Uint64

	// guestEpoch counts how often this node has become a guest or ceased to be one. It is odd while the node is a
	// guest: from before the others hear so until they have heard otherwise. The result of a fill that began
	// under another number, or under an odd one, is not kept.
	guestEpoch atomic.Uint64

	mu sync.Mutex // guards the following
	// resuming is the end of the leases that have been held without a break since a resume began; 0 while
	// none is under way.
	resuming expiry.Instant
	lone     bool // the present view, or the one that is about to be, has no others
	closed   bool

	returned atomic.Pointer[time.Time] // when this node last ceased to be a guest; nil if it never was one
	looked   atomic.Bool               // whether the region has been looked for, see Looked
}

// alone is the end of the lease of a node that sees no other: there is nobody that it would have to hear from.
const alone = math.MaxInt64

// endAloneLocked ends what a node serves because it was alone.
func (h *hold) endAloneLocked(now expiry.Instant) {
	if h.end.CompareAndSwap(alone, int64(now)) {
		h.lapsed.Store(int64(now))
	}
	if h.resuming == alone {
		h.resuming = now
	}
}

// Held reports whether this node may serve what it has in memory.
func (t *Table) Held(now expiry.Instant) bool { return int64(now) < t.hold.end.Load() }

// Alone reports whether Held is true, or just was, because this node is alone.
func (t *Table) Alone() bool { return t.hold.end.Load() == alone }

// HeldAhead is Held for an instant that may be late by half a lease at most. It is false if that would not do.
func (t *Table) HeldAhead(late expiry.Instant) bool {
	return late < expiry.Instant(t.hold.end.Load()).Add(-t.config.Length/2)
}

// Lapsed returns when this node noticed that its lease had run out; now, if it has not yet. It is zero for a node that
// has held none, and while the lease is held.
func (t *Table) Lapsed(now expiry.Instant) expiry.Instant {
	h := &t.hold
	if end := h.end.Load(); end != 0 && int64(now) >= end {
		h.lapsed.CompareAndSwap(0, int64(now))
		return expiry.Instant(max(end, h.lapsed.Load()))
	}
	return 0
}

// Epoch returns the number of the present epoch; 0 before the first.
func (t *Table) Epoch() uint64 { return t.hold.epoch.Load() }

// GuestEpoch returns how often this node has become a guest or ceased to be one.
func (t *Table) GuestEpoch() uint64 { return t.hold.guestEpoch.Load() }

// A Renewal says what has come of Renew.
type Renewal int

// The results of Renew.
const (
	Unchanged Renewal = iota
	Extended          // the lease goes on
	Resume            // the leases are there again: the caller resumes, from BeginResume to FinishResume
)

// Renew moves the end of the lease to where the nodes of the view have granted it. Call it after each pong
// and each change of the view, and for a node that is alone at AloneFrom. A lease that has run out comes back only by
// resuming.
func (t *Table) Renew(v View) Renewal {
	h := &t.hold
	if q := &t.quorum; !q.agreed.Load() {
		q.ponged(t.hear(v)) // before what is served by that is served for longer
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	end := t.grantedLocked(v)
	now := t.config.Clock.Instant() // after end was read: what has passed meanwhile has passed
	if end != alone {
		h.endAloneLocked(now)
	}
	t.Lapsed(now)
	switch {
	case end <= now || h.closed || h.guestEpoch.Load()%2 == 1:
	case t.Held(now):
		h.end.Store(max(h.end.Load(), int64(end)))
		return Extended
	case h.resuming == 0:
		h.resuming = end
		return Resume
	case now < h.resuming:
		h.resuming = max(h.resuming, end)
	}
	return Unchanged
}

// grantedLocked returns the earliest end of the leases that the other nodes of v have granted. It is 0 if one of them has
// granted none.
func (t *Table) grantedLocked(v View) expiry.Instant {
	if len(v.Others) == 0 {
		if h := &t.hold; !h.lone || !h.looked.Load() || t.AloneFrom(v).After(t.config.Now()) {
			return 0
		}
		return alone
	}
	end := expiry.Instant(math.MaxInt64)
	for _, id := range v.Others {
		p, ok := t.peers.Load(id)
		if !ok {
			return 0
		}
		end = min(end, p.End())
	}
	return end
}

// hear reports whether all other nodes of v hold v, too, and whether one of them sees no majority.
func (t *Table) hear(v View) (all, noMajority bool) {
	all = true
	for _, id := range v.Others {
		p, ok := t.peers.Load(id)
		all = all && ok && p.Agreed(v.Hash) > 0
		noMajority = noMajority || ok && p.noMajority.Load()
	}
	return all, noMajority
}

// Looked notes that the region has been looked for: a node that sees no other from now on may be alone. Without
// Config.Discovers there is nothing to look for.
func (t *Table) Looked() { t.hold.looked.Store(true) }

// StandAlone makes the table that of a node that never has to do with others.
func (t *Table) StandAlone() { t.hold.end.Store(alone) }

// AloneFrom returns from when a node whose view has no others may take itself for all of its region: nobody else can
// hold a lease, or has pinged it lately. The time is zero if that is so from the beginning.
func (t *Table) AloneFrom(v View) time.Time {
	return later(later(t.grants.aloneFrom(v.Hash), t.unknownEnd(v)), t.guestsEnd(v))
}

// BeginResume returns the guest epoch that FinishResume needs. Call it before the journals are fetched.
func (t *Table) BeginResume() (guestEpoch uint64) { return t.GuestEpoch() }

// NextEpoch begins an epoch. Call it when all journals are there, and before the store is swept: what was
// asked for before must not come in after the sweep. A node that is alone keeps no copies, and begins none.
func (t *Table) NextEpoch() { t.hold.epoch.Add(1) }

// FinishResume ends a resume, and reports whether copies may be served: all has gone well, and the leases have not
// broken in between.
func (t *Table) FinishResume(guestEpoch uint64, well bool) bool {
	h := &t.hold
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.guestEpoch.Load() != guestEpoch { // another resume may be under way
		return false
	}
	well = well && t.config.Clock.Instant() < h.resuming && !h.closed
	if well {
		h.end.Store(int64(h.resuming))
		h.lapsed.Store(0)
	}
	h.resuming = 0
	return well
}

// Close gives the lease up for good. Call it before Leave tells the others, who do not wait for its end then.
func (t *Table) Close() {
	h := &t.hold
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.end.Store(0)
	h.lapsed.Store(0)
}

// BecomeGuest gives the lease up. Call it before SetView(Guest): from when the others learn of that, they tell this
// node of no writes.
func (t *Table) BecomeGuest() {
	h := &t.hold
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end.Store(0)
	h.lapsed.Store(0)
	h.resuming = 0
	h.guestEpoch.Add(1)
}

// BeginReturn notes that this node ceases to be a guest. Call it before SetView tells the others.
func (t *Table) BeginReturn() {
	now := t.config.Now()
	t.hold.returned.Store(&now)
}

// EndReturn ends the guest epoch. Call it when the others have been told.
func (t *Table) EndReturn() { t.hold.guestEpoch.Add(1) }

// IsNew reports whether others have never granted this node a lease. They may see it and not have been found by it,
// own keys, and hold leases among themselves.
func (t *Table) IsNew() bool { return t.Epoch() == 0 }

// unknownEnd returns until when nodes that v lacks have to be reckoned with; the zero time if there are none.
func (t *Table) unknownEnd(v View) time.Time {
	if !t.IsNew() {
		return time.Time{}
	}
	return t.UnknownEnd(func(id string) bool { return slices.Contains(v.Others, id) })
}

// IsUnknownPeer reports whether this node is new and does not see the given node of its region, which may own keys
// and hold leases. A guest does neither, and need not be told of writes.
func (t *Table) IsUnknownPeer(v View, id string) bool {
	return t.IsNew() && !slices.Contains(v.Others, id) && !t.HearsGuest(id)
}

// DefersWrites reports whether this node leaves writes of its keys to others that it sees, because those see
// more: it is a guest, or it is new and there are nodes that it does not see.
func (t *Table) DefersWrites(v View) bool {
	return v.Guest || len(v.Others) > 0 && !t.unknownEnd(v).IsZero()
}

// guestsEnd returns the time until which a node that has ceased to be a guest, and is alone, must allow for others
// that did so at the same moment. Within a lease each of them has pinged the others.
func (t *Table) guestsEnd(v View) time.Time {
	if len(v.Others) > 0 {
		return time.Time{}
	}
	returned := t.hold.returned.Load()
	if returned == nil {
		return time.Time{}
	}
	return returned.Add(t.config.Length)
}

// SettledAt returns when v is settled, if that is known by now: from then on no node outside of v holds a lease.
// Ask again after each wait: the others forget a node that has stood still for a lease and a quarter, and may have
// granted leases to others since.
func (t *Table) SettledAt(v View) (at time.Time, known bool) {
	if v.Guest { // nobody tells it what has been granted
		return time.Time{}, false
	}
	at = later(later(t.OwnEnd(v.Hash), t.unknownEnd(v)), t.guestsEnd(v))
	for _, id := range v.Others {
		p, ok := t.peers.Load(id)
		if !ok {
			return at, false
		}
		settled, ok := p.Settled(v.Hash)
		if !ok {
			return at, false
		}
		at = later(at, settled)
	}
	return at, true
}

// Agrees reports whether this node holds a lease that another one has granted for this very view: both see the same
// nodes, and none beside them.
func (t *Table) Agrees(id string, v View) bool {
	p, ok := t.peers.Load(id)
	return ok && p.Agreed(v.Hash) > t.config.Clock.Instant()
}

// InTerm reports whether no other node of the region can take itself for the owner of what this one owns, except for
// the journals, which the caller has: all nodes of the view hold the same view, and no lease runs any more that one
// of them, or this node, granted for another.
func (t *Table) InTerm(v View) bool {
	at, known := t.SettledAt(v)
	if !known || at.After(t.config.Now()) || t.OtherViews(v.Hash) {
		return false
	}
	return !slices.ContainsFunc(v.Others, func(id string) bool { return !t.Agrees(id, v) }) && t.Held(t.config.Clock.Instant())
}
