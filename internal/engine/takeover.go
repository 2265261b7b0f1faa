package engine

import (
	"maps"
	"slices"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
)

// This file takes over the floors whose sender is gone, so that they still get to the other regions.

// senderOf returns the number that identifies a process as the sender of floors: the process, not the
// node, because a restarted process does not know what its predecessor had yet to send.
func senderOf(id string, epoch expiry.Generation) uint64 { return expiry.OriginOf(id, epoch) }

// takeOver sends to the other regions what processes that are gone may not have sent: the floors of keys
// that this node owns and whose sender is no longer a member of the region. All nodes of the region have
// the floors; this one also has the value if it was the successor. Much of it has been sent before, and
// changes nothing there. It does not matter when the sender left, nor who has owned the key in the
// meantime.
//
// A node that comes back must fetch the journals first: others may have been told what it has not.
func (c *Cache) takeOver() {
	f := &c.journals
	f.mu.Lock()
	due := f.orphaned && c.holdsLease()
	if due { // otherwise resumeLease calls again
		f.orphaned = false
	}
	f.mu.Unlock()
	if due {
		c.takeOverIn(slices.Collect(maps.Values(*c.groups.Load()))...)
	}
}

// takeOverIn is takeOver for some groups, on a node that has been told of every write.
func (c *Cache) takeOverIn(groups ...*Group) {
	v := c.view.Load()
	members := map[uint64]bool{c.self: true}
	for _, n := range c.others(v) {
		if p := c.transport.Peer(n.ID); p != nil {
			members[senderOf(n.ID, p.Epoch())] = true
		}
	}
	gone := func(sender uint64) bool { return sender != 0 && !members[sender] }
	for _, g := range groups {
		g.journal.takeOver(v, gone)
	}
}

// onRestart handles a restart: the process of a node is not the one it was. It must not block.
func (c *Cache) onRestart(p *peers.Peer) {
	if p.Region() != c.node.Region {
		return
	}
	c.redundancy.restarted(p.ID())
	c.journals.markOrphaned()
	c.spawn(c.takeOver)
}

// takeOver takes over the floors of one group whose senders are gone.
func (j *journal) takeOver(v *view, gone func(sender uint64) bool) {
	now := j.g.cache.clock.Instant // called before the age of a value is measured
	if through := j.g.floors.TakeCollapsed(gone); through > 0 {
		// Nobody knows any more which keys had the collapsed floors.
		j.g.cache.replicator.add(&message.Write{
			Group: j.g.name, Clear: true, Collapsed: true, Stamp: expiry.Removal(through),
		}, now())
	}
	owns := func(key string) bool { return v.home.Owner(key).ID == j.g.cache.node.ID }
	if cleared, by := j.g.floors.ClearedBy(); cleared > 0 && gone(by) && owns("") {
		j.g.cache.replicator.add(&message.Write{
			Group: j.g.name, Clear: true, Stamp: expiry.Removal(cleared),
		}, now())
		j.g.floors.AdoptClear(cleared, j.g.cache.self)
	}
	j.each(func(k expiry.KeyFloor) {
		if f := message.FloorOf(k); gone(k.Sender) && owns(f.Key) {
			at := now()
			w := j.writeOf(&f)
			j.g.cache.replicator.add(&w, at)
			j.g.floors.Adopt(k, j.g.cache.self)
		}
	})
}
