package engine

import (
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// An answer is the result of a fill: an entry, which may be an absence, and where it came from; or an
// error.
type answer struct {
	entry  *store.Entry
	source Source
	err    error

	provenance
	revalidated bool // stale, and served under WithStaleWhileRevalidate while it is being reloaded
	unconfirmed bool // set by a write, and served without a lease since no getter has it
}

// A provenance says what is known of an entry beside what is in it.
type provenance struct {
	exact bool // just loaded by this node, so its age is exact

	// cleared is the generation of a Clear, if the node that the entry comes from has carried that out and says
	// that the entry was loaded after it; else 0.
	cleared expiry.Generation
}

// fresh reports whether a is a value or an absence that has not expired.
func (a answer) fresh() bool { return a.err == nil && a.source != SourceStale }

// A fillStart records the state at the start of a fill. Take it before reading any state.
type fillStart struct {
	known      expiry.Seq // the last write known
	leaseEpoch uint64
	guestEpoch uint64 // odd while this node is a guest
}

func (g *Group) startFill() fillStart {
	return fillStart{g.floors.Seq(), g.cache.leases.Epoch(), g.cache.leases.GuestEpoch()}
}

// admit stores the answer's entry and returns the answer. If the store has a newer entry that has not
// expired, it returns that one instead.
//
// A write may happen at any point of a fill. It (1) raises the floor, then (2) drops the entry or replaces
// it. admit checks the floor under the store's lock, which (2) takes as well. If (1) comes before the
// check, the floor is seen and nothing is stored. If it comes after, so does (2), which drops what was
// stored. A check before storing would let an old value stay for good; a check after storing would show one
// to readers for a moment.
func (g *Group) admit(a answer, start fillStart) answer {
	e := a.entry
	there := g.insert(e, nil, func() bool {
		l := g.cache.leases
		return l.GuestEpoch() == start.guestEpoch && !isOdd(start.guestEpoch) &&
			g.fresh.admissible(e, a.provenance, anySeq) &&
			(e.Class() == store.Owned ||
				l.Epoch() == start.leaseEpoch && g.fresh.hearsOf(e, g.cache.clock.Instant()))
	})
	if there == nil || there == e ||
		!g.fresh.current(there, g.fresh.floorOf(there), g.cache.clock.Instant()) {
		return a
	}
	if e.Below(there.Stamp) || !there.IsLoad() && !g.fresh.admissible(e, a.provenance, anySeq) {
		if a.source == SourceStale {
			a.source = SourceStore
		}
		return answer{entry: there, source: a.source}
	}
	return a
}

// insert stores e if admit allows it, in place of an older entry, and returns the entry that is in the
// store afterwards. An entry for which dead returns true goes in any case; dead may be nil. An entry whose
// key this node does not own is marked as leased: it is served only while this node hears of every write.
func (g *Group) insert(e *store.Entry, dead func(*store.Entry) bool, admit func() bool) *store.Entry {
	home := g.cache.topology().Home
	leased := func() bool { return e.Class() == store.Copy || !g.servesAsOwner(home, e.Key()) }
	e.SetLeased(leased())
	e.SetSeen(g.floors.ScopeSeq())
	there := g.store.Set(e, dead, admit)
	// The ring may have changed in the meantime, and reclass may have run before e was in the store.
	for now := g.cache.topology().Home; now != home; now = g.cache.topology().Home {
		home = now
		e.SetLeased(leased())
	}
	return there
}

// life returns the time to live of a key, or of its absence. own is the item's own time to live, or 0.
func (g *Group) life(key string, absent bool, own time.Duration) time.Duration {
	switch {
	case absent:
		return g.config.NegativeTTL
	case own > 0 && own < g.config.TTL:
		return own
	}
	return expiry.JitterTTL(g.config.TTL, xxh3.HashString(key))
}
