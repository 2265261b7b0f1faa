package engine

import (
	"time"
)

// This file is who may compare a key's value and swap it.

// A tenure is a time for which no other node could take itself for the owner of what this one
// owns. Two that are equal are one, without a break.
type term struct {
	view   *view
	period uint64 // see standing
}

// tenure returns the present one, if there is one.
//
//   - All nodes of the view hold the same view: each has granted a lease for this very one.
//   - No lease runs any more that one of them, or this node, has granted for another; and nobody
//     pings this node with another view: such a node may be alone in it, with no lease to wait for.
//   - This node has been told of everything that was written before: it has not lost its copy lease
//     since it took the journals of all.
//
// So nodes that have tenures under different views at one time see no node in common, and do not
// see each other: then the region is in parts. docs/model/lease.pml says what happens without
// each of these.
func (c *Cache) term() (term, bool) {
	s := &c.lease
	t := term{s.view.Load(), s.epoch.Load()}
	if c.transport == nil {
		return t, true
	}
	at, known := c.settledAt(t.view)
	if !known || at.After(time.Now()) || c.shutting.Load() || c.transport.OtherViews(t.view.hash) {
		return t, false
	}
	now := c.clock.Instant()
	for _, n := range t.view.home.Nodes {
		if n.ID == c.node.ID {
			continue
		}
		if p := c.transport.Peer(n.ID); p == nil || p.Agreed(t.view.hash) <= now {
			return t, false
		}
	}
	return t, c.holdsLease() && c.hasJournals(t.view) && s.view.Load() == t.view && s.epoch.Load() == t.period
}

// holds reports whether a tenure has not ended.
func (c *Cache) inTerm(t term) bool {
	now, ok := c.term()
	return ok && now == t
}
