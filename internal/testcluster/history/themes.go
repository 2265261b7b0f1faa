package history

import (
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache"
)

// A Theme is what a history is about. Histories with a theme are shorter and simpler than the mixed
// ones, and what they are about happens all the time.
type Theme string

// The themes.
const (
	Mixed       Theme = "mixed"       // a bit of everything
	Weights     Theme = "weights"     // weights change, and some nodes learn of it late
	Regions     Theme = "regions"     // a region joins, and some nodes learn of it late
	Kills       Theme = "kills"       // owners die shortly after a write has begun
	Updates     Theme = "updates"     // Updates take their time, while values are removed
	Optional    Theme = "options"     // the group has options that other histories do not use
	Pauses      Theme = "pauses"      // processes pause
	Directories Theme = "directories" // the directory reports different things to each node
	Steady      Theme = "steady"      // nothing fails
	LongCut     Theme = "longcut"     // regions are cut off from each other for long, and lose nodes meanwhile
	Fleet       Theme = "fleet"       // a region of many nodes, of which some always come, go or fall silent
)

// A theme says how histories of a Theme are made.
type theme struct {
	share  int                                // relative frequency among all seeds
	shape  func(c *Config, random *rand.Rand) // changes the mixed Config
	faults func(r *runner)                    // makes the theme's own faults, besides those that Config asks for
}

var themes map[Theme]theme

func init() { // in the declaration it would be an initialization cycle
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
		Fleet:       {1, shapeFleet, (*runner).fleetFaults},
	}
}

// order lists the themes in the order in which seeds are assigned to them.
var order = []Theme{Mixed, Weights, Regions, Kills, Updates, Optional, Pauses, Directories, LongCut, Steady, Fleet}

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

// quiet removes all faults but those of the theme.
func quiet(c *Config, length time.Duration) {
	c.NodeFaults, c.WorldFaults, c.StableHome = 0, 0, false
	c.Mangle.Lose = 0
	c.Length = length
}

// choose returns one of the choices.
func choose[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

// shapeWeights has all nodes count fast: if two count at the same time at different owners, one
// count is lost.
func shapeWeights(c *Config, random *rand.Rand) {
	quiet(c, 8*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu"}, []string{"eu", "us"})
	c.Nodes = 2 + random.IntN(2)
	c.Home = "eu"
	c.Callers, c.Think = 2, choose(random, 10*time.Millisecond, 30*time.Millisecond)
	c.Counting, c.Writes = 0.8, 0.6
	c.Counters = 2 + random.IntN(2)
}

// weightFaults changes the weight of one node after the other. Nodes that learn of it late have a
// different ring meanwhile.
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
