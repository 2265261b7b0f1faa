package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

const (
	afterHeal = 3 * time.Second  // how long callers go on once all is well
	reunion   = 60 * time.Second // within this time all nodes must have connected again
	settle    = 2 * time.Second  // after this time promise 4 holds
)

// A runner makes one history.
type runner struct {
	c      *testcluster.Cluster
	config Config
	start  time.Time
	offset func(node string) time.Duration // of the node's clock

	over  chan struct{}  // closed when faults must end
	done  chan struct{}  // closed when callers must stop
	lanes sync.WaitGroup // the goroutines that make faults
	sets  watch          // of beginning Sets
	calm  atomic.Bool    // callers rarely call, and write nothing

	mu      sync.Mutex // guards the following
	history *History
	lives   map[string]*life // by node, of those that serve

	begun     map[string]int    // the number of lives, by node
	snapshots map[string][]byte // by node
	written   []*Op             // the last writes that were acknowledged
}

// Run runs a cluster through the history that config describes, and records it.
func Run(t *testing.T, config Config) *History {
	h := &History{Config: config, Nodes: make(map[string][]string)}
	var drawing sync.Mutex
	drawn := make(map[string]int)
	offset := func(node string) time.Duration {
		drawing.Lock()
		defer drawing.Unlock()
		drawn[node]++
		random := source(config.Seed, fmt.Sprint("offset ", drawn[node], " of ", node))
		return time.Duration((2*random.Float64() - 1) * float64(config.MaxOffset))
	}
	var apart []string
	if config.Newcomer != "" {
		apart = []string{config.Newcomer}
	}
	testcluster.Run(t, testcluster.Config{
		Hidden:   apart,
		Regions:  config.Regions,
		Nodes:    config.Nodes,
		Seed:     config.Seed,
		TTL:      config.TTL,
		Offset:   offset,
		Mangle:   config.Mangle,
		Counters: true,
		Home:     config.Home,

		LookAside: config.LookAside,
		Group:     groupOptions(&config),
		Jitter:    time.Microsecond,
		Cache:     cacheOptions(&config),

		WriteThrough:  config.Writing == Through || config.Writing == Behind,
		PrimaryOrigin: config.Home,
		OriginLag:     config.ReplicaLag,
	}, func(c *testcluster.Cluster) {
		r := &runner{
			c:       c,
			config:  config,
			start:   c.Now(),
			offset:  offset,
			over:    make(chan struct{}),
			done:    make(chan struct{}),
			history: h,
			lives:   make(map[string]*life),

			begun:     make(map[string]int),
			snapshots: make(map[string][]byte),
		}
		h.Start = r.start
		r.run()
		if m := c.Mangler; m != nil {
			h.Mangled[0], h.Mangled[1], h.Mangled[2] = m.Counts()
		}
		h.Loads = c.Origin.Log()
		h.Log, h.Truth = c.Log(), c.Origin.Truth()
	})
	h.index()
	return h
}

// now returns the time since the history began.
func (r *runner) now() time.Duration { return r.c.Now().Sub(r.start) }

// run lets the history happen, heals everything, and has every node read every key.
func (r *runner) run() {
	r.c.Origin.Absent(r.config.isAbsent)
	r.c.Origin.Behave(r.origin())
	seats := make(map[string][]*testcluster.Node)
	for _, n := range r.c.Nodes() {
		seats[n.Region] = append(seats[n.Region], n)
		r.history.Nodes[n.Region] = append(r.history.Nodes[n.Region], n.Name)
		r.begin(n)
	}
	for _, region := range r.config.Regions {
		if r.config.Latency > 0 {
			r.c.Net.SetLatency(region, region, r.config.Latency)
		}
		if r.config.NodeFaults > 0 && !(r.config.StableHome && region == r.config.Home) {
			l := &lane{runner: r, region: region, nodes: seats[region],
				random: source(r.config.Seed, "faults in "+region)}
			r.lanes.Go(l.run)
		}
	}
	if r.config.WorldFaults > 0 {
		r.lanes.Go(r.worldFaults)
	}
	if f := themes[r.config.Theme].faults; f != nil {
		r.lanes.Go(func() { f(r) })
	}
	time.Sleep(r.config.Length)
	close(r.over)
	r.lanes.Wait()

	if r.c.Mangler != nil {
		r.c.Mangler.Set(none)
	}
	r.c.Origin.Behave(nil)
	time.Sleep(afterHeal)
	close(r.done)
	lives := r.living()
	for _, l := range lives {
		l.callers.Wait()
	}
	r.reunite(lives)
	time.Sleep(settle)
	r.history.Healed = r.now()
	for _, pause := range []time.Duration{0, time.Second, 3 * time.Second} {
		time.Sleep(pause)
		r.history.Last = r.now()
		r.everybodyReads(lives)
	}
}

// living returns the lives of the serving nodes, sorted by name.
func (r *runner) living() (lives []*life) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lives {
		lives = append(lives, l)
	}
	slices.SortFunc(lives, func(a, b *life) int { return slices.Compare([]byte(a.name), []byte(b.name)) })
	return lives
}

// reunite waits until all nodes are connected to all others of their region, and to some of each other one.
// That they get there is not what is checked, but nothing else can be checked if they do not.
func (r *runner) reunite(lives []*life) {
	for range reunion / (100 * time.Millisecond) {
		apart := ""
		for _, l := range lives {
			up := make(map[string]bool) // nodes, and regions
			for _, p := range l.cache.Stats().Peers {
				up[p.ID] = p.Up
				up[p.Region] = up[p.Region] || p.Up
			}
			for _, other := range lives {
				connected := up[other.region]
				if other.region == l.region {
					connected = other == l || up[other.name]
				}
				if !connected {
					apart = fmt.Sprintf("%s has no connection to %s", l.name, other.name)
				}
			}
		}
		if apart == "" {
			return
		}
		time.Sleep(100 * time.Millisecond)
		if time.Since(r.start) > r.config.Length+afterHeal+reunion {
			r.c.T.Errorf("long after everything was healed, %s", apart)
			return
		}
	}
}

// everybodyReads has every node read every key.
func (r *runner) everybodyReads(lives []*life) {
	var all sync.WaitGroup
	for _, l := range lives {
		all.Go(func() {
			for i := range r.config.Keys {
				l.read(Peek, r.config.keyOf(i), 30*time.Second)
				l.read(GetItem, r.config.keyOf(i), 30*time.Second)
			}
			for i := range r.config.Counters {
				l.count(counterKey(i), 30*time.Second)
			}
		})
	}
	all.Wait()
}

// origin returns how the origin behaves while there are faults: it is slow, at random, and fails
// now and then.
func (r *runner) origin() testcluster.Getter {
	var drawing sync.Mutex
	loads := make(map[string]int)
	return func(ctx context.Context, key string) error {
		drawing.Lock()
		loads[key]++
		random := source(r.config.Seed, fmt.Sprint("load ", loads[key], " of ", key))
		lag := time.Duration(random.Int64N(int64(r.config.OriginLag)))
		fails := random.IntN(50) == 0
		drawing.Unlock()
		if fails {
			return fmt.Errorf("the origin fails")
		}
		return testcluster.After(lag)(ctx, key)
	}
}

// record adds an operation to the history.
func (r *runner) record(o *Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.ID = len(r.history.Ops) + 1
	r.history.Ops = append(r.history.Ops, o)
}

// wrote notes a write that was acknowledged, so that reads can be told to come after it.
func (r *runner) wrote(o *Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written = append(r.written[max(0, len(r.written)-20):], o)
}

// oneWritten returns one of the last writes that concern a key, or nil.
func (r *runner) oneWritten(random *rand.Rand, key string) *Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	var of []*Op
	for _, o := range r.written {
		if o.of(key) {
			of = append(of, o)
		}
	}
	if len(of) == 0 {
		return nil
	}
	return of[random.IntN(len(of))]
}

// beginFault records that something is broken from now on, until end is called.
func (r *runner) beginFault(f *Fault) (end func()) {
	f.From, f.To = r.now(), forEver
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.Faults = append(r.history.Faults, f)
	return func() {
		now := r.now()
		r.mu.Lock()
		defer r.mu.Unlock()
		f.To = now
	}
}

// begin begins a life of a node that has just been started.
func (r *runner) begin(n *testcluster.Node) *life {
	l := &life{
		runner:   r,
		node:     n,
		name:     n.Name,
		region:   n.Region,
		cache:    n.Cache,
		group:    n.Group,
		counters: n.Counters,
		leaving:  make(chan struct{}),
	}
	l.ctx, l.kill = context.WithCancel(context.Background())
	r.mu.Lock()
	r.lives[n.Name] = l
	r.begun[n.Name]++
	number := r.begun[n.Name]
	r.mu.Unlock()
	for i := range r.config.Callers {
		random := source(r.config.Seed, fmt.Sprintf("caller %d of %s, life %d", i, n.Name, number))
		l.callers.Go(func() { l.call(random) })
	}
	return l
}

// A life is a node from one start to the next end, with its callers.
type life struct {
	*runner
	node         *testcluster.Node
	name, region string
	cache        *geocache.Cache
	group        *geocache.Group[string]
	counters     *geocache.Group[int]

	callers sync.WaitGroup
	leaving chan struct{} // closed when its callers must stop
	ctx     context.Context
	kill    context.CancelFunc // ends all calls, because the process has died
	frozen  bool               // guarded by runner.mu
}
