package geocache_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/regions"
)

// Nodes whose discoveries do not say the same at the same time.

// lists is a discovery that tells each node what the test says.
type lists struct {
	mu    sync.Mutex // guards the following
	nodes map[string][]regions.Node
	found map[string]func(regions.View)
}

func newLists() *lists {
	return &lists{nodes: map[string][]regions.Node{}, found: map[string]func(regions.View){}}
}

func (l *lists) Region(context.Context) (string, error) { return "", nil }

func (l *lists) Run(ctx context.Context, self regions.Node, _ func() error, found func(regions.View)) error {
	l.mu.Lock()
	l.found[self.ID] = found
	found(regions.View{Nodes: l.nodes[self.ID]})
	l.mu.Unlock()
	<-ctx.Done()
	return nil
}

// tell has the node find these nodes from now on.
func (l *lists) tell(node string, nodes ...regions.Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[node] = nodes
	if found := l.found[node]; found != nil {
		found(regions.View{Nodes: nodes})
	}
}

// nodesOf returns nodes as a discovery lists them, by their names.
func nodesOf(names ...string) (nodes []regions.Node) {
	for _, name := range names {
		nodes = append(nodes, regions.Node{ID: name, Region: name[:2], Address: name + ":7946", Weight: 1})
	}
	return nodes
}

// countersOf returns the counters of all nodes.
func countersOf(c *testcluster.Cluster) (groups []*geocache.Group[int]) {
	for _, n := range c.Nodes() {
		groups = append(groups, n.Counters)
	}
	return groups
}

// counting has callers at the nodes increment counters, with pauses, until the function that it returns is called. That
// returns for each counter how many increments were acknowledged, and how many may have happened.
func counting(groups []*geocache.Group[int], counters int, pause time.Duration) (stop func() (acknowledged, possible []int64)) {
	acknowledged, possible := make([]atomic.Int64, counters), make([]atomic.Int64, counters)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, g := range groups {
		for i := range counters {
			all.Go(func() {
				for ctx.Err() == nil {
					limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					possible[i].Add(1)
					_, err := geocache.Increment(limit, g, fmt.Sprint(i), 1)
					cancel()
					if err == nil {
						acknowledged[i].Add(1)
					}
					time.Sleep(pause)
				}
			})
		}
	}
	return func() (least, most []int64) {
		cancel()
		all.Wait()
		for i := range counters {
			least, most = append(least, acknowledged[i].Load()), append(most, possible[i].Load())
		}
		return least, most
	}
}

// requireCounts checks that no acknowledged increment is lost, and none has been counted twice.
func requireCounts(t *testing.T, g *geocache.Group[int], least, most []int64) {
	t.Helper()
	total := int64(0)
	for i := range least {
		n, err := geocache.Increment(t.Context(), g, fmt.Sprint(i), 0)
		require.NoError(t, err)
		require.GreaterOrEqual(t, int64(n), least[i], "counter %d has lost increments", i)
		require.LessOrEqual(t, int64(n), most[i], "counter %d", i)
		total += least[i]
	}
	require.NotZero(t, total)
}

// Two nodes of one region that do not give one of them the same weight both take themselves for the
// owner of a key. They do not swap its value at the same time.
func TestAWeightThatOthersHearOfLater(t *testing.T) {
	all := nodesOf("eu-1", "eu-2", "eu-3")
	light := slices.Clone(all)
	light[0].Weight = 0.2
	directory := newLists()
	for _, n := range all {
		directory.tell(n.ID, all...)
	}
	config := testcluster.Config{Counters: true, Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 2*time.Millisecond)
		time.Sleep(standing)
		stop := counting(countersOf(c), 12, 15*time.Millisecond)
		for i := range 4 {
			time.Sleep(300 * time.Millisecond)
			directory.tell("eu-2", light...)
			time.Sleep(time.Duration(i) * 400 * time.Millisecond)
			directory.tell("eu-3", light...)
			time.Sleep(100 * time.Millisecond)
			directory.tell("eu-2", all...)
			directory.tell("eu-3", all...)
		}
		time.Sleep(2 * time.Second)
		least, most := stop()
		requireCounts(c.T, c.Node("eu-2").Counters, least, most)

		// One that is as light as that, while the others think otherwise and then do not.
		mistaken := nodesOf("eu-1", "eu-2", "eu-3", "eu-4")
		right := slices.Clone(mistaken)
		right[3].Weight = 0.2
		directory.tell("eu-4", right...)
		for _, n := range all {
			directory.tell(n.ID, mistaken...)
		}
		c.Add("eu", geocache.WithWeight(0.2))
		time.Sleep(standing)
		for _, n := range all {
			directory.tell(n.ID, right...)
		}
		time.Sleep(standing)
		for i := range 60 {
			_, err := geocache.Increment(c.T.Context(), c.Node("eu-1").Counters, fmt.Sprint(i), 1)
			require.NoError(t, err)
		}
	})
}

// A node whose discovery lacks another one for minutes takes it for a member all the same, as long
// as a third one lists it. So copies are served and Updates take place.
func TestANodeThatOneDiscoveryLacks(t *testing.T) {
	directory := newLists()
	directory.tell("eu-1", nodesOf("eu-1", "eu-2", "eu-3")...)
	directory.tell("eu-2", nodesOf("eu-1", "eu-2", "eu-3")...)
	directory.tell("eu-3", nodesOf("eu-2", "eu-3")...)
	config := testcluster.Config{Counters: true, Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for range 30 {
			for _, n := range c.Nodes() {
				require.Equal(t, 3, n.Cache.Stats().Regions[0].Nodes, n.Name)
				for i := range 10 {
					key := fmt.Sprint(i)
					ctx, cancel := context.WithTimeout(c.T.Context(), time.Second)
					_, err := geocache.Increment(ctx, n.Counters, key, 1)
					cancel()
					require.NoError(t, err)
					n.MustGet(key)
					item := n.MustGet(key)
					require.Equal(t, geocache.SourceStore, item.Source, "%s at %s: a copy", key, n.Name)
				}
			}
			time.Sleep(4 * time.Second)
		}
		// Nobody lists it any more. A word for it does not count for ever.
		directory.tell("eu-2", nodesOf("eu-2", "eu-3")...)
		directory.tell("eu-1", nodesOf("eu-1")...)
		c.Node("eu-1").Crash()
		time.Sleep(15 * time.Second)
		for _, n := range c.Nodes() {
			for _, p := range n.Cache.Stats().Peers {
				require.NotEqual(t, "eu-1", p.ID)
			}
		}
	})
}

// Two nodes whose discoveries have forgotten all others each take themselves for alone, while a third
// one still sees both. Neither counts by itself.
func TestNodesThatTakeThemselvesForAlone(t *testing.T) {
	directory := newLists()
	all := nodesOf("eu-1", "eu-2", "eu-3")
	for _, n := range all {
		directory.tell(n.ID, all...)
	}
	config := testcluster.Config{Counters: true, Cache: []geocache.Option{geocache.WithDiscovery(directory), geocache.WithGrace(time.Second)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		stop := counting(countersOf(c), 12, 15*time.Millisecond)
		time.Sleep(time.Second)
		directory.tell("eu-1", nodesOf("eu-1")...)
		directory.tell("eu-2", nodesOf("eu-2")...)
		time.Sleep(10 * time.Second)
		require.Equal(t, 1, c.Node("eu-1").Cache.Stats().Regions[0].Nodes)
		for _, n := range all {
			directory.tell(n.ID, all...)
		}
		time.Sleep(3 * time.Second)
		least, most := stop()
		requireCounts(c.T, c.Node("eu-3").Counters, least, most)
	})
}
