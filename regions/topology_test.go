package regions

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
)

func TestRingsAreReusedWhileOnlyDistancesAndAddressesChange(t *testing.T) {
	w := newWorld(t, "eu-2", "us-1", "us-2", "ap-1")
	w.measure(map[string]time.Duration{"us-1": 80 * time.Millisecond})
	before := w.Topology()

	w.now = at(time.Hour)
	w.measure(map[string]time.Duration{"us-1": 120 * time.Millisecond})
	top := w.Topology()
	require.Equal(t, 120*time.Millisecond, top.Region("us").Distance)
	require.Same(t, before.Region("us").ring, top.Region("us").ring)
	require.Same(t, before.Home, top.Home)
	require.Same(t, before.Region("ap"), top.Region("ap"))
	require.Equal(t, before.Changed, top.Changed)

	moved := node("us-2")
	moved.Address = "elsewhere:7946"
	w.found(View{Nodes: []Node{node("eu-1"), node("eu-2"), node("us-1"), moved, node("ap-1")}})
	w.up("us-2")
	top = w.Topology()
	for _, n := range top.Region("us").Owners("ada", 2) {
		require.Contains(t, []Node{node("us-1"), moved}, n, "at its new address")
	}

	same := w.Topology()
	w.found(View{Nodes: []Node{moved, node("ap-1"), node("us-1"), node("eu-2"), node("eu-1")}})
	w.wait(time.Hour)
	require.Same(t, same, w.Topology(), "nothing has changed")
}

func TestChangedIsWhenTheHomeRingChanged(t *testing.T) {
	w := newWorld(t, "eu-2", "us-1")
	require.Zero(t, w.Topology().Changed)
	for i, test := range []struct {
		name    string
		do      func()
		changed bool
	}{
		{"node goes", func() { w.down("eu-2") }, true},
		{"node returns", func() { w.up("eu-2") }, true},
		{"node is found", func() { w.found(view("eu-1", "eu-2", "eu-3", "us-1")) }, false},
		{"node that was not up goes", func() { w.down("eu-3") }, false},
		{"node elsewhere goes", func() { w.down("us-1") }, false},
		{"time passes", func() { w.wait(0) }, false},
		{"home is measured", func() { w.measure(map[string]time.Duration{"eu-2": time.Millisecond}) }, false},
	} {
		before := w.Topology().Changed
		w.now = at(time.Duration(i+1) * time.Minute)
		test.do()
		if test.changed {
			require.Equal(t, w.now, w.Topology().Changed, test.name)
		} else {
			require.Equal(t, before, w.Topology().Changed, test.name)
		}
	}
}

func TestRemoteRegionsAreNearestFirst(t *testing.T) {
	w := newWorld(t, "us-1", "us-2", "ap-1", "af-1", "sa-1")
	v := view("eu-1", "us-1", "us-2", "ap-1", "af-1", "sa-1")
	require.Equal(t, []string{"af", "ap", "sa", "us"}, w.remote(), "all distances unknown: by name")

	v.Distances = map[string]time.Duration{
		"us": 90 * time.Millisecond, "ap": 180 * time.Millisecond, "eu": time.Second, "xx": 1,
	}
	w.found(v)
	require.Equal(t, []string{"us", "ap", "af", "sa"}, w.remote(), "unknown distances last")
	require.Equal(t, 90*time.Millisecond, w.Topology().Region("us").Distance)

	w.measure(map[string]time.Duration{
		"us-1": 200 * time.Millisecond, "us-2": 210 * time.Millisecond, "sa-1": 300 * time.Millisecond,
	})
	require.Equal(t, []string{"ap", "us", "sa", "af"}, w.remote(), "measurements replace estimates")
	require.Equal(t, 200*time.Millisecond, w.Topology().Region("us").Distance, "of the nearest node")

	w.down("us-1")
	require.Equal(t, 210*time.Millisecond, w.Topology().Region("us").Distance, "of those that answer")

	w.found(view("eu-1", "us-1", "us-2", "ap-1", "af-1", "sa-1"))
	require.Equal(t, []string{"us", "sa", "af", "ap"}, w.remote(), "the estimates are gone")
}

func TestJitterInDistancesChangesNothing(t *testing.T) {
	w := newWorld(t, "us-1")
	trip := func(ms int) *Topology {
		w.measure(map[string]time.Duration{"us-1": time.Duration(ms) * time.Millisecond})
		return w.Topology()
	}
	first := trip(100)
	for _, ms := range []int{109, 91, 105, 100, 111} { // 111 − 100 is a tenth of 111
		require.Same(t, first, trip(ms), "%d ms", ms)
	}
	require.Equal(t, 112*time.Millisecond, trip(112).Remote[0].Distance)
	// A distance is compared with the published one, so a slow drift does not go unnoticed.
	drifting := trip(100)
	for ms := 101; ms <= 111; ms++ {
		require.Same(t, drifting, trip(ms))
	}
	require.NotSame(t, drifting, trip(112))

	for _, test := range []struct {
		a, b time.Duration
		near bool
	}{
		{0, 0, true}, {0, 1, false}, {1, 0, false}, {9, 10, true},
		{10, 9, true}, {89, 99, false}, {90, 100, true}, {100, 89, false},
	} {
		require.Equal(t, test.near, near(test.a, test.b), "%d and %d", test.a, test.b)
	}
}

func TestABuildCoversStepsMadeWhileItWaited(t *testing.T) {
	w := newWorld(t)
	heavy := node("us-1")
	heavy.Weight = consistenthash.MaxWeight // a ring that is slow to build
	w.found(View{Nodes: append(view("eu-1", "eu-2", "ap-1").Nodes, heavy)})
	building := func() bool {
		w.Members.mu.Lock()
		defer w.Members.mu.Unlock()
		return w.Members.building
	}
	var running sync.WaitGroup
	running.Go(func() { w.up("us-1") })
	for !building() && w.Topology().Region("us") == nil {
		runtime.Gosched()
	}
	require.True(t, building())
	running.Go(func() {
		w.up("eu-2")
		require.Equal(t, []string{"eu-1", "eu-2"}, w.home(), "published when the method returns")
	})
	running.Go(func() { w.up("ap-1") })
	running.Wait()
	require.Equal(t, []string{"eu-1", "eu-2"}, w.home())
	require.Equal(t, []string{"ap", "us"}, w.remote())
}

func TestMembersConcurrently(t *testing.T) {
	const nodes = 64
	w := newWorld(t)
	w.WatchAtMost(nodes)
	v := view("eu-1")
	for i := range nodes {
		v.Nodes = append(v.Nodes, node(fmt.Sprintf("%s-%d", [...]string{"eu", "us"}[i%2], 10+i)))
	}
	w.found(v)
	for range 5 {
		want := make([]bool, nodes)
		var running sync.WaitGroup
		for i, n := range v.Nodes[1:] {
			running.Go(func() {
				for range 5 {
					want[i] = !want[i]
					w.Health(at(time.Second), n.ID, State{Up: want[i]})
				}
			})
		}
		running.Go(func() { w.found(v) })
		running.Go(func() {
			last := expiry.Instant(0)
			for range 50 {
				top := w.Topology()
				if top.Changed < last {
					t.Errorf("Changed went back from %v to %v", last, top.Changed)
				}
				last = top.Changed
				for _, r := range top.Regions() {
					if owners := r.Owners("ada", 2); len(owners) != min(2, len(r.Nodes)) || owners[0].ID == "" {
						t.Errorf("%d nodes, owners %v", len(r.Nodes), owners)
					}
				}
			}
		})
		running.Wait()

		up := map[string][]string{"eu": {"eu-1"}}
		for i, n := range v.Nodes[1:] {
			if want[i] {
				up[n.Region] = append(up[n.Region], n.ID)
			}
		}
		for name, want := range up {
			require.ElementsMatch(t, want, ids(w.Topology().Region(name).Nodes))
		}
		for i, n := range v.Nodes[1:] { // take them down again
			if want[i] {
				w.Health(0, n.ID, State{})
			}
		}
		require.Equal(t, []string{"eu-1"}, w.home())
	}
}
