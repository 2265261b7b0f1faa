package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/internal/writebehind"
	"github.com/geocache/geocache/peers"
)

// A backing is how a group's writes get to the user's origin, if they do: through,
// before the cache has them, or behind, after.
type originWrites struct {
	g *Group

	set    func(ctx context.Context, key string, value []byte) error // nil: writes are the cache's alone
	remove func(ctx context.Context, key string) error               // nil: so are removals
	queue  *writebehind.Queue                                        // nil: they are written through

	flushedMu sync.Mutex // guards the following
	flushed   []message.Floor
	sending   bool // whether somebody sends what is in clean
}

// any reports whether writes get to the origin at all.
func (ow *originWrites) any() bool { return ow.set != nil || ow.remove != nil }

// init makes g's backing from its configuration.
func (ow *originWrites) init(g *Group) {
	config := &g.config
	ow.g, ow.set, ow.remove = g, config.Set, config.Remove
	if config.WriteBehind > 0 {
		ow.queue = writebehind.New(writebehind.Config{
			Store:    ow.store,
			Stored:   ow.onFlushed,
			MaxBytes: config.WriteBehind,
			Timeout:  config.LoadTimeout,
			Now:      g.cache.clock.Instant,
			Context:  g.cache.ctx,
			Spawn:    g.cache.spawn,
			Logger:   g.cache.log.With("group", g.name),
		})
	}
}

// takes reports whether the origin is to get a write of this kind.
func (ow *originWrites) takes(op message.Op) bool {
	switch op {
	case message.Set, message.Swap:
		return ow.set != nil
	case message.Remove:
		return ow.remove != nil
	}
	return false
}

// through writes w to the origin, which takes it. The key's lock is
// held, so the origin sees a key's writes in the order of their stamps.
//
// If it fails, nobody knows what the origin holds: what the cache has of the key dies.
func (ow *originWrites) through(ctx context.Context, req *message.WriteRequest) error {
	ctx, cancel := context.WithTimeoutCause(ctx, ow.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	what, write := ow.userCall(req.Key, store.Payload(req.Value, req.Tagged), req.Op == message.Remove)
	done, going := origin.Go(&ow.g.guard, ow.g.cache.spawn, what, req.Key, origin.NoValue(func() error {
		return write(ow.g.cache.waits.During(ctx, origin.Subject{Group: ow.g.name, Key: req.Key, Write: true}))
	}))
	if !going {
		return ErrClosed
	}
	o, ended := origin.Await(ctx, done)
	err := o.Err
	if !ended {
		err = endOf(context.Cause(ctx))
		// It may change the origin yet, after all that is done below.
		ow.g.cache.spawn(func() {
			select {
			case <-done:
				ow.distrust(req.Key)
			case <-ow.g.cache.ctx.Done():
			}
		})
	}
	if err != nil {
		ow.g.stats.originErrors.Add(1)
		ow.distrustLocked(req.Key)
		return ow.g.located(fmt.Errorf("writing to the origin: %w", err))
	}
	ow.g.stats.originWrites.Add(1)
	return nil
}

// toOrigin returns what is to be called for a write, the user's setter or remover.
func (ow *originWrites) userCall(key string, value []byte, removed bool) (what string, write func(context.Context) error) {
	if removed {
		return "remover", func(ctx context.Context) error { return ow.remove(ctx, key) }
	}
	return "setter", func(ctx context.Context) error { return ow.set(ctx, key, value) }
}

// distrust makes what the cache has of the key dead, everywhere.
func (ow *originWrites) distrust(key string) {
	held, err := ow.g.committer.keys.Lock(ow.g.cache.ctx, key)
	if err != nil {
		return // closing
	}
	defer held.Unlock()
	ow.distrustLocked(key)
}

func (ow *originWrites) distrustLocked(key string) {
	w := &message.Write{Group: ow.g.name, Key: key}
	_ = ow.g.committer.stampLocked(w, &message.WriteRequest{}, noDeadline)
	ow.g.cache.spawn(func() {
		if err := ow.g.committer.complete(pending{writes: []*message.Write{w}}); err != nil {
			ow.g.cache.log.Warn("a failed write to the origin could not be told to the region", "group", ow.g.name, "key", key, "err", err)
		}
	})
}

// store1 writes one queued write to the origin.
func (ow *originWrites) store(ctx context.Context, w writebehind.Write) error {
	what, write := ow.userCall(w.Key, store.Payload(w.Value, w.Tagged), w.Removed)
	done, ok := origin.Go(&ow.g.guard, ow.g.cache.spawn, what, w.Key, origin.NoValue(func() error { return write(ctx) }))
	if !ok {
		return ErrClosed
	}
	err := (<-done).Err // the queue leaves behind what does not return
	if err != nil {
		ow.g.stats.originErrors.Add(1)
	} else {
		ow.g.stats.originWrites.Add(1)
	}
	return err
}

// queue makes n, which has its stamp, one that the origin will get.
func (ow *originWrites) enqueue(ctx context.Context, w *message.Write) error {
	w.Dirty = true
	err := ow.queue.Put(ctx, ow.toQueued(w))
	switch {
	case errors.Is(err, writebehind.ErrFull):
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	case errors.Is(err, writebehind.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

func (ow *originWrites) toQueued(w *message.Write) writebehind.Write {
	now := ow.g.cache.clock.Instant()
	return writebehind.Write{Key: w.Key, Stamp: w.Stamp, Value: w.Value, Tagged: w.Tagged, Removed: w.Stamp.IsRemoval(), Born: now.Add(-w.Age), Expires: now.Add(w.Life - w.Age)}
}

// noteOfQueued is the reverse of behindOf.
func (ow *originWrites) fromQueued(w writebehind.Write) message.Write {
	return message.Write{
		Group:    ow.g.name,
		Key:      w.Key,
		Stamp:    w.Stamp,
		Dirty:    true,
		HasValue: !w.Removed,
		Tagged:   w.Tagged,
		Value:    w.Value,
		Age:      ow.g.cache.clock.Instant().Sub(w.Born),
		Life:     w.Expires.Sub(w.Born),
	}
}

// takeDirty does with a note from another node what concerns the origin: as the
// successor of a key's owner, or as its new owner, it keeps what the origin does not
// have; and what it has of its own that is older need not be written any more. It is to be
// called before the note is taken in, so that no read finds the floor of the newer write
// beside the older write.
func (ow *originWrites) supersede(w *message.Write) error {
	q := ow.queue
	if q == nil || w.Clear || w.Scope || w.Stamp.IsLoad() {
		return nil
	}
	// Only what is older: its own write comes back to a node that owns the key,
	// from a region that only passes it on.
	older := w.Stamp
	older.Origin--
	switch held, ok := q.Lookup(w.Key); {
	case w.Dirty && (w.HasValue || w.Stamp.IsRemoval()):
		q.Drop(w.Key, older) // be there room for the newer one or not
		return q.Hold(ow.toQueued(w))
	case w.HasValue && (!ok || held.Stamp.Below(w.Stamp)):
		// Another region writes it. If an older one is being written here just now, which may
		// come last, then so must this one be after it; else it is not kept.
		_ = q.Hold(ow.toQueued(w))
		q.Drop(w.Key, w.Stamp)
	}
	q.Drop(w.Key, older)
	return nil
}

// queued answers with what the origin does not have yet: for such a key the queue
// is the origin, and what it has is as good as loaded now.
func (ow *originWrites) queued(key string, floor expiry.Stamp) (answer, bool) {
	if ow.queue == nil {
		return answer{}, false
	}
	start := ow.g.startFill()
	w, ok := ow.queue.Lookup(key)
	if !ok {
		return answer{}, false
	}
	now := ow.g.cache.clock.Instant()
	e := ow.g.store.NewEntry(store.Item{
		Key:     key,
		Value:   w.Value,
		Stamp:   w.Stamp,
		Born:    now,
		Expires: now.Add(max(ow.g.life(key, w.Removed, w.Expires.Sub(w.Born)), time.Microsecond)),
		Class:   store.Owned,
		Absent:  w.Removed,
		Tagged:  w.Tagged,
	})
	if e.Below(floor.Max(ow.g.fresh.floorOf(e))) {
		return answer{}, false
	}
	return ow.g.admit(answer{entry: e, source: SourceGetter}, start), true
}

// isQueued reports whether the origin does not have the key's last write yet.
func (ow *originWrites) isQueued(key string) bool {
	if ow.queue == nil {
		return false
	}
	_, ok := ow.queue.Lookup(key)
	return ok
}

// dirty is queued for a load. What has been cleared since it was written is not
// answered with, and the origin must have it before it is asked: what was there before
// would come back.
func (ow *originWrites) unwritten(ctx context.Context, key string, floor expiry.Stamp) (answer, bool) {
	if a, ok := ow.queued(key, floor); ok || ow.queue == nil {
		return a, ok
	}
	if _, ok := ow.queue.Lookup(key); !ok {
		return answer{}, false
	}
	ow.queue.Adopt(func(k string) bool { return k == key })
	ctx, cancel := share(ctx, 3, 4) // leaves time to say so
	defer cancel()
	if err := ow.awaitWritten(ctx, key); err != nil {
		return answer{err: ow.g.located(fmt.Errorf("%w: the key has been cleared, and the origin does not have yet what was written before: %w", ErrTimeout, err))}, true
	}
	return answer{}, false
}

// written waits until nothing is queued for the key.
func (ow *originWrites) awaitWritten(ctx context.Context, key string) error {
	for {
		if _, ok := ow.queue.Lookup(key); !ok {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stored is called when the origin has a queued write: who keeps it for this
// node need not any more.
func (ow *originWrites) onFlushed(w writebehind.Write) {
	ow.flushedMu.Lock()
	defer ow.flushedMu.Unlock()
	ow.flushed = append(ow.flushed, message.Floor{Key: w.Key, Stamp: w.Stamp})
	if !ow.sending {
		ow.sending = ow.g.cache.spawn(ow.sendFlushed)
	}
}

// sendClean tells the nodes of the view what the origin has. Which of them keep
// it depends on the rings that were.
func (ow *originWrites) sendFlushed() {
	for {
		ow.flushedMu.Lock()
		m := message.Flushed{Group: ow.g.name, Keys: ow.flushed[:min(len(ow.flushed), journalPage)]}
		ow.flushed = ow.flushed[len(m.Keys):]
		if len(m.Keys) == 0 {
			ow.sending = false
			ow.flushedMu.Unlock()
			return
		}
		ow.flushedMu.Unlock()
		payload := m.Append(nil)
		for _, n := range ow.g.cache.view.Load().home.Nodes {
			peer := (*peers.Peer)(nil)
			if n.ID != ow.g.cache.node.ID {
				peer = ow.g.cache.transport.Peer(n.ID)
			}
			if peer == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(ow.g.cache.ctx, ow.g.cache.config.Lease)
			if _, err := peer.Call(ctx, message.MethodFlushed, payload); err != nil {
				ow.g.cache.log.Debug("not told what the origin has; it will write it once more should it become the owner", "node", n.ID, "err", err)
			}
			cancel()
		}
	}
}

// takeClean answers a Clean.
func (ow *originWrites) handleFlushed(m *message.Flushed) peers.Answer {
	if q := ow.queue; q != nil {
		for _, k := range m.Keys {
			q.Release(k.Key, k.Stamp)
		}
	}
	return peers.Answer{}
}

// reown has queued writes follow their keys when the ring has changed. Those of
// keys that are this node's now it writes; those of keys that are not, it hands to
// the new owners, and keeps until the origin has them.
func (ow *originWrites) reown() {
	q := ow.queue
	if q == nil {
		return
	}
	q.Adopt(ow.g.ownsOnRing)
	home := ow.g.cache.topology().Home
	ow.disown(ow.g.cache.ctx, ow.g.newHandover(), func(key string) (string, bool) {
		owner := home.Owner(key).ID
		return owner, owner != ow.g.cache.node.ID
	})
}

// disown hands what the origin does not have to the keys' heirs, where they have one:
// what is queued, which this node leaves to them; what is being written, which may fail
// yet; and what is held, for an nextOwner that does not know of it. What cannot be handed over
// this node goes on to write itself.
func (ow *originWrites) disown(ctx context.Context, h *handover, nextOwner func(key string) (node string, ok bool)) {
	q := ow.queue
	disowned := q.Disown(func(key string) bool { _, ok := nextOwner(key); return !ok })
	for _, w := range q.Unwritten() {
		if node, ok := nextOwner(w.Key); ok {
			h.add(ctx, node, ow.fromQueued(w))
		}
	}
	h.flush(ctx)
	if len(h.failed) == 0 {
		return
	}
	back := map[string]bool{}
	for _, w := range disowned {
		node, _ := nextOwner(w.Key)
		back[w.Key] = h.failed[node] != nil
	}
	q.Adopt(func(key string) bool { return back[key] })
}
