package engine

import (
	"context"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
)

// spread tells writes to every node of this region, and returns when none of
// them serves what is older: all have taken them in, and who is not among them can hold
// no lease. The nodes that own or succeed a key get the value if its note has one, the
// others need the floor only.
//
// The error is ctx's, or that this node is leaving and does not see the others any
// more; who was not told by then is not told.
//
// The writes are not this node's to send to other regions; those of complete are.
func (c *Cache) broadcast(ctx context.Context, writes ...*message.Write) error {
	b := c.newBroadcast(writes)
	return b.run(ctx)
}

func (c *Cache) newBroadcast(writes []*message.Write) broadcast {
	return broadcast{c: c, writes: writes, start: c.clock.Instant(), told: map[string]bool{c.node.ID: true}}
}

// A spreading is writes on their calls to the nodes of this region.
type broadcast struct {
	c      *Cache
	writes []*message.Write
	sender uint64         // see take
	start  expiry.Instant // when the ages were right
	told   map[string]bool

	// in is the tenure that the writes were stamped in, if they are a Swap's. A node that is told
	// only after its end may have owned the key by then, and have swapped the same value: that is
	// disputed. A node that came into the view after it has the floor from the journals.
	term     term
	disputed bool
}

// run does what spread says.
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
		// Who was not told may be on its calls out of the view, or have lost the
		// message.
		select {
		case <-changed:
		case <-time.After(resendPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tellAgain is the pause before a node is told once more what it has not
// acknowledged.
const resendPause = 20 * time.Millisecond

// tell tells those nodes of the view that have not been told, all at the same
// time. What many writers tell one node shares its messages' calls to the network,
// see peers. It reports whether all have been told now.
func (b *broadcast) send(ctx context.Context, v *view) (all bool) {
	// A node that is up and does not answer for so long has lost it.
	ctx, cancel := context.WithTimeout(ctx, b.c.config.Lease/2)
	defer cancel()
	type sent struct {
		node string
		call peers.Pending
	}
	var calls []sent
	var floors []byte // the message of all that get no value
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
	member := false // one of the tenure's view has been told
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

// takeTell answers a Tell.
func (c *Cache) handleBroadcast(m message.Broadcast, transit time.Duration) peers.Answer {
	for i := range m.Writes {
		// A group that is not here has nothing that could be served.
		if g := c.group(m.Writes[i].Group); g != nil {
			if err := g.origin.supersede(&m.Writes[i]); err != nil {
				return peers.Answer{Code: peers.CodeBusy, Text: err.Error()}
			}
			g.apply(&m.Writes[i], transit, m.Sender)
		}
	}
	return peers.Answer{}
}
