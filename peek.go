package geocache

import (
	"context"
	"errors"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is what a key's owner asks those for that owned it before.

const (
	// peekTimeout bounds the question to former owners, which is answered
	// from memory: a node that takes longer is not worth waiting for.
	peekTimeout = 250 * time.Millisecond

	// formerOwners is how many nodes are asked that may have owned the key
	// before the ring changed. Two nodes that joined one soon after the other
	// put the key's old owner third in its succession.
	formerOwners = 2
)

// peekFormer asks the nodes that owned key before the ring changed for what they
// have in memory, as long as the change is so recent that it may be alive. They
// are the next in the key's succession: whoever joined took the key from there. If they
// have nothing the answer has no entry, and all says whether each of them has said so.
func (g *group) peekFormer(ctx context.Context, top *regions.Topology, key string, floor expiry.Stamp) (a answer, all bool) {
	if len(top.Home.Nodes) == 1 || g.cache.clock.Instant().Sub(top.Changed) > g.config.ttl {
		return answer{}, true
	}
	ctx, cancel := context.WithTimeout(ctx, peekTimeout)
	defer cancel()
	type peeked struct {
		answer
		known bool
	}
	found := make(chan peeked, formerOwners)
	asked := 0
	for _, n := range top.Home.Owners(key, formerOwners+1) {
		if n.ID == g.cache.node.ID || asked == formerOwners {
			continue
		}
		asked++
		g.cache.wg.Go(func() { // from a flight or an answer, which Close waits for too
			a, known := g.peekAt(ctx, n, key, floor)
			found <- peeked{a, known}
		})
	}
	// The first is not the best: of two former owners the later one may have
	// loaded the key again. But both values are alive.
	all = true
	for range asked {
		p := <-found
		if p.entry != nil {
			return p.answer, true
		}
		all = all && p.known
	}
	return answer{}, all
}

// peekAt asks a node of this region for what it has of key in memory, and keeps that. known is
// false if the node has not said whether it has anything.
func (g *group) peekAt(ctx context.Context, n regions.Node, key string, floor expiry.Stamp) (a answer, known bool) {
	req := request{key: key, floor: floor, hop: peers.HopOwner, peek: true, class: store.Owned, began: g.mark()}
	peer := g.cache.transport.Peer(n.ID)
	if peer == nil {
		return answer{}, false
	}
	ans, err := peer.Fetch(ctx, g.wire(req))
	if errors.Is(err, peers.CodeUnknownGroup) {
		return answer{}, true
	}
	if a, verdict := g.judge(ctx, req, n, ans, err); verdict == answered && a.fresh() {
		return a, true
	}
	return answer{}, err == nil
}
