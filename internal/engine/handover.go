package engine

import (
	"context"
	"time"

	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

const (
	// handoffBatch and handoffBytes bound the entries in one message.
	handoffBatch = 512
	handoffBytes = 256 << 10
)

// handoffTimeout bounds how long a leaving node hands its entries to their new owners.
const handoffTimeout = 2 * time.Second

// handoff hands what this node owns to the nodes that will own it once it has left: first the writes that
// the origin does not have, then the entries, those that have been used before the others.
func (c *Cache) handoff(ctx context.Context) {
	if c.transport == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handoffTimeout)
	defer cancel()
	var hs []*handover
	for _, g := range *c.groups.Load() {
		h := g.newHandover()
		hs = append(hs, h)
		if g.origin.queue != nil {
			g.origin.disown(ctx, h, g.nextOwner())
		}
	}
	for _, used := range []bool{true, false} {
		for _, h := range hs {
			h.handEntries(ctx, used)
		}
	}
	for _, h := range hs {
		for node, err := range h.failed {
			c.log.Info("not all entries handed over", "group", h.g.name, "to", node, "err", err)
		}
	}
}

// A handover hands entries to other nodes, in batches. It is not safe for concurrent use.
type handover struct {
	g       *Group
	batches map[string][]message.Write // by node ID
	sizes   map[string]int             // the bytes of each batch
	failed  map[string]error           // nodes that did not take a batch; they get no more
}

func (g *Group) newHandover() *handover {
	return &handover{
		g: g, batches: map[string][]message.Write{}, sizes: map[string]int{}, failed: map[string]error{},
	}
}

// nextOwner returns a function that names the node that will own a key once this one, its owner, has left.
func (g *Group) nextOwner() func(key string) (node string, ok bool) {
	home := g.cache.topology().Home
	return func(key string) (string, bool) {
		owners := home.Owners(key, 2)
		if len(owners) < 2 || owners[0].ID != g.cache.node.ID {
			return "", false
		}
		return owners[1].ID, true
	}
}

// handEntries hands over the entries that have been used since they were stored, or the others.
func (h *handover) handEntries(ctx context.Context, used bool) {
	now, nextOwner := h.g.cache.clock.Instant(), h.g.nextOwner()
	for e := range h.g.store.All() {
		if e.Used() != used || !h.g.fresh.passesOn(e, now) {
			continue
		}
		if node, ok := nextOwner(e.Key()); ok {
			h.add(ctx, node, h.g.writeOf(e))
		}
	}
	h.flush(ctx)
}

// add adds a write to a node's batch, and sends the batch if it is full.
func (h *handover) add(ctx context.Context, node string, w message.Write) {
	if h.failed[node] != nil {
		return
	}
	h.batches[node] = append(h.batches[node], w)
	h.sizes[node] += len(w.Value) + len(w.Key)
	if h.sizes[node] >= handoffBytes || len(h.batches[node]) >= handoffBatch {
		h.send(ctx, node)
	}
}

// flush sends all batches.
func (h *handover) flush(ctx context.Context) {
	for node := range h.batches {
		h.send(ctx, node)
	}
}

// send sends a node its batch. A node that does not take it within a lease gets no more, so that the
// others get their share of the time.
func (h *handover) send(ctx context.Context, node string) {
	writes := h.batches[node]
	delete(h.batches, node)
	delete(h.sizes, node)
	peer := h.g.cache.transport.Peer(node)
	if peer == nil {
		h.failed[node] = errNoPeer
		return
	}
	ctx, cancel := context.WithTimeout(ctx, h.g.cache.config.Lease)
	defer cancel()
	payload := message.Broadcast{Writes: writes}.Append(nil)
	if _, err := peer.Call(ctx, message.MethodHandoff, payload); err != nil {
		h.failed[node] = err
	}
}

// handleHandoff answers a Handoff.
func (c *Cache) handleHandoff(call *peers.Call) peers.Answer {
	return decoded(call, message.DecodeBroadcast, func(m message.Broadcast) peers.Answer {
		dirty := map[*Group]bool{}
		for i := range m.Writes {
			w := &m.Writes[i]
			g := c.group(w.Group)
			switch {
			case g == nil && w.Dirty: // a node without the group cannot keep it for the origin
				return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}
			case g == nil:
			case w.Dirty && g.origin.queue != nil:
				if err := g.origin.supersede(w); err != nil {
					return peers.Answer{Code: peers.CodeBusy, Text: err.Error()}
				}
				dirty[g] = true
				// Anything loaded here meanwhile comes from an origin that lacks the write.
				g.store.DeleteFunc(w.Key, func(e *store.Entry) bool { return e.IsLoad() })
				g.apply(w, call.Transit, 0)
			case w.HasValue:
				// In place of a copy of the same: what is held for others stays when this node is alone.
				g.applyValue(w, call.Transit, func(e *store.Entry) bool {
					return e.Class() == store.Copy && !w.Stamp.Below(e.Stamp)
				})
			}
		}
		for g := range dirty {
			g.origin.queue.Adopt(g.ownsOnRing) // once for all keys: each call scans the queue
		}
		return peers.Answer{}
	})
}
