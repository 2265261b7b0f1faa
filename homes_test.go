package geocache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests the home region of keys when a region joins.

// A third region joins, and becomes the home of some keys. It has never had their values, which no
// origin has.
func TestJoiningRegionBecomesHome(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		opts := []geocache.GroupOption{geocache.WithTTL(time.Minute)}
		groups := onAll(c, "counts", geocache.Getter[int](nil), opts...)
		time.Sleep(untilLeased)
		for i := range 30 {
			for range 5 {
				_, err := geocache.Increment(c.T.Context(), groups["eu-1"], fmt.Sprint(i), 1)
				require.NoError(t, err)
			}
		}
		for range 2 {
			n := c.Add("ap")
			g, err := geocache.NewGroup(n.Cache, "counts", geocache.Getter[int](nil), opts...)
			require.NoError(t, err)
			groups[n.Name] = g
		}
		time.Sleep(untilLeased)
		for i := range 30 {
			key := fmt.Sprint(i)
			want := 5
			for _, node := range []string{"eu-1", "us-2", "ap-1", "ap-2"} {
				want++
				n, err := geocache.Increment(c.T.Context(), groups[node], key, 1)
				require.NoError(t, err)
				require.Equal(t, want, n, "%s at %s", key, node)
			}
		}
	})
}

// The regions learn of a new one at different times. Until all know it there must not be two homes.
func TestRegionsLearnOfANewRegionLate(t *testing.T) {
	directory := newScriptedDiscovery()
	old, all := nodesOf("eu-1", "eu-2", "us-1", "us-2"), nodesOf("ap-1", "ap-2", "eu-1", "eu-2", "us-1", "us-2")
	for _, n := range old {
		directory.announce(n.ID, old...)
	}
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2, Counters: true,
		Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 20*time.Millisecond)
		time.Sleep(untilLeased)
		before := countInBackground(countersOf(c), 12, 25*time.Millisecond)
		time.Sleep(time.Second)
		for _, node := range []string{"ap-1", "ap-2"} {
			directory.announce(node, all...)
			c.Add("ap")
		}
		c.Net.SetLatency("eu", "ap", 30*time.Millisecond)
		c.Net.SetLatency("us", "ap", 10*time.Millisecond)
		during := countInBackground(countersOf(c)[:2], 12, 25*time.Millisecond) // at the nodes in ap
		for _, node := range []string{"us-2", "eu-1", "us-1", "eu-2"} {
			time.Sleep(2 * time.Second)
			directory.announce(node, all...)
		}
		time.Sleep(2 * time.Second)
		least, most := before()
		ap, possible := during()
		for i := range least {
			least[i], most[i] = least[i]+ap[i], most[i]+possible[i]
			require.NotZero(t, ap[i], "counter %d in ap", i)
		}
		for _, g := range countersOf(c) {
			requireCounts(c.T, g, least, most)
		}
	})
}

// A node of the home region that starts while the other regions are cut off believes the other
// nodes of its region that there is no other home.
func TestHomeNodeStartsWhileRegionsAreCutOff(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, TTL: 10 * time.Second, Nodes: 2}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		opts := []geocache.GroupOption{geocache.WithTTL(10 * time.Second), geocache.WithLoadTimeout(time.Second)}
		groups := onAll(c, "counts", geocache.Getter[int](nil), opts...)
		time.Sleep(untilLeased)
		atHome := func(g *geocache.Group[int]) (n int) {
			for i := range 30 {
				ctx, cancel := context.WithTimeout(c.T.Context(), time.Second)
				_, err := geocache.Increment(ctx, g, fmt.Sprint(i), 1)
				cancel()
				if err == nil {
					n++
				} else {
					require.ErrorIs(t, err, geocache.ErrHomeUnreachable)
				}
			}
			return n
		}
		require.Equal(t, 30, atHome(groups["eu-1"]))
		time.Sleep(20 * time.Second)
		c.Net.Cut("eu", "us")
		time.Sleep(5 * time.Second)
		at := atHome(groups["eu-1"])
		require.NotZero(t, at)
		require.Less(t, at, 30)

		n := c.Add("eu")
		g, err := geocache.NewGroup(n.Cache, "counts", geocache.Getter[int](nil), opts...)
		require.NoError(t, err)
		time.Sleep(untilLeased)
		require.Equal(t, at, atHome(g))
		require.Equal(t, at, atHome(groups["eu-1"]), "including the counters that the new node owns")
	})
}

// A node that does not know of a region takes another one for the home of that region's keys. It is
// refused there.
func TestNodeUnawareOfARegion(t *testing.T) {
	directory := newScriptedDiscovery()
	all := nodesOf("ap-1", "eu-1", "us-1")
	for _, n := range all {
		directory.announce(n.ID, all...)
	}
	directory.announce("us-2", nodesOf("eu-1", "us-2")...)
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 1, Counters: true,
		Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		for _, pair := range [][2]string{{"ap", "eu"}, {"ap", "us"}, {"eu", "us"}} {
			c.Net.SetLatency(pair[0], pair[1], 10*time.Millisecond)
		}
		time.Sleep(untilLeased)
		groups := countersOf(c)
		for i := range 40 {
			_, err := geocache.Increment(c.T.Context(), groups[0], fmt.Sprint(i), 0)
			require.NoError(t, err)
		}
		lacking := c.Add("us")
		stop := countInBackground([]*geocache.Group[int]{groups[0], lacking.Counters}, 40, 50*time.Millisecond)
		time.Sleep(10 * time.Second)
		least, most := stop()
		requireCounts(c.T, groups[0], least, most)
	})
}

// A value that a new home gets from the old one is as old as it was there, plus its time in
// transit.
func TestRecalledValueKeepsItsAge(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		groups := onAll(c, "counts", geocache.Getter[int](nil))
		time.Sleep(untilLeased)
		var at [30]time.Time
		for i := range at {
			_, err := geocache.Increment(c.T.Context(), groups["eu-1"], fmt.Sprint(i), 1)
			require.NoError(t, err)
			at[i] = time.Now()
		}
		n := c.Add("ap")
		g, err := geocache.NewGroup(n.Cache, "counts", geocache.Getter[int](nil))
		require.NoError(t, err)
		c.Net.SetLatency("ap", "eu", 150*time.Millisecond)
		c.Net.SetLatency("ap", "us", 150*time.Millisecond)
		time.Sleep(untilLeased)
		for i := range at {
			_, _ = g.Update(c.T.Context(), fmt.Sprint(i), func(int, bool) (int, error) {
				return 0, fmt.Errorf("not now")
			})
			if item, err := g.GetItem(c.T.Context(), fmt.Sprint(i)); err == nil {
				require.GreaterOrEqual(t, item.Age, time.Since(at[i]), "%d", i)
			}
		}
	})
}

// A region joins while the functions of Updates run. Updates whose home it becomes happen there.
func TestRegionJoinsDuringUpdates(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		groups := onAll(c, "counts", geocache.Getter[int](nil))
		time.Sleep(untilLeased)
		type result struct {
			err  error
			took time.Duration
		}
		results := make(chan result, 20)
		for i := range cap(results) {
			go func() {
				begun := time.Now()
				_, err := groups["eu-1"].Update(context.Background(), fmt.Sprint(i), func(v int, ok bool) (int, error) {
					time.Sleep(2 * time.Second)
					return v + 1, nil
				})
				results <- result{err, time.Since(begun)}
			}()
		}
		time.Sleep(100 * time.Millisecond)
		for range 2 {
			_, err := geocache.NewGroup(c.Add("ap").Cache, "counts", geocache.Getter[int](nil))
			require.NoError(t, err)
		}
		for range cap(results) {
			r := <-results
			require.NoError(t, r.err)
			require.Less(t, r.took, 8*time.Second)
		}
	})
}

// A region joins while another one is away. Homes that stay where they are go on.
func TestRegionJoinsWhileAnotherIsAway(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		opts := []geocache.GroupOption{geocache.WithLoadTimeout(time.Second)}
		groups := onAll(c, "counts", geocache.Getter[int](nil), opts...)
		time.Sleep(untilLeased)
		work := func() (n int) {
			for i := range 30 {
				if _, err := geocache.Increment(c.T.Context(), groups["eu-1"], fmt.Sprint(i), 1); err == nil {
					n++
				} else {
					require.ErrorIs(t, err, geocache.ErrHomeUnreachable)
				}
			}
			return n
		}
		require.Equal(t, 30, work())
		time.Sleep(10 * time.Minute)
		c.Net.Cut("eu", "us")
		time.Sleep(untilLeased)
		atHome := work()
		require.NotZero(t, atHome)
		_, err := geocache.NewGroup(c.Add("ap").Cache, "counts", geocache.Getter[int](nil), opts...)
		require.NoError(t, err)
		time.Sleep(untilLeased)
		after := work()
		require.GreaterOrEqual(t, after, atHome/2, "except those whose home is the new region")
	})
}
