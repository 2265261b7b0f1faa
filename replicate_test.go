package geocache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// A region becomes known while a Set waits for all regions. It was not told by this Set and is not
// among those that confirmed it, but has the value soon.
func TestRegionJoinsWhileAWorldWriteWaits(t *testing.T) {
	directory := newScriptedDiscovery()
	known, all := nodesOf("eu-1", "us-1"), nodesOf("ap-1", "eu-1", "us-1")
	for _, n := range known {
		directory.announce(n.ID, known...)
	}
	directory.announce("ap-1", all...)
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 1, TTL: 10 * time.Minute,
		Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.Cut("eu", "us")
		c.Node("ap-1").MustGet("ada")
		type result struct {
			geocache.Receipt
			err error
		}
		set := make(chan result, 1)
		go func() {
			w, err := c.Node("eu-1").Set("ada", "written", geocache.WithAck(geocache.AckWorld))
			set <- result{w, err}
		}()
		time.Sleep(time.Second)
		directory.announce("eu-1", all...)
		time.Sleep(100 * time.Millisecond)
		c.Net.HealAll()
		r := <-set
		require.NoError(t, r.err)
		require.Equal(t, []string{"eu", "us"}, r.Confirmed)
		time.Sleep(time.Second)
		require.Equal(t, "written", text(t, c.Node("ap-1"), "ada"))

		// From now on writes wait for it.
		c.Net.Cut("eu", "ap")
		w, err := c.Node("eu-1").Set("ada", "again", geocache.WithAck(geocache.AckWorld))
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)
		require.Equal(t, []string{"ap"}, w.Pending)
	})
}

// The caller's node knows the new region, and the key's owner does not. The write is not confirmed
// by that region until the owner has sent it.
func TestOwnerLearnsOfARegionLate(t *testing.T) {
	directory := newScriptedDiscovery()
	known, all := nodesOf("eu-1", "eu-2"), nodesOf("ap-1", "eu-1", "eu-2")
	for _, n := range known {
		directory.announce(n.ID, known...)
	}
	directory.announce("ap-1", all...)
	config := testcluster.Config{Regions: []string{"ap", "eu"}, Nodes: 1, TTL: 10 * time.Minute,
		Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Add("eu")
		time.Sleep(untilLeased)
		key := c.KeyOf("eu-2")
		c.Node("ap-1").MustGet(key)
		c.Net.CutOneWay("eu-1", "eu-2") // so that eu-1 cannot tell eu-2 of the region
		directory.announce("eu-1", all...)
		time.AfterFunc(2*time.Second, func() {
			c.Net.HealAll()
			directory.announce("eu-2", all...)
		})
		w, err := c.Node("eu-1").Set(key, "written", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, []string{"eu", "ap"}, w.Confirmed)
		require.Equal(t, "written", text(t, c.Node("ap-1"), key))
	})
}

func TestClearReachesEveryRegion(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 3}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 20 {
			for _, n := range append(c.Nodes("eu"), c.Nodes("us")...) {
				n.MustGet(fmt.Sprint(i))
			}
		}
		w, err := c.Node("us-2").Clear(geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, []string{"us", "eu"}, w.Confirmed)
		for i := range 20 {
			for _, n := range append(c.Nodes("eu"), c.Nodes("us")...) {
				_, ok := n.Group.Peek(fmt.Sprint(i))
				require.False(t, ok)
			}
		}
	})
}

func TestWriteReachesOtherRegionsInOneTrip(t *testing.T) {
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 3}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		c.Net.SetLatency("eu", "ap", 120*time.Millisecond)
		time.Sleep(untilLeased)
		for i := range 20 {
			key := fmt.Sprint(i)
			for _, region := range config.Regions {
				for _, n := range c.Nodes(region) {
					n.MustGet(key)
				}
			}
			begun := time.Now()
			_, err := c.Node("eu-1").Set(key, "written")
			require.NoError(t, err)
			for region, trip := range map[string]time.Duration{
				"us": 40 * time.Millisecond, "ap": 120 * time.Millisecond,
			} {
				time.Sleep(time.Until(begun.Add(trip + 2*time.Millisecond)))
				for _, n := range c.Nodes(region) {
					require.Equal(t, "written", text(t, n, key), n.Name)
				}
			}
		}
	})
}

// However many writes there are, none waits for the others. Time stands still in a bubble while
// anybody works, so a write that is not visible one trip later has waited for something.
func TestThousandWritesASecondReachOtherRegionsInOneTrip(t *testing.T) {
	trips := map[[2]string]time.Duration{{"eu", "us"}: 40 * time.Millisecond,
		{"ap", "us"}: 70 * time.Millisecond, {"ap", "eu"}: 90 * time.Millisecond}
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		for pair, trip := range trips {
			c.Net.SetLatency(pair[0], pair[1], trip)
		}
		time.Sleep(untilLeased)
		const keys, writes = 60, 300 // in each region
		var all sync.WaitGroup
		for i, region := range config.Regions {
			for j := range writes {
				all.Go(func() {
					time.Sleep(time.Duration(3*j+i) * time.Millisecond)
					key, begun := fmt.Sprint(region, j%keys), time.Now()
					_, err := c.Nodes(region)[j%3].Set(key, fmt.Sprintf("%04d", j))
					require.NoError(t, err)
					for pair, trip := range trips {
						to := pair[0]
						switch region {
						case pair[0]:
							to = pair[1]
						case pair[1]:
						default:
							continue
						}
						time.Sleep(time.Until(begun.Add(trip + 3*time.Millisecond)))
						require.GreaterOrEqual(t, text(t, c.Nodes(to)[(j+1)%3], key), fmt.Sprintf("%04d", j), "%s in %s", key,
							to)
					}
				})
			}
		}
		all.Wait()
	})
}

func TestWorldWriteNamesTheConfirmingRegions(t *testing.T) {
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 3}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		w, err := c.Node("eu-1").Set("ada", "1", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, []string{"eu", "ap", "us"}, w.Confirmed)
		require.Equal(t, "1", text(t, c.Node("us-3"), "ada"))

		c.Net.Cut("eu", "us")
		c.Net.Cut("ap", "us")
		begun := time.Now()
		w, err = c.Node("eu-1").Set("ada", "2", geocache.WithAck(geocache.AckWorld))
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)
		require.ErrorContains(t, err, "us")
		require.Equal(t, 30*time.Second, time.Since(begun).Round(time.Second), "the caller's deadline")
		require.Equal(t, []string{"eu", "ap"}, w.Confirmed)
		require.Equal(t, []string{"us"}, w.Pending)
		require.NotZero(t, w.Generation)
		require.Equal(t, "2", text(t, c.Node("eu-2"), "ada"))

		c.Net.HealAll()
		time.Sleep(4 * time.Second) // connections are made again within 2 s
		for _, n := range c.Nodes("us") {
			require.Equal(t, "2", text(t, n, "ada"), "the write arrives late")
		}
	})
}

// A write that waits for a region that is away also ends when its cache is closed.
func TestWorldWriteEndsWithItsCache(t *testing.T) {
	for _, owner := range []string{"eu-1", "eu-2"} {
		t.Run(owner, func(t *testing.T) {
			config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2}
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
				c.Net.Cut("eu", "us")
				key, ended := c.KeyOf(owner), make(chan error, 1)
				go func() {
					ended <- c.Node("eu-1").Group.Set(context.Background(), key,
						testcluster.Value{Key: key, By: "1"}.String(), geocache.WithAck(geocache.AckWorld))
				}()
				time.Sleep(20 * time.Second)
				require.Empty(t, ended)
				require.NoError(t, c.Node("eu-1").Cache.Close())
				require.ErrorIs(t, <-ended, geocache.ErrUnconfirmed)
			})
		})
	}
}

func TestWriteArrivesWhenThePartitionHeals(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 3}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 100 {
			for _, n := range c.Nodes("us") {
				n.MustGet(fmt.Sprint(i))
			}
		}
		c.Net.Cut("eu", "us")
		time.Sleep(5 * time.Second)
		for i := range 100 {
			_, err := c.Nodes("eu")[i%3].Set(fmt.Sprint(i), "written")
			require.NoError(t, err)
		}
		require.NotEqual(t, "written", text(t, c.Node("us-1"), "7"))
		c.Net.HealAll()
		time.Sleep(4 * time.Second)
		for i := range 100 {
			for _, n := range c.Nodes("us") {
				require.Equal(t, "written", text(t, n, fmt.Sprint(i)))
			}
		}
	})
}
