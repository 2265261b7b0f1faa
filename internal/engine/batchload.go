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

// maxBatch is how many keys are loaded by one call of GetBatch.
const maxBatch = 1024

// A batchLoad brings together the keys of one GetMany, or of one message from a
// peer, that this node has to load, so that one call of the getter does it. Which of them it has
// to load is known when each has come as far as that, or has been answered
// otherwise; it waits for that and for no timer, as a rule.
//
// Each key has a ticket, which ends by load or by leave. A nil batchLoad, of a group
// whose getter takes one key at a time, gives out nil tickets.
type batchLoad struct {
	g *Group

	mu     sync.Mutex // guards the following
	coming int        // tickets that have not ended
	ready  []*ticket  // those whose keys are to be loaded
	timer  *time.Timer
}

// gatherPatience is how long keys that are ready to be loaded wait for those that are
// not yet, because another node is slow to say what it has of them, say.
const gatherPatience = 20 * time.Millisecond

// batch returns a batchLoad that n calls of leave are to come for, beside those for the
// tickets it gives out.
func (l *loader) batch(n int) *batchLoad {
	if l.g.config.GetMany == nil {
		return nil
	}
	return &batchLoad{g: l.g, coming: n}
}

// ticket adds a key.
func (w *batchLoad) ticket(key string) *ticket {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.coming++
	return &ticket{batch: w, key: key}
}

// ticket returns the ticket of a key that a peer asks for, together with others.
func (l *loader) ticket(t *peers.Together, key string) *ticket {
	if t == nil || l.g.config.GetMany == nil {
		return nil
	}
	w := t.Value(func() any { return l.batch(t.Keys) }).(*batchLoad)
	return &ticket{batch: w, key: key}
}

// leave says that one less is to come.
func (w *batchLoad) leave() {
	if w != nil {
		w.end(nil)
	}
}

// end ends a ticket, or with nil something else that was to come.
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
		w.goLocked()
	case w.timer == nil:
		w.timer = time.AfterFunc(gatherPatience, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.goLocked()
		})
	}
}

// goLocked has loaded what is ready.
func (w *batchLoad) goLocked() {
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

// A ticket is a key's part in a batchLoad.
type ticket struct {
	batch *batchLoad
	key   string
	ended atomic.Bool

	ctx    context.Context // of the fill; set by load
	answer chan answer
}

// leave says that the key need not be loaded, if it has not been by now.
func (t *ticket) leave() {
	if t != nil && !t.ended.Swap(true) {
		t.batch.end(nil)
	}
}

// load is callGetter for the key, with those of the others.
func (t *ticket) load(ctx context.Context) answer {
	g := t.batch.g
	if t.ended.Swap(true) {
		return g.loader.call(ctx, t.key) // a second load of the same fill
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
	case <-time.After(2 * origin.Grace): // the getter's end says more
		return answer{err: g.located(endOf(context.Cause(ctx)))}
	}
}

// loadMany loads keys from the origin by one call, and keeps what comes.
func (l *loader) callMany(tickets []*ticket) {
	fail := func(err error) {
		for _, t := range tickets {
			t.answer <- answer{err: err}
		}
	}
	// The call is for all of them, so it ends when all have ended.
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
		fail(l.g.located(endOf(context.Cause(ctx))))
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
	failed := err != nil && !errors.Is(err, ErrNotFound) // of all, which is as good as an empty map
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
