package history

import (
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache/internal/testcluster"
)

// This file is about a directory that reports different things to each node: it lags, omits nodes,
// and forgets some.

func shapeDirectories(c *Config, random *rand.Rand) {
	quiet(c, 15*time.Second)
	c.Regions = choose(random, []string{"eu"}, []string{"eu", "us"})
	c.Nodes = 2 + random.IntN(2)
	c.Think = 100 * time.Millisecond
	c.Keys = 3
	c.Writes = 0.4
	c.OriginLag = 10 * time.Millisecond
	c.Grace = choose(random, 0, 3*time.Second)
}

// directoryFaults makes the directory report different things, while nodes come and go.
func (r *runner) directoryFaults() {
	random := source(r.config.Seed, "directories")
	d := r.c.Directory
	for r.pauseFor(upTo(random, 2*time.Second)) {
		nodes := r.serving()
		n := pick(random, nodes)
		for_ := upTo(random, 6*time.Second)
		switch random.IntN(6) {
		case 0: // it is not told of some others
			r.hide(random, nodes, n, for_)
		case 1: // it is told nothing, as by an agent that was restarted
			d.Hide(n.Name, n.Region)
			endFault := r.beginFault(&Fault{Kind: Misreported, A: n.Name}) // nodes do not believe such an answer
			r.pauseFor(for_)
			d.Show(n.Name, n.Region)
			endFault()
		case 2: // it runs, and is not listed any more
			endFault := r.beginFault(&Fault{Kind: Unlisted, A: n.Name})
			d.Unlist(n.Name)
			r.pauseFor(for_)
			d.Relist(n.Name)
			endFault()
		case 5: // the others are not told of it, and its own agent has died and reports nothing new
			d.Lag(n.Name, time.Minute)
			endFault := r.beginFault(&Fault{Kind: Unlisted, A: n.Name})
			for _, other := range r.c.Nodes(n.Region) {
				d.Hide(other.Name, n.Name)
			}
			r.pauseFor(for_)
			for _, other := range r.c.Nodes(n.Region) {
				d.Show(other.Name, n.Name)
			}
			d.Lag(n.Name, 0)
			endFault()
		case 3: // some nodes learn late of one that joins
			r.comesLate(random, nodes, n, for_)
		case 4: // it is killed, and restarted at once
			r.restart(n, false, 0)
		}
	}
}

// hide leaves some nodes of n's region out of what n is told.
func (r *runner) hide(random *rand.Rand, nodes []*testcluster.Node, n *testcluster.Node, d time.Duration) {
	var shown []func()
	for _, other := range nodes {
		if other != n && other.Region == n.Region && random.IntN(2) == 0 {
			r.c.Directory.Hide(n.Name, other.Name)
			endFault := r.beginFault(&Fault{Kind: Unaware, A: n.Name, B: other.Name})
			shown = append(shown, func() {
				r.c.Directory.Show(n.Name, other.Name)
				endFault()
			})
		}
	}
	r.pauseFor(d)
	for _, show := range shown {
		show()
	}
}

// comesLate adds or restarts a node. Some others of its region learn of it later.
func (r *runner) comesLate(
	random *rand.Rand, nodes []*testcluster.Node, n *testcluster.Node, d time.Duration,
) {
	var late []*testcluster.Node
	joins := len(nodes) <= r.config.Nodes*len(r.config.Regions) && random.IntN(2) == 0
	for _, other := range nodes {
		if other.Region == n.Region && (other != n || joins) && random.IntN(2) == 0 {
			r.c.Directory.Lag(other.Name, time.Minute)
			late = append(late, other)
		}
	}
	name := n.Name
	if joins {
		name = r.join(n.Region).Name
	} else {
		r.restart(n, random.IntN(2) == 0, upTo(random, 2*time.Second))
	}
	var endFault []func()
	for _, other := range late {
		endFault = append(endFault, r.beginFault(&Fault{Kind: Unaware, A: other.Name, B: name}))
	}
	r.pauseFor(d)
	for i, other := range late {
		r.c.Directory.Lag(other.Name, 0)
		endFault[i]()
	}
}
