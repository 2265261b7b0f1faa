package engine

import (
	"math"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// This file is what decides, beside age, whether a value is dead by a write. The floors
// say it by stamps: a value below the floor of its key, of a prefix of it, of one of its tags
// or of the group is dead. Two things cannot be seen from stamps.
//
// A load that began before a write may bear a higher generation, because the clock of
// the node that loaded is ahead, by as much as clocks may differ. But ages are measured: a
// value that has been on its way for longer than the write has been known here was loaded
// before it. See live. (The first version kept track of which fills were running when a note
// came, and had a writer tell everybody twice if anybody had such a value. That did not help where
// the value came from a region that had not heard.)
//
// A tag or a prefix that is removed may concern every entry. They are not looked for: each is
// looked at when it is read next, see covered, and in the sweep.

// always is the mark of who counts all writes that are known by now.
const always = expiry.Mark(math.MaxUint64)

// live reports whether a value that has come here may be kept, or passed on to those who
// began to ask when no more was known than at the mark. It is exact if its age was
// measured on this node alone.
func (g *Group) live(e *store.Entry, exact bool, known expiry.Mark) bool {
	live := true
	g.floors.Over(e.Key(), e.Tags(), func(r expiry.Raised) bool {
		if r.First >= known {
			return true // none was known then
		}
		doubt := g.inDoubt(e, r.Floor) && g.precedes(e, exact, r.At)
		if doubt {
			g.stats.doubts.Add(1)
		}
		// Of a floor that has been raised since the mark it is not known what it was then. A key's is in
		// the request, and that decides for what was set. A tag's is not, nor whether a load was in
		// doubt by it. So what is below the present one is asked for again.
		below := e.Below(r.Floor) && (r.Mark < known || r.Scope || e.IsLoad())
		live = !below && !doubt
		return live
	})
	return live
}

// precedes reports whether e may have been loaded before this node came to know of a write, at
// a moment on its Elapsed clock.
func (g *Group) precedes(e *store.Entry, exact bool, at time.Duration) bool {
	elapsed := g.cache.clock.Elapsed()
	age := g.cache.clock.Instant().Sub(e.Born()) // after elapsed was read: what has passed in between makes it older
	if !exact {
		age += age / 1000 // no clock runs slower by more
	}
	return age >= elapsed-at
}

// inDoubt reports whether e may have been loaded before a write with this stamp,
// although its generation is higher.
func (g *Group) inDoubt(e *store.Entry, s expiry.Stamp) bool {
	return e.IsLoad() && s.Below(e.Stamp) && e.Generation.Sub(s.Generation) <= 2*g.cache.config.MaxDrift
}

// covered reports whether e, an entry of the store, is dead by a tag or a prefix that has been
// removed since it was put in. Mostly none has, and two numbers tell.
func (g *Group) covered(e *store.Entry) bool {
	now := g.floors.Scoped()
	return e.Seen(now) != now && g.coveredSince(e, now)
}

// coveredSince is covered for an entry that has not been looked at since now. It is apart so
// that a hit calls nothing.
func (g *Group) coveredSince(e *store.Entry, now expiry.Mark) bool {
	dead := g.overtaken(e, e.Seen(now), always)
	if !dead {
		e.SetSeen(now)
	}
	return dead
}

// overtaken reports whether e may have been loaded before a write that has come here
// from one mark on and before another: one of that name has, and one, be it the same, before
// the other mark.
func (g *Group) overtaken(e *store.Entry, from, to expiry.Mark) bool {
	dead := false
	g.floors.Over(e.Key(), e.Tags(), func(r expiry.Raised) bool {
		dead = r.Mark >= from && r.First < to && (e.Below(r.Floor) || g.inDoubt(e, r.Floor))
		return !dead
	})
	return dead
}

// floorOf returns the floor of a value with its tags.
func (g *Group) floorOf(e *store.Entry) (floor expiry.Stamp) {
	g.floors.Over(e.Key(), e.Tags(), func(r expiry.Raised) bool {
		floor = floor.Max(r.Floor)
		return true
	})
	return floor
}
