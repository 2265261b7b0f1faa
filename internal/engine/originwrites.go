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

// originWrites brings a group's writes to the user's origin, if the group has one for them: through,
// before the cache has them, or behind, after it has them.
type originWrites struct {
	g *Group

	set    func(ctx context.Context, key string, value []byte) error // nil: values stay in the cache alone
	remove func(ctx context.Context, key string) error               // nil: so are removals
	queue  *writebehind.Queue                                        // nil: writes go through

	flushedMu sync.Mutex // guards the following
	flushed   []message.Floor
	sending   bool // sendFlushed is running
}

// any reports whether any writes get to the origin.
func (ow *originWrites) any() bool { return ow.set != nil || ow.remove != nil }

// init sets ow up from g's configuration.
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

// takes reports whether the origin gets writes of this kind.
func (ow *originWrites) takes(op message.Op) bool {
	switch op {
	case message.Set, message.Swap:
		return ow.set != nil
	case message.Remove:
		return ow.remove != nil
	}
	return false
}

// through carries out req at the origin. The caller holds the key's lock, so the origin sees a key's
// writes in the order of their stamps.
//
// If it fails, nobody knows what the origin holds, so it invalidates what the cache has of the key.
func (ow *originWrites) through(ctx context.Context, req *message.WriteRequest) error {
	ctx, cancel := context.WithTimeoutCause(ctx, ow.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	what, write := ow.userCall(req.Key, store.Payload(req.Value, req.Tagged), req.Op == message.Remove)
	done, going := origin.Go(&ow.g.guard, ow.g.cache.spawn, what, req.Key, origin.NoValue(func() error {
		subject := origin.Subject{Group: ow.g.name, Key: req.Key, Write: true}
		return write(ow.g.cache.waits.During(ctx, subject))
	}))
	if !going {
		return ErrClosed
	}
	o, ended := origin.Await(ctx, done)
	err := o.Err
	if !ended {
		err = contextError(context.Cause(ctx))
		// The abandoned call may still change the origin, after everything that is done below.
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

// userCall returns the call of the user's setter or remover that carries out a write, and its name.
func (ow *originWrites) userCall(
	key string, value []byte, removed bool,
) (what string, write func(context.Context) error) {
	if removed {
		return "remover", func(ctx context.Context) error { return ow.remove(ctx, key) }
	}
	return "setter", func(ctx context.Context) error { return ow.set(ctx, key, value) }
}

// distrust invalidates what any cache has of the key.
func (ow *originWrites) distrust(key string) {
	held, err := ow.g.committer.keys.Lock(ow.g.cache.ctx, key)
	if err != nil {
		return // closing
	}
	defer held.Unlock()
	ow.distrustLocked(key)
}

// distrustLocked is distrust for a caller that holds the key's lock.
func (ow *originWrites) distrustLocked(key string) {
	w := &message.Write{Group: ow.g.name, Key: key}
	_ = ow.g.committer.stampLocked(w, &message.WriteRequest{}, noDeadline)
	ow.g.cache.spawn(func() {
		if err := ow.g.committer.completeAlone(pending{writes: []*message.Write{w}}); err != nil {
			ow.g.cache.log.Warn("the region could not be told of a failed write to the origin",
				"group", ow.g.name, "key", key, "err", err)
		}
	})
}

// store writes one queued write to the origin.
func (ow *originWrites) store(ctx context.Context, w writebehind.Write) error {
	what, write := ow.userCall(w.Key, store.Payload(w.Value, w.Tagged), w.Removed)
	done, ok := origin.Go(&ow.g.guard, ow.g.cache.spawn, what, w.Key,
		origin.NoValue(func() error { return write(ctx) }))
	if !ok {
		return ErrClosed
	}
	err := (<-done).Err // the queue abandons a call that does not return
	if err != nil {
		ow.g.stats.originErrors.Add(1)
	} else {
		ow.g.stats.originWrites.Add(1)
	}
	return err
}

// enqueue queues w, which is stamped, for the origin.
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

// toQueued returns w as the queue has it.
func (ow *originWrites) toQueued(w *message.Write) writebehind.Write {
	now := ow.g.cache.clock.Instant()
	return writebehind.Write{
		Key: w.Key, Stamp: w.Stamp, Value: w.Value, Tagged: w.Tagged, Removed: w.Stamp.IsRemoval(),
		Born: now.Add(-w.Age), Expires: now.Add(w.Life - w.Age),
	}
}

// fromQueued is the reverse of toQueued.
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

// supersede does what a write from another node requires of the queue. The successor of a key's owner, and
// a new owner, keep what the origin does not have yet. Older writes of this node's own need not be written
// any more. The error says that there is no room to keep a dirty write; there is none for other writes.
//
// Call it before the write is applied, so that no read finds the floor of the newer write beside the older
// one.
func (ow *originWrites) supersede(w *message.Write) error {
	q := ow.queue
	if q == nil || w.Clear || w.Scope || w.Stamp.IsLoad() {
		return nil
	}
	// Drop only older ones: the owner of a key gets its own write back from a region that passes it on.
	older := w.Stamp
	older.Origin--
	switch held, ok := q.Lookup(w.Key); {
	case w.Dirty && (w.HasValue || w.Stamp.IsRemoval()):
		q.Drop(w.Key, older) // whether or not there is room for the newer one
		return q.Hold(ow.toQueued(w))
	case w.HasValue && (!ok || held.Stamp.Below(w.Stamp)):
		// Another region writes it to the origin. If an older one is being written here just now, that may
		// come last, so this one must be written after it. Otherwise it is not kept.
		_ = q.Hold(ow.toQueued(w))
		q.Drop(w.Key, w.Stamp)
	}
	q.Drop(w.Key, older)
	return nil
}

// queued answers with a write that the origin does not have yet. For such a key the queue is the origin,
// and its value is as good as one loaded now.
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

// unwritten is queued for a load. It does not answer with a write that has been cleared since. The origin
// must have that write before it is asked, or else what it held before would come back.
func (ow *originWrites) unwritten(ctx context.Context, key string, floor expiry.Stamp) (answer, bool) {
	if a, ok := ow.queued(key, floor); ok || ow.queue == nil {
		return a, ok
	}
	if _, ok := ow.queue.Lookup(key); !ok {
		return answer{}, false
	}
	ow.queue.Adopt(func(k string) bool { return k == key })
	ctx, cancel := share(ctx, 3, 4) // leaves time to report the error
	defer cancel()
	if err := ow.awaitWritten(ctx, key); err != nil {
		return answer{err: ow.g.located(fmt.Errorf(
			"%w: the key has been cleared, but the origin does not have the previous write yet: %w",
			ErrTimeout, err))}, true
	}
	return answer{}, false
}

// awaitWritten waits until the queue has no write of the key.
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

// onFlushed handles a queued write that the origin now has: the nodes that keep it for this one can drop it.
func (ow *originWrites) onFlushed(w writebehind.Write) {
	ow.flushedMu.Lock()
	defer ow.flushedMu.Unlock()
	ow.flushed = append(ow.flushed, message.Floor{Key: w.Key, Stamp: w.Stamp})
	if !ow.sending {
		ow.sending = ow.g.cache.spawn(ow.sendFlushed)
	}
}

// sendFlushed tells the nodes of the view what the origin has. It tells all of them: which ones keep a
// write depends on past rings.
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
				ow.g.cache.log.Debug("node not told that the origin has these writes; as their owner it "+
					"would write them again",
					"node", n.ID, "err", err)
			}
			cancel()
		}
	}
}

// handleFlushed answers a Flushed.
func (ow *originWrites) handleFlushed(m *message.Flushed) peers.Answer {
	if q := ow.queue; q != nil {
		for _, k := range m.Keys {
			q.Release(k.Key, k.Stamp)
		}
	}
	return peers.Answer{}
}

// reown makes queued writes follow their keys after a change of the ring. It writes those whose keys are
// now this node's. The others it hands to their new owners, and keeps until the origin has them.
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

// disown hands the writes that the origin does not have to the keys' next owners, if they have one: those
// that are queued, which this node then leaves to them; those that are being written, which may still
// fail; and those that this node holds, in case the next owner does not know of them. This node goes on to
// write what it cannot hand over.
func (ow *originWrites) disown(
	ctx context.Context, h *handover, nextOwner func(key string) (node string, ok bool),
) {
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
