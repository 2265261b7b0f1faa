package geocache_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests nodes whose discoveries disagree, or fail.

// Two nodes of a region that disagree on a third one's weight both believe that they own a key.
// They must not swap its value at the same time.
func TestOthersLearnOfAWeightLate(t *testing.T) {
	all := nodesOf("eu-1", "eu-2", "eu-3")
	light := slices.Clone(all)
	light[0].Weight = 0.2
	directory := newScriptedDiscovery()
	for _, n := range all {
		directory.announce(n.ID, all...)
	}
	config := testcluster.Config{Counters: true, Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 2*time.Millisecond)
		time.Sleep(untilLeased)
		stop := countInBackground(countersOf(c), 12, 15*time.Millisecond)
		for i := range 4 {
			time.Sleep(300 * time.Millisecond)
			directory.announce("eu-2", light...)
			time.Sleep(time.Duration(i) * 400 * time.Millisecond)
			directory.announce("eu-3", light...)
			time.Sleep(100 * time.Millisecond)
			directory.announce("eu-2", all...)
			directory.announce("eu-3", all...)
		}
		time.Sleep(2 * time.Second)
		least, most := stop()
		requireCounts(c.T, c.Node("eu-2").Counters, least, most)

		// A new node has the low weight, while at first the others believe otherwise.
		mistaken := nodesOf("eu-1", "eu-2", "eu-3", "eu-4")
		right := slices.Clone(mistaken)
		right[3].Weight = 0.2
		directory.announce("eu-4", right...)
		for _, n := range all {
			directory.announce(n.ID, mistaken...)
		}
		c.Add("eu", geocache.WithWeight(0.2))
		time.Sleep(untilLeased)
		for _, n := range all {
			directory.announce(n.ID, right...)
		}
		time.Sleep(untilLeased)
		for i := range 60 {
			_, err := geocache.Increment(c.T.Context(), c.Node("eu-1").Counters, fmt.Sprint(i), 1)
			require.NoError(t, err)
		}
	})
}

// A node whose discovery does not list another one for minutes still takes it for a member, as long
// as a third node lists it. So copies are served, and Updates work.
func TestNodeMissingFromOneDiscovery(t *testing.T) {
	directory := newScriptedDiscovery()
	directory.announce("eu-1", nodesOf("eu-1", "eu-2", "eu-3")...)
	directory.announce("eu-2", nodesOf("eu-1", "eu-2", "eu-3")...)
	directory.announce("eu-3", nodesOf("eu-2", "eu-3")...)
	config := testcluster.Config{Counters: true, Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
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
		// Nobody lists it any more, and what others said of it does not count for ever.
		directory.announce("eu-2", nodesOf("eu-2", "eu-3")...)
		directory.announce("eu-1", nodesOf("eu-1")...)
		c.Node("eu-1").Crash()
		time.Sleep(15 * time.Second)
		for _, n := range c.Nodes() {
			for _, p := range n.Cache.Stats().Peers {
				require.NotEqual(t, "eu-1", p.ID)
			}
		}
	})
}

// Two nodes whose discoveries have forgotten all others each believe that they are alone, while a
// third still sees both. Neither counts by itself.
func TestNodesThatBelieveTheyAreAlone(t *testing.T) {
	directory := newScriptedDiscovery()
	all := nodesOf("eu-1", "eu-2", "eu-3")
	for _, n := range all {
		directory.announce(n.ID, all...)
	}
	config := testcluster.Config{Counters: true,
		Cache: []geocache.Option{geocache.WithDiscovery(directory), geocache.WithGrace(time.Second)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		stop := countInBackground(countersOf(c), 12, 15*time.Millisecond)
		time.Sleep(time.Second)
		directory.announce("eu-1", nodesOf("eu-1")...)
		directory.announce("eu-2", nodesOf("eu-2")...)
		time.Sleep(10 * time.Second)
		require.Equal(t, 1, c.Node("eu-1").Cache.Stats().Regions[0].Nodes)
		for _, n := range all {
			directory.announce(n.ID, all...)
		}
		time.Sleep(3 * time.Second)
		least, most := stop()
		requireCounts(c.T, c.Node("eu-3").Counters, least, most)
	})
}

func TestDirectoryFailureDoesNotAffectReads(t *testing.T) {
	for name, fail := range map[string]func(d *testcluster.Directory){
		"silent":         (*testcluster.Directory).Silence,
		"erring":         (*testcluster.Directory).Fail,
		"answers empty":  (*testcluster.Directory).AnswerEmpty,
		"forgets us all": (*testcluster.Directory).Forget,
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{
				Regions: []string{"eu", "us"},
				Nodes:   2,
				TTL:     2 * time.Hour,
				Cache:   []geocache.Option{geocache.WithLease(10 * time.Second)}, // fewer heartbeats in this hour
			}, func(c *testcluster.Cluster) {
				nodes := c.Nodes()
				for _, n := range nodes {
					readAll(n, keys(50))
				}
				loads := c.Origin.Total()
				fail(c.Directory)
				for range 60 {
					time.Sleep(time.Minute)
					for _, n := range nodes {
						require.Less(t, readAll(n, keys(50)), 2*time.Millisecond)
						require.Equal(t, 2, n.Cache.Stats().Regions[0].Nodes)
						require.Equal(t, 2, n.Cache.Stats().Regions[1].Nodes)
					}
				}
				c.Directory.Restore()
				time.Sleep(time.Minute)
				require.Equal(t, loads, c.Origin.Total())

				// It is believed again when somebody really leaves.
				c.Node("us-1").Close()
				c.Settle()
				require.Len(t, c.Node("eu-1").Cache.Stats().Peers, 2)
			})
		})
	}
}

// A node whose discovery lists nobody else for longer than the grace period, while others see it
// and ping it, completes no writes by itself: the others would go on serving what is older.
func TestIsolatedNodeCompletesNoWrites(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Counters: true}, func(c *testcluster.Cluster) {
		lonely := c.Add("eu", geocache.WithDiscovery(isolatedDiscovery{c.Directory, nil}), geocache.WithJoinWait(0))
		time.Sleep(2 * time.Minute)
		old := c.Node("eu-1")
		key := c.KeyOf(old.Name)
		old.MustGet(key)
		if _, err := lonely.Set(key, "written"); err == nil {
			require.Equal(t, "written", text(t, old, key))
		}
		ctx, cancel := context.WithTimeout(c.T.Context(), 5*time.Second)
		defer cancel()
		if _, err := geocache.Increment(ctx, lonely.Counters, key, 1); err == nil {
			n, err := old.Counters.Get(c.T.Context(), key)
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
	})
}

// The owner cannot reach a node that can reach the owner. That node must not execute writes for the
// owner, which would not be told of them: what the owner has may be what they remove.
func TestNodeUnreachableFromTheOwner(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Node("eu-3").Reject("eu-1")
		time.Sleep(untilLeased)
		key := c.KeyOf("eu-1")
		for i := range 20 { // some of these tags are owned by eu-3
			tag := fmt.Sprint("tag ", i)
			_, err := c.Node("eu-1").Set(key, "written", geocache.WithTags(tag))
			require.NoError(t, err)
			require.NoError(t, c.Node("eu-1").Group.RemoveTag(c.T.Context(), tag))
			require.NotEqual(t, "written", text(t, c.Node("eu-1"), key))
			require.NotEqual(t, "written", text(t, c.Node("eu-2"), key))
		}
	})
}
