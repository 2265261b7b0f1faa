package engine

import (
	"context"
	"errors"
	"time"
)

// This file joins the cluster: with the node when it starts, and with each group when it is made.

// start starts the background work and waits for the cluster to be found.
func (c *Cache) start(ctx context.Context) error {
	if c.config.Clock == nil {
		c.spawn(func() { c.coarse.tick(c.ctx) })
	}
	c.spawn(c.housekeep)
	if c.transport != nil {
		c.spawn(c.compare)
		c.spawn(c.redundancy.run)
	}
	found := make(chan struct{})
	switch {
	case c.config.Discovery == nil:
		close(found)
	case c.config.JoinWait == 0:
		c.spawn(func() { c.membership.discover(found) })
		c.spawn(func() {
			ctx, cancel := context.WithTimeout(c.ctx, lookWait)
			defer cancel()
			c.look(ctx, found)
		})
		return nil
	default:
		c.spawn(func() { c.membership.discover(found) })
	}
	wait := c.config.JoinWait
	if c.config.Discovery == nil {
		wait = c.config.Lease // it is alone unless somebody dials it
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errJoinWait)
	defer cancel()
	c.look(ctx, found)
	if c.config.Discovery == nil {
		return nil
	}
	switch err := context.Cause(ctx); {
	case err == nil:
		top := c.topology()
		c.log.Info("joined", "region", c.node.Region, "address", c.node.Address,
			"nodes", len(top.Home.Nodes), "regions", 1+len(top.Remote))
	case errors.Is(err, errJoinWait):
		c.log.Warn("starting before the whole cluster was found and reached", "waited", c.config.JoinWait)
	default:
		return err
	}
	return nil
}

// lookWait is how long the cluster is looked for in the background.
const lookWait = 5 * time.Second

// look waits until the discovery has found this node and the others have been tried. Then a node that sees no
// others may take itself for all of its region; look waits until it does.
func (c *Cache) look(ctx context.Context, found <-chan struct{}) {
	select {
	case <-found:
		if c.transport == nil {
			return
		}
		c.transport.Tried(ctx)
		// The callbacks of the peers' health may not have run yet.
		c.membership.apply(c.members.Tick(c.clock.Instant(), c.membership.state))
	case <-ctx.Done():
	}
	c.leases.Looked()
	for {
		resumed, changed := c.resumed.wait(), c.changed.wait()
		c.renewLease()
		v := c.view.Load()
		if len(v.Others) > 0 || v.Guest || c.leases.Held(c.clock.Instant()) {
			return
		}
		select {
		case <-resumed:
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

var errJoinWait = errors.New("join wait over")

// join gives a new group the floors that the other nodes of the region have, before it serves anything. To
// serve copies it needs more, see catchUp.
func (c *Cache) join(g *Group) {
	epoch, guestEpoch := c.leases.Epoch(), c.leases.GuestEpoch()
	if c.transport == nil {
		g.setCaughtUp(guestEpoch)
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, max(c.config.JoinWait, time.Second))
	defer cancel()
	if err := c.fetchAll(ctx, c.others(c.view.Load()), map[string]*Group{g.name: g}); err != nil {
		c.log.Warn("a new group could not learn of all recent writes", "group", g.name, "err", err)
	}
	c.fetchRemote(ctx, g)
	if len(c.view.Load().Others) == 0 && c.leases.Held(c.clock.Instant()) && c.leases.Epoch() == epoch {
		g.setCaughtUp(guestEpoch) // there is nobody to learn more from
		return
	}
	c.spawn(func() { c.catchUp(g) })
}

// catchUp lets a new group serve copies once this node has been told of every write to it.
func (c *Cache) catchUp(g *Group) {
	for {
		changed := c.changed.wait()
		if g.fresh.caughtUp.Load() {
			return
		}
		epoch, guestEpoch := c.leases.Epoch(), c.leases.GuestEpoch()
		if c.leases.Held(c.clock.Instant()) {
			_, err := c.fetchJournals(map[string]*Group{g.name: g})
			if err == nil && c.leases.Held(c.clock.Instant()) && c.leases.Epoch() == epoch {
				g.setCaughtUp(guestEpoch)
				c.takeOverIn(g)
				return
			}
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-c.ctx.Done():
			return
		}
	}
}
