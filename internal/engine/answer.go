package engine

import (
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// An answer is what a fill ends with: an entry and where it came from, or an error. The entry may be an
// absence.
type answer struct {
	entry  *store.Entry
	source Source
	err    error

	exact       bool // loaded by this node just now, so that its age is exact
	revalidated bool // stale, and being loaded anew: WithStaleWhileRevalidate is why it may be served
}

// fresh reports whether a is a value or an absence that has not expired.
func (a answer) fresh() bool { return a.err == nil && a.source != SourceStale }

// A fillStart is what a fill remembers of its beginning. Take it before reading any state.
type fillStart struct {
	known      expiry.Seq // what was known of writes
	leaseEpoch uint64
	guestEpoch uint64 // see standing
}

func (g *Group) startFill() fillStart {
	s := &g.cache.lease
	return fillStart{g.floors.Seq(), s.epoch.Load(), s.guestEpoch.Load()}
}

// admit puts the answer's entry into the store, or returns what is there if that is newer and has not expired.
//
// A write may happen at any point of a fill. It (1) raises the floor, (2) drops the entry or puts another in.
// The floor is looked at under the store's lock, which (2) takes as well. If (1) comes before that, the
// floor is seen and nothing is stored; if after, so does (2), and drops what is stored. Looking before
// storing would let an old value in for good; looking after it would show one to readers for a moment.
func (g *Group) admit(a answer, start fillStart) answer {
	e := a.entry
	there := g.insert(e, nil, func() bool {
		s := &g.cache.lease
		return s.guestEpoch.Load() == start.guestEpoch && !isOdd(start.guestEpoch) && g.fresh.admissible(e, a.exact, anySeq) &&
			(e.Class() == store.Owned || s.epoch.Load() == start.leaseEpoch && g.fresh.leased(g.cache.clock.Instant()))
	})
	if there == nil || there == e || !g.fresh.current(there, g.fresh.floorOf(there), g.cache.clock.Instant()) {
		return a
	}
	if e.Below(there.Stamp) || !there.IsLoad() && !g.fresh.admissible(e, a.exact, anySeq) {
		if a.source == SourceStale {
			a.source = SourceStore
		}
		return answer{entry: there, source: a.source}
	}
	return a
}

// insert puts e into the store if admit allows, in the place of what is dead or older, and
// returns what is there afterwards. dead may be nil. Entries that this node does not hold as the
// key's owner, it serves only as long as it is told of writes.
func (g *Group) insert(e *store.Entry, dead func(*store.Entry) bool, admit func() bool) *store.Entry {
	home := g.cache.topology().Home
	leased := func() bool { return e.Class() == store.Copy || !g.servesAsOwner(home, e.Key()) }
	e.SetLeased(leased())
	e.SetSeen(g.floors.ScopeSeq())
	there := g.store.Set(e, dead, admit)
	// The ring may have changed in between, and reclass have come before e was there.
	for now := g.cache.topology().Home; now != home; now = g.cache.topology().Home {
		home = now
		e.SetLeased(leased())
	}
	return there
}

// life returns the time to live of a key, or of its absence. own is the item's
// own, or 0.
func (g *Group) life(key string, absent bool, own time.Duration) time.Duration {
	switch {
	case absent:
		return g.config.NegativeTTL
	case own > 0 && own < g.config.TTL:
		return own
	}
	return expiry.JitterTTL(g.config.TTL, xxh3.HashString(key))
}
