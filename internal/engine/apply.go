package engine

import (
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
)

// take takes a note in. From then on no read here returns what is older, and no
// fill that is running brings it back. The order is what keep counts on. sender stands for the
// node that sends it to the other regions, 0 for none.
func (g *Group) apply(w *message.Write, transit time.Duration, sender uint64) {
	if w.Clear {
		g.applyClear(w, sender)
		return
	}
	prev := g.floors.Raise(w.Subject(), w.Stamp, g.cache.clock.Elapsed(), sender) // (1)
	if w.Scope {
		return // what it has made dead is found when it is read, see covered
	}
	floor, duplicate := prev.Max(w.Stamp), prev == w.Stamp // what prev loaded since it came the first time may stay
	dead := func(e *store.Entry) bool { return e.Below(w.Stamp) || !duplicate && g.fresh.maybeOlder(e, floor) }
	if !g.applyValue(w, transit, dead) { // (2)
		g.store.DeleteFunc(w.Key, dead)
	}
}

// takeClear is take for a floor of the whole group.
func (g *Group) applyClear(w *message.Write, sender uint64) {
	prev := g.floors.Group()
	duplicate := w.Stamp.Generation == prev || w.Stamp.Generation == g.floors.Cleared()
	if w.Collapsed {
		g.floors.RaiseGroup(w.Stamp.Generation, g.cache.clock.Elapsed())
	} else {
		g.floors.Clear(w.Stamp.Generation, g.cache.clock.Elapsed(), sender)
	}
	if duplicate {
		return // what prev loaded since it came the first time may stay
	}
	floor := expiry.Removal(max(prev, w.Stamp.Generation))
	g.store.Sweep(store.Removed, func(e *store.Entry) bool { return e.Below(floor) || g.fresh.maybeOlder(e, floor) })
}

// put makes the note's value the entry of its key, in the place of what is dead or older, see
// insert. It reports false if the note has no value that is alive.
func (g *Group) applyValue(w *message.Write, transit time.Duration, dead func(*store.Entry) bool) bool {
	if !w.HasValue || w.Tagged && !store.IsTagged(w.Value) {
		return false // malformed, or from a version to come: a miss
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
	g.insert(e, dead, func() bool { return !isOdd(g.cache.leases.GuestEpoch()) && g.fresh.admissible(e, false, anySeq) })
	return true
}

// noteOf returns what tells others of an entry.
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
