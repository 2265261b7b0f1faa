package history

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/internal/testcluster/network/mangle"
)

// none ends the mangling.
var none mangle.Rates

// mostNodes is how many nodes a region grows to, unless it begins with more.
const mostNodes = 4

// A lane makes the faults of one region, one after the other. So at any time a node is up and,
// unless the faults are rash, one that has been told what the region has acknowledged: a region
// that loses all nodes that know of a write loses the write, and nothing else was promised. The
// faults of different regions, and those between regions, overlap as they like.
type lane struct {
	*runner
	region  string
	nodes   []*testcluster.Node // the nodes that serve
	random  *rand.Rand
	lastEnd time.Duration // when the last fault ended
}

func (l *lane) run() {
	for l.pause(l.config.NodeFaults) {
		i := l.random.IntN(len(l.nodes))
		n := l.nodes[i]
		others := append(append([]*testcluster.Node{}, l.nodes[:i]...), l.nodes[i+1:]...)
		l.random.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		switch x := l.random.IntN(100); {
		case x < 20:
			l.restart(false, n)
		case x < 30 && len(l.nodes) > 2:
			l.restart(false, n, others[0]) // perhaps an owner and its successor
		case x < 40:
			l.restart(true, n)
		case x < 45 && len(l.nodes) > 2:
			l.leave(i)
		case x < 55 && len(l.nodes) < max(mostNodes, l.config.Nodes+1):
			l.join()
		case x < 63:
			l.pauses(n, l.upTo(6*time.Second))
		case x < 68 && l.config.MaxOffset > 0:
			l.step(n)
		case x < 75:
			l.cut(l.upTo(5*time.Second), l.c.Net.Cut, []*testcluster.Node{n}, others[:min(1, len(others))])
		case x < 85:
			l.cut(l.upTo(5*time.Second), l.c.Net.CutOneWay, []*testcluster.Node{n}, others[:min(1, len(others))])
		case x < 95:
			k := l.random.IntN(len(others)) // n alone, or with some others
			l.cut(l.upTo(8*time.Second), l.c.Net.Cut, append(others[:k:k], n), others[k:])
		default:
			for range 5 { // the link flaps
				l.cut(l.upTo(500*time.Millisecond), l.c.Net.Cut, []*testcluster.Node{n}, others)
				l.pause(300 * time.Millisecond)
			}
		}
		l.lastEnd = l.now()
	}
}

// pauseFor waits for d. It reports false if faults must end.
func (r *runner) pauseFor(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.over:
		return false
	}
}

// pause waits for a random time with this mean. It reports false if faults must end.
func (l *lane) pause(mean time.Duration) bool {
	return l.pauseFor(time.Duration(l.random.ExpFloat64() * float64(mean)))
}

// catchUp waits until all nodes know what the region knows, so that one of them can go. It reports
// false if faults must end.
func (l *lane) catchUp() bool {
	return l.config.Rash || l.pauseFor(l.lastEnd+recovery+2*time.Second-l.now())
}

// restart stops the nodes at the same time, and starts each again after a while.
func (l *lane) restart(leave bool, nodes ...*testcluster.Node) {
	if !l.catchUp() {
		return
	}
	var all sync.WaitGroup
	for _, n := range nodes {
		down := l.upTo(10 * time.Second)
		all.Go(func() { l.runner.restart(n, leave, down) })
	}
	all.Wait()
}

// leave makes the i-th node leave for good.
func (l *lane) leave(i int) {
	if l.catchUp() {
		l.stop(l.nodes[i], true)
		l.nodes = append(l.nodes[:i:i], l.nodes[i+1:]...)
	}
}

// join adds a node.
func (l *lane) join() {
	l.nodes = append(l.nodes, l.runner.join(l.region))
}

// step sets a node's wall clock. By that clock time may seem to have passed, so that leases and
// values expire early.
func (l *lane) step(n *testcluster.Node) {
	offset := l.offset(n.Name)
	endFault := l.beginFault(&Fault{Kind: Stepped, A: n.Name})
	n.SetClock(offset)
	endFault()
}

// cut cuts each node of some off from each one of others, for a while.
func (r *runner) cut(d time.Duration, cut func(a, b string), some, others []*testcluster.Node) {
	var endFault []func()
	for _, a := range some {
		for _, b := range others {
			endFault = append(endFault, r.beginFault(&Fault{Kind: Cut, A: a.Name, B: b.Name}))
			cut(a.Name, b.Name)
		}
	}
	r.pauseFor(d)
	for _, a := range some {
		for _, b := range others {
			r.c.Net.Heal(a.Name, b.Name)
		}
	}
	for _, m := range endFault {
		m()
	}
}

// upTo returns a random duration up to most, more often a short one.
func (l *lane) upTo(most time.Duration) time.Duration {
	return time.Duration(l.random.Float64() * l.random.Float64() * float64(most))
}

// worldFaults makes the faults between regions, and those of the directory.
func (r *runner) worldFaults() {
	random := source(r.config.Seed, "faults of the world")
	for r.pauseFor(time.Duration(random.ExpFloat64() * float64(r.config.WorldFaults))) {
		d := time.Duration(random.Float64() * float64(8*time.Second))
		if len(r.config.Regions) == 1 || random.IntN(3) == 0 {
			r.directoryFault(random.IntN(4), d)
			continue
		}
		at := random.IntN(len(r.config.Regions))
		a := r.config.Regions[at]
		b := r.config.Regions[(at+1+random.IntN(len(r.config.Regions)-1))%len(r.config.Regions)]
		endFault := r.beginFault(&Fault{Kind: World, A: a, B: b})
		if random.IntN(3) == 0 {
			r.c.Net.CutOneWay(a, b)
		} else {
			r.c.Net.Cut(a, b)
		}
		r.pauseFor(d)
		r.c.Net.Heal(a, b)
		endFault()
	}
}

// directoryFault breaks the directory for a while.
func (r *runner) directoryFault(which int, d time.Duration) {
	endFault := r.beginFault(&Fault{Kind: Directory})
	switch which {
	case 0:
		r.c.Directory.Silence()
	case 1:
		r.c.Directory.Fail()
	case 2:
		r.c.Directory.AnswerEmpty()
	case 3:
		r.c.Directory.Forget()
	}
	r.pauseFor(d)
	r.c.Directory.Restore()
	time.Sleep(directoryRetry) // some nodes ask again only then
	endFault()
}

// directoryRetry is how long nodes take to ask the directory again, or to register again.
const directoryRetry = 6 * time.Second
