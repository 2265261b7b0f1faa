package lease

import (
	"maps"
	"sync"
	"time"
)

// grants is what a node remembers of the nodes of its region that ping it. It belongs to the node and not to a
// connection: a lease runs on when its connection is gone, or its holder's view has changed.
//
// All times are monotonic. An expiry.Instant would jump forward with the wall clock, and leases would
// seem to have ended.
type grants struct {
	table *Table

	mu      sync.Mutex // guards the following
	to      map[string]*grant
	unknown map[string]time.Time // when a node last tried that was refused because it is not listed
}

// A grant is what a node said last, and what it was granted.
type grant struct {
	conn  uint64    // the latest of its connections that carried a ping
	view  uint64    // of its last ping
	heard time.Time // when that came
	under uint64    // the view of the lease granted last
	end   time.Time // of that lease; zero if there was none

	ended bool // its process has ended: its view does not count any more, see Ended

	counted bool      // this node has counted it among the region's
	missing time.Time // since when it has not; zero if it does, or cannot tell
}

// maxUnknown is of how many refused nodes the IDs are kept. Others count as one, without an ID.
const maxUnknown = 1024

// memory is for how long a ping counts. It is longer than a lease, so a node that is forgotten holds none. And it is
// so short that a node that has fallen silent is forgotten before the last leases of the view with it end.
func (g *grants) memory() time.Duration { return g.table.config.Length * 5 / 4 }

// An Answer is what a pong says of leases.
type Answer struct {
	Lease  time.Duration // granted, from when the ping was sent; 0 if none is
	Others time.Duration // for which a lease granted under another view may still run

	NoMajority bool // the node sees no majority of the region
}

// Pinged takes in a ping from a node of this one's region, and returns the answer. conn numbers the connections
// of that node. ok is false if the ping does not count, because a later connection has carried one.
func (t *Table) Pinged(from string, conn, view uint64) (a Answer, ok bool) {
	g := &t.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	to := g.to[from]
	if to != nil && conn < to.conn {
		return Answer{}, false
	}
	if view == gone {
		delete(g.to, from)
		t.quorum.gone(from)
		return Answer{}, true
	}
	// The view is read under the lock: after SetView and then ownEnd there are no new leases under the old view.
	now, ours := t.config.Now(), t.Hash()
	if to == nil {
		to = new(grant)
		g.to[from] = to
	}
	to.conn, to.view, to.heard, to.ended = conn, view, now, false
	if view == Guest { // it has ceased to use its lease
		to.under, to.end = 0, time.Time{}
		return Answer{}, true
	}
	// Of this node and all others, whether they are among our peers or not: one that has another view counts on
	// us to grant nothing under this one.
	if other := g.otherLocked(ours, now); view != 0 && ours != Guest && !other {
		a.Lease, to.under, to.end = t.config.Length, view, now.Add(t.config.Length)
	}
	a.Others = max(g.endLocked(view).Sub(now), 0)
	return a, true
}

// Ended notes that the process of a node has ended: it has no connection to this one any more, and refuses new
// ones. Its view no longer keeps this node from granting leases, and it does not count for a majority. Its own lease
// runs on: that the process has ended is evidence and no proof.
func (t *Table) Ended(id string) {
	g := &t.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	if to := g.to[id]; to != nil {
		to.ended = true
	}
	t.quorum.gone(id)
}

// Refused notes that a node of the region, with a certificate of a known authority, was refused because it
// is not listed here. It takes this node for present all the same.
func (t *Table) Refused(id string) {
	g := &t.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	now := t.config.Now()
	maps.DeleteFunc(g.unknown, func(_ string, heard time.Time) bool { return now.Sub(heard) > g.patience() })
	if len(g.unknown) >= maxUnknown {
		id = ""
	}
	g.unknown[id] = now
}

// patience is for how long a refused node counts: it tries again before that.
func (g *grants) patience() time.Duration { return max(g.table.config.Length, 2*g.table.config.Retry) }

// otherLocked reports whether the last ping of a node that is remembered had another view, and forgets those
// that are not remembered any more.
func (g *grants) otherLocked(view uint64, now time.Time) (other bool) {
	for id, to := range g.to {
		if now.Sub(to.heard) > g.memory() {
			delete(g.to, id) // and its lease, which is shorter, has ended
		} else if to.view != view && to.view != Guest && !to.ended {
			other = true
		}
	}
	return other
}

// endLocked returns when the last lease ends that was granted under another view. Where a node was granted one
// under this view after one under another, the second counts: that node is in the view. What an earlier process
// under this node's ID has granted, under whichever view, runs for a lease from when this one started.
func (g *grants) endLocked(view uint64) (end time.Time) {
	if earlier := g.table.config.Started.Add(g.table.config.Length); earlier.After(g.table.config.Now()) {
		end = earlier
	}
	return later(end, g.grantedLocked(view))
}

// grantedLocked is endLocked for what this process has granted.
func (g *grants) grantedLocked(view uint64) (end time.Time) {
	for _, to := range g.to {
		if to.under != view {
			end = later(end, to.end)
		}
	}
	return end
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// aloneFrom returns from when a node whose view has no others may take itself for all of its region: no lease runs any
// more that it has granted, and nobody that it does not see has pinged it for so long that it is forgotten.
func (g *grants) aloneFrom(view uint64) (from time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	from = g.grantedLocked(view)
	for _, to := range g.to {
		if to.view != view && to.view != Guest && !to.ended {
			from = later(from, to.heard.Add(g.memory()))
		}
	}
	return from
}

// OwnEnd returns the moment from which no node holds a lease of this one that was granted under another view than
// the given one, and none under this since. It is zero if there is none now.
func (t *Table) OwnEnd(view uint64) time.Time {
	t.grants.mu.Lock()
	defer t.grants.mu.Unlock()
	return t.grants.endLocked(view)
}

// OtherViews reports whether a node of the region has pinged this one, in the last lease and a quarter, with another view.
func (t *Table) OtherViews(view uint64) bool {
	t.grants.mu.Lock()
	defer t.grants.mu.Unlock()
	return t.grants.otherLocked(view, t.config.Now())
}

// UnknownEnd returns the moment until which this node has to reckon with nodes that ping it and for which known is
// false: a lease after the last ping of any. Nodes that are refused because they are not listed count too, from
// one attempt to the next. It is zero if there are none.
func (t *Table) UnknownEnd(known func(id string) bool) (end time.Time) {
	g := &t.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, to := range g.to {
		if until := to.heard.Add(t.config.Length); until.After(end) && to.view != Guest && !known(id) {
			end = until
		}
	}
	for id, heard := range g.unknown {
		if until := heard.Add(g.patience()); until.After(end) && !known(id) {
			end = until
		}
	}
	if !end.After(t.config.Now()) {
		return time.Time{}
	}
	return end
}

// Hears reports whether a node of the region has pinged this one in the last lease and a quarter.
func (t *Table) Hears(id string) bool {
	g := &t.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	to := g.to[id]
	return to != nil && t.config.Now().Sub(to.heard) <= g.memory()
}

// HearsGuest reports whether a node of the region last pinged this one as a guest.
func (t *Table) HearsGuest(id string) bool {
	g := &t.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	to := g.to[id]
	return to != nil && to.view == Guest
}

// A Standing is what a node takes another one of its region for, as its pongs say.
type Standing uint8

const (
	Unknown   Standing = iota // it cannot tell, or not yet
	Counted                   // it counts it among the nodes of the region
	Uncounted                 // it has not counted it for Config.Grace, or never, although it is there
)

// Standing returns what this node takes a node for that has just pinged it. counts says whether it counts that
// node now; known is false if it cannot tell.
func (t *Table) Standing(of string, counts, known bool) Standing {
	g := &t.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	to := g.to[of]
	now := t.config.Now()
	switch {
	case to == nil: // it is leaving
		return Unknown
	case !known:
		to.missing = time.Time{}
		return Unknown
	case counts:
		to.counted, to.missing = true, time.Time{}
		return Counted
	case to.missing.IsZero():
		to.missing = now
	}
	patience := g.memory()
	if to.counted {
		patience = max(patience, t.config.Grace)
	}
	if now.Sub(to.missing) < patience {
		return Unknown
	}
	return Uncounted
}
