package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file asks the nodes that owned a key before the ring changed.

const (
	// peekTimeout bounds the question to former owners, which is answered
	// from memory: a node that takes longer is not worth waiting for.
	peekTimeout = 250 * time.Millisecond

	// formerOwners is how many nodes are asked that may have owned the key
	// before the ring changed. Two nodes that joined one soon after the other
	// put the key's old owner third in its succession.
	formerOwners = 2

	// formerOwnersOfSet is how many are asked, if those have nothing, for a value that was set: no
	// origin may have it. Where a region has grown to twice its size one key of 2¹⁶ is with none of them.
	formerOwnersOfSet = 16
)

// peekFormerOwners asks the nodes that owned the key before the ring changed for what they have in memory, as
// long as the change is so recent that it may be alive. They are the next in the key's succession: whoever
// joined took the key from there. If they have nothing the answer has no entry, and all says whether each of
// them has said so.
//
// A floor tells whether the key's last write was a Set. Its value is then somewhere, or was dropped; what
// is loaded in its place would be newer, and hide it for good. So more nodes are asked for it, and guests.
func (f fill) peekFormerOwners(ctx context.Context, top *regions.Topology) (a answer, all bool) {
	c := f.g.cache
	longAgo := c.clock.Instant().Sub(top.Changed) > f.g.config.TTL
	if longAgo || c.transport == nil || len(top.Home.Nodes) == 1 && !f.floor.IsSet() {
		return answer{}, true
	}
	ctx, cancel := context.WithTimeout(ctx, peekTimeout)
	defer cancel()
	most := formerOwners
	if f.floor.IsSet() {
		most = formerOwnersOfSet
	}
	former := slices.DeleteFunc(top.Home.Owners(f.key, most+1), func(n regions.Node) bool { return n.ID == c.node.ID })
	former = former[:min(len(former), most)]
	first := min(len(former), formerOwners)
	if a, all = f.peekAll(ctx, former[:first]); a.entry != nil || !f.floor.IsSet() {
		return a, all
	}
	a, others := f.peekAll(ctx, append(former[first:], c.guests()...))
	return a, a.entry != nil || all && others
}

// peekAll asks nodes, all at the same time. See peekFormerOwners.
func (f fill) peekAll(ctx context.Context, nodes []regions.Node) (a answer, all bool) {
	type peeked struct {
		answer
		known bool
	}
	found := make(chan peeked, len(nodes))
	for _, n := range nodes {
		f.g.cache.wg.Go(func() { // from a flight or an answer, which Close waits for too
			a, known := f.peek(ctx, n)
			found <- peeked{a, known}
		})
	}
	// The first is not the best: of two former owners the later one may have loaded the key again. But both
	// values are alive.
	all = true
	for range nodes {
		p := <-found
		if p.entry != nil {
			return p.answer, true
		}
		all = all && p.known
	}
	return answer{}, all
}

// peek asks a node of this region for what it has of the key in memory, and keeps that. known is false if
// the node has not said whether it has anything.
func (f fill) peek(ctx context.Context, n regions.Node) (a answer, known bool) {
	req := f.ownerRequest(peers.HopOwner, true)
	peer := f.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return answer{}, false
	}
	ans, err := peer.Fetch(ctx, req.wire())
	if errors.Is(err, peers.CodeUnknownGroup) {
		return answer{}, true
	}
	if a, verdict := req.judge(ctx, n, ans, err); verdict == answered && a.fresh() {
		return a, true
	}
	return answer{}, err == nil
}
