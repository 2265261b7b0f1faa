package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/internal/outbox"
	"github.com/geocache/geocache/peers"
)

// This file is how writes get to the other regions. See "Between regions" in
// docs/design.md; what is sent when is decided in package outbox.

// openOutboxes makes an outbox for each region that has members, whether they
// answer or not. One that has been made stays: a region that is not listed any
// more may come back.
func (c *Cache) openOutboxes() {
	if c.transport == nil {
		return
	}
	for _, n := range c.members.Nodes() {
		if n.Region == c.node.Region {
			continue
		}
		c.outboxes.LoadOrCompute(n.Region, func() (*remote, bool) {
			r := &remote{
				Outbox: outbox.New(outbox.Config{MaxBytes: c.config.Outbox, Epoch: c.epoch, Probe: c.config.Lease}),
				filled: make(chan struct{}),
			}
			return r, !c.spawn(func() { c.pump(n.Region, r.Outbox) }) || !c.spawn(func() { c.backfill(r) })
		})
	}
}

// A remote is what another region has to be told.
type remote struct {
	*outbox.Outbox
	filled chan struct{} // closed when what was written before it was made is in it too
}

// backfill adds to a new outbox the floors that there are by then: a region that has just been found
// has not been sent them. A key's owner sends its floor, and so does the floor's sender.
func (c *Cache) backfill(r *remote) {
	defer close(r.filled)
	home := c.standing.view.Load().home
	owns := func(key string) bool { return home.Owner(key).ID == c.node.ID }
	for _, g := range *c.groups.Load() {
		now := c.clock.Instant()
		if group := g.floors.Group(); group > g.floors.Cleared() && owns("") {
			r.Add(note.Note{Group: g.name, Clear: true, Folded: true, Stamp: expiry.Removal(group)}, now)
		}
		if cleared, by := g.floors.ClearedBy(); cleared > 0 && (by == c.self || owns("")) {
			r.Add(note.Note{Group: g.name, Clear: true, Stamp: expiry.Removal(cleared)}, now)
		}
		g.eachFloor(func(w expiry.Written) {
			if f := note.FloorOf(w); w.Sender == c.self || owns(f.Key) {
				now := c.clock.Instant() // before the age is measured
				r.Add(g.present(&f), now)
			}
		})
	}
}

// remoteRegions returns the names of the other regions that have members, whether
// they answer or not, in order.
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

// allRegions is remoteRegions and this node's own.
func (c *Cache) allRegions() []string {
	names := append(c.remoteRegions(), c.node.Region)
	slices.Sort(names)
	return names
}

// replicate sends a note on its way to every other region. at is when its age was right.
func (c *Cache) replicate(n *note.Note, at expiry.Instant) {
	for _, o := range c.outboxes.All() {
		o.Add(*n, at)
	}
}

// pump sends what is in a region's outbox, until Close.
func (c *Cache) pump(region string, o *outbox.Outbox) {
	target := func(n *note.Note) (string, bool) {
		r := c.topology().Region(region)
		if r == nil {
			return "", false
		}
		id := r.Owner(n.Key).ID
		p := c.transport.Peer(id)
		return id, p != nil && p.Up()
	}
	for {
		changed := c.standing.changed.wait() // whoever could not be reached may be by then
		for {
			b, ok := o.Next(c.clock.Instant(), target)
			if !ok || !c.spawn(func() { c.push(o, b) }) {
				break
			}
		}
		var timer <-chan time.Time
		if at, ok := o.NextAt(c.clock.Instant()); ok {
			timer = time.After(max(at.Sub(c.clock.Instant()), time.Millisecond))
		}
		select {
		case <-o.Wake():
		case <-changed:
		case <-timer:
		case <-c.ctx.Done():
			return
		}
	}
}

// push sends one push and reports what came of it.
func (c *Cache) push(o *outbox.Outbox, b outbox.Batch) {
	have, err := c.pushTo(b)
	if err != nil {
		level := slog.LevelDebug
		if errors.Is(err, peers.CodeBadRequest) {
			level = slog.LevelWarn // it will be the next time
		}
		c.log.Log(c.ctx, level, "push not answered", "node", b.Target, "number", b.Push.Number, "notes", len(b.Push.Notes), "err", err)
		o.Failed(b, c.clock.Instant())
		return
	}
	o.Answered(b, have, c.clock.Instant())
}

func (c *Cache) pushTo(b outbox.Batch) (have uint64, err error) {
	peer := c.transport.Peer(b.Target)
	if peer == nil {
		return 0, errors.New("no such peer")
	}
	ctx, cancel := context.WithTimeout(c.ctx, pushTimeout)
	defer cancel()
	reply, err := peer.Call(ctx, note.MethodPush, b.Push.Append(nil))
	if err != nil {
		return 0, err
	}
	m, err := note.DecodePushed(reply)
	return m.Have, err
}

// pushTimeout bounds how long the answer to one push is waited for. It is not
// what notices that a push was lost, see outbox; it must be longer than a region
// takes to notice that one of its nodes is gone.
const pushTimeout = 30 * time.Second

// takePush takes in what another region has sent, and answers when this one has
// been told.
func (c *Cache) takePush(ctx context.Context, call *peers.Call, m note.Push) peers.Answer {
	have := c.inbox.Receive(call.From, m, c.clock.Instant())
	if err := c.relay(ctx, m.Notes, call.Transit); err != nil {
		return peers.Answer{Code: peers.CodeFailed, Text: err.Error()}
	}
	return peers.Answer{Value: note.Pushed{Have: have}.Append(nil)}
}

// relay takes in notes from another region, and returns when this one has been
// told.
func (c *Cache) relay(ctx context.Context, notes []note.Note, transit time.Duration) error {
	var wg sync.WaitGroup
	errs := make([]error, len(notes))
	for i := range notes {
		n := &notes[i]
		g := c.group(n.Group)
		if g == nil { // others may have it
			n.Age += transit
			wg.Go(func() {
				errs[i] = c.spread(ctx, n)
				if g := c.group(n.Group); g != nil { // it has come meanwhile
					g.take(n, 0, 0)
				}
			})
			continue
		}
		_ = g.backing.supersede(n) // drops what is older, there is nothing to keep
		g.take(n, transit, 0)      // all of them at once, before anybody waits
		n.Age += transit
		wg.Go(func() { errs[i] = c.spread(ctx, n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// confirmed waits until a region has confirmed what it has been sent about a
// key by this node.
func (c *Cache) confirmed(ctx context.Context, m *note.Await) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.awaiting, func() { cancel(ErrClosed) })()
	r, ok := c.outboxes.Load(m.Region)
	for !ok { // who asks has heard of it before this node
		changed := c.standing.changed.wait()
		if r, ok = c.outboxes.Load(m.Region); ok {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("region %q is not known at %s: %w", m.Region, c.node.ID, context.Cause(ctx))
		}
	}
	select {
	case <-r.filled:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	done, stop := r.Confirmed(m.Group, m.Subject())
	defer stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
