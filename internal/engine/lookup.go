package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
)

// This file answers from the group's memory, and frees that memory.

// decodeOrLoad decodes the answer's value, if it has one. A value that does not decode, because a node of
// another version encoded it or because it is damaged, is dropped and loaded on this node: the getter's
// value is encoded by this node's own codec.
func (g *Group) decodeOrLoad(ctx context.Context, a answer, decode Decode) answer {
	if a.err != nil || a.entry.Absent() {
		return a
	}
	err := decode(a.entry)
	if err == nil {
		return a
	}
	g.stats.decodeErrors.Add(1)
	if g.decodeLog.ok(g.cache.clock.Instant()) {
		g.cache.log.Warn("value does not decode, loading it here",
			"group", g.name, "key", a.entry.Key(), "err", err, "so far", g.stats.decodeErrors.Load())
	}
	g.store.DeleteIf(a.entry)
	f := fill{g: g, key: strings.Clone(a.entry.Key()), floor: expiry.Removal(a.entry.Generation)}
	a = f.local(ctx)
	if a.err != nil || a.entry.Absent() {
		return a
	}
	if err := decode(a.entry); err != nil {
		return answer{err: g.located(fmt.Errorf("the value does not decode: %w", err))}
	}
	return a
}

// lookup answers from memory: with a live value, a live absence, or a stale value whose load failed a
// moment ago.
func (g *Group) lookup(key string) (answer, bool) {
	e, ok := g.store.Get(key)
	if !ok {
		return answer{}, false
	}
	now := g.cache.clock.Instant()
	if g.fresh.serves(e, now) {
		if g.config.RefreshAhead > 0 {
			g.refreshing.ahead(e)
		}
		return answer{entry: e, source: SourceStore}, true
	}
	until, ok := g.retries.Load(key)
	if ok && g.fresh.expired(e, now) && now < until && g.fresh.servesStale(e, g.floors.Floor(key), now) {
		return answer{entry: e, source: SourceStale}, true
	}
	return answer{}, false
}

// expire frees the memory of entries that have expired and may not be served stale either.
func (g *Group) expire() {
	g.store.Expire(g.cache.clock.Instant().Add(-g.fresh.staleness))
}

// sweep frees the memory of everything else that can no longer be served or is no longer needed.
func (g *Group) sweep() {
	cleared := g.floors.Group()
	g.store.Sweep(store.Removed, func(e *store.Entry) bool {
		return e.Generation <= cleared || g.fresh.scopeRemoved(e)
	})
	now := g.cache.clock.Instant()
	g.refreshing.forget(now)
	for key, until := range g.retries.All() {
		if now >= until {
			g.retries.Delete(key)
		}
	}
	if !g.home.mayRecall() {
		g.home.recalled.Clear()
	}
	g.floors.Forget(g.journal.deadBefore())
}

// sweepEvery returns how often a sweep is worth its pass over the whole store.
func (g *Group) sweepEvery() time.Duration {
	return min(max(g.config.TTL/4, time.Second), time.Minute)
}
