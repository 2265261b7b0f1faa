package history

import (
	"math/rand/v2"
	"time"
)

// This file is about regions that are cut off from each other for longer than they remember some of
// their writes.

// shapeLongCut has values that are loaded before the cut and may live until after it.
func shapeLongCut(c *Config, random *rand.Rand) {
	quiet(c, 0)
	c.Regions = []string{"eu", "us"}
	c.Nodes = 2
	c.Keys = 8
	c.Callers, c.Think, c.Writes, c.Counting = 1, 100*time.Millisecond, 0.5, 0.05
	c.OriginLag = 10 * time.Millisecond
	c.RefreshAhead, c.Revalidate = 0, 0
	c.TTL, c.LoadTimeout = 2*time.Minute+upTo(random, 80*time.Second), 10*time.Second
	c.Cut = time.Duration((0.65 + random.Float64()*0.25) * float64(c.TTL))
	if random.IntN(3) == 0 { // everything is forgotten
		c.TTL, c.LoadTimeout = 4*time.Second+upTo(random, 16*time.Second), 2*time.Second
		c.Cut = time.Duration((0.7 + random.Float64()) * float64(c.TTL))
	}
	c.Length = c.Cut + 4*time.Second
}

// longCut cuts the regions off from each other. While one of them writes, nodes take over keys from
// others, which then die.
func (r *runner) longCut() {
	random := source(r.config.Seed, "long cut")
	if !r.pauseFor(2 * time.Second) { // everything is loaded
		return
	}
	end := time.After(r.config.Cut)
	endFault := r.beginFault(&Fault{Kind: World, A: "eu", B: "us"})
	r.c.Net.Cut("eu", "us")
	r.pauseFor(upTo(random, 2*time.Second)) // time for writes
	r.calm.Store(true)
	for range 1 + random.IntN(2) {
		old := r.serving("eu")
		if random.IntN(4) > 0 {
			r.join("eu")
			r.pauseFor(upTo(random, 3*time.Second))
		}
		n := pick(random, old)
		if random.IntN(2) == 0 {
			r.restart(n, random.IntN(4) == 0, upTo(random, 2*time.Second))
		} else {
			r.stop(n, random.IntN(4) == 0)
		}
		r.pauseFor(upTo(random, 4*time.Second))
	}
	select {
	case <-end:
	case <-r.over:
	}
	r.c.Net.Heal("eu", "us")
	endFault()
}
