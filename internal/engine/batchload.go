package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/peers"
)

// maxBatch is the maximum number of keys in one call of GroupConfig.GetMany.
const maxBatch = 1024

// A batchLoad gathers the keys of one GetMany, or of one message from a peer, that this node has to load,
// so that one call of the getter loads them. Whether a key has to be loaded is known once its fill needs
// the getter or has been answered without it. The batchLoad waits until that is known for all keys,
// normally without a timer.
//
// Each key has a ticket, which ends with load or leave. A nil batchLoad, of a group whose getter takes one
// key at a time, gives out nil tickets.
type batchLoad struct {
	g *Group

	mu     sync.Mutex // guards the following
	coming int        // tickets, and other calls of leave, that are still to end
	ready  []*ticket  // tickets whose keys are to be loaded
	timer  *time.Timer
}

// gatherTimeout is how long keys that are ready to be loaded wait for those that are not, for example
// because another node is slow to answer a peek.
const gatherTimeout = 20 * time.Millisecond

// batch returns a batchLoad that expects n calls of leave, in addition to the tickets it gives out.
func (l *loader) batch(n int) *batchLoad {
	if l.g.config.GetMany == nil {
		return nil
	}
	return &batchLoad{g: l.g, coming: n}
}

// ticket returns a ticket for key, which the batch then waits for.
func (w *batchLoad) ticket(key string) *ticket {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.coming++
	return &ticket{batch: w, key: key}
}

// ticket returns the ticket of a key that a peer requested in one message with the others of t.
func (l *loader) ticket(t *peers.Together, key string) *ticket {
	if t == nil || l.g.config.GetMany == nil {
		return nil
	}
	w := t.Value(func() any { return l.batch(t.Keys) }).(*batchLoad)
	return &ticket{batch: w, key: key}
}

// leave ends one of the n that batch was told to expect.
func (w *batchLoad) leave() {
	if w != nil {
		w.end(nil)
	}
}

// end ends one of the things that the batch waits for. ready is a ticket whose key is to be loaded, or nil.
func (w *batchLoad) end(ready *ticket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.coming--
	if ready != nil {
		w.ready = append(w.ready, ready)
	}
	switch {
	case len(w.ready) == 0:
	case w.coming == 0:
		w.startLocked()
	case w.timer == nil:
		w.timer = time.AfterFunc(gatherTimeout, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.startLocked()
		})
	}
}

// startLocked starts loading the keys that are ready.
func (w *batchLoad) startLocked() {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	for keys := range slices.Chunk(w.ready, maxBatch) {
		if !w.g.cache.spawn(func() { w.g.loader.callMany(keys) }) {
			for _, t := range keys {
				t.answer <- answer{err: ErrClosed}
			}
		}
	}
	w.ready = nil
}

// A ticket is a key's place in a batchLoad.
type ticket struct {
	batch *batchLoad
	key   string
	ended atomic.Bool

	ctx    context.Context // the fill's; set by load
	answer chan answer
}

// leave says that the key need not be loaded. After load, or a second time, it does nothing.
func (t *ticket) leave() {
	if t != nil && !t.ended.Swap(true) {
		t.batch.end(nil)
	}
}

// load loads the key as loader.call does, together with the batch's other keys.
func (t *ticket) load(ctx context.Context) answer {
	g := t.batch.g
	if t.ended.Swap(true) {
		return g.loader.call(ctx, t.key) // the fill's second load
	}
	t.ctx, t.answer = ctx, make(chan answer, 1)
	t.batch.end(t)
	select {
	case a := <-t.answer:
		return a
	case <-ctx.Done():
	}
	select {
	case a := <-t.answer:
		return a
	case <-time.After(2 * origin.Grace): // not at once: the getter's own error says more
		return answer{err: g.located(contextError(context.Cause(ctx)))}
	}
}

// callMany loads keys with one call of the getter and stores the results.
func (l *loader) callMany(tickets []*ticket) {
	fail := func(err error) {
		for _, t := range tickets {
			t.answer <- answer{err: err}
		}
	}
	// The call serves all fills, so it ends only when all of them have ended.
	deadline, _ := tickets[0].ctx.Deadline()
	ctx, cancel := context.WithDeadline(l.g.local.Parent(), deadline)
	defer cancel()
	var left atomic.Int64
	left.Store(int64(len(tickets)))
	for _, t := range tickets {
		defer context.AfterFunc(t.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})()
	}
	if err := l.slots.Acquire(ctx, 1); err != nil {
		fail(l.g.located(contextError(context.Cause(ctx))))
		return
	}
	keys, loads := make([]string, len(tickets)), make([]load, len(tickets))
	for i, t := range tickets {
		keys[i], loads[i] = t.key, l.begin(t.key)
	}
	l.g.stats.loads.Add(1)
	m, err, ok := await(ctx, l, keys[0], func(ctx context.Context) (map[string]LoadedOrErr, error) {
		return l.g.config.GetMany(l.during(ctx, keys...), slices.Clone(keys))
	})
	if !ok {
		fail(ErrClosed)
		return
	}
	failed := err != nil && !errors.Is(err, ErrNotFound) // for all keys: same as an empty map
	for i, t := range tickets {
		v, there := m[t.key]
		each := err
		switch {
		case err != nil:
		case !there:
			each = ErrNotFound
		default:
			each = v.Err
			failed = failed || each != nil
		}
		t.answer <- l.finish(ctx, loads[i], v.Loaded, each)
	}
	l.record(loads[0].born, !failed)
}
