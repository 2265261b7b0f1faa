package geocache

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is how nodes of a region come to know the same members although their discoveries do
// not say the same at the same time: who finds that another one has a different view
// asks it what its discovery lists.

// askPause is how often a node asks others for their lists, at most.
const askPause = 250 * time.Millisecond

// otherView is told that a node has pinged whose view is not this one's. It must not block.
func (c *Cache) otherView(id string) {
	next, now := c.nextAsk.Load(), int64(c.clock.Instant())
	if now < next || !c.nextAsk.CompareAndSwap(next, now+int64(askPause)) {
		return
	}
	c.spawn(func() {
		if p := c.transport.Peer(id); p == nil || !p.Up() {
			// It is not known here. Another one may list it.
			others := c.others(c.standing.view.Load())
			if len(others) == 0 {
				return
			}
			id = others[rand.IntN(len(others))].ID
		}
		c.askMembers(c.ctx, id)
	})
}

// others returns the nodes of v but this one.
func (c *Cache) others(v *view) (nodes []regions.Node) {
	for _, n := range v.home.Nodes {
		if n.ID != c.node.ID {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// askMembers asks a node of this region which nodes its discovery lists, and which regions it
// knows to know the same regions. It reports whether that has answered.
func (c *Cache) askMembers(ctx context.Context, id string) bool {
	peer := c.transport.Peer(id)
	if peer == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.lease)
	defer cancel()
	known := append(c.members.Nodes(), c.node)
	reply, err := peer.Call(ctx, note.MethodMembers, note.Members{Known: hashOfNodes(known)}.Append(nil))
	if err != nil {
		return false
	}
	m, err := note.DecodeListed(reply)
	if err != nil {
		return false
	}
	if len(m.Nodes) > 0 {
		nodes := make([]regions.Node, len(m.Nodes))
		for i, n := range m.Nodes {
			nodes[i] = regions.Node(n)
		}
		c.apply(c.members.Vouch(c.clock.Instant(), id, nodes))
	}
	if v := c.standing.view.Load(); m.Regions == hashOfRegions(v.regions) {
		now := c.clock.Instant()
		for _, a := range m.Agreed {
			c.homes.agree(v, a.Region, now.Add(-a.For))
		}
	}
	return true
}

// takeMembers answers a Members.
func (c *Cache) takeMembers(m note.Members) peers.Answer {
	v := c.standing.view.Load()
	reply := note.Listed{Regions: hashOfRegions(v.regions)}
	if listed := c.members.Listed(); hashOfNodes(listed) != m.Known {
		for _, n := range listed {
			reply.Nodes = append(reply.Nodes, note.Node(n))
		}
	}
	now := c.clock.Instant()
	for region, since := range c.homes.since(v) {
		reply.Agreed = append(reply.Agreed, note.Agreed{Region: region, For: now.Sub(since)})
	}
	return peers.Answer{Value: reply.Append(nil)}
}

// askWhoAgrees asks some nodes of this region, once for the regions of v, which others are known to
// know the same: this process may have just been started, and the others not be in reach.
func (c *Cache) askWhoAgrees(ctx context.Context, v *view) {
	h := &c.homes
	h.mu.Lock()
	h.ofLocked(v)
	asked := h.asked
	h.mu.Unlock()
	if asked {
		return
	}
	others := c.others(v)
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	answered := len(others) == 0
	for _, n := range others[:min(len(others), 3)] {
		answered = c.askMembers(ctx, n.ID) || answered
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ofLocked(v)
	h.asked = answered
}

// hashOfNodes is the same for the same nodes, whatever their order.
func hashOfNodes(nodes []regions.Node) (sum uint64) {
	for _, n := range nodes {
		sum += xxh3.Hash(note.Listed{Nodes: []note.Node{note.Node(n)}}.Append(nil))
	}
	return sum
}
