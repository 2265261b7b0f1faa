package engine

import (
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/regions"
)

// This file decides which keys this node owns, and follows that.

// servesAsOwner reports whether this node may serve the key as its owner. One that has
// just come may take itself for the owner of keys that others write without it: they
// have to see it first.
func (g *Group) servesAsOwner(home *regions.Region, key string) bool {
	if home.Owner(key).ID != g.cache.node.ID {
		return false
	}
	return g.fresh.caughtUp.Load() || len(home.Nodes) == 1 && !g.cache.topology().Guest
}

// ownsOnRing reports whether this node owns the key by its ring.
func (g *Group) ownsOnRing(key string) bool {
	return g.cache.topology().Home.Owner(key).ID == g.cache.node.ID
}

// reclass marks which of the entries that this node has as an owner are its own
// now. The others it has for the owner's successor or former owner that it is, and
// serves them as it does copies.
func (g *Group) reclass(home *regions.Region) {
	for e := range g.store.All() {
		if e.Class() == store.Owned {
			e.SetLeased(!g.servesAsOwner(home, e.Key()))
		}
	}
}

// setSynced notes that this node has been told of everything that concerns the
// group, unless it has become a guest since it began to ask, when guestEpoch was as given.
func (g *Group) setCaughtUp(guestEpoch uint64) {
	if g.fresh.caughtUp.Load() {
		return
	}
	g.cache.following.Lock() // so that of two who reclass the later home is last
	defer g.cache.following.Unlock()
	if g.cache.leases.GuestEpoch() == guestEpoch && !g.fresh.caughtUp.Swap(true) {
		g.reclass(g.cache.topology().Home)
	}
}

// reown has queued writes follow their keys. One pass is made at a time, and after it
// another if it has been called meanwhile.
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
