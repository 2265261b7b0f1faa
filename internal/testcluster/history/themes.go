package history

import (
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache"
)

// A Theme is what a history is about. One with a theme of its own is shorter and simpler than the
// mixed ones, and what it is about happens all the time.
type Theme string

// The themes.
const (
	Mixed       Theme = "mixed"       // a bit of everything
	Weights     Theme = "weights"     // weights change, and some hear of it later
	Regions     Theme = "regions"     // a region joins, and some hear of it later
	Kills       Theme = "kills"       // owners die just after a write has begun
	Updates     Theme = "updates"     // functions of Updates take their time, while values are removed
	Optional    Theme = "options"     // the group has options that others have not
	Pauses      Theme = "pauses"      // processes stand still
	Directories Theme = "directories" // the directory says something else to each node
	Steady      Theme = "steady"      // nothing fails
	LongCut     Theme = "longcut"     // regions are cut off from each other for long, and lose nodes meanwhile
)

// A theme is how a Theme is made.
type theme struct {
	share  int                                // of all seeds, in no particular unit
	shape  func(c *Config, random *rand.Rand) // what is different from the mixed ones
	faults func(r *runner)                    // those of its own, beside those by the rates in Config
}

var themes map[Theme]theme

func init() { // not in the declaration: that would be a cycle
	themes = map[Theme]theme{
		Mixed:       {4, nil, nil},
		Weights:     {1, shapeWeights, (*runner).weightFaults},
		Regions:     {2, shapeRegions, (*runner).regionFaults},
		Kills:       {1, shapeKills, (*runner).kills},
		Updates:     {1, shapeUpdates, nil},
		Optional:    {2, shapeOptions, (*runner).optionFaults},
		Pauses:      {1, shapePauses, (*runner).pauseFaults},
		Directories: {1, shapeDirectories, (*runner).directoryFaults},
		Steady:      {1, shapeSteady, nil},
		LongCut:     {1, shapeLongCut, (*runner).longCut},
	}
}

// order is the themes in the order in which seeds are given to them.
var order = []Theme{Mixed, Weights, Regions, Kills, Updates, Optional, Pauses, Directories, LongCut, Steady}

// themeOf returns the theme of a seed.
func themeOf(seed uint64) Theme {
	sum := 0
	for _, t := range order {
		sum += themes[t].share
	}
	x := source(seed, "theme").IntN(sum)
	for _, t := range order {
		if x -= themes[t].share; x < 0 {
			return t
		}
	}
	return Mixed
}

// quiet has a history with no faults but those of its theme.
func quiet(c *Config, length time.Duration) {
	c.NodeFaults, c.WorldFaults, c.StableHome = 0, 0, false
	c.Mangle.Lose = 0
	c.Length = length
}

// of returns one of the choices.
func choose[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

// shapeWeights has all count fast: two who count at the same time at different owners
// lose one.
func shapeWeights(c *Config, random *rand.Rand) {
	quiet(c, 8*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu"}, []string{"eu", "us"})
	c.Nodes = 2 + random.IntN(2)
	c.Home = "eu"
	c.Callers, c.Think = 2, choose(random, 10*time.Millisecond, 30*time.Millisecond)
	c.Counting, c.Writes = 0.8, 0.6
	c.Counters = 2 + random.IntN(2)
}

// weightFaults changes the weight of one node after the other. Those who hear of
// it later have another ring meanwhile.
func (r *runner) weightFaults() {
	random := source(r.config.Seed, "weights")
	for r.pauseFor(500*time.Millisecond + upTo(random, time.Second)) {
		nodes := r.serving()
		n := pick(random, nodes)
		weight := choose(random, 0.25, 0.5, 2, 4)
		late := nodes[:0:0]
		for _, other := range nodes {
			if other != n && random.IntN(2) == 0 {
				late = append(late, other)
				r.c.Directory.Lag(other.Name, time.Minute)
			}
		}
		endFault := r.beginFault(&Fault{Kind: Misreported, A: n.Name})
		restarts := random.IntN(2) == 0
		if restarts {
			r.restart(n, random.IntN(2) == 0, upTo(random, time.Second), geocache.WithWeight(weight))
		} else {
			r.c.Directory.Reweigh(n.Name, weight)
		}
		r.pauseFor(time.Second + upTo(random, 3*time.Second))
		if !restarts {
			r.c.Directory.Reweigh(n.Name, 0)
			r.pauseFor(upTo(random, time.Second))
		}
		for _, other := range late {
			r.c.Directory.Lag(other.Name, 0)
		}
		endFault()
	}
}
