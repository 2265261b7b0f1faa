package engine

import (
	"errors"

	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is about a node that its region no longer lists: how it becomes a guest, what it does as one,
// and how it comes back. See rule 10 of package lease, and "Guests" in docs/design.md.

// stepAside makes this node a guest of its region, which no longer lists it. The node hands over what it
// owns. From then on it owns nothing, and asks the others. They drop it from their rings as soon as it
// says that it is a guest, as if it had left.
func (c *Cache) stepAside() {
	defer c.membership.stepping.Store(false)
	c.handoff(c.ctx)
	c.membership.apply(c.members.StepAside(c.clock.Instant()))
	c.reown() // queued writes have been handed over, but this node may be listed again by now
}

// giveUpLease makes a node that becomes a guest give up its lease, and stop serving as an owner. Call it
// before the others learn that the node is a guest: from then on they tell it of no writes. To come back,
// the node fetches all journals, as a new node does.
func (c *Cache) giveUpLease(home *regions.Region) {
	c.leases.BecomeGuest()
	for _, g := range *c.groups.Load() {
		g.fresh.caughtUp.Store(false)
		g.reclass(home)
	}
}

// isOdd reports whether a guest epoch is one in which the node is a guest (see lease.Table.GuestEpoch).
func isOdd(n uint64) bool { return n%2 == 1 }

// guestChanged runs when this node has become a guest and has handed over what it had, and again when it
// ceases to be one. A guest is not told of writes, so no later reader may share a fill that began before
// the change.
//
// A guest keeps what it owned, but only for new owners that ask (see peekFormerOwners): the handover may
// have failed, or gone to a node that was about to become a guest too.
func (c *Cache) guestChanged(v *view) {
	if v.Guest {
		c.log.Warn("this node is now a guest: most nodes of the region do not list it or cannot reach it; " +
			"it owns nothing now and asks them")
	} else {
		c.leases.EndReturn()
		c.log.Info("this node belongs to its region again")
	}
	for _, g := range *c.groups.Load() {
		for _, fs := range []*flight.Table[answer]{g.unleased.flights, g.viaOwner, g.asOwner, g.local} {
			fs.Detach()
		}
		g.store.Sweep(store.Removed, func(e *store.Entry) bool {
			return !v.Guest || e.Class() == store.Copy
		})
	}
}

// guestAnswer is a guest's answer to a request that is for an owner. The caller goes on to another node,
// as it does when this node closes. Some callers learn only later that this node is a guest.
var guestAnswer = peers.Answer{Code: peers.CodeClosing, Text: errGuest.Error()}

// errGuest means that this node cannot do what is asked, because it is a guest.
var errGuest = errors.New("the node is a guest of its region")

// guestMethods are the methods that a guest answers: what others tell it, and what it knows of them.
var guestMethods = []uint8{
	message.MethodBroadcast, message.MethodJournal, message.MethodMembers,
	message.MethodAwait, message.MethodFlushed,
}

// guests returns the nodes of this region that answer and are guests.
func (c *Cache) guests() (nodes []regions.Node) {
	for _, p := range c.transport.Peers() {
		if p.Region() == c.node.Region && p.Guest() && p.Up() {
			nodes = append(nodes, regions.Node{ID: p.ID(), Region: p.Region(), Address: p.Address()})
		}
	}
	return nodes
}

// isGuest reports whether this node is a guest of its region.
func (c *Cache) isGuest() bool { return c.view.Load().Guest }
