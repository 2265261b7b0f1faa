package engine

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file keeps what was Set, and what no origin has, on two nodes: the key's owner and its successor.
//
// A write brings its value to both. When the ring has changed, others are the owner and the successor. So
// each node goes through what it holds, and makes sure that they have it: the owner gives to the successor,
// and whoever else has a value gives it to the owner. It offers keys and stamps first, as several nodes may
// have a value, and sends the values that are lacking, at a bounded rate.
//
// It does not go after what a node has evicted, which was its choice. A group with a setter has its values
// in the origin, and needs none of this.

// A redundancy does that for all groups of a node. It passes over all that the node holds when the nodes of
// the region have changed.
type redundancy struct {
	c     *Cache
	wake  chan struct{} // has one when a pass is due
	mu    sync.Mutex    // guards the following
	home  *regions.Region
	since uint64 // numbers the changes of home, and restarts of its nodes

	// settled is what home was when a pass last ended well, and stayed those of its nodes whose process has
	// been there ever since. They had all that settled gives them to keep, and have been told of each write
	// since.
	settled *regions.Region
	stayed  map[string]bool
}

const (
	// redundancyRate is how many bytes of values a node sends in a second: a sixth of what a 1 Gbit link
	// takes, so that reads and writes hardly notice.
	redundancyRate = 20 << 20

	// redundancyRetry is the pause after a pass that some node has not answered.
	redundancyRetry = time.Second
)

// follow takes in the nodes of the region. It does not block.
func (r *redundancy) follow(home *regions.Region) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.home != nil && r.home.Ring() == home.Ring() {
		return
	}
	maps.DeleteFunc(r.stayed, func(id string, _ bool) bool {
		return !slices.ContainsFunc(home.Nodes, func(n regions.Node) bool { return n.ID == id })
	})
	r.home = home
	r.dueLocked()
}

// restarted notes that the process of a node is another one, which has nothing in memory.
func (r *redundancy) restarted(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.stayed, id)
	r.dueLocked()
}

// due makes a pass due: values have come in by another way than a write.
func (r *redundancy) due() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.stayed)
	r.dueLocked()
}

func (r *redundancy) dueLocked() {
	r.since++
	for _, g := range *r.c.groups.Load() {
		g.single.Store(uncounted)
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run makes passes until Close.
func (r *redundancy) run() {
	for {
		select {
		case <-r.wake:
		case <-r.c.ctx.Done():
			return
		}
		for !r.pass() {
			select {
			case <-r.wake: // pass begins with the nodes that there are now
			case <-time.After(redundancyRetry):
			case <-r.c.ctx.Done():
				return
			}
		}
	}
}

// pass goes through all groups once, and reports whether all values that this node has are where they
// belong by now.
func (r *redundancy) pass() bool {
	r.mu.Lock()
	p := &redundancyPass{c: r.c, home: r.home, settled: r.settled, stayed: maps.Clone(r.stayed)}
	since := r.since
	r.mu.Unlock()
	p.changed = func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.since != since || r.c.ctx.Err() != nil
	}
	well := true
	for _, g := range *r.c.groups.Load() {
		well = p.group(g) && well
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.since != since {
		return false
	}
	if well {
		r.settled, r.stayed = p.home, make(map[string]bool)
		for _, n := range p.home.Nodes {
			r.stayed[n.ID] = true
		}
	}
	return well
}

// A redundancyPass is one pass over what a node holds.
type redundancyPass struct {
	c             *Cache
	home, settled *regions.Region
	stayed        map[string]bool
	changed       func() bool // the nodes are not those of this pass any more
}

// uncounted stands for a number of values that is being found out.
const uncounted = -1

// group gives the values of a group to where they belong, and reports whether that went well.
func (p *redundancyPass) group(g *Group) bool {
	if g.origin.any() {
		g.single.Store(0)
		return true
	}
	if len(p.home.Nodes) == 1 {
		return true // there is nobody to give them to, and they stay uncounted
	}
	count := int64(0)
	p.each(g, func(*store.Entry, string) bool { count++; return true })
	g.single.Store(count)
	if count == 0 {
		return !p.changed()
	}
	offers := make(map[string]*offer)
	well := true
	finished := p.each(g, func(e *store.Entry, to string) bool {
		o := offers[to]
		if o == nil {
			o = &offer{g: g, to: to}
			offers[to] = o
		}
		if o.add(e); o.isFull() {
			well = p.give(o) && well
		}
		return !p.changed()
	})
	for _, o := range offers {
		well = finished && p.give(o) && well
	}
	if finished && well {
		g.single.CompareAndSwap(g.single.Load(), 0) // some have been replaced or have expired meanwhile
	}
	return finished && well
}

// each calls f for each value that another node is not known to have although it should, with that node,
// until f returns false.
func (p *redundancyPass) each(g *Group, f func(e *store.Entry, to string) bool) bool {
	for e := range g.store.All() {
		if e.IsLoad() || e.Absent() || e.Class() != store.Owned {
			continue
		}
		to, ok := p.lacks(e.Key())
		if !ok || !g.fresh.current(e, g.floors.Floor(e.Key()), g.cache.clock.Instant()) {
			continue
		}
		if !f(e, to) {
			return false
		}
	}
	return true
}

// lacks returns the node that is to be offered a key's value: the successor by the owner, and the owner by
// everybody else. There is none if it has kept the key before.
func (p *redundancyPass) lacks(key string) (node string, ok bool) {
	keepers := p.home.Owners(key, 2)
	to := keepers[0].ID
	if to == p.c.node.ID {
		to = keepers[1].ID
	}
	if p.settled != nil && p.stayed[to] {
		if slices.ContainsFunc(p.settled.Owners(key, 2), func(n regions.Node) bool { return n.ID == to }) {
			return "", false
		}
	}
	return to, true
}

// An offer gathers entries that one node is offered.
type offer struct {
	g       *Group
	to      string
	entries []*store.Entry
	bytes   int
}

func (o *offer) add(e *store.Entry) {
	o.entries = append(o.entries, e)
	o.bytes += len(e.Value()) + len(e.Key())
}

func (o *offer) isFull() bool {
	return len(o.entries) >= handoffBatch || o.bytes >= handoffBytes
}

// give offers a node the entries, sends it those that it lacks, and empties the offer. It reports whether
// the node has all of them now.
func (p *redundancyPass) give(o *offer) bool {
	entries := o.entries
	o.entries, o.bytes = nil, 0
	peer := p.c.transport.Peer(o.to)
	if len(entries) == 0 || peer == nil {
		return len(entries) == 0
	}
	ctx, cancel := context.WithTimeout(p.c.ctx, 2*p.c.config.Lease)
	defer cancel()
	m := message.Offer{Group: o.g.name}
	for _, e := range entries {
		m.Keys = append(m.Keys, message.Floor{Key: e.Key(), Stamp: e.Stamp})
	}
	b, err := peer.Call(ctx, message.MethodOffer, m.Append(nil))
	if err != nil {
		return false
	}
	reply, err := message.DecodeOfferReply(b)
	if err != nil {
		return false
	}
	var values message.Broadcast
	size := 0
	for _, i := range reply.Lacks {
		if int(i) < len(entries) {
			w := o.g.writeOf(entries[i])
			values.Writes = append(values.Writes, w)
			size += w.Size()
		}
	}
	if len(values.Writes) > 0 {
		if _, err := peer.Call(ctx, message.MethodHandoff, values.Append(nil)); err != nil {
			return false
		}
		o.g.stats.given.Add(uint64(len(values.Writes)))
		select {
		case <-time.After(time.Duration(size) * time.Second / redundancyRate):
		case <-p.c.ctx.Done():
		}
	}
	if !p.changed() {
		o.g.single.Add(-int64(len(entries)))
	}
	return true
}

// handleOffer answers an Offer with what this node lacks. What a write has replaced here it does not want.
func (c *Cache) handleOffer(m message.Offer) peers.Answer {
	return c.inGroup(m.Group, func(g *Group) peers.Answer {
		var reply message.OfferReply
		for i, k := range m.Keys {
			there, ok := g.store.Peek(k.Key)
			has := ok && !there.Below(k.Stamp) && there.Class() == store.Owned
			if !has && !k.Stamp.Below(g.floors.Floor(k.Key)) {
				reply.Lacks = append(reply.Lacks, uint32(i))
			}
		}
		return peers.Answer{Value: reply.Append(nil)}
	})
}

// singleHolder returns how many values of a group that were Set, and that no origin has, this node alone is
// known to have. It is too high rather than too low: while they are being counted, all entries count.
func (r *redundancy) singleHolder(g *Group) int {
	if r.c.transport == nil {
		return 0
	}
	n := g.single.Load()
	if n == uncounted {
		return g.store.Stats().Entries()
	}
	return int(max(n, 0))
}
