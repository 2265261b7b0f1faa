package geocache

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// callGetter loads the key from the origin and keeps what comes.
func (g *group) callGetter(ctx context.Context, key string) answer {
	if g.get == nil {
		return g.ended(ctx, g.beginLoad(key), loaded{}, ErrNotFound)
	}
	if err := g.loading.Acquire(ctx, 1); err != nil {
		return answer{err: g.located(endOf(context.Cause(ctx)))}
	}
	l := g.beginLoad(key)
	g.stats.loads.Add(1)
	r, err, ok := await(ctx, g, key, func(ctx context.Context) (loaded, error) { return g.get(ctx, key) })
	if !ok {
		return answer{err: ErrClosed}
	}
	g.called(l.born, err == nil || errors.Is(err, ErrNotFound))
	return g.ended(ctx, l, r, err)
}

// A load is what there is to know about one key before the getter looks at the
// origin: a write that happens from here on is newer than what it finds.
type load struct {
	key        string
	began      mark
	generation expiry.Generation
	born       expiry.Instant
}

func (g *group) beginLoad(key string) load {
	return load{key, g.mark(), g.cache.clock.Now(), g.cache.clock.Instant()}
}

// called counts how a call of the getter has ended that began at an instant.
func (g *group) called(born expiry.Instant, well bool) {
	if well {
		g.stats.loadLatency.Record(g.cache.clock.Instant().Sub(born))
	} else {
		g.stats.loadErrors.Add(1)
	}
}

// ended makes an answer of what the getter returned for a key, and keeps it. ctx is what
// the getter was called with.
func (g *group) ended(ctx context.Context, l load, r loaded, err error) answer {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // in whoever's words
		err = endOf(context.Cause(ctx))
	}
	absent := errors.Is(err, ErrNotFound)
	if err != nil && !absent {
		return answer{err: g.located(err)}
	}
	e := g.store.NewEntry(store.Item{
		Key:     l.key,
		Value:   r.value,
		Stamp:   expiry.Loaded(l.generation),
		Born:    l.born,
		Expires: l.born.Add(g.life(l.key, absent, r.ttl)),
		Class:   store.Owned,
		Absent:  absent,
		Tagged:  r.tagged,
	})
	if g.lags(g.cache.node.Region) && g.lagged(e) {
		return answer{err: g.located(errLagging)}
	}
	if e.Expires <= e.Born() {
		return answer{entry: e, source: SourceGetter} // an absence that is not to be kept
	}
	return g.keep(answer{entry: e, source: SourceGetter, here: true}, l.began)
}

// await runs call, which calls the getter, on a goroutine of its own: one that ignores
// its context must not hold the key. It gives back the place in g.loading. ok is false if the
// cache has been closed.
func await[R any](ctx context.Context, g *group, key string, call func(context.Context) (R, error)) (r R, err error, ok bool) {
	type result struct {
		r   R
		err error
	}
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
		r.r, r.err = call(ctx)
	})
	if !running {
		g.loading.Release(1)
		return r, nil, false
	}
	select {
	case r := <-done:
		return r.r, r.err, true
	case <-ctx.Done():
	}
	select {
	case r := <-done: // it heeds its context, or was done anyway
		return r.r, r.err, true
	case <-time.After(heed):
		g.stats.abandoned.Add(1)
		return r, ctx.Err(), true
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
