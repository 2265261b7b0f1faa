package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/sync/errgroup"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/outbox"
	"github.com/geocache/geocache/peers"
)

// This file gets writes to the other regions. See "Between regions" in docs/design.md. Package outbox
// decides what is sent when.

// A replicator sends this node's writes to the other regions, and applies theirs.
type replicator struct {
	c        *Cache
	outboxes *xsync.Map[string, *remote] // by region
	inbox    outbox.Inbox
}

// open makes an outbox for each region that has members, whether they answer or not. An outbox is never
// removed: a region that is no longer listed may come back.
func (r *replicator) open() {
	if r.c.transport == nil {
		return
	}
	for _, n := range r.c.members.Nodes() {
		if n.Region == r.c.node.Region {
			continue
		}
		r.outboxes.LoadOrCompute(n.Region, func() (*remote, bool) {
			to := &remote{
				Outbox: outbox.New(outbox.Config{
					MaxBytes: r.c.config.Outbox, Epoch: r.c.epoch, Probe: r.c.config.Lease,
				}),
				filled: make(chan struct{}),
			}
			pumping := r.c.spawn(func() { r.pump(n.Region, to.Outbox) }) &&
				r.c.spawn(func() { r.backfill(to) })
			return to, !pumping
		})
	}
}

// A remote is another region, and the writes that it has yet to be told of.
type remote struct {
	*outbox.Outbox
	filled chan struct{} // closed once the outbox also has what was written before it was made
}

// backfill adds the present floors to a new outbox: a region that has just been found has not been sent
// them. The owner of a key adds its floor, and so does the floor's sender.
func (r *replicator) backfill(to *remote) {
	defer close(to.filled)
	home := r.c.view.Load().home
	owns := func(key string) bool { return home.Owner(key).ID == r.c.node.ID }
	for _, g := range *r.c.groups.Load() {
		now := r.c.clock.Instant()
		if group := g.floors.Group(); group > g.floors.Cleared() && owns("") {
			to.Add(message.Write{
				Group: g.name, Clear: true, Collapsed: true, Stamp: expiry.Removal(group),
			}, now)
		}
		if cleared, by := g.floors.ClearedBy(); cleared > 0 && (by == r.c.self || owns("")) {
			to.Add(message.Write{Group: g.name, Clear: true, Stamp: expiry.Removal(cleared)}, now)
		}
		g.journal.each(func(w expiry.KeyFloor) {
			if f := message.FloorOf(w); w.Sender == r.c.self || owns(f.Key) {
				now := r.c.clock.Instant() // before the age is measured
				to.Add(g.journal.writeOf(&f), now)
			}
		})
	}
}

// remoteRegions returns the sorted names of the other regions that have members, whether they answer or not.
func (c *Cache) remoteRegions() []string {
	var names []string
	for _, n := range c.members.Nodes() {
		if n.Region != c.node.Region {
			names = append(names, n.Region)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// allRegions returns remoteRegions with this node's own region added, sorted.
func (c *Cache) allRegions() []string {
	names := append(c.remoteRegions(), c.node.Region)
	slices.Sort(names)
	return names
}

// add puts a write into the outbox of every other region. at is when its age was right.
func (r *replicator) add(w *message.Write, at expiry.Instant) {
	for _, o := range r.outboxes.All() {
		o.Add(*w, at)
	}
}

// pump sends what is in a region's outbox, until Close.
func (r *replicator) pump(region string, o *outbox.Outbox) {
	target := func(w *message.Write) (string, bool) {
		to := r.c.topology().Region(region)
		if to == nil {
			return "", false
		}
		id := to.Owner(w.Key).ID
		p := r.c.transport.Peer(id)
		return id, p != nil && p.Up()
	}
	for {
		changed := r.c.changed.wait() // a node that could not be reached may be reachable by then
		for {
			b, ok := o.Next(r.c.clock.Instant(), target)
			if !ok || !r.c.spawn(func() { r.push(o, b) }) {
				break
			}
		}
		var timer <-chan time.Time
		if at, ok := o.NextAt(r.c.clock.Instant()); ok {
			timer = time.After(max(at.Sub(r.c.clock.Instant()), time.Millisecond))
		}
		select {
		case <-o.Wake():
		case <-changed:
		case <-timer:
		case <-r.c.ctx.Done():
			return
		}
	}
}

// push sends one push and reports its result to the outbox.
func (r *replicator) push(o *outbox.Outbox, b outbox.Batch) {
	have, confirmed, err := r.pushTo(b)
	if err != nil {
		level := slog.LevelDebug
		if errors.Is(err, peers.CodeBadRequest) {
			level = slog.LevelWarn // it will fail the next time too
		}
		r.c.log.Log(r.c.ctx, level, "push not answered",
			"node", b.Target, "number", b.Push.Number, "writes", len(b.Push.Writes), "err", err)
		o.Failed(b, r.c.clock.Instant())
		return
	}
	if !confirmed {
		o.Doubted(b, have, r.c.clock.Instant())
		return
	}
	o.Answered(b, have, r.c.clock.Instant())
}

// pushTo sends one push and returns what the answer says has arrived, and whether the region has confirmed
// it.
func (r *replicator) pushTo(b outbox.Batch) (have uint64, confirmed bool, err error) {
	peer := r.c.transport.Peer(b.Target)
	if peer == nil {
		return 0, false, errNoPeer
	}
	ctx, cancel := context.WithTimeout(r.c.ctx, pushTimeout)
	defer cancel()
	reply, err := peer.Call(ctx, message.MethodPush, b.Push.Append(nil))
	if err != nil {
		return 0, false, err
	}
	m, err := message.DecodePushReply(reply)
	if err == nil && m.Unconfirmed && (!peer.Minority() || r.c.members.MayStand(peer.Region())) {
		err = errMinority // there may be a better one to send it to
	}
	return m.Have, !m.Unconfirmed, err
}

// errMinority means that a part of a divided region has a push, and that another part may have a majority.
var errMinority = errors.New("the node sees no majority of its region")

// pushTimeout bounds the wait for the answer to one push. It does not detect lost pushes (package outbox
// does), and must be longer than a region takes to notice that one of its nodes is gone.
const pushTimeout = 30 * time.Second

// handlePush applies what another region has sent, and answers once this region has been told.
func (r *replicator) handlePush(ctx context.Context, call *peers.Call, m message.Push) peers.Answer {
	have := r.inbox.Receive(call.From, m, r.c.clock.Instant())
	if err := r.relay(ctx, m.Writes, call.Transit); err != nil {
		return peers.Answer{Code: peers.CodeFailed, Text: err.Error()}
	}
	reply := message.PushReply{Have: have, Unconfirmed: r.c.leases.Unconfirmed()}
	return peers.Answer{Value: reply.Append(nil)}
}

// relay applies writes from another region, and returns once this region has been told.
func (r *replicator) relay(ctx context.Context, writes []message.Write, transit time.Duration) error {
	begun, v := r.c.clock.Instant(), r.c.view.Load()
	var unknown []*message.Write
	for i := range writes { // apply all of them before waiting for any
		w := &writes[i]
		if g := r.c.group(w.Group); g != nil {
			_ = g.origin.supersede(w) // drops what is older; fails only for a dirty write
			here := w
			if w.HasValue && !v.keeps(w.Key, r.c.node.ID) {
				floor := floorOf(w)
				here = &floor
			}
			g.apply(here, transit, 0)
		} else { // other nodes may have the group
			unknown = append(unknown, w)
		}
		w.Age += transit
	}
	var telling errgroup.Group
	for some := range relayed(writes) {
		telling.Go(func() error { return r.c.broadcast(ctx, some...) })
	}
	err := telling.Wait()
	for _, w := range unknown {
		if g := r.c.group(w.Group); g != nil { // the group has been added meanwhile
			g.apply(w, r.c.clock.Instant().Sub(begun), 0)
		} else if err == nil && r.c.leases.Unconfirmed() {
			err = errMinority // a node that it does not see may have the group, and learn of the write from nobody
		}
	}
	return err
}

// relayed yields the writes of a push in the parts in which this region is told of them: small ones
// together, others alone, so that none waits for a large one or a Clear.
func relayed(writes []message.Write) iter.Seq[[]*message.Write] {
	return func(yield func([]*message.Write) bool) {
		var part []*message.Write
		size := 0
		for i := range writes {
			w := &writes[i]
			if len(part) > 0 && (w.Clear || part[0].Clear || size+w.Size() > largeBroadcast) {
				if !yield(part) {
					return
				}
				part, size = nil, 0
			}
			part, size = append(part, w), size+w.Size()
		}
		if len(part) > 0 {
			yield(part)
		}
	}
}

// awaitConfirmed waits until a region has confirmed what this node has sent it about a key.
func (r *replicator) awaitConfirmed(ctx context.Context, m *message.AwaitRequest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(r.c.remoteWaits, func() { cancel(ErrClosed) })()
	to, ok := r.outboxes.Load(m.Region)
	for !ok { // the caller has heard of the region before this node
		changed := r.c.changed.wait()
		if to, ok = r.outboxes.Load(m.Region); ok {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("region %q is not known at %s: %w", m.Region, r.c.node.ID, context.Cause(ctx))
		}
	}
	select {
	case <-to.filled:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done, stop := to.Confirmed(m.Group, m.Subject())
	defer stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
