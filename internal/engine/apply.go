package engine

import (
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
)

// apply applies a write here. From then on no read on this node returns anything older, and no running fill
// brings it back: apply raises the floor (1) before it touches the store (2), which admit relies on.
//
// transit is how long the write was under way. sender identifies the process that sends the write to the
// other regions (see senderOf); it is 0 if none here does.
func (g *Group) apply(w *message.Write, transit time.Duration, sender uint64) {
	if w.Clear {
		g.applyClear(w, sender)
		return
	}
	prev := g.floors.Raise(w.Subject(), w.Stamp, g.cache.clock.Elapsed(), sender) // (1)
	if w.Scope {
		return // entries in the scope are found when they are next read, see freshness.scopeRemoved
	}
	floor, duplicate := prev.Max(w.Stamp), prev == w.Stamp
	// What was loaded since the write first came here survives a duplicate of it.
	dead := func(e *store.Entry) bool {
		return e.Below(w.Stamp) || !duplicate && g.fresh.maybeOlder(e, floor)
	}
	if !g.applyValue(w, transit, dead) { // (2)
		g.store.DeleteFunc(w.Key, dead)
	}
}

// applyClear is apply for a floor of the whole group.
func (g *Group) applyClear(w *message.Write, sender uint64) {
	g.clearing.Add(1)
	defer g.clearing.Add(-1)
	prev := g.floors.Group()
	duplicate := w.Stamp.Generation == g.floors.Cleared() || w.Collapsed && w.Stamp.Generation == prev
	if w.Collapsed {
		g.floors.RaiseGroup(w.Stamp.Generation, g.cache.clock.Elapsed())
	} else {
		g.floors.Clear(w.Stamp.Generation, g.cache.clock.Elapsed(), sender)
	}
	if duplicate {
		return // what was loaded since the Clear first came here survives
	}
	floor := expiry.Removal(max(prev, w.Stamp.Generation))
	g.store.Sweep(store.Removed, func(e *store.Entry) bool { return g.fresh.mayPrecede(e, floor) })
}

// applyValue makes the write's value the entry of its key. It replaces an entry that is dead or older, see
// insert. It reports false if the write has no value that is still live.
func (g *Group) applyValue(w *message.Write, transit time.Duration, dead func(*store.Entry) bool) bool {
	if !w.HasValue || w.Tagged && !store.IsTagged(w.Value) {
		return false // malformed, or from a later version: treat it as a miss
	}
	now := g.cache.clock.Instant()
	born := now.Add(-w.Age - transit)
	e := g.store.NewEntry(store.Item{
		Key:     w.Key,
		Value:   w.Value,
		Stamp:   w.Stamp,
		Born:    born,
		Expires: born.Add(min(w.Life, g.life(w.Key, false, 0))),
		Class:   store.Owned,
		Tagged:  w.Tagged,
	})
	if now >= e.Expires {
		return false
	}
	g.insert(e, dead, func() bool {
		return !isOdd(g.cache.leases.GuestEpoch()) && g.fresh.admissible(e, provenance{}, anySeq)
	})
	return true
}

// writeOf returns the write that tells other nodes of e.
func (g *Group) writeOf(e *store.Entry) message.Write {
	return message.Write{
		Group:    g.name,
		Key:      e.Key(),
		Stamp:    e.Stamp,
		HasValue: true,
		Tagged:   e.Tagged(),
		Value:    e.Value(),
		Age:      g.cache.clock.Instant().Sub(e.Born()),
		Life:     e.Expires.Sub(e.Born()),
	}
}
