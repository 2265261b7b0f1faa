package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file makes any node of a region good enough for a node of another one to ask. That one is connected to
// a few nodes here (see regions.Members.Watched), and the key's owner need not be among them. So what another
// region asks for and only the owner can do is forwarded to the owner, once: what comes from this region is not
// forwarded again, so nodes whose rings differ never send a request in a circle. Pushes are not forwarded.
// Whoever gets one tells the whole region.

// A gateway is this node as nodes of other regions ask it, and as it asks those.
type gateway struct{ c *Cache }

// serves reports whether a request from a node of this region comes from another region than this node's.
func (w gateway) serves(region string) bool { return region != w.c.node.Region }

// fetch has the key's owner answer a read of another region, or if that node cannot, its successor. It
// returns false if this node is to answer by itself.
func (w gateway) fetch(ctx context.Context, g *Group, req peers.Request) (peers.Answer, bool) {
	owners := w.c.topology().Home.Owners(req.Key, 2)
	if req.Hop == peers.HopUpdate { // of an Update's reads the successor knows too little
		owners = owners[:1]
	}
	for _, n := range owners {
		if n.ID == w.c.node.ID {
			return peers.Answer{Code: peers.CodeMiss}, req.Peek
		}
		peer := w.c.transport.Peer(n.ID)
		if peer == nil {
			continue
		}
		ans, err := peer.Fetch(ctx, req)
		var pe *peers.Error
		switch {
		case err == nil && ans.Code == peers.CodeMiss:
		case err == nil:
			return ans, true
		case !errors.As(err, &pe):
			return g.reply(answer{err: contextError(context.Cause(ctx))}), true
		case isFinal(pe.Code):
			return peers.Answer{Code: pe.Code, Text: pe.Text}, true
		}
	}
	switch {
	case req.Peek:
		return peers.Answer{Code: peers.CodeMiss}, true
	case req.Hop == peers.HopUpdate:
		return peers.Answer{Code: peers.CodeClosing, Text: errNoOwner.Error()}, true
	}
	return peers.Answer{}, false
}

// forward has the key's owner carry out the Swap of another region. req.Born is set.
func (cm *committer) forward(
	ctx context.Context, req *message.WriteRequest, owner regions.Node,
) peers.Answer {
	reply, o, err := cm.g.router.ask(ctx, req, owner)
	switch o {
	case notOwner, notYet:
		reply, err = message.WriteReply{Late: true}, nil
	case lost:
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	case final, ownerLeft:
		reply.By = owner.ID
	}
	if err != nil {
		return cm.g.reply(answer{err: err})
	}
	return peers.Answer{Value: reply.Append(nil)}
}

// askKeepers asks the key's owner in a region, or else its successor, for the last write of the key. ok is
// false if neither says what it knows, and unknown is true if neither has the group.
func (w gateway) askKeepers(
	ctx context.Context, r *regions.Region, m message.RecallRequest,
) (reply message.RecallReply, unknown, ok bool) {
	keepers, lacking := r.Owners(m.Key, 2), 0
	for _, n := range keepers {
		peer := w.c.transport.Peer(n.ID)
		if peer == nil {
			continue
		}
		b, err := peer.Call(ctx, message.MethodRecall, m.Append(nil))
		if errors.Is(err, peers.CodeUnknownGroup) {
			lacking++
		}
		if err != nil {
			continue
		}
		if reply, err = message.DecodeRecallReply(b); err == nil && reply.Agrees {
			return reply, false, true
		}
	}
	return message.RecallReply{}, lacking == len(keepers), false
}

// recall answers a RecallRequest of another region by what the key's keepers say.
func (w gateway) recall(ctx context.Context, m message.RecallRequest) peers.Answer {
	reply, unknown, _ := w.askKeepers(ctx, w.c.topology().Home, m)
	if unknown {
		return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}
	}
	return peers.Answer{Value: reply.Append(nil)}
}

// await answers an AwaitRequest, or forwards it to the node that it names.
func (w gateway) await(ctx context.Context, call *peers.Call, m message.AwaitRequest) peers.Answer {
	var err error
	switch peer := w.c.transport.Peer(m.By); {
	case m.By == w.c.node.ID:
		err = w.c.replicator.awaitConfirmed(ctx, &m)
	case !w.serves(call.Region) || peer == nil || peer.Region() != w.c.node.Region:
		err = errNoPeer
	default:
		_, err = peer.Call(ctx, message.MethodAwait, m.Append(nil))
	}
	if err != nil {
		return peers.Answer{Code: peers.CodeFailed, Text: err.Error()}
	}
	return peers.Answer{}
}

// reach returns a peer that passes on what is for a node: that node itself, or if this one is not connected
// to it, a node of its region. It returns nil if there is none.
func (w gateway) reach(id string) *peers.Peer {
	if p := w.c.transport.Peer(id); p != nil {
		return p
	}
	for _, n := range w.c.members.Nodes() {
		if r := w.c.topology().Region(n.Region); n.ID == id && r != nil {
			return w.c.transport.Peer(r.Owner(id).ID)
		}
	}
	return nil
}
