package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
)

// detection is how long a node that vanished may hold up a reader: the lease, and
// a heartbeat for the lease to begin to run.
const detection = time.Second + 250*time.Millisecond

// keys returns n keys.
func keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%d", i)
	}
	return keys
}

// readAll reads all keys through a node and returns the longest that one took.
func readAll(n *testcluster.Node, keys []string) (slowest time.Duration) {
	for _, key := range keys {
		begun := time.Now()
		n.MustGet(key)
		slowest = max(slowest, time.Since(begun))
	}
	return slowest
}

func TestAKilledOwnerCostsReadersNoError(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		readAll(c.Node("eu-2"), keys(300))
		c.Node("eu-1").Crash()
		slowest := readAll(c.Node("eu-2"), keys(600))
		require.Less(t, slowest, 100*time.Millisecond, "a killed process resets its connections")
	})
}

func TestAVanishedOwnerHoldsReadersUpOnce(t *testing.T) {
	for name, vanish := range map[string]func(c *testcluster.Cluster){
		"machine gone":   func(c *testcluster.Cluster) { c.Net.Cut("eu-1", "eu"); c.Node("eu-1").Crash() },
		"process frozen": func(c *testcluster.Cluster) { c.Node("eu-1").Freeze() },
		"cut one way":    func(c *testcluster.Cluster) { c.Net.CutOneWay("eu-1", "eu") },
		"cut other way":  func(c *testcluster.Cluster) { c.Net.CutOneWay("eu", "eu-1") },
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				readAll(c.Node("eu-2"), keys(100))
				vanish(c)
				fresh := keys(300)[100:]
				require.LessOrEqual(t, readAll(c.Node("eu-2"), fresh), detection)
				require.Less(t, readAll(c.Node("eu-2"), keys(600)[300:]), 10*time.Millisecond, "it is known to be gone")
				require.Less(t, readAll(c.Node("eu-3"), fresh), 10*time.Millisecond)
			})
		})
	}
}

func TestAnOwnerReturnsByItself(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Node("eu-1").Freeze()
		c.Settle()
		require.NotEqual(t, "eu-1", c.Node("eu-2").Group.Locate(key)[0].Owner.ID)
		c.Node("eu-1").Thaw()
		c.Settle()
		require.Equal(t, "eu-1", c.Node("eu-2").Group.Locate(key)[0].Owner.ID)
		readAll(c.Node("eu-2"), keys(100))
	})
}

func TestATenthNodeLoadsNothingThatWasCached(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 9}, func(c *testcluster.Cluster) {
		readAll(c.Node("eu-1"), keys(500))
		tenth := c.Add("eu")
		eleventh := c.Add("eu") // at once: some keys move twice
		c.Settle()
		owned := map[string]int{}
		for _, n := range c.Nodes() {
			readAll(n, keys(500))
		}
		for _, key := range keys(500) {
			owned[c.Owner("eu", key).Name]++
		}
		require.Positive(t, owned[tenth.Name])
		require.Positive(t, owned[eleventh.Name])
		require.Equal(t, 500, c.Origin.Total())
	})
}

func TestARollingRestartCostsReadersNothing(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 5}, func(c *testcluster.Cluster) {
		// A real origin: what a fill costs shows.
		c.Origin.Behave(testcluster.After(20 * time.Millisecond))
		reader := c.Node("eu-5")
		var reading sync.WaitGroup
		done := make(chan struct{})
		reading.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-time.After(time.Millisecond):
				}
				begun := time.Now()
				if _, err := reader.Get(fmt.Sprintf("key-%d", i%200)); err != nil {
					t.Errorf("%v", err)
				}
				if took := time.Since(begun); took > 100*time.Millisecond {
					t.Errorf("a read took %v", took)
				}
			}
		})
		for i := range 4 {
			n := c.Node(fmt.Sprintf("eu-%d", i+1))
			n.Close()
			c.Settle()
			n.Restart(0)
			c.Settle()
		}
		close(done)
		reading.Wait()
	})
}

func TestNodesWithDifferentViewsDoNotWaitForEachOther(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4, Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(5 * time.Millisecond))
		c.Net.Cut("eu-1", "eu-2")
		c.Net.Cut("eu-2", "eu-3")
		c.Net.CutOneWay("eu-3", "eu-1")
		c.Settle()
		views := map[string]int{}
		for _, n := range c.Nodes("eu") {
			views[n.Group.Locate("ada")[0].Owner.ID]++
		}
		var wg sync.WaitGroup
		for _, n := range c.Nodes() {
			wg.Go(func() {
				for _, key := range keys(200) {
					begun := time.Now()
					if _, err := n.Get(key); err != nil {
						t.Errorf("%s: %v", n.Name, err)
					}
					if took := time.Since(begun); took > time.Second {
						t.Errorf("%s: %s took %v", n.Name, key, took)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestADirectoryThatFailsLeavesReadsAsTheyWere(t *testing.T) {
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

				// And it is believed again when somebody really leaves.
				c.Node("us-1").Close()
				c.Settle()
				require.Len(t, c.Node("eu-1").Cache.Stats().Peers, 2)
			})
		})
	}
}

func TestANodeThatIsUnlistedIsKeptForTheGracePeriod(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Directory.Unlist("eu-1")
		c.Settle()
		require.Len(t, c.Node("eu-2").Cache.Stats().Peers, 2, "it still answers")
		time.Sleep(2 * time.Minute)
		require.True(t, c.Node("eu-1").Cache.Stats().Guest)
		require.Equal(t, 2, c.Node("eu-2").Cache.Stats().Regions[0].Nodes)
		readAll(c.Node("eu-1"), keys(100))
	})
}

func TestAClockTooFarAheadIsRefusedAndNamed(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Node("eu-1").Close()
		c.Node("eu-1").Restart(10 * time.Second)
		c.Settle()
		// 10 s less the way that the clock's reading travelled.
		require.True(t, strings.Contains(c.Log(), `node=eu-1 region=eu reason=clock error="refused (clock): clock is 9.99975s ahead of ours, the limit is 500ms`), c.Log())
		for _, key := range keys(100) {
			require.NotEqual(t, "eu-1", c.Node("eu-2").Group.Locate(key)[0].Owner.ID)
		}
		readAll(c.Node("eu-2"), keys(100))
		readAll(c.Node("eu-1"), keys(100)) // alone, but serving
	})
}

// Node.Get compares with the true time; here it has something to find.
func TestAgesDoNotDependOnWallClocks(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us"},
		TTL:     time.Second,
		Group:   []geocache.GroupOption{geocache.WithOriginRegion("us")}, // values are some time under way
	}, func(c *testcluster.Cluster) {
		for i, n := range c.Nodes() {
			n.Close()
			n.Restart(time.Duration(i-3) * 80 * time.Millisecond) // 400 ms from first to last
		}
		c.Settle()
		c.Origin.Behave(testcluster.After(100 * time.Millisecond))
		key := "ada" // one that lives as long as it may: no jitter hides a mistake
		for i := 0; expiry.JitterTTL(time.Second, xxh3.HashString(key)) < 999*time.Millisecond; i++ {
			key = fmt.Sprint("ada-", i)
		}
		var wg sync.WaitGroup
		for _, n := range c.Nodes() {
			wg.Go(func() {
				for range 2000 {
					if _, err := n.Get(key); err != nil {
						t.Errorf("%s: %v", n.Name, err)
					}
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		wg.Wait()
	})
}

func TestARegionCutOffAndHealed(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us", "ap"},
		Group:   []geocache.GroupOption{geocache.WithOriginRegion("us")},
	}, func(c *testcluster.Cluster) {
		require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet("before").Source)
		c.Net.Cut("eu", "us")
		require.LessOrEqual(t, readAll(c.Node("eu-1"), keys(20)), detection)
		c.Settle()
		item := c.Node("eu-2").MustGet("during")
		require.Equal(t, geocache.SourceGetter, item.Source, "eu loads by itself")
		require.Len(t, c.Node("eu-1").Group.Locate("ada"), 2)

		c.Net.HealAll()
		time.Sleep(20 * time.Second) // TCP's own patience
		require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet("after").Source)
		require.Len(t, c.Node("eu-1").Group.Locate("ada"), 3)
	})
}

func TestTheGetterOfAWholeRegionFails(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us", "ap"}}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		c.Net.SetLatency("eu", "ap", 90*time.Millisecond)
		time.Sleep(time.Minute) // round trips are measured anew
		c.Origin.Behave(testcluster.Failing(errors.New("no route to the database")), "eu")
		for _, key := range keys(50) {
			require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet(key).Source)
		}
		require.Equal(t, 50, c.Origin.Total("us"), "the nearest")
		require.Zero(t, c.Origin.Total("ap"))

		c.Net.Cut("us", "eu")
		c.Settle()
		c.Node("eu-1").MustGet("ada")
		require.Equal(t, 1, c.Origin.Total("ap"), "the next")
	})
}

func TestTheOriginIsDownForLongerThanTheTTL(t *testing.T) {
	for _, in := range [][]string{{"eu"}, {"eu", "us"}} {
		t.Run(fmt.Sprint(len(in), " regions"), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{
				Regions: in,
				Cache:   []geocache.Option{geocache.WithLease(10 * time.Second)}, // fewer heartbeats in these hours
				Group:   []geocache.GroupOption{geocache.WithStaleIfError(time.Hour)},
			}, originDown)
		})
	}
}

func originDown(c *testcluster.Cluster) {
	t := c.T
	for _, n := range c.Nodes() {
		n.MustGet("ada")
	}
	c.Origin.Behave(testcluster.Failing(errors.New("down")))
	time.Sleep(2 * testcluster.TTL)
	before, waits := c.Origin.Total(), 0
	for range 100 {
		for _, n := range c.Nodes() {
			begun := time.Now()
			item := n.MustGet("ada")
			require.Equal(t, geocache.SourceStale, item.Source)
			require.Greater(t, item.Age, testcluster.TTL)
			require.True(t, item.Expires.Before(time.Now()))
			if time.Since(begun) > 0 {
				waits++
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	regions := len(c.Nodes()) / 3
	require.LessOrEqual(t, c.Origin.Total()-before, 11*regions*regions, "tried once a second, in each region for itself and for the others")
	require.LessOrEqual(t, waits, 11*len(c.Nodes()), "who was told that it is stale does not ask again at once")

	_, err := c.Node("eu-1").Get("new")
	require.ErrorContains(t, err, "down")

	c.Origin.Behave(nil)
	time.Sleep(2 * time.Second)
	for _, n := range c.Nodes() {
		require.NotEqual(t, geocache.SourceStale, n.MustGet("ada").Source)
	}

	c.Origin.Behave(testcluster.Failing(errors.New("down for good")))
	time.Sleep(testcluster.TTL + time.Hour + time.Second)
	_, err = c.Node("eu-1").Get("ada")
	require.ErrorContains(t, err, "down for good")
}

func TestAValueThatExpiresOnItsWayIsNotLoadedTwice(t *testing.T) {
	testcluster.Run(t, testcluster.Config{TTL: time.Second, Group: []geocache.GroupOption{geocache.WithCopyShare(0)}}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 20*time.Millisecond)
		key := c.KeyOf("eu-1")
		begun := time.Now()
		var wg sync.WaitGroup
		for _, n := range c.Nodes() {
			wg.Go(func() {
				for time.Since(begun) < time.Minute {
					if _, err := n.Get(key); err != nil {
						t.Errorf("%s: %v", n.Name, err)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, c.Origin.Loads(key), 67, "60 s of lives of 0.9 to 1 s")
	})
}

func TestADeadOriginIsCalledFromTwoRegionsOnly(t *testing.T) {
	for name, origin := range map[string][]geocache.GroupOption{
		"each region for itself": nil,
		"origin region":          {geocache.WithOriginRegion("us")},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us", "ap", "sa"}, Nodes: 2, Group: origin}, func(c *testcluster.Cluster) {
				c.Node("sa-1").MustGet("known")
				c.Origin.Behave(testcluster.Failing(errors.New("down")))
				_, err := c.Node("eu-1").Get("ada")
				require.ErrorContains(t, err, "down")
				require.Equal(t, 2, c.Origin.Loads("ada"))

				require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet("known").Source, "in whichever region's memory it is")
			})
		})
	}
}

func TestAPeerThatDoesNotKnowTheGroup(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		// A rolling deploy: only eu-1 runs the version that has this group.
		loads := 0
		g, err := geocache.NewGroup(c.Node("eu-1").Cache, "new", geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
			loads++
			return "value of " + key, nil
		}))
		require.NoError(t, err)
		for _, key := range keys(100) {
			v, err := g.Get(c.T.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "value of "+key, v)
		}
		require.Equal(t, 100, loads)
		_, err = g.Get(c.T.Context(), "key-1")
		require.NoError(t, err)
		require.Equal(t, 100, loads, "kept where it was loaded")
	})
}

func TestALossyNetworkCostsTimeOnly(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		c.Net.SetLoss("eu", "eu", 0.02)
		c.Net.SetLoss("eu", "us", 0.05)
		c.Origin.Behave(testcluster.Failing(errors.New("down")), "us")
		for _, n := range c.Nodes() {
			readAll(n, keys(200))
		}
	})
}

func TestCloseHandsOverWithoutAnError(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(time.Second))
		key := c.KeyOf("eu-1")
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := c.Node("eu-2").Get(key); err != nil {
					t.Errorf("%v", err)
				}
			})
		}
		time.Sleep(500 * time.Millisecond)
		c.Node("eu-1").Close() // in the middle of the load
		wg.Wait()
		require.Equal(t, 1, c.Origin.Loads(key), "what was under way was finished")

		_, err := c.Node("eu-1").Get("other")
		require.ErrorIs(t, err, geocache.ErrClosed)
		require.False(t, strings.Contains(c.Log(), "level=ERROR"), c.Log())
	})
}

// Each clock is within the limit of every other but one. Hybrid clocks carry the
// fastest reading to everybody; nobody may be refused for having heard of it.
func TestANodeIsNotRefusedForWhatItHasHeard(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 5}, func(c *testcluster.Cluster) {
		for i, offset := range []time.Duration{400, 0, 0, 0, -150} {
			n := c.Node(fmt.Sprint("eu-", i+1))
			n.Close()
			n.Restart(offset * time.Millisecond)
		}
		c.Settle()
		for range 60 {
			for _, n := range c.Nodes() {
				readAll(n, keys(10))
			}
			time.Sleep(time.Second)
		}
		for _, peer := range c.Node("eu-5").Cache.Stats().Peers {
			require.Equal(t, peer.ID != "eu-1", peer.Up, peer.ID)
		}
		require.Equal(t, 5, c.Node("eu-3").Cache.Stats().Regions[0].Nodes)
	})
}
