package engine

import (
	"context"
	"errors"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
)

// callGetter loads the key from the origin and keeps what comes.
func (g *Group) callGetter(ctx context.Context, key string) answer {
	if g.config.Get == nil {
		return g.ended(ctx, g.beginLoad(key), Loaded{}, ErrNotFound)
	}
	if err := g.loading.Acquire(ctx, 1); err != nil {
		return answer{err: g.located(endOf(context.Cause(ctx)))}
	}
	l := g.beginLoad(key)
	g.stats.loads.Add(1)
	r, err, ok := await(ctx, g, key, func(ctx context.Context) (Loaded, error) {
		return g.config.Get(g.whileLoading(ctx, key), key)
	})
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
	start      fillStart
	generation expiry.Generation
	born       expiry.Instant
}

func (g *Group) beginLoad(key string) load {
	return load{key, g.startFill(), g.cache.clock.Now(), g.cache.clock.Instant()}
}

// called counts how a call of the getter has ended that began at an instant.
func (g *Group) called(born expiry.Instant, well bool) {
	if well {
		g.stats.loadLatency.Record(g.cache.clock.Instant().Sub(born))
	} else {
		g.stats.loadErrors.Add(1)
	}
}

// ended makes an answer of what the getter returned for a key, and keeps it. ctx is what
// the getter was called with.
func (g *Group) ended(ctx context.Context, l load, r Loaded, err error) answer {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // in whoever's words
		err = endOf(context.Cause(ctx))
	}
	absent := errors.Is(err, ErrNotFound)
	if err != nil && !absent {
		return answer{err: g.located(err)}
	}
	e := g.store.NewEntry(store.Item{
		Key:     l.key,
		Value:   r.Value,
		Stamp:   expiry.Loaded(l.generation),
		Born:    l.born,
		Expires: l.born.Add(g.life(l.key, absent, r.TTL)),
		Class:   store.Owned,
		Absent:  absent,
		Tagged:  r.Tagged,
	})
	if g.lag.lags(g.cache.node.Region) && g.lag.mayMiss(e) {
		return answer{err: g.located(errLagging)}
	}
	if e.Expires <= e.Born() {
		return answer{entry: e, source: SourceGetter} // an absence that is not to be kept
	}
	return g.admit(answer{entry: e, source: SourceGetter, exact: true}, l.start)
}

// await calls the getter on a goroutine of its own: one that ignores its context must not hold the
// key. It gives back the place in g.loading. ok is false if the cache has been closed.
func await[R any](ctx context.Context, g *Group, key string, get func(context.Context) (R, error)) (r R, err error, ok bool) {
	done, ok := origin.Go(&g.guard, g.cache.spawn, "getter", key, func() (R, error) {
		defer g.loading.Release(1)
		return get(ctx)
	})
	if !ok {
		g.loading.Release(1)
		return r, nil, false
	}
	o, ok := origin.Await(ctx, done)
	if !ok {
		g.stats.abandoned.Add(1)
		return r, ctx.Err(), true
	}
	return o.Value, o.Err, true
}
