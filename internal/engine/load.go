package engine

import (
	"context"
	"errors"

	"golang.org/x/sync/semaphore"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
)

// A loader calls a group's getter.
type loader struct {
	g     *Group
	slots *semaphore.Weighted // limits concurrent calls of the getter
}

// trackWait records that the getter or setter whose context is ctx waits, until done is called, for key to
// be loaded, or if write is set, to be written. It fails if the call would then wait for itself.
func (g *Group) trackWait(ctx context.Context, key string, write bool) (done func(), err error) {
	done, err = g.cache.waits.Track(ctx, origin.Subject{Group: g.name, Key: key, Write: write})
	if err != nil {
		err = g.located(err)
	}
	return done, err
}

// during returns the context to call the getter with for keys.
func (l *loader) during(ctx context.Context, keys ...string) context.Context {
	subjects := make([]origin.Subject, len(keys))
	for i, key := range keys {
		subjects[i] = origin.Subject{Group: l.g.name, Key: key}
	}
	return l.g.cache.waits.During(ctx, subjects...)
}

// call loads the key by the getter and stores the result.
func (l *loader) call(ctx context.Context, key string) answer {
	if l.g.config.Get == nil {
		return l.finish(ctx, l.begin(key), Loaded{}, ErrNotFound)
	}
	if err := l.slots.Acquire(ctx, 1); err != nil {
		return answer{err: l.g.located(contextError(context.Cause(ctx)))}
	}
	begun := l.begin(key)
	l.g.stats.loads.Add(1)
	r, err, ok := await(ctx, l, key, func(ctx context.Context) (Loaded, error) {
		return l.g.config.Get(l.during(ctx, key), key)
	})
	if !ok {
		return answer{err: ErrClosed}
	}
	l.record(begun.born, err == nil || errors.Is(err, ErrNotFound))
	return l.finish(ctx, begun, r, err)
}

// A load records the state before the getter reads a key from the origin. Any write after that is newer
// than what the getter finds.
type load struct {
	key        string
	start      fillStart
	generation expiry.Generation
	born       expiry.Instant
}

// begin takes the state before a load of key.
func (l *loader) begin(key string) load {
	return load{key, l.g.startFill(), l.g.cache.clock.Now(), l.g.cache.clock.Instant()}
}

// record records the latency of a getter call that began at born, or that it failed.
func (l *loader) record(born expiry.Instant, ok bool) {
	if ok {
		l.g.stats.loadLatency.Record(l.g.cache.clock.Instant().Sub(born))
	} else {
		l.g.stats.loadErrors.Add(1)
	}
}

// finish converts what the getter returned for a key into an answer, and stores it. ctx is the one that the
// getter was called with.
func (l *loader) finish(ctx context.Context, begun load, r Loaded, err error) answer {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) { // the getter may have wrapped it
		err = contextError(context.Cause(ctx))
	}
	absent := errors.Is(err, ErrNotFound)
	if err != nil && !absent {
		return answer{err: l.g.located(err)}
	}
	e := l.g.store.NewEntry(store.Item{
		Key:     begun.key,
		Value:   r.Value,
		Stamp:   expiry.Loaded(begun.generation),
		Born:    begun.born,
		Expires: begun.born.Add(l.g.life(begun.key, absent, r.TTL)),
		Class:   store.Owned,
		Absent:  absent,
		Tagged:  r.Tagged,
	})
	if l.g.lag.lags(l.g.cache.node.Region) && l.g.lag.mayMiss(e) {
		return answer{err: l.g.located(errLagging)}
	}
	if e.Expires <= e.Born() {
		return answer{entry: e, source: SourceGetter} // an absence that is not remembered
	}
	return l.g.admit(answer{entry: e, source: SourceGetter, provenance: provenance{exact: true}}, begun.start)
}

// await calls the getter on a goroutine of its own, since one that ignores its context must not block the
// key. It releases the caller's slot. ok is false if the cache is closed.
func await[R any](
	ctx context.Context, l *loader, key string, get func(context.Context) (R, error),
) (r R, err error, ok bool) {
	done, ok := origin.Go(&l.g.guard, l.g.cache.spawn, "getter", key, func() (R, error) {
		defer l.slots.Release(1)
		return get(ctx)
	})
	if !ok {
		l.slots.Release(1)
		return r, nil, false
	}
	o, ok := origin.Await(ctx, done)
	if !ok {
		l.g.stats.abandoned.Add(1)
		return r, ctx.Err(), true
	}
	return o.Value, o.Err, true
}
