package history

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/testcluster"
)

// This file is about regions of many nodes, some of which always come, go or fall silent.

func shapeFleet(c *Config, random *rand.Rand) {
	quiet(c, 10*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu"}, []string{"eu", "us"})
	c.Nodes = 6 + random.IntN(3)
	if len(c.Regions) == 2 {
		c.Nodes = 4
	}
	c.Callers, c.Think = 1, choose(random, 100*time.Millisecond, 300*time.Millisecond)
	c.Writes = choose(random, 0.1, 0.4)
	c.Clears = choose(random, 0, 0.1)
	c.OriginLag = choose(random, 10*time.Millisecond, 300*time.Millisecond)
	c.Latency = choose(random, 0, 2*time.Millisecond)
}

// fleetFaults has a few things happen to a region at the same time, again and again.
func (r *runner) fleetFaults() {
	random := source(r.config.Seed, "fleet")
	for r.pauseFor(upTo(random, 1500*time.Millisecond)) {
		region := choose(random, r.config.Regions...)
		nodes := r.serving(region)
		random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		var all sync.WaitGroup
		for i := range 1 + random.IntN(3) {
			if len(nodes) < i+3 {
				break
			}
			n, others := nodes[i], slices.Delete(slices.Clone(nodes), i, i+1)
			after, short, long := upTo(random, 500*time.Millisecond), upTo(random, time.Second), upTo(random, 4*time.Second)
			what := random.IntN(10)
			if i > 0 && what >= 7 { // it concerns the others, to which something happens as well
				what -= 7
			}
			all.Go(func() {
				r.pauseFor(after)
				switch {
				case what < 3: // it is back within a lease, under its ID
					r.restart(n, false, short)
				case what < 4:
					r.restart(n, true, short)
				case what < 5:
					r.restart(n, false, long)
				case what < 7:
					r.pauses(n, long)
				case what < 8: // one joins, and crashes at once
					newcomer := r.join(region)
					r.pauseFor(short / 4)
					r.restart(newcomer, false, short)
				case what < 9: // it sees nobody, and has much to catch up with
					r.cut(long, r.c.Net.Cut, []*testcluster.Node{n}, others)
				default: // nobody sees anybody, and all catch up at the same moment
					for j := range others[1:] {
						all.Go(func() { r.cut(long, r.c.Net.Cut, others[j:j+1], others[j+1:]) })
					}
					r.cut(long, r.c.Net.Cut, []*testcluster.Node{n}, others)
				}
			})
		}
		all.Wait()
	}
}
