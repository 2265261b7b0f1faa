package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// readFromAll reads key at once, with this many callers on each of the nodes.
func readFromAll(t *testing.T, nodes []*testcluster.Node, callers int, key string) {
	t.Helper()
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range callers {
			wg.Go(func() {
				if _, err := n.Get(key); err != nil {
					t.Errorf("%s: %v", n.Name, err)
				}
			})
		}
	}
	wg.Wait()
}

func TestOneLoadForAllCallers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 9}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(20 * time.Millisecond))
		readFromAll(t, c.Nodes(), 1000/9+1, "ada")
		require.Equal(t, 1, c.Origin.Loads("ada"))
	})
}

// A load that takes no time may end between a caller's miss and its joining the flight.
func TestOneLoadHoweverShort(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 1}, func(c *testcluster.Cluster) {
		for i := range 500 {
			key := fmt.Sprint("key-", i)
			readFromAll(t, c.Nodes(), 30, key)
			require.Equal(t, 1, c.Origin.Loads(key))
		}
	})
}

func TestOneLoadPerRegion(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us", "ap"}}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(2 * time.Second))
		readFromAll(t, c.Nodes(), 50, "ada")
		require.Equal(t, 3, c.Origin.Loads("ada"))
		require.Equal(t, 1, c.Origin.Total("us"))
	})
}

func TestOneLoadWithAnOriginRegion(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us", "ap"},
		Group:   []geocache.GroupOption{geocache.WithOriginRegion("us")},
	}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(2 * time.Second))
		readFromAll(t, c.Nodes(), 50, "ada")
		require.Equal(t, 1, c.Origin.Loads("ada"))
		require.Equal(t, 1, c.Origin.Total("us"))
		require.Equal(t, geocache.SourceStore, c.Node("eu-1").MustGet("ada").Source)
	})
}

func TestOneLoadPerExpiry(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		end := time.Now().Add(20 * testcluster.TTL)
		for time.Now().Before(end) {
			for _, n := range c.Nodes() {
				n.MustGet("ada")
			}
			time.Sleep(100 * time.Millisecond)
		}
		// A value lives for between nine tenths of the TTL and the whole.
		require.LessOrEqual(t, c.Origin.Loads("ada"), 23)
		require.GreaterOrEqual(t, c.Origin.Loads("ada"), 20)
	})
}

func TestCallerThatGivesUpDoesNotFailOthers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Origin.Behave(testcluster.After(time.Second))
		var wg sync.WaitGroup
		for _, n := range c.Nodes() {
			wg.Go(func() { // the first caller on each node: it starts the fill
				ctx, cancel := context.WithTimeout(c.T.Context(), 50*time.Millisecond)
				defer cancel()
				_, err := n.GetContext(ctx, key)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("impatient caller got %v", err)
				}
			})
			wg.Go(func() {
				time.Sleep(time.Millisecond)
				if _, err := n.Get(key); err != nil {
					t.Errorf("patient caller got %v", err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, c.Origin.Loads(key))
	})
}

func TestAbandonedLoadIsCancelled(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Origin.Behave(testcluster.After(time.Hour))
		for _, n := range c.Nodes() { // the owner itself, and others that ask it
			ctx, cancel := context.WithTimeout(c.T.Context(), 50*time.Millisecond)
			_, err := n.GetContext(ctx, key)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			time.Sleep(10 * time.Millisecond)
			require.Zero(t, c.Origin.Running(), "asked through %s", n.Name)
		}
	})
}

func TestGetterFailsPanicsOrExits(t *testing.T) {
	boom := errors.New("boom")
	for _, test := range []struct {
		name   string
		behave testcluster.Getter
		check  func(t *testing.T, at string, err error)
	}{
		{"fails", testcluster.Failing(boom), func(t *testing.T, at string, err error) {
			require.ErrorContains(t, err, "boom")
		}},
		{"has no such key", testcluster.Failing(fmt.Errorf("row: %w", geocache.ErrNotFound)), func(
			t *testing.T, at string, err error,
		) {
			require.ErrorIs(t, err, geocache.ErrNotFound)
		}},
		{"panics", func(context.Context, string) error { panic(boom) }, func(t *testing.T, at string, err error) {
			require.ErrorContains(t, err, "panicked: boom")
		}},
		{"exits", func(context.Context, string) error {
			runtime.Goexit()
			return nil
		}, func(t *testing.T, at string, err error) {
			require.ErrorContains(t, err, "Goexit")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				key := c.KeyOf("eu-1")
				c.Origin.Behave(test.behave)
				for _, n := range c.Nodes() {
					_, err := n.Get(key)
					require.Error(t, err)
					test.check(t, n.Name, err)
					var e *geocache.Error
					require.ErrorAs(t, err, &e)
					require.Equal(t, key, e.Key)
				}
				require.Equal(t, 3, c.Origin.Loads(key), "each read loads once, at the owner")
				c.Origin.Behave(nil)
				for _, n := range c.Nodes() {
					n.MustGet(key) // the key works again
				}
				require.Equal(t, 4, c.Origin.Loads(key))
			})
		})
	}
}

func TestGetterBlocksForever(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Origin.Behave(c.Origin.Block(), "eu")
		begun := time.Now()
		item := c.Node("eu-2").MustGet(key)
		require.Equal(t, geocache.SourceRegion, item.Source, "the other region's getter works")
		require.Less(t, time.Since(begun), 10*time.Second)

		c.Origin.Behave(c.Origin.Block())
		begun = time.Now()
		_, err := c.Node("eu-2").Get(c.KeyOf("eu-1", key))
		require.ErrorIs(t, err, geocache.ErrTimeout)
		require.LessOrEqual(t, time.Since(begun), 13*time.Second)
		c.Origin.Unblock()
	})
}

func TestLoadLongerThanTheTTL(t *testing.T) {
	testcluster.Run(t, testcluster.Config{TTL: time.Second}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(1500 * time.Millisecond))
		for _, n := range c.Nodes() {
			item := n.MustGet("ada") // checks the age unless the value is marked stale
			require.Equal(t, geocache.SourceStale, item.Source)
		}
	})
}

func TestCancelledLoadIsNotAnOriginFailure(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Group: []geocache.GroupOption{geocache.WithStaleIfError(time.Hour)},
	}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Node("eu-2").MustGet(key)
		time.Sleep(2 * testcluster.TTL)
		c.Origin.Behave(testcluster.After(time.Second))
		for _, n := range c.Nodes() {
			ctx, cancel := context.WithTimeout(c.T.Context(), 50*time.Millisecond)
			_, err := n.GetContext(ctx, key)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			time.Sleep(10 * time.Millisecond)
		}
		for _, n := range c.Nodes() {
			require.NotEqual(t, geocache.SourceStale, n.MustGet(key).Source)
		}
	})
}

// An origin that has become slower than the TTL must not be asked more often because of that.
func TestLoadSlowerThanTheTTLIsNotRepeated(t *testing.T) {
	for name, origin := range map[string][]geocache.GroupOption{
		"each region for itself": nil,
		"origin region":          {geocache.WithOriginRegion("us")},
	} {
		t.Run(name, func(t *testing.T) {
			config := testcluster.Config{Regions: []string{"eu", "us"}, TTL: time.Second, Group: origin}
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				c.Origin.Behave(testcluster.After(1100 * time.Millisecond))
				for i, n := range c.Nodes() {
					key := fmt.Sprint("key-", i)
					require.Equal(c.T, geocache.SourceStale, n.MustGet(key).Source)
					require.Equal(c.T, 1, c.Origin.Loads(key), n.Name)
				}
			})
		})
	}
}

func TestMaxLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		var running, most atomic.Int64
		getter := geocache.GetterFunc[string](func(ctx context.Context, key string) (string, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			return key, nil
		})
		g, err := geocache.NewGroup(cache, "g", getter, geocache.WithMaxLoads(10),
			geocache.WithLoadTimeout(time.Minute))
		require.NoError(t, err)

		begun := time.Now()
		m, err := g.GetMany(t.Context(), keys(95))
		require.NoError(t, err)
		require.Len(t, m, 95)
		require.EqualValues(t, 10, most.Load())
		require.Equal(t, 10*time.Second, time.Since(begun))
	})
}

func TestCancelledCallerStartsNoLoad(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		ctx, cancel := context.WithCancel(c.T.Context())
		cancel()
		for _, n := range c.Nodes() {
			_, err := n.GetContext(ctx, "ada")
			require.ErrorIs(t, err, context.Canceled)
			_, err = n.Group.GetMany(ctx, keys(10))
			require.ErrorIs(t, err, context.Canceled)
		}
		require.Zero(t, c.Origin.Total())
	})
}

// A key that is a substring of a request must not keep the request in memory.
func TestKeysDoNotPinLargerStrings(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	getter := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
		return "", nil
	})
	g, err := geocache.NewGroup(cache, "g", getter)
	require.NoError(t, err)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range 100 {
		body := strings.Repeat("x", 1<<20) + fmt.Sprintf("%08d", i)
		_, err := g.Get(t.Context(), body[1<<20:])
		require.NoError(t, err)
		body = strings.Repeat("x", 1<<20) + fmt.Sprintf("many%04d", i)
		_, err = g.GetMany(t.Context(), []string{body[1<<20:]})
		require.NoError(t, err)
	}
	require.Equal(t, 200, g.Stats().Entries)
	require.Less(t, heap()-before, int64(20<<20))
}

// Values with a TTL shorter than their load, at nodes whose round trips are no whole microseconds:
// what was loaded for a read or an Update is its answer.
func TestValueWithATTLShorterThanItsLoad(t *testing.T) {
	for name, read := range map[string]func(g *geocache.Group[int], key string) error{
		"Get": func(g *geocache.Group[int], key string) error {
			_, err := g.Get(context.Background(), key)
			return err
		},
		"Update": func(g *geocache.Group[int], key string) error {
			_, err := geocache.Increment(context.Background(), g, key, 1)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "eu", 500*time.Microsecond+333*time.Nanosecond)
				var loads atomic.Int64
				groups := onAll(c, "short", geocache.GetterFunc[int](func(context.Context, string) (int, error) {
					loads.Add(1)
					time.Sleep(500*time.Millisecond + 777)
					return 7, nil
				}), geocache.WithTTL(100*time.Millisecond))
				for i, owner := range []string{"eu-1", "eu-2"} {
					require.NoError(t, read(groups["eu-1"], c.KeyOf(owner)))
					require.EqualValues(t, i+1, loads.Load(), owner)
				}
			})
		})
	}
}

func TestNewNodesLoadNothingThatIsCached(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 9}, func(c *testcluster.Cluster) {
		readAll(c.Node("eu-1"), keys(500))
		tenth := c.Add("eu")
		eleventh := c.Add("eu") // at once, so that some keys move twice
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

func TestGetterFailsInOneRegion(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us", "ap"}}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		c.Net.SetLatency("eu", "ap", 90*time.Millisecond)
		time.Sleep(time.Minute) // round trips are measured again by then
		c.Origin.Behave(testcluster.Failing(errors.New("no route to the database")), "eu")
		for _, key := range keys(50) {
			require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet(key).Source)
		}
		require.Equal(t, 50, c.Origin.Total("us"), "the nearest region")
		require.Zero(t, c.Origin.Total("ap"))

		c.Net.Cut("us", "eu")
		c.Settle()
		c.Node("eu-1").MustGet("ada")
		require.Equal(t, 1, c.Origin.Total("ap"), "the next region")
	})
}

func TestValueExpiringInTransitIsNotLoadedTwice(t *testing.T) {
	config := testcluster.Config{TTL: time.Second, Group: []geocache.GroupOption{geocache.WithCopyShare(0)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
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

func TestDeadOriginIsCalledFromTwoRegionsOnly(t *testing.T) {
	for name, origin := range map[string][]geocache.GroupOption{
		"each region for itself": nil,
		"origin region":          {geocache.WithOriginRegion("us")},
	} {
		t.Run(name, func(t *testing.T) {
			config := testcluster.Config{Regions: []string{"eu", "us", "ap", "sa"}, Nodes: 2, Group: origin}
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				c.Node("sa-1").MustGet("known")
				c.Origin.Behave(testcluster.Failing(errors.New("down")))
				_, err := c.Node("eu-1").Get("ada")
				require.ErrorContains(t, err, "down")
				require.Equal(t, 2, c.Origin.Loads("ada"))

				require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet("known").Source,
					"from the memory of whichever region has it")
			})
		})
	}
}
