package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/geocache/geocache/internal/testcluster"
)

// This file is about Updates of values, whose functions take their time.

// shapeUpdates has many removals, few reads, and values that do not stay in memory for long once
// they are removed.
func shapeUpdates(c *Config, random *rand.Rand) {
	quiet(c, 12*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu", "us"})
	c.Nodes = 2
	c.Home = "eu"
	c.TTL = 4*time.Second + upTo(random, 6*time.Second)
	c.RefreshAhead, c.Revalidate = 0, 0
	c.Keys = 6
	c.Callers, c.Think = 2, choose(random, 100*time.Millisecond, 300*time.Millisecond)
	c.OriginLag = 10 * time.Millisecond
	c.Updating, c.UpdateTime = 0.5, 3*time.Second
	c.Writes, c.Removes, c.Clears = 0.7, 0.8, 0
	if random.IntN(3) == 0 {
		c.NodeFaults = 4 * time.Second
	}
}

// Atomicity checks that a successful Update did not begin from a value that was dead because of a
// write that its home region had confirmed before the function returned. Later writes may come in
// between, as may writes elsewhere.
func (h *History) Atomicity() (found []Violation) {
	for key, ops := range h.keys {
		for _, u := range ops {
			if u.Kind != Update || u.Outcome != OK || len(u.Attempts) == 0 {
				continue
			}
			last := u.Attempts[len(u.Attempts)-1]
			base, ok := h.baseOf(u)
			if !ok {
				continue
			}
			for _, w := range ops {
				if w == u || !w.covers(h.Config.Home) || w.End >= last.End || w.Generation == u.Generation {
					continue
				}
				if why := h.olderValue(base, w); why != "" && !h.twoOwners(w.Begin, u.End) && !h.lost(w, u.End) {
					found = append(found,
						Violation{"update", fmt.Sprintf("an Update of %s began from what was %s", key, why), []*Op{w, u}})
					break
				}
			}
		}
	}
	return found
}

// baseOf returns the value that u began from, or, if it was executed together with other Updates,
// that the first of them began from. It is false if there was no value.
func (h *History) baseOf(u *Op) (testcluster.Value, bool) {
	for a, tries := u.Attempts[len(u.Attempts)-1], 0; ; tries++ {
		before := h.attempts[a.Base.By]
		if !a.Had || before == nil || before.Generation != u.Generation || tries > len(h.Ops) {
			return a.Base, a.Had
		}
		i := slices.IndexFunc(before.Attempts, func(b Attempt) bool { return b.By == a.Base.By })
		a = before.Attempts[i]
	}
}
