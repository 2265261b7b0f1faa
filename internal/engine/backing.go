package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/behind"
	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

// A backing is how a group's writes get to the user's origin, if they do: through,
// before the cache has them, or behind, after.
type backing struct {
	g *Group

	set    func(ctx context.Context, key string, value []byte) error // nil: writes are the cache's alone
	remove func(ctx context.Context, key string) error               // nil: so are removals
	behind *behind.Queue                                             // nil: they are written through

	cleanMu sync.Mutex // guards the following
	clean   []note.Floor
	running bool // whether somebody sends what is in clean
}

// any reports whether writes get to the origin at all.
func (b *backing) any() bool { return b.set != nil || b.remove != nil }

// init makes g's backing from its configuration.
func (b *backing) init(g *Group) {
	config := &g.config
	b.g, b.set, b.remove = g, config.Set, config.Remove
	if config.WriteBehind > 0 {
		b.behind = behind.New(behind.Config{
			Store:    b.store,
			Stored:   b.stored,
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
func (b *backing) takes(op note.Op) bool {
	switch op {
	case note.Set, note.Swap:
		return b.set != nil
	case note.Remove:
		return b.remove != nil
	}
	return false
}

// through writes w to the origin, which takes it. The key's lock is
// held, so the origin sees a key's writes in the order of their stamps.
//
// If it fails, nobody knows what the origin holds: what the cache has of the key dies.
func (b *backing) through(ctx context.Context, w *note.Write) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	what, write := b.callOf(w.Key, store.Payload(w.Value, w.Tagged), w.Op == note.Remove)
	done, going := origin.Go(&b.g.guard, b.g.cache.spawn, what, w.Key, origin.NoValue(func() error { return write(b.g.whileStoring(ctx, w.Key)) }))
	if !going {
		return ErrClosed
	}
	o, ended := origin.Await(ctx, done)
	err := o.Err
	if !ended {
		err = endOf(context.Cause(ctx))
		// It may change the origin yet, after all that is done below.
		b.g.cache.spawn(func() {
			select {
			case <-done:
				b.distrust(w.Key)
			case <-b.g.cache.ctx.Done():
			}
		})
	}
	if err != nil {
		b.g.stats.storeErrors.Add(1)
		b.distrustLocked(w.Key)
		return b.g.located(fmt.Errorf("writing to the origin: %w", err))
	}
	b.g.stats.stored.Add(1)
	return nil
}

// toOrigin returns what is to be called for a write, the user's setter or remover.
func (b *backing) callOf(key string, value []byte, removed bool) (what string, write func(context.Context) error) {
	if removed {
		return "remover", func(ctx context.Context) error { return b.remove(ctx, key) }
	}
	return "setter", func(ctx context.Context) error { return b.set(ctx, key, value) }
}

// distrust makes what the cache has of the key dead, everywhere.
func (b *backing) distrust(key string) {
	held, err := b.g.writes.keys.Lock(b.g.cache.ctx, key)
	if err != nil {
		return // closing
	}
	defer held.Unlock()
	b.distrustLocked(key)
}

func (b *backing) distrustLocked(key string) {
	n := &note.Note{Group: b.g.name, Key: key}
	_ = b.g.writes.stampLocked(n, &note.Write{}, anyTime)
	b.g.cache.spawn(func() {
		if err := b.g.writes.complete(begun{notes: []*note.Note{n}}); err != nil {
			b.g.cache.log.Warn("a failed write to the origin could not be told to the region", "group", b.g.name, "key", key, "err", err)
		}
	})
}

// store1 writes one queued write to the origin.
func (b *backing) store(ctx context.Context, w behind.Write) error {
	what, write := b.callOf(w.Key, store.Payload(w.Value, w.Tagged), w.Removed)
	done, ok := origin.Go(&b.g.guard, b.g.cache.spawn, what, w.Key, origin.NoValue(func() error { return write(ctx) }))
	if !ok {
		return ErrClosed
	}
	err := (<-done).Err // the queue leaves behind what does not return
	if err != nil {
		b.g.stats.storeErrors.Add(1)
	} else {
		b.g.stats.stored.Add(1)
	}
	return err
}

// queue makes n, which has its stamp, one that the origin will get.
func (b *backing) put(ctx context.Context, n *note.Note) error {
	n.Dirty = true
	err := b.behind.Put(ctx, b.writeOf(n))
	switch {
	case errors.Is(err, behind.ErrFull):
		return fmt.Errorf("%w: %w", ErrOverloaded, err)
	case errors.Is(err, behind.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

func (b *backing) writeOf(n *note.Note) behind.Write {
	now := b.g.cache.clock.Instant()
	return behind.Write{Key: n.Key, Stamp: n.Stamp, Value: n.Value, Tagged: n.Tagged, Removed: n.Stamp.IsRemoval(), Born: now.Add(-n.Age), Expires: now.Add(n.Life - n.Age)}
}

// noteOfQueued is the reverse of behindOf.
func (b *backing) noteOf(w behind.Write) note.Note {
	return note.Note{
		Group:    b.g.name,
		Key:      w.Key,
		Stamp:    w.Stamp,
		Dirty:    true,
		HasValue: !w.Removed,
		Tagged:   w.Tagged,
		Value:    w.Value,
		Age:      b.g.cache.clock.Instant().Sub(w.Born),
		Life:     w.Expires.Sub(w.Born),
	}
}

// takeDirty does with a note from another node what concerns the origin: as the
// successor of a key's owner, or as its new owner, it keeps what the origin does not
// have; and what it has of its own that is older need not be written any more. It is to be
// called before the note is taken in, so that no read finds the floor of the newer write
// beside the older write.
func (b *backing) supersede(n *note.Note) error {
	q := b.behind
	if q == nil || n.Clear || n.Scope || n.Stamp.IsLoad() {
		return nil
	}
	// Only what is older: its own write comes back to a node that owns the key,
	// from a region that only passes it on.
	older := n.Stamp
	older.Origin--
	switch held, ok := q.Lookup(n.Key); {
	case n.Dirty && (n.HasValue || n.Stamp.IsRemoval()):
		q.Drop(n.Key, older) // be there room for the newer one or not
		return q.Hold(b.writeOf(n))
	case n.HasValue && (!ok || held.Stamp.Below(n.Stamp)):
		// Another region writes it. If an older one is being written here just now, which may
		// come last, then so must this one be after it; else it is not kept.
		_ = q.Hold(b.writeOf(n))
		q.Drop(n.Key, n.Stamp)
	}
	q.Drop(n.Key, older)
	return nil
}

// queued answers with what the origin does not have yet: for such a key the queue
// is the origin, and what it has is as good as loaded now.
func (b *backing) queued(key string, floor expiry.Stamp) (answer, bool) {
	if b.behind == nil {
		return answer{}, false
	}
	start := b.g.startFill()
	w, ok := b.behind.Lookup(key)
	if !ok {
		return answer{}, false
	}
	now := b.g.cache.clock.Instant()
	e := b.g.store.NewEntry(store.Item{
		Key:     key,
		Value:   w.Value,
		Stamp:   w.Stamp,
		Born:    now,
		Expires: now.Add(max(b.g.life(key, w.Removed, w.Expires.Sub(w.Born)), time.Microsecond)),
		Class:   store.Owned,
		Absent:  w.Removed,
		Tagged:  w.Tagged,
	})
	if e.Below(floor.Max(b.g.fresh.floorOf(e))) {
		return answer{}, false
	}
	return b.g.admit(answer{entry: e, source: SourceGetter}, start), true
}

// isQueued reports whether the origin does not have the key's last write yet.
func (b *backing) has(key string) bool {
	if b.behind == nil {
		return false
	}
	_, ok := b.behind.Lookup(key)
	return ok
}

// dirty is queued for a load. What has been cleared since it was written is not
// answered with, and the origin must have it before it is asked: what was there before
// would come back.
func (b *backing) unwritten(ctx context.Context, key string, floor expiry.Stamp) (answer, bool) {
	if a, ok := b.queued(key, floor); ok || b.behind == nil {
		return a, ok
	}
	if _, ok := b.behind.Lookup(key); !ok {
		return answer{}, false
	}
	b.behind.Adopt(func(k string) bool { return k == key })
	ctx, cancel := share(ctx, 3, 4) // leaves time to say so
	defer cancel()
	if err := b.awaitWritten(ctx, key); err != nil {
		return answer{err: b.g.located(fmt.Errorf("%w: the key has been cleared, and the origin does not have yet what was written before: %w", ErrTimeout, err))}, true
	}
	return answer{}, false
}

// written waits until nothing is queued for the key.
func (b *backing) awaitWritten(ctx context.Context, key string) error {
	for {
		if _, ok := b.behind.Lookup(key); !ok {
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
func (b *backing) stored(w behind.Write) {
	b.cleanMu.Lock()
	defer b.cleanMu.Unlock()
	b.clean = append(b.clean, note.Floor{Key: w.Key, Stamp: w.Stamp})
	if !b.running {
		b.running = b.g.cache.spawn(b.sendStored)
	}
}

// sendClean tells the nodes of the view what the origin has. Which of them keep
// it depends on the rings that were.
func (b *backing) sendStored() {
	for {
		b.cleanMu.Lock()
		m := note.Clean{Group: b.g.name, Keys: b.clean[:min(len(b.clean), journalPage)]}
		b.clean = b.clean[len(m.Keys):]
		if len(m.Keys) == 0 {
			b.running = false
			b.cleanMu.Unlock()
			return
		}
		b.cleanMu.Unlock()
		payload := m.Append(nil)
		for _, n := range b.g.cache.standing.view.Load().home.Nodes {
			peer := (*peers.Peer)(nil)
			if n.ID != b.g.cache.node.ID {
				peer = b.g.cache.transport.Peer(n.ID)
			}
			if peer == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(b.g.cache.ctx, b.g.cache.config.Lease)
			if _, err := peer.Call(ctx, note.MethodClean, payload); err != nil {
				b.g.cache.log.Debug("not told what the origin has; it will write it once more should it become the owner", "node", n.ID, "err", err)
			}
			cancel()
		}
	}
}

// takeClean answers a Clean.
func (b *backing) handleStored(m *note.Clean) peers.Answer {
	if q := b.behind; q != nil {
		for _, k := range m.Keys {
			q.Release(k.Key, k.Stamp)
		}
	}
	return peers.Answer{}
}

// reown has queued writes follow their keys when the ring has changed. Those of
// keys that are this node's now it writes; those of keys that are not, it hands to
// the new owners, and keeps until the origin has them.
func (b *backing) reown() {
	q := b.behind
	if q == nil {
		return
	}
	q.Adopt(b.g.ownsOnRing)
	home := b.g.cache.topology().Home
	b.disown(b.g.cache.ctx, b.g.handing(), func(key string) (string, bool) {
		owner := home.Owner(key).ID
		return owner, owner != b.g.cache.node.ID
	})
}

// disown hands what the origin does not have to the keys' heirs, where they have one:
// what is queued, which this node leaves to them; what is being written, which may fail
// yet; and what is held, for an heir that does not know of it. What cannot be handed over
// this node goes on to write itself.
func (b *backing) disown(ctx context.Context, h *handing, heir func(key string) (node string, ok bool)) {
	q := b.behind
	disowned := q.Disown(func(key string) bool { _, ok := heir(key); return !ok })
	for _, w := range q.Dirty() {
		if node, ok := heir(w.Key); ok {
			h.add(ctx, node, b.noteOf(w))
		}
	}
	h.end(ctx)
	if len(h.failed) == 0 {
		return
	}
	back := map[string]bool{}
	for _, w := range disowned {
		node, _ := heir(w.Key)
		back[w.Key] = h.failed[node] != nil
	}
	q.Adopt(func(key string) bool { return back[key] })
}
