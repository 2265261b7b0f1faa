package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func increment(old int, _ bool) (int, error) { return old + 1, nil }

func TestUpdatesContend(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2, Counters: true, Home: "eu"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		time.Sleep(untilLeased)
		var callers sync.WaitGroup
		var seen sync.Map
		for _, n := range c.Nodes() {
			callers.Go(func() {
				for range 50 {
					v, err := n.Counters.Update(context.Background(), "hits", increment)
					require.NoError(t, err)
					_, twice := seen.LoadOrStore(v, n.Name)
					require.False(t, twice, "%d", v)
				}
			})
		}
		callers.Wait()
		retried := uint64(0)
		for _, n := range c.Nodes() {
			v, err := n.Counters.Get(context.Background(), "hits")
			require.NoError(t, err)
			require.Equal(t, 200, v, n.Name)
			retried += n.Counters.Stats().UpdateRetries
		}
		require.NotZero(t, retried)
	})
}

func TestUpdateFails(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Counters: true}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		n, ctx := c.Node("eu-2"), context.Background()
		_, err := n.Counters.Update(ctx, "hits", increment)
		require.NoError(t, err)

		var w geocache.Receipt
		enough := errors.New("enough")
		_, err = n.Counters.Update(ctx, "hits", func(old int, _ bool) (int, error) {
			return 99, enough
		}, geocache.WithReceipt(&w))
		require.ErrorIs(t, err, enough)
		var e *geocache.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, "Update", e.Op)
		require.Zero(t, w)

		_, err = n.Counters.Update(ctx, "hits", func(int, bool) (int, error) { panic("at the disco") })
		var p *geocache.PanicError
		require.ErrorAs(t, err, &p)
		require.Equal(t, "at the disco", p.Value)

		// Updates that are executed together have results of their own.
		var both sync.WaitGroup
		slow := func(old int, _ bool) (int, error) { time.Sleep(time.Second); return old, nil }
		both.Go(func() { n.Counters.Update(ctx, "hits", slow) })
		time.Sleep(time.Millisecond)
		for _, fails := range []error{nil, enough} {
			both.Go(func() {
				var w geocache.Receipt
				_, err := n.Counters.Update(ctx, "hits", func(old int, _ bool) (int, error) {
					return old, fails
				}, geocache.WithReceipt(&w))
				require.ErrorIs(t, err, fails)
				require.Equal(t, fails == nil, w.Generation != 0)
			})
		}
		both.Wait()

		// An Update that fails does not affect others, even if its function ends the goroutine.
		var callers sync.WaitGroup
		for i := range 30 {
			callers.Go(func() {
				var w geocache.Receipt
				_, err := n.Counters.Update(ctx, "hits", func(old int, _ bool) (int, error) {
					switch i % 3 {
					case 0:
						return 0, enough
					case 1:
						runtime.Goexit()
					}
					return old + 1, nil
				}, geocache.WithReceipt(&w))
				require.Equal(t, i%3 == 2, err == nil, "%v", err)
				require.Equal(t, i%3 == 2, w.Generation != 0)
				if i%3 == 1 {
					require.ErrorContains(t, err, "Goexit")
				}
			})
		}
		callers.Wait()
		v, err := n.Counters.Get(ctx, "hits")
		require.NoError(t, err)
		require.Equal(t, 11, v)
	})
}

func TestUpdateOfAMissingKey(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Origin.Behave(func(context.Context, string) error { return geocache.ErrNotFound })
		for i, n := range c.Nodes() {
			key := fmt.Sprint(i)
			var ok bool
			v, err := n.Group.Update(context.Background(), key, func(old string, is bool) (string, error) {
				ok = is
				return testcluster.Value{Key: key, Begun: c.Now(), By: "new" + old}.String(), nil
			})
			require.NoError(t, err)
			require.False(t, ok)
			require.Contains(t, v, "|new")
			require.Equal(t, "new", text(t, n, key))
		}
	})
}

func TestUpdateWhileTheHomeIsCutOff(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Counters: true, Home: "eu"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		ctx := context.Background()
		_, err := c.Node("us-1").Counters.Update(ctx, "hits", increment)
		require.NoError(t, err)
		c.Net.Cut("eu", "us")
		for range 3 {
			begun := time.Now()
			_, err = c.Node("us-1").Counters.Update(ctx, "hits", increment)
			require.ErrorIs(t, err, geocache.ErrHomeUnreachable)
			require.ErrorContains(t, err, "eu")
			require.NotErrorIs(t, err, geocache.ErrUncertain)
			require.Less(t, time.Since(begun), 3*time.Second)
		}
		v, err := c.Node("eu-1").Counters.Update(ctx, "hits", increment)
		require.NoError(t, err)
		require.Equal(t, 2, v)
		c.Net.HealAll()
		c.Settle()
		v, err = c.Node("us-1").Counters.Update(ctx, "hits", increment)
		require.NoError(t, err)
		require.Equal(t, 3, v)
	})
}

func TestUpdateOptions(t *testing.T) {
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"},
		Group: []geocache.GroupOption{geocache.WithHomeRegion("eu")}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		write := func(string, bool) (string, error) { return "1", nil }
		_, w, err := c.Node("us-1").Update("ada", write)
		require.NoError(t, err)
		require.Equal(t, []string{"us", "eu"}, w.Confirmed, "the caller's region and the key's home")
		_, w, err = c.Node("us-1").Update("ada", write, geocache.WithAck(geocache.AckWorld),
			geocache.WithItemTTL(10*time.Second))
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"ap", "eu", "us"}, w.Confirmed)
		require.Equal(t, "us", w.Confirmed[0])
		require.NotZero(t, w.Generation)
		for _, n := range c.Nodes() {
			require.Equal(t, "1", text(t, n, "ada"))
		}
		time.Sleep(11 * time.Second)
		for _, n := range c.Nodes() {
			require.Contains(t, text(t, n, "ada"), "load", n.Name)
		}

		c.Net.Cut("ap", "us")
		c.Net.Cut("ap", "eu")
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err = c.Node("us-1").Group.Update(ctx, "ada", func(old string, _ bool) (string, error) {
			return old, nil
		}, geocache.WithAck(geocache.AckWorld), geocache.WithReceipt(&w))
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)
		require.Equal(t, []string{"us", "eu"}, w.Confirmed)
		require.Equal(t, []string{"ap"}, w.Pending)
	})
}

// Once Update has returned, its function is not called any more. The result is uncertain unless it
// is known that the write did not happen.
func TestUpdateWhoseCallerGivesUp(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 1, Counters: true}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		n, bg := c.Node("eu-1"), context.Background()
		var first, second sync.WaitGroup
		first.Go(func() {
			_, err := n.Counters.Update(bg, "hits", func(old int, _ bool) (int, error) {
				time.Sleep(time.Second)
				return old + 1, nil
			})
			require.NoError(t, err)
		})
		time.Sleep(time.Millisecond)
		var returned, late atomic.Bool
		second.Go(func() {
			ctx, cancel := context.WithTimeout(bg, 100*time.Millisecond)
			defer cancel()
			begun := time.Now()
			_, err := n.Counters.Update(ctx, "hits", func(old int, _ bool) (int, error) {
				late.Store(returned.Load())
				return old + 100, nil
			})
			returned.Store(true)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, geocache.ErrUncertain, "the write is known not to have happened")
			require.Equal(t, 100*time.Millisecond, time.Since(begun))
		})
		first.Wait()
		second.Wait()
		time.Sleep(time.Second)
		require.False(t, late.Load())
		v, err := n.Counters.Get(bg, "hits")
		require.NoError(t, err)
		require.Equal(t, 1, v)

		ctx, cancel := context.WithCancel(bg)
		defer cancel()
		_, err = n.Counters.Update(ctx, "hits", func(old int, _ bool) (int, error) {
			cancel()
			return old + 1, nil
		})
		if err != nil {
			require.ErrorIs(t, err, geocache.ErrUncertain)
		}
	})
}

// As long as one of the nodes that keep the counter lives, no acknowledged increment is lost.
func TestCounterWhoseOwnersDie(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 4, Counters: true, Home: "eu"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		acknowledged, uncertain := 0, 0
		add := func(k int) {
			for range k {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				_, err := c.Nodes("us")[0].Counters.Update(ctx, "hits", increment)
				cancel()
				switch {
				case err == nil || errors.Is(err, geocache.ErrUnconfirmed):
					acknowledged++
				case errors.Is(err, geocache.ErrUncertain):
					uncertain++
				default:
					t.Fatal(err)
				}
			}
		}
		for range 3 {
			add(20)
			c.Node(c.Nodes("eu")[0].Counters.Locate("hits")[0].Owner.ID).Crash()
			add(20)
			c.Settle()
		}
		v, err := c.Nodes("eu")[0].Counters.Get(context.Background(), "hits")
		require.NoError(t, err)
		require.GreaterOrEqual(t, v, acknowledged)
		require.LessOrEqual(t, v, acknowledged+uncertain)
		require.LessOrEqual(t, uncertain, 3)
	})
}

// Nodes come and go one after the other, and no count is lost.
func TestCounterWhileNodesComeAndGo(t *testing.T) {
	config := testcluster.Config{Nodes: 3, Counters: true}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		var callers sync.WaitGroup
		stop := make(chan struct{})
		var acknowledged, uncertain atomic.Int64
		for _, n := range c.Nodes()[:2] {
			callers.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(9 * time.Millisecond):
					}
					_, err := n.Counters.Update(context.Background(), "hits", increment)
					switch {
					case err == nil || errors.Is(err, geocache.ErrUnconfirmed):
						acknowledged.Add(1)
					case errors.Is(err, geocache.ErrUncertain):
						uncertain.Add(1)
					default:
						t.Error(err)
					}
				}
			})
		}
		c.Node("eu-3").Close()
		time.Sleep(5 * time.Second)
		for range 4 {
			n := c.Add("eu")
			time.Sleep(5 * time.Second)
			n.Close()
			time.Sleep(5 * time.Second)
		}
		close(stop)
		callers.Wait()
		v, err := c.Node("eu-1").Counters.Get(context.Background(), "hits")
		require.NoError(t, err)
		require.GreaterOrEqual(t, int64(v), acknowledged.Load())
		require.LessOrEqual(t, int64(v), acknowledged.Load()+uncertain.Load())
	})
}

// A value that the store does not keep can be updated all the same.
func TestUpdateOfAnOversizedValue(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Nodes: 2, Group: db.options(geocache.WithMaxBytes(1))}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 5 {
			_, _, err := c.Nodes()[i%2].Update("ada", func(string, bool) (string, error) {
				return strings.Repeat("x", 1000+i), nil
			})
			require.NoError(t, err)
			require.Len(t, db.row("ada"), 1000+i)
		}
	})
	config = testcluster.Config{Cache: []geocache.Option{geocache.WithMaxValueBytes(1000)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, n := range c.Nodes() {
			_, _, err := n.Update("ada", func(string, bool) (string, error) { return strings.Repeat("x", 1000), nil })
			require.ErrorIs(t, err, geocache.ErrTooLarge, n.Name)
		}
	})
}

// A value that was removed by its tag stays in memory until it is swept. That must not delay an
// Update.
func TestUpdateOfAValueRemovedByTag(t *testing.T) {
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup[int](cache, "g", nil)
	require.NoError(t, err)
	require.NoError(t, g.Set(t.Context(), "k", 5, geocache.WithTags("t")))
	require.NoError(t, g.RemoveTag(t.Context(), "t"))
	n, err := geocache.Increment(t.Context(), g, "k", 1)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Zero(t, g.Stats().UpdateRetries)
}

func TestIncrement(t *testing.T) {
	alone(t, geocache.Getter[int8](nil), nil, func(t *testing.T, g *geocache.Group[int8]) {
		for _, step := range []struct {
			delta, want int8
			overflow    bool
		}{
			{100, 100, false}, {27, 127, false}, {1, 127, true}, {0, 127, false},
			{-128, -1, false}, {-127, -128, false}, {-1, -128, true}, {math.MinInt8, -128, true},
			{127, -1, false},
		} {
			n, err := geocache.Increment(t.Context(), g, "ada", step.delta)
			if step.overflow {
				require.ErrorContains(t, err, "are more than a int8 holds")
			} else {
				require.NoError(t, err)
				require.Equal(t, step.want, n)
			}
			n, err = g.Get(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, step.want, n)
		}
	})
	alone(t, geocache.Getter[uint64](nil), nil, func(t *testing.T, g *geocache.Group[uint64]) {
		n, err := geocache.Increment(t.Context(), g, "ada", math.MaxUint64)
		require.NoError(t, err)
		require.EqualValues(t, uint64(math.MaxUint64), n)
		_, err = geocache.Increment(t.Context(), g, "ada", 1)
		require.EqualError(t, err,
			`geocache: update test/"ada": 18446744073709551615 and 1 are more than a uint64 holds`)
	})
	ten := geocache.GetterFunc[time.Duration](func(context.Context, string) (time.Duration, error) {
		return 10, nil
	})
	alone(t, ten, nil,
		func(t *testing.T, g *geocache.Group[time.Duration]) {
			n, err := geocache.Increment(t.Context(), g, "ada", 5)
			require.NoError(t, err)
			require.EqualValues(t, 15, n, "it begins from the origin's value")
		})
}

func TestIncrementInACluster(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		groups := onAll(c, "counts", geocache.Getter[int](nil), geocache.WithTTL(time.Hour))
		var all sync.WaitGroup
		for _, g := range groups {
			for range 20 {
				all.Go(func() {
					_, err := geocache.Increment(context.Background(), g, "ada", 1)
					require.NoError(t, err)
				})
			}
		}
		all.Wait()
		n, err := geocache.Increment(context.Background(), groups["us-2"], "ada", 0,
			geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, 120, n)
		for node, g := range groups {
			n, err := g.Get(context.Background(), "ada")
			require.NoError(t, err)
			require.Equal(t, 120, n, node)
		}
	})
}

func TestTenThousandIncrements(t *testing.T) {
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 3, Counters: true}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
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
				_, err := nodes[i%len(nodes)].Counters.Update(c.T.Context(), "hits", func(old int, _ bool) (int, error) {
					return old + 1, nil
				})
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
