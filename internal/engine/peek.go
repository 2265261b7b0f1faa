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
	// peekTimeout bounds a peek at a former owner. The answer comes from memory: a node that takes longer
	// is not worth waiting for.
	peekTimeout = 250 * time.Millisecond

	// formerOwners is the number of possible former owners that are asked. If two nodes joined in quick
	// succession, the key's old owner is third in its succession.
	formerOwners = 2

	// formerOwnersOfSet is the number of nodes that are asked, if those have nothing, for a value that was
	// Set: no origin may have it. In a region that has doubled in size, one key in 2¹⁶ is on none of them.
	formerOwnersOfSet = 16
)

// peekFormerOwners asks the nodes that owned the key before the ring changed for the value in their memory,
// as long as the change is recent enough for the value to be alive. They are the next in the key's
// succession, since a node that joined took the key over from there. If they have nothing the answer has no
// entry, and all says whether every one of them said so.
//
// A floor tells whether the key's last write was a Set. If so its value is somewhere, unless it was
// dropped. A load instead would be newer and hide it for good. So then more nodes are asked, guests among
// them.
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
	former := slices.DeleteFunc(top.Home.Owners(f.key, most+1), func(n regions.Node) bool {
		return n.ID == c.node.ID
	})
	former = former[:min(len(former), most)]
	first := min(len(former), formerOwners)
	if a, all = f.peekAll(ctx, former[:first]); a.entry != nil || !f.floor.IsSet() {
		return a, all
	}
	a, others := f.peekAll(ctx, append(former[first:], c.guests()...))
	return a, a.entry != nil || all && others
}

// peekAll asks nodes concurrently. See peekFormerOwners.
func (f fill) peekAll(ctx context.Context, nodes []regions.Node) (a answer, all bool) {
	type peeked struct {
		answer
		known bool
	}
	found := make(chan peeked, len(nodes))
	for _, n := range nodes {
		// Close waits for the caller too, which is a flight or a request.
		f.g.cache.wg.Go(func() {
			a, known := f.peek(ctx, n)
			found <- peeked{a, known}
		})
	}
	// The first answer need not be the newest: of two former owners the later one may have loaded the key
	// again. But both values are alive.
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

// peek asks a node of this region for the key's value in its memory, and stores it. known is false if the
// node did not say whether it has one.
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
