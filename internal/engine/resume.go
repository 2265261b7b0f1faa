package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file follows the view, and does what package lease leaves to its caller when a lease is lost and
// comes back (rule 5): it fetches journals and sweeps the store.

// fetchedJournals records which nodes of the view have had their journals fetched, or are having them fetched,
// since they joined the view and since anybody left it. Whatever those nodes wrote without this node, or were
// told by one that died before it had told this node, is in their journals.
type fetchedJournals struct {
	giving chan struct{} // holds one for each node that this one gives floors to, see journal.handle

	mu sync.Mutex                 // guards the following
	of map[string]*fetchedJournal // by node ID
	// orphaned says that there may be floors whose sender is gone and that takeOver has not seen: a
	// process of the region has gone since it last ran, or journals have come.
	orphaned bool
}

// A fetchedJournal is the journal of one node, from the moment it is requested.
type fetchedJournal struct{ complete bool } // fetched in full; guarded by fetchedJournals.mu

// markOrphaned notes that there may be floors whose sender is gone.
func (f *fetchedJournals) markOrphaned() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.orphaned = true
}

// follow applies a change of the topology. It must not block.
func (c *Cache) follow() {
	c.following.Lock()
	defer c.following.Unlock()
	defer c.changed.raise()
	c.replicator.open()
	top := c.topology()
	was := c.view.Load()
	v := newView(c.node.ID, top, c.allRegions())
	c.leases.Listed(c.members.Home())
	if was != nil && was.same(v) {
		return
	}
	c.leases.Prepare(v.View)
	if c.transport == nil {
		c.view.Store(v)
		c.leases.StandAlone()
		return
	}
	v.couriers = couriers(was, v)
	wasGuest := was != nil && was.Guest
	switch {
	case v.Guest && !wasGuest:
		c.giveUpLease(top.Home)
	case wasGuest && !v.Guest:
		c.leases.BeginReturn()
	}
	// First the transport, so that whoever sees v here finds no lease granted under another view afterwards
	// (rule 6 of package lease).
	c.transport.SetView(v.Hash)
	c.view.Store(v)
	for _, g := range *c.groups.Load() {
		g.reclass(top.Home)
	}
	if v.Guest != wasGuest {
		c.guestChanged(v)
	}
	j := &c.journals
	j.mu.Lock()
	if was != nil && slices.ContainsFunc(was.home.Nodes, func(n regions.Node) bool { return !v.has(n.ID) }) {
		clear(j.of) // whoever has left the view may have told only some of its last writes
		j.orphaned = true
	}
	j.mu.Unlock()
	if !v.Guest {
		c.redundancy.follow(v.home)
	}
	c.renewLease()
	c.spawn(func() { c.reown(); c.takeOver() })
}

// onPong handles a pong.
func (c *Cache) onPong(p *peers.Peer) {
	if p.Region() != c.node.Region {
		return
	}
	c.renewLease()
	c.changed.raise()
}

// renewLease moves the end of the lease to where the nodes of the view have granted it (rule 4 of package
// lease).
func (c *Cache) renewLease() {
	v := c.view.Load()
	if v == nil {
		return
	}
	switch c.leases.Renew(v.View) {
	case lease.Extended:
		c.fetchNewJournals(v)
	case lease.Resume:
		if !c.spawn(c.resumeLease) {
			c.leases.FinishResume(c.leases.BeginResume(), false)
		}
	}
	if len(v.Others) == 0 && !v.Guest {
		if left := time.Until(c.leases.AloneFrom(v.View)); left > 0 {
			c.renewing.Reset(left) // it can take itself for the whole region then
		}
	}
}

// fetchNewJournals fetches the journals that fetchedJournals lacks. If nodes have joined the view, the region may
// have been in two parts that did not see each other, and each part has written without the other. If one has
// left it, others may have been told what this node has not. Once a node agrees on the view, it has been told
// all that it will ever be told by nodes outside of it.
func (c *Cache) fetchNewJournals(v *view) {
	f := &c.journals
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range c.others(v) {
		if f.of[n.ID] != nil || !c.leases.Agrees(n.ID, v.View) {
			continue
		}
		j := new(fetchedJournal)
		f.of[n.ID] = j
		c.spawn(func() {
			err := c.fetchAll(c.ctx, []regions.Node{n}, *c.groups.Load())
			f.mu.Lock()
			defer f.mu.Unlock()
			if j.complete = err == nil; j.complete {
				f.orphaned = true
				c.spawn(c.takeOver)
			} else if f.of[n.ID] == j {
				delete(f.of, n.ID) // the next pong tries again
			}
		})
	}
}

// hasJournals reports whether the journals of all other nodes of v have been fetched.
func (c *Cache) hasJournals(v *view) bool {
	f := &c.journals
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(v.Others, func(id string) bool {
		return f.of[id] == nil || !f.of[id].complete
	})
}

// resumeLease brings the lease back after a loss, in the order of rule 5 of package lease. The leases are
// held by now, so writes wait for this node. It then fetches the journals, which have what was written
// without it.
//
// What is in the store stays, copies too, unless a floor says otherwise. A write that arrived late at the
// others, below the floor of its key, left no trace in the journals. But what that write may have
// superseded was loaded before it by a clock that is ahead, and so exceeds the floor by no more than
// clocks may differ: maybeOlder drops it.
func (c *Cache) resumeLease() {
	guestEpoch := c.leases.BeginResume()
	groups := *c.groups.Load()
	v, err := c.fetchJournals(groups)
	if err == nil {
		if len(v.Others) > 0 {
			c.leases.NextEpoch()
		}
		for _, g := range groups {
			g.store.Sweep(store.Removed, func(e *store.Entry) bool {
				return g.fresh.mayPrecede(e, g.fresh.floorOf(e))
			})
			g.setCaughtUp(guestEpoch)
		}
	}
	if !c.leases.FinishResume(guestEpoch, err == nil) {
		c.log.Debug("not serving from memory yet", "err", err)
		return
	}
	c.resumed.raise()
	f := &c.journals
	f.mu.Lock()
	if c.view.Load() == v {
		for _, id := range v.Others {
			f.of[id] = &fetchedJournal{complete: true}
		}
	}
	f.orphaned = true
	f.mu.Unlock()
	c.changed.raise()
	c.takeOver()
}

// fetchJournals fetches the journals of all other nodes of the view, including those that come into it
// meanwhile, and returns the view. For a group that is new here it then asks the other regions, too.
func (c *Cache) fetchJournals(groups map[string]*Group) (*view, error) {
	fetched := make(map[string]bool)
	for {
		v := c.view.Load()
		missing := slices.DeleteFunc(c.others(v), func(n regions.Node) bool { return fetched[n.ID] })
		if len(missing) == 0 {
			for _, g := range groups {
				if !g.fresh.caughtUp.Load() {
					c.fetchRemote(c.ctx, g)
				}
			}
			return v, nil
		}
		if err := c.fetchAll(c.ctx, missing, groups); err != nil {
			return v, err
		}
		for _, n := range missing {
			fetched[n.ID] = true
		}
	}
}

// endLease gives up the lease for good. The others learn so when the transport closes, and do not wait for
// its end. The node's view ends with the lease, so the node no longer completes writes that are under way.
func (c *Cache) endLease() {
	c.leases.Close()
	c.renewing.Stop()
	c.changed.raise()
}

// settle waits until v is settled, so that no node outside of it can serve copies (rule 6 of package
// lease). It reports false if this node's view has changed meanwhile. The error is ctx's, or says that
// this node is leaving or a guest.
func (c *Cache) settle(ctx context.Context, v *view) (bool, error) {
	for {
		changed := c.changed.wait()
		if c.view.Load() != v {
			return false, nil
		}
		if c.shuttingDown.Load() {
			return false, ErrClosed // its view no longer counts, see endLease
		}
		if v.Guest {
			return false, errGuest
		}
		at, known := c.settledAt(v)
		var timer <-chan time.Time
		if known {
			left := time.Until(at)
			if left <= 0 {
				return true, nil
			}
			timer = time.After(left)
		}
		select {
		case <-changed:
		case <-timer:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// settledAt returns when v is settled, and false if that is not known yet.
func (c *Cache) settledAt(v *view) (time.Time, bool) {
	if c.transport == nil {
		return time.Time{}, true
	}
	return c.leases.SettledAt(v.View)
}

// holdsLease reports whether this node has been told of every completed write of its region.
func (c *Cache) holdsLease() bool { return c.leases.Held(c.clock.Instant()) }
