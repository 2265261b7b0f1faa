package engine

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// broadcast tells every node of this region of the writes, and returns when none of them serves anything
// older: the nodes of the view have applied the writes, and no other node can hold a lease (rule 6 of
// package lease). A key's owner and its successor get the value if the write has one; the others need only
// the floor.
//
// The error is ctx's, or says that this node is leaving, or is a guest, and no longer sees the others. A
// node that has not been told by then may not be told.
//
// The writes are not this node's to send to other regions, unlike those of committer.complete. They must not
// be changed afterwards.
func (c *Cache) broadcast(ctx context.Context, writes ...*message.Write) error {
	b := c.newBroadcast(writes)
	b.relayed = true
	return b.run(ctx)
}

func (c *Cache) newBroadcast(writes []*message.Write) *broadcast {
	b := &broadcast{c: c, start: c.clock.Instant(), ended: make(chan struct{}, 1)}
	b.writes = make([]toldWrite, len(writes))
	for i, w := range writes {
		b.writes[i].Write = w
		b.bytes += w.Size()
		floor := *w
		floor.HasValue = false
		b.floorBytes += floor.Size()
		b.clears = b.clears || w.Clear
	}
	return b
}

// A broadcast carries writes to the nodes of this region: in several attempts, if it must.
type broadcast struct {
	c       *Cache
	writes  []toldWrite
	relayed bool           // see message.Write
	start   expiry.Instant // when the ages of the writes were right
	bytes   int            // of the writes in a message, with their values
	clears  bool           // one of them is a Clear, which goes through the receiver's whole store

	floors     []byte // the writes without their values, encoded; for all nodes that get none
	floorBytes int    // how long they are

	// deliveries has one for each node that has been in the view. While an attempt is under way they are the
	// dispatcher's.
	deliveries []delivery
	underWay   bool          // an attempt is
	left       atomic.Int32  // deliveries that it waits for
	ended      chan struct{} // has one once left has become 0

	// term is the term in which a Swap's write was stamped; zero for other writes. The write is disputed
	// if a node was told only after the term ended: it may have owned the key by then, and have swapped
	// the same value. A node that joined the view after the term has the floor from the journals.
	term     term
	disputed bool
}

// A toldWrite is a write of a broadcast, with those nodes that get all of it: the key's owner and its
// successor.
type toldWrite struct {
	*message.Write
	keepers []regions.Node // none if there is nothing but a floor
}

func (w *toldWrite) keptBy(node string) bool {
	return slices.ContainsFunc(w.keepers, func(n regions.Node) bool { return n.ID == node })
}

// run sends the writes until all have been told, as broadcast says. If ctx has ended, run can be called
// again and goes on.
func (b *broadcast) run(ctx context.Context) error {
	c := b.c
	for {
		changed := c.changed.wait()
		v := c.view.Load()
		all, err := b.attempt(ctx, v)
		if err != nil {
			return err
		}
		if all {
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
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}

// runOn is run for a broadcast that nobody waits for any more.
func (b *broadcast) runOn() error {
	ctx, cancel := context.WithTimeout(b.c.ctx, writeTimeout)
	defer cancel()
	return b.run(ctx)
}

// resendPause is the pause before a node that has not acknowledged the writes is sent them again.
const resendPause = 20 * time.Millisecond

// attempt sends the writes to the nodes of the view that have not been told, to all at the same time, and
// reports whether all have been told now. The error is ctx's.
func (b *broadcast) attempt(ctx context.Context, v *view) (all bool, err error) {
	if err := b.await(ctx); err != nil { // an attempt that began when run was called before
		return false, err
	}
	b.begin(v)
	if err := b.await(ctx); err != nil {
		return false, err
	}
	return !slices.ContainsFunc(b.deliveries, func(d delivery) bool { return d.due && !d.told }), nil
}

// begin begins an attempt. None must be under way.
func (b *broadcast) begin(v *view) {
	for i := range b.writes {
		if w := &b.writes[i]; w.HasValue || w.Dirty {
			w.keepers = v.home.Owners(w.Key, 2)
		}
	}
	b.deliverTo(v.couriers)
	due := 0
	for i := range b.deliveries {
		d := &b.deliveries[i]
		if !d.due {
			continue
		}
		due++
		d.keeper = slices.ContainsFunc(b.writes, func(w toldWrite) bool { return w.keptBy(d.to.node) })
		if !d.keeper && b.floors == nil {
			b.floors = b.appendTo(make([]byte, 0, b.floorBytes), d.to.node)
		}
	}
	b.left.Store(int32(due))
	if b.underWay = due > 0; b.underWay {
		b.c.dispatcher.tell(b.deliveries)
	}
}

// deliverTo has a delivery for each of the nodes, and makes those due that have not been told.
func (b *broadcast) deliverTo(couriers []*courier) {
	if b.deliveries == nil {
		b.deliveries = make([]delivery, len(couriers))
		for i, q := range couriers {
			b.deliveries[i] = delivery{broadcast: b, to: q, due: true}
		}
		return
	}
	last := make(map[string]int, len(b.deliveries))
	for i := range b.deliveries {
		d := &b.deliveries[i]
		d.due = false
		last[d.to.node] = i
	}
	for _, q := range couriers {
		i, ok := last[q.node]
		if !ok {
			i = len(b.deliveries)
			b.deliveries = append(b.deliveries, delivery{broadcast: b})
		}
		d := &b.deliveries[i]
		d.to, d.due = q, !d.told
	}
}

// await waits for the end of the attempt that is under way, if one is.
func (b *broadcast) await(ctx context.Context) error {
	if !b.underWay {
		return nil
	}
	select {
	case <-b.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	b.underWay = false
	if t := b.term; t.view != nil && !b.disputed {
		b.disputed = slices.ContainsFunc(b.deliveries, func(d delivery) bool {
			return d.due && d.told && t.view.has(d.to.node)
		}) && !b.c.inTerm(t)
	}
	return nil
}

// appendTo appends the writes as the node needs them, encoded: without the values of keys that it does not
// keep.
func (b *broadcast) appendTo(to []byte, node string) []byte {
	age := b.c.clock.Instant().Sub(b.start)
	for i := range b.writes {
		w := &b.writes[i]
		m := *w.Write
		if (m.HasValue || m.Dirty) && !w.keptBy(node) {
			m = floorOf(w.Write)
		}
		m.Age += age
		m.Relayed = b.relayed
		to = m.Append(to)
	}
	return to
}

// floorOf returns what nodes need of a write whose key they do not keep.
func floorOf(w *message.Write) message.Write {
	return message.Write{Group: w.Group, Key: w.Key, Stamp: w.Stamp}
}

// end ends the delivery, and the attempt if it is the last. From then on d is the broadcast's.
func (d *delivery) end(told bool) {
	d.told = told
	if d.left.Add(-1) == 0 {
		d.ended <- struct{}{}
	}
}

// postBroadcast sends a node a Broadcast, for the dispatcher. A node that is up and does not answer within
// half a lease has lost it.
func (c *Cache) postBroadcast(node string, payload []byte, done func(reply []byte, err error)) error {
	peer := c.transport.Peer(node)
	if peer == nil {
		return errNoPeer
	}
	return peer.Post(c.config.Lease/2, message.MethodBroadcast, payload, done)
}

// errNoPeer means that the transport does not know a node, or not any more.
var errNoPeer = errors.New("no such peer")

// handleBroadcast answers a Broadcast.
func (c *Cache) handleBroadcast(m message.Broadcast, transit time.Duration) peers.Answer {
	var reply message.BroadcastReply
	for i := range m.Writes {
		w, sender := &m.Writes[i], m.Sender
		if w.Relayed {
			sender = 0
		}
		g := c.group(w.Group)
		if g == nil {
			continue // a group that does not exist here has nothing that could be served
		}
		if err := g.origin.supersede(w); err != nil {
			reply.Refused = append(reply.Refused, uint32(i))
			continue
		}
		g.apply(w, transit, sender)
	}
	return peers.Answer{Value: reply.Append(nil)}
}
