package engine

import (
	"github.com/geocache/geocache/internal/origin"
)

// evictionLoop returns a function that calls config.OnEvict for the entries that leave the store, until the
// cache is closed. It returns nil if there is no OnEvict.
func (g *Group) evictionLoop() (run func()) {
	if g.config.OnEvict == nil {
		return nil
	}
	const what = "function of WithOnEvict"
	ready, take := g.store.Evictions()
	drain := func() {
		for l, ok := take(); ok; l, ok = take() {
			_, _ = origin.Call(&g.guard, what, l.Key(), origin.NoValue(func() error {
				g.config.OnEvict(l.Entry, l.Reason)
				return nil
			}))
		}
	}
	return func() {
		for closed := false; !closed; { // restarts when the function has ended the goroutine
			done, _ := origin.Go(&g.guard, origin.Spawn, what, "", func() (closed bool, err error) {
				for {
					drain()
					select {
					case <-ready:
					case <-g.cache.ctx.Done():
						drain()
						return true, nil
					}
				}
			})
			closed = (<-done).Value
		}
	}
}

// warnOfDropped logs how many entries have left since its last call without a call of OnEvict. Only
// housekeep calls it.
func (g *Group) warnOfDropped() {
	if n := g.store.Stats().EvictDropped; n != g.reportedDropped {
		g.cache.log.Warn("function of WithOnEvict is too slow, or hangs: some values left without a call",
			"group", g.name, "values", n-g.reportedDropped, "so far", n)
		g.reportedDropped = n
	}
}

// Resize changes the limits of the store. Before it returns, it evicts what exceeds them.
func (g *Group) Resize(maxBytes int64, maxEntries int) { g.store.Resize(maxBytes, maxEntries) }
