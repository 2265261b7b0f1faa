package history

import (
	"math/rand/v2"
	"sync"
	"time"
)

// This file is about processes that pause, and others that die meanwhile.

func shapePauses(c *Config, random *rand.Rand) {
	quiet(c, 12*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu", "us"})
	c.Nodes = 3
	c.Think = 50 * time.Millisecond
	c.Keys = 2
	c.Writes = 0.3
	c.OriginLag = choose(random, 10*time.Millisecond, 300*time.Millisecond)
}

// pauseFaults pauses one or two nodes of a region at a time, some for less than a lease, and now
// and then kills another one meanwhile.
func (r *runner) pauseFaults() {
	random := source(r.config.Seed, "pauses")
	for r.pauseFor(upTo(random, 2*time.Second)) {
		nodes := r.serving(choose(random, r.config.Regions...))
		random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		var all sync.WaitGroup
		for _, n := range nodes[:1+random.IntN(2)] {
			d := upTo(random, choose(random, time.Second, 3*time.Second, 8*time.Second))
			after := upTo(random, time.Second)
			all.Go(func() {
				r.pauseFor(after)
				r.pauses(n, d)
			})
		}
		if random.IntN(3) == 0 {
			down := upTo(random, 2*time.Second)
			all.Go(func() {
				r.pauseFor(upTo(random, time.Second))
				r.restart(nodes[2], false, down)
			})
		}
		all.Wait()
	}
}
