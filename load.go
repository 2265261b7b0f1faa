package geocache

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/geocache/geocache/internal/store"
)

// callGetter loads the key from the origin and keeps what comes.
func (g *group) callGetter(ctx context.Context, key string) answer {
	if err := g.loading.Acquire(ctx, 1); err != nil {
		return answer{err: g.located(endOf(context.Cause(ctx)))}
	}
	// Before the getter looks at the origin: a write that happens from here
	// on is newer than what it finds.
	generation, born := g.cache.clock.Now(), g.cache.clock.Instant()
	g.stats.loads.Add(1)

	r, ok := g.await(ctx, key)
	if !ok {
		return answer{err: ErrClosed}
	}
	if ctx.Err() != nil && errors.Is(r.err, ctx.Err()) { // in whoever's words
		r.err = endOf(context.Cause(ctx))
	}
	absent := errors.Is(r.err, ErrNotFound)
	if r.err != nil && !absent {
		g.stats.loadErrors.Add(1)
		return answer{err: g.located(r.err)}
	}
	e := &store.Entry{
		Key:        key,
		Value:      r.loaded.value,
		Generation: generation,
		Born:       born,
		Expires:    born.Add(g.life(key, absent, r.loaded.ttl)),
		Class:      store.Owned,
		Absent:     absent,
	}
	if e.Expires <= e.Born {
		return answer{entry: e, source: SourceGetter} // an absence that is not to be kept
	}
	return g.keep(answer{entry: e, source: SourceGetter})
}

// result is what a getter returned.
type result struct {
	loaded loaded
	err    error
}

// await calls the getter, on a goroutine of its own: one that ignores its context
// must not hold the key. It reports false if the cache has been closed.
func (g *group) await(ctx context.Context, key string) (result, bool) {
	done := make(chan result, 1)
	running := g.cache.spawn(func() {
		r := result{err: errGoexit} // what stands if the getter does not return
		defer func() {
			if p := recover(); p != nil {
				r.err = g.panicked(key, p)
			}
			g.loading.Release(1)
			done <- r
		}()
		r.loaded, r.err = g.get(ctx, key)
	})
	if !running {
		g.loading.Release(1)
		return result{}, false
	}
	select {
	case r := <-done:
		return r, true
	case <-ctx.Done():
	}
	select {
	case r := <-done: // it heeds its context, or was done anyway
		return r, true
	case <-time.After(heed):
		g.stats.abandoned.Add(1)
		return result{err: ctx.Err()}, true
	}
}

// heed is how long a getter has to notice that its context has ended.
const heed = 20 * time.Millisecond

// panicked makes the error of a load whose getter panicked with p.
func (g *group) panicked(key string, p any) error {
	err := &PanicError{Value: p, Stack: debug.Stack()}
	g.stats.panics.Add(1)
	if g.panicLog.ok(g.cache.clock.Instant()) {
		g.cache.log.Error("getter panicked", "group", g.name, "key", key, "panic", p, "so far", g.stats.panics.Load(), "stack", string(err.Stack))
	}
	return err
}
