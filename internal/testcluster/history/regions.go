package history

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// This file is about a region that joins a running cluster, and may leave it again.

// newcomer is the region that joins.
const newcomer = "sa"

// shapeRegions has counters without a named home region, and mostly without an origin: their homes
// depend on which regions are known.
func shapeRegions(c *Config, random *rand.Rand) {
	quiet(c, 12*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu", "us"})
	if random.IntN(2) == 0 {
		c.Newcomer, c.Regions = newcomer, append(c.Regions, newcomer)
	}
	c.Nodes = 2
	c.Callers, c.Think = 1+random.IntN(2), 50*time.Millisecond
	c.TTL = 10 * time.Minute
	c.OriginLag = 10 * time.Millisecond
	c.Home = ""
	c.LookAside = true // otherwise the new home would load from the origin
	c.Counters = 10
	c.Counting, c.Writes, c.Keys = 0.3, 0.3, 12
	c.WorldAcks = 0.5
}

// regionFaults has a region join. It may have existed before, without knowing the others or being
// known to them: then it has values of its own.
func (r *runner) regionFaults() {
	random := source(r.config.Seed, "regions")
	d := r.c.Directory
	hidden := r.config.Newcomer != ""
	was := slices.DeleteFunc(slices.Clone(r.config.Regions), func(region string) bool {
		return region == newcomer
	})
	var unaware []func()
	between := func(a, b string) { unaware = append(unaware, r.beginFault(&Fault{Kind: Unaware, A: a, B: b})) }
	if hidden {
		for _, region := range was {
			between(region, newcomer)
		}
	}
	if !r.pauseFor(2*time.Second + upTo(random, 3*time.Second)) {
		return
	}
	if !hidden {
		for _, region := range was {
			between(region, newcomer)
		}
	}
	// Each node of the other regions learns of it at a time of its own.
	late := r.serving(was...)
	for _, n := range late {
		d.Hide(n.Name, newcomer)
	}
	var hearing sync.WaitGroup
	if random.IntN(3) > 0 { // writes wait for a dead node while the region joins
		n := pick(random, late)
		hearing.Go(func() { r.restart(n, false, 2*time.Second) })
		r.pauseFor(upTo(random, 500*time.Millisecond))
	}
	if hidden {
		for _, region := range was {
			d.Show(region, newcomer)
			d.Show(newcomer, region)
		}
	} else {
		for range 1 + random.IntN(2) {
			r.join(newcomer)
		}
	}
	most := choose(random, 0, 500*time.Millisecond, 4*time.Second)
	for _, n := range late {
		after := upTo(random, most)
		hearing.Go(func() {
			r.pauseFor(after)
			d.Show(n.Name, newcomer)
		})
	}
	hearing.Wait()
	for _, endFault := range unaware {
		endFault()
	}
	leaving := source(r.config.Seed, "leaving")
	if leaving.IntN(4) == 0 && r.pauseFor(upTo(leaving, 4*time.Second)) {
		for _, n := range r.serving(newcomer) {
			r.stop(n, leaving.IntN(2) == 0)
		}
	}
}
