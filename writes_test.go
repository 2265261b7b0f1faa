package geocache_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// standing is how long a new cluster takes until its nodes serve copies.
const standing = 3 * time.Second

// text returns what the value says that a node has for key.
func text(t *testing.T, n *testcluster.Node, key string) string {
	t.Helper()
	item, err := n.Get(key)
	require.NoError(t, err, "%s: Get(%q)", n.Name, key)
	v, _ := testcluster.ParseValue(item.Value)
	return v.By
}

func TestASetIsSeenByItsRegionWhenItReturns(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for i := range 40 {
			key := fmt.Sprint(i)
			for _, n := range c.Nodes("eu") {
				n.MustGet(key) // a copy everywhere
			}
			writer := c.Nodes("eu")[i%4]
			w, err := writer.Set(key, "written")
			require.NoError(t, err)
			require.Equal(t, []string{"eu"}, w.Confirmed)
			for _, n := range c.Nodes("eu") {
				require.Equal(t, "written", text(t, n, key), n.Name)
			}
			_, err = c.Nodes("eu")[(i+1)%4].Set(key, "again")
			require.NoError(t, err)
			for _, n := range c.Nodes("eu") {
				require.Equal(t, "again", text(t, n, key), n.Name)
			}
		}
	})
}

func TestARemoveMakesTheNextReadLoad(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for i := range 10 {
			key := fmt.Sprint(i)
			for _, n := range c.Nodes("eu") {
				n.MustGet(key)
			}
			_, err := c.Nodes("eu")[i%3].Remove(key)
			require.NoError(t, err)
			for _, n := range c.Nodes("eu") {
				_, ok := n.Group.Peek(key)
				require.False(t, ok, n.Name)
			}
			for _, n := range c.Nodes("eu") {
				require.Equal(t, "load 2 in eu", text(t, n, key))
			}
		}
	})
}

func TestAClearReachesEveryRegion(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
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

func TestAWriteIsSeenInOtherRegionsOneTripLater(t *testing.T) {
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 3}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		c.Net.SetLatency("eu", "ap", 120*time.Millisecond)
		time.Sleep(standing)
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
			for region, trip := range map[string]time.Duration{"us": 40 * time.Millisecond, "ap": 120 * time.Millisecond} {
				time.Sleep(time.Until(begun.Add(trip + 2*time.Millisecond)))
				for _, n := range c.Nodes(region) {
					require.Equal(t, "written", text(t, n, key), n.Name)
				}
			}
		}
	})
}

// However many writes there are, none waits for the others: what is not seen one trip later is the
// machine's doing, since in a bubble that takes no time.
func TestAThousandWritesASecondAreSeenOneTripLater(t *testing.T) {
	trips := map[[2]string]time.Duration{{"eu", "us"}: 40 * time.Millisecond, {"ap", "us"}: 70 * time.Millisecond, {"ap", "eu"}: 90 * time.Millisecond}
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		for pair, trip := range trips {
			c.Net.SetLatency(pair[0], pair[1], trip)
		}
		time.Sleep(standing)
		const keys, writes = 60, 300 // of each region
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
						require.GreaterOrEqual(t, text(t, c.Nodes(to)[(j+1)%3], key), fmt.Sprintf("%04d", j), "%s in %s", key, to)
					}
				})
			}
		}
		all.Wait()
	})
}

func TestAWorldWriteNamesTheRegionsThatConfirmed(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
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
		time.Sleep(4 * time.Second) // connections are made anew within 2 s
		for _, n := range c.Nodes("us") {
			require.Equal(t, "2", text(t, n, "ada"), "it still travelled")
		}
	})
}

// Its own deadline is not the only thing that ends the wait for a region that is away.
func TestAWorldWriteEndsWithItsCache(t *testing.T) {
	for _, owner := range []string{"eu-1", "eu-2"} {
		t.Run(owner, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2}, func(c *testcluster.Cluster) {
				time.Sleep(standing)
				c.Net.Cut("eu", "us")
				key, ended := c.KeyOf(owner), make(chan error, 1)
				go func() {
					ended <- c.Node("eu-1").Group.Set(context.Background(), key, testcluster.Value{Key: key, By: "1"}.String(), geocache.WithAck(geocache.AckWorld))
				}()
				time.Sleep(20 * time.Second)
				require.Empty(t, ended)
				require.NoError(t, c.Node("eu-1").Cache.Close())
				require.ErrorIs(t, <-ended, geocache.ErrUnconfirmed)
			})
		})
	}
}

// A member that cannot be told has stopped serving its copies before the call
// returns, and a write waits for no more than that, once.
func TestAMemberThatIsCutOffServesNoCopies(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		cut := c.Node("eu-4")
		key := ""
		for i := 0; key == ""; i++ {
			if k := fmt.Sprint(i); c.Owner("eu", k) != cut && c.Owner("eu", k) != c.Node("eu-1") {
				key = k
			}
		}
		before := cut.MustGet(key).Value
		_, ok := cut.Group.Peek(key)
		require.True(t, ok)
		c.Net.Cut("eu-4", "eu")
		begun := time.Now()
		_, err := c.Node("eu-1").Set(key, "written")
		require.NoError(t, err)
		require.Less(t, time.Since(begun), 2200*time.Millisecond)
		_, ok = cut.Group.Peek(key)
		require.False(t, ok, "%s still serves %q", cut.Name, before)

		begun = time.Now()
		_, err = c.Node("eu-1").Set(key, "again")
		require.NoError(t, err)
		require.Less(t, time.Since(begun), 10*time.Millisecond, "once")

		c.Net.HealAll()
		time.Sleep(5 * time.Second)
		require.Equal(t, "again", text(t, cut, key))
	})
}

func TestAWriteWhileAnotherRegionIsCutOffArrivesWhenItHeals(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
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

// The region's members hold the floors, and send them for a node that died with
// them unsent.
func TestANodeThatDiesWithWritesUnsentIsSucceeded(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for i := range 60 {
			for _, n := range append(c.Nodes("eu"), c.Nodes("us")...) {
				n.MustGet(fmt.Sprint(i))
			}
		}
		c.Net.Cut("eu", "us")
		time.Sleep(2 * time.Second)
		for i := range 60 {
			_, err := c.Node("eu-1").Set(fmt.Sprint(i), "written")
			require.NoError(t, err)
		}
		c.Node("eu-2").Crash()
		c.Net.HealAll()
		time.Sleep(5 * time.Second)
		for i := range 60 {
			for _, n := range c.Nodes("us") {
				require.Equal(t, "written", text(t, n, fmt.Sprint(i)), "%s of %d, whose owner was %s", n.Name, i, c.Owner("eu", fmt.Sprint(i)).Name)
			}
		}
	})
}

func TestACounterThatTenThousandIncrementEndsAtTenThousand(t *testing.T) {
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 3, Counters: true}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		var callers sync.WaitGroup
		var nodes []*testcluster.Node
		for _, region := range config.Regions {
			nodes = append(nodes, c.Nodes(region)...)
		}
		const total = 10_000
		var failed atomic.Int64
		for i := range total {
			callers.Go(func() {
				time.Sleep(time.Duration(i%1000) * time.Millisecond)
				_, err := nodes[i%len(nodes)].Counters.Update(c.T.Context(), "hits", func(old int, _ bool) (int, error) { return old + 1, nil })
				if err != nil {
					failed.Add(1)
					t.Error(err)
				}
			})
		}
		callers.Wait()
		require.Zero(t, failed.Load())
		time.Sleep(time.Second)
		for _, n := range nodes {
			v, err := n.Counters.Get(c.T.Context(), "hits")
			require.NoError(t, err)
			if v != total {
				t.Errorf("%s: %d", n.Name, v)
			}
		}
	})
}
