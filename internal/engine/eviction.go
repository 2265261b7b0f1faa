package engine

import (
	"github.com/geocache/geocache/internal/origin"
)

// tellEvictions calls config.OnEvict for what leaves the store, until the cache is closed. It returns nil if
// there is no such function.
func (g *Group) evictions() (run func()) {
	if g.config.OnEvict == nil {
		return nil
	}
	const what = "function of WithOnEvict"
	ready, take := g.store.Evictions()
	tell := func() {
		for l, ok := take(); ok; l, ok = take() {
			_, _ = origin.Call(&g.guard, what, l.Key(), origin.NoValue(func() error {
				g.config.OnEvict(l.Entry, l.Reason)
				return nil
			}))
		}
	}
	return func() {
		for closed := false; !closed; { // again each time that the function has ended the goroutine
			done, _ := origin.Go(&g.guard, origin.Spawn, what, "", func() (closed bool, err error) {
				for {
					tell()
					select {
					case <-ready:
					case <-g.cache.ctx.Done():
						tell()
						return true, nil
					}
				}
			})
			closed = (<-done).Value
		}
	}
}

// warnOfUntold logs how many values there have been since it was last called that the function
// of WithOnEvict was not called for. It is called by housekeep alone.
func (g *Group) warnOfDropped() {
	if n := g.store.Stats().EvictDropped; n != g.reportedDropped {
		g.cache.log.Warn("function of WithOnEvict is too slow, or hangs: values have left that it was not called for",
			"group", g.name, "values", n-g.reportedDropped, "so far", n)
		g.reportedDropped = n
	}
}

// Resize replaces the bounds of the store. What is more than they allow has been evicted when it returns.
func (g *Group) Resize(maxBytes int64, maxEntries int) { g.store.Resize(maxBytes, maxEntries) }
