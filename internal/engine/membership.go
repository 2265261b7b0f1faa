package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file learns the members: from the discovery, from whether they answer, and from what other nodes of
// the region list. The discoveries of two nodes may differ for a while, so a node that finds that another
// has a different view asks it what its discovery lists.

// A membership keeps the members and the transport's peers up to date with what the discovery and other
// nodes say.
type membership struct {
	c *Cache

	found    atomic.Bool  // the discovery has reported at least once
	nextAsk  atomic.Int64 // see onOtherView
	stepping atomic.Bool  // stepAside is under way

	// setting is held from reading the members to telling the transport, so that a stale list never
	// overwrites a newer one.
	setting sync.Mutex

	established establishment
}

// discover runs the discovery until Close. It closes first, unless nil, once the discovery lists this node.
func (m *membership) discover(first chan<- struct{}) {
	calling := make(chan struct{}, 1) // a mutex for found, in case a discovery calls it concurrently
	warned := map[string]bool{}       // the unusable nodes of the last report, likely to be in the next
	found := func(v regions.View) {
		calling <- struct{}{}
		defer func() { <-calling }()
		m.found.Store(true)
		m.c.leases.Found()
		change := m.c.members.Found(m.c.clock.Instant(), v)
		m.apply(change)
		refused := map[string]bool{}
		for _, n := range change.Refused {
			what := fmt.Sprintf("%#v", n) // as a string: a node with a NaN weight does not equal itself
			if refused[what] = true; !warned[what] {
				m.c.log.Warn("unusable node found, ignored: it needs an address that can be dialled, "+
					"a region, a weight in range, and an ID of its own",
					"node", n.ID, "region", n.Region, "address", n.Address, "weight", n.Weight)
			}
		}
		warned = refused
		// A discovery that does not list this node yet may have seen only part of the cluster.
		listed := slices.ContainsFunc(v.Nodes, func(n regions.Node) bool { return n.ID == m.c.node.ID })
		if listed && first != nil {
			close(first)
			first = nil
		}
	}
	for m.c.leaving.Err() == nil {
		done, _ := origin.Go(&m.c.guard, origin.Spawn, "discovery", "",
			origin.NoValue(func() error {
				return m.c.config.Discovery.Run(m.c.leaving, m.c.node, m.healthy, found)
			}))
		err := (<-done).Err
		if m.c.leaving.Err() != nil {
			if err != nil {
				m.c.log.Warn("discovery ended with an error; this node may stay announced", "err", err)
			}
			return
		}
		m.c.log.Error("discovery failed, keeping the members as they are", "err", err)
		select {
		case <-time.After(discoveryRetry):
		case <-m.c.leaving.Done():
		}
	}
}

// discoveryRetry is the pause before a failed discovery is run again.
const discoveryRetry = 5 * time.Second

// healthy tells the discovery whether this node can serve requests.
func (m *membership) healthy() error {
	if m.c.leaving.Err() != nil {
		return ErrClosed
	}
	return nil
}

// onHealth handles a change in what a peer says of itself, or in whether it is up.
func (m *membership) onHealth(p *peers.Peer) {
	// On its own goroutine: this may build a ring, and the caller is reading the peer's connection. Two of
	// these may overtake each other, so each reads the peer's state when it runs.
	m.c.spawn(func() { m.apply(m.c.members.Health(m.c.clock.Instant(), p.ID(), m.stateOf(p))) })
}

// apply applies a change of the members to the transport and to this node's view.
func (m *membership) apply(change regions.Change) {
	m.log(change)
	if change.Rewatched || len(change.Joined)+len(change.Moved)+len(change.Left) > 0 {
		m.setPeers()
	}
	m.c.follow()
	if m.c.members.Unwanted() && m.stepping.CompareAndSwap(false, true) && !m.c.spawn(m.c.stepAside) {
		m.stepping.Store(false)
	}
}

func (m *membership) log(change regions.Change) {
	for _, n := range change.Joined {
		m.c.log.Info("node found", "node", n.ID, "region", n.Region, "address", n.Address)
	}
	for _, n := range change.Moved {
		m.c.log.Info("node moved", "node", n.ID, "region", n.Region, "address", n.Address)
	}
	for _, n := range change.Left {
		m.c.log.Info("node left", "node", n.ID, "region", n.Region)
	}
	if change.Err != nil {
		m.c.log.Error("cannot build the ring, keeping the region as it was", "err", change.Err)
	}
}

// setPeers tells the transport the present members, and which of them to connect to.
func (m *membership) setPeers() {
	m.setting.Lock()
	defer m.setting.Unlock()
	watched := map[string]bool{}
	for _, n := range m.c.members.Watched() {
		watched[n.ID] = true
	}
	var endpoints []peers.Endpoint
	for _, n := range m.c.members.Nodes() {
		endpoints = append(endpoints, peers.Endpoint{
			ID: n.ID, Region: n.Region, Address: n.Address, Passive: !watched[n.ID],
		})
	}
	m.c.transport.SetPeers(endpoints)
}

// state returns the present state of a node.
func (m *membership) state(id string) regions.State {
	if p := m.c.transport.Peer(id); p != nil {
		return m.stateOf(p)
	}
	return regions.State{}
}

// stateOf is state for a node whose peer is known.
func (m *membership) stateOf(p *peers.Peer) regions.State {
	rtt, _ := p.RTT()
	standing := p.Standing()
	return regions.State{
		Up:        p.Up(),
		Tried:     p.Tried(),
		RTT:       rtt,
		Guest:     p.Guest(),
		Minority:  p.Minority(),
		Heard:     m.c.leases.Hears(p.ID()),
		Counted:   standing == lease.Counted,
		Uncounted: standing == lease.Uncounted,
	}
}

// askPause is the least time between two requests for the lists of others. A guest's view always differs
// from theirs, so it waits longer, but not as long as their answers count.
const (
	askPause      = 250 * time.Millisecond
	askPauseGuest = 5 * time.Second
)

// onOtherView handles a ping from a node whose view is not this one's. It must not block.
func (m *membership) onOtherView(id string) {
	m.c.renewLease() // it is not alone
	next, now := m.nextAsk.Load(), int64(m.c.clock.Instant())
	pause := askPause
	if m.c.view.Load().Guest {
		pause = askPauseGuest
	}
	if now < next || !m.nextAsk.CompareAndSwap(next, now+int64(pause)) {
		return
	}
	m.c.spawn(func() {
		if p := m.c.transport.Peer(id); p == nil || !p.Up() {
			// This node does not know it. Another node may list it.
			others := m.c.others(m.c.view.Load())
			if len(others) == 0 {
				return
			}
			id = others[rand.IntN(len(others))].ID
		}
		m.ask(m.c.ctx, id)
	})
}

// others returns the nodes of v except this one.
func (c *Cache) others(v *view) (nodes []regions.Node) {
	for _, n := range v.home.Nodes {
		if n.ID != c.node.ID {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// ask asks a node of this region which nodes its discovery lists, and since when the region has been
// established.
func (m *membership) ask(ctx context.Context, id string) {
	peer := m.c.transport.Peer(id)
	if peer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, m.c.config.Lease)
	defer cancel()
	known := append(m.c.members.Nodes(), m.c.node)
	request := message.MembersRequest{Known: hashOfNodes(known)}
	reply, err := peer.Call(ctx, message.MethodMembers, request.Append(nil))
	if err != nil {
		return
	}
	listed, err := message.DecodeMembersReply(reply)
	if err != nil {
		return
	}
	if listed.Established {
		m.established.finish(m.c.clock.Instant().Add(-listed.For))
	}
	if len(listed.Nodes) > 0 {
		nodes := make([]regions.Node, len(listed.Nodes))
		for i, n := range listed.Nodes {
			nodes[i] = regions.Node(n)
		}
		m.apply(m.c.members.Vouch(m.c.clock.Instant(), id, nodes))
	}
}

// handle answers a MembersRequest.
func (m *membership) handle(asked message.MembersRequest) peers.Answer {
	var reply message.MembersReply
	if listed := m.c.members.Listed(); hashOfNodes(listed) != asked.Known {
		for _, n := range listed {
			reply.Nodes = append(reply.Nodes, message.Node(n))
		}
	}
	if since, ok := m.established.get(); ok {
		reply.Established, reply.For = true, m.c.clock.Instant().Sub(since)
	}
	return peers.Answer{Value: reply.Append(nil)}
}

// askEstablished asks some nodes of this region whether it is established, unless this node knows or has
// just asked. This process may have only just started while other regions are unreachable.
func (m *membership) askEstablished(ctx context.Context, v *view) {
	e, now := &m.established, m.c.clock.Instant()
	e.mu.Lock()
	due := !e.done && (e.asked == 0 || now.Sub(e.asked) >= time.Second)
	if due {
		e.asked = now
	}
	e.mu.Unlock()
	if !due {
		return
	}
	others := m.c.others(v)
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	var asking sync.WaitGroup
	for _, n := range others[:min(len(others), 3)] {
		asking.Go(func() { m.ask(ctx, n.ID) })
	}
	asking.Wait()
}

// hashOfNodes returns a hash of the nodes that does not depend on their order.
func hashOfNodes(nodes []regions.Node) (sum uint64) {
	for _, n := range nodes {
		sum += xxh3.Hash(message.MembersReply{Nodes: []message.Node{message.Node(n)}}.Append(nil))
	}
	return sum
}
