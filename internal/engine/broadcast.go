package engine

import (
	"context"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
)

// broadcast tells every node of this region of the writes, and returns when none of them serves anything
// older: the nodes of the view have applied the writes, and no other node can hold a lease (rule 6 of
// package lease). A key's owner and its successor get the value if the write has one; the others need only
// the floor.
//
// The error is ctx's, or says that this node is leaving, or is a guest, and no longer sees the others. A
// node that has not been told by then is not told.
//
// The writes are not this node's to send to other regions, unlike those of committer.complete.
func (c *Cache) broadcast(ctx context.Context, writes ...*message.Write) error {
	b := c.newBroadcast(writes)
	return b.run(ctx)
}

func (c *Cache) newBroadcast(writes []*message.Write) broadcast {
	return broadcast{c: c, writes: writes, start: c.clock.Instant(), told: map[string]bool{c.node.ID: true}}
}

// A broadcast carries writes to the nodes of this region.
type broadcast struct {
	c      *Cache
	writes []*message.Write
	sender uint64         // see Group.apply
	start  expiry.Instant // when the ages of the writes were right
	told   map[string]bool

	// term is the term in which a Swap's write was stamped; zero for other writes. The write is disputed
	// if a node was told only after the term ended: it may have owned the key by then, and have swapped
	// the same value. A node that joined the view after the term has the floor from the journals.
	term     term
	disputed bool
}

// run sends the writes until all have been told, as broadcast says.
func (b *broadcast) run(ctx context.Context) error {
	c := b.c
	for {
		changed := c.changed.wait()
		v := c.view.Load()
		if b.send(ctx, v) {
			settled, err := c.settle(ctx, v)
			switch {
			case err != nil:
				return err
			case settled && b.disputed:
				return errDisputed
			case settled:
				return nil
			}
			continue
		}
		// A node that was not told may be leaving the view, or have lost the message.
		select {
		case <-changed:
		case <-time.After(resendPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// resendPause is the pause before a node that has not acknowledged the writes is sent them again.
const resendPause = 20 * time.Millisecond

// send sends the writes to the nodes of the view that have not been told, all at the same time, and
// reports whether all have been told now. What several writers send to one node shares its network writes,
// see package peers.
func (b *broadcast) send(ctx context.Context, v *view) (all bool) {
	// A node that is up and does not answer within this time has lost the message.
	ctx, cancel := context.WithTimeout(ctx, b.c.config.Lease/2)
	defer cancel()
	type sent struct {
		node string
		call peers.Pending
	}
	var calls []sent
	var floors []byte // the message for all nodes that get no value
	keepers := v.keepers(b.writes)
	all = true
	for _, node := range v.home.Nodes {
		if b.told[node.ID] {
			continue
		}
		payload, keeper := floors, slices.Contains(keepers, node.ID)
		if keeper || payload == nil {
			m := message.Broadcast{Sender: b.sender, Writes: make([]message.Write, len(b.writes))}
			for i, w := range b.writes {
				m.Writes[i] = v.writeFor(w, node.ID)
				m.Writes[i].Age += b.c.clock.Instant().Sub(b.start)
			}
			if payload = m.Append(nil); !keeper {
				floors = payload
			}
		}
		peer := b.c.transport.Peer(node.ID)
		if peer == nil {
			all = false
			continue
		}
		call, err := peer.Begin(ctx, message.MethodBroadcast, payload)
		if err != nil {
			all = false
			continue
		}
		calls = append(calls, sent{node.ID, call})
	}
	member := false // a node of the term's view has been told
	for _, t := range calls {
		if _, err := t.call.Wait(ctx); err != nil {
			all = false
			continue
		}
		b.told[t.node] = true
		member = member || b.term.view != nil && b.term.view.has(t.node)
	}
	b.disputed = b.disputed || member && !b.c.inTerm(b.term)
	return all
}

// handleBroadcast answers a Broadcast.
func (c *Cache) handleBroadcast(m message.Broadcast, transit time.Duration) peers.Answer {
	for i := range m.Writes {
		// A group that does not exist here has nothing that could be served.
		if g := c.group(m.Writes[i].Group); g != nil {
			if err := g.origin.supersede(&m.Writes[i]); err != nil {
				return peers.Answer{Code: peers.CodeBusy, Text: err.Error()}
			}
			g.apply(&m.Writes[i], transit, m.Sender)
		}
	}
	return peers.Answer{}
}
