package engine

import (
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/regions"
)

// This file decides which keys this node owns, and acts when that changes.

// servesAsOwner reports whether this node may serve the key as its owner. A new node may take itself for
// the owner of keys that others write without it: it must first catch up with them, unless it is alone.
func (g *Group) servesAsOwner(home *regions.Region, key string) bool {
	if home.Owner(key).ID != g.cache.node.ID {
		return false
	}
	return g.fresh.caughtUp.Load() || len(home.Nodes) == 1 && !g.cache.topology().Guest
}

// ownsOnRing reports whether this node owns the key by the ring alone.
func (g *Group) ownsOnRing(key string) bool {
	return g.cache.topology().Home.Owner(key).ID == g.cache.node.ID
}

// reclass marks which of the entries that this node holds as an owner are its own now. It holds the others
// as the key's successor or former owner, and serves them only under a lease, as it does copies.
func (g *Group) reclass(home *regions.Region) {
	for e := range g.store.All() {
		if e.Class() == store.Owned {
			e.SetLeased(!g.servesAsOwner(home, e.Key()))
		}
	}
}

// setCaughtUp notes that this node has been told of every write to the group, unless its guest epoch is no
// longer the one in which it began to ask.
func (g *Group) setCaughtUp(guestEpoch uint64) {
	if g.fresh.caughtUp.Load() {
		return
	}
	g.cache.following.Lock() // so that of two calls of reclass the one with the newer home is last
	defer g.cache.following.Unlock()
	if g.cache.leases.GuestEpoch() == guestEpoch && !g.fresh.caughtUp.Swap(true) {
		g.reclass(g.cache.topology().Home)
	}
}

// reown makes queued writes follow their keys to new owners. One pass runs at a time; if reown is called
// meanwhile, another pass follows.
func (c *Cache) reown() {
	if c.reowns.Add(1) > 1 {
		return
	}
	for {
		calls := c.reowns.Load()
		for _, g := range *c.groups.Load() {
			g.origin.reown()
		}
		if c.reowns.Add(-calls) == 0 {
			return
		}
	}
}
