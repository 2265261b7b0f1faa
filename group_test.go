package geocache_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestGetItem(t *testing.T) {
	slow := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
		time.Sleep(3 * time.Second)
		return "v", nil
	})
	alone(t, slow, nil, func(t *testing.T, g *geocache.Group[string]) {
		begun := time.Now()
		loaded, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "v", loaded.Value)
		require.Equal(t, geocache.SourceGetter, loaded.Source)
		require.Equal(t, 3*time.Second, loaded.Age, "since the load began, not since it ended")
		require.WithinDuration(t, begun, loaded.Generation.Time(), time.Microsecond)
		life := loaded.Expires.Sub(begun)
		require.LessOrEqual(t, life, 5*time.Minute)
		require.GreaterOrEqual(t, life, 5*time.Minute*9/10)

		time.Sleep(time.Second)
		item, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, geocache.Item[string]{
			Value: "v", Generation: loaded.Generation, Age: 4 * time.Second, Expires: loaded.Expires,
			Source: geocache.SourceStore,
		}, item)
	})
}

func TestValuesExpireOnTime(t *testing.T) {
	var loads atomic.Int64
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute)}
	alone(t, countLoads(&loads, ada), opts, func(t *testing.T, g *geocache.Group[string]) {
		lives := map[time.Duration]int{}
		for _, key := range keys(200) {
			item, err := g.GetItem(t.Context(), key)
			require.NoError(t, err)
			life := time.Until(item.Expires)
			require.LessOrEqual(t, life, time.Minute)
			require.Greater(t, life, 54*time.Second)
			lives[life/time.Second]++
		}
		require.Len(t, lives, 6, "spread over the last tenth")
		for _, n := range lives {
			require.Less(t, n, 70)
		}
		time.Sleep(2 * time.Minute)
		require.Zero(t, g.Stats().Entries, "expired entries are swept")

		loads.Store(0)
		first, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		for range 5 {
			time.Sleep(time.Until(first.Expires) - 1)
			_, ok := g.Peek("ada")
			require.True(t, ok)
			last, err := g.GetItem(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, geocache.SourceStore, last.Source)
			time.Sleep(time.Nanosecond)
			_, ok = g.Peek("ada")
			require.False(t, ok, "not a nanosecond longer")
			next, err := g.GetItem(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, geocache.SourceGetter, next.Source)
			require.Equal(t, last.Age+1, time.Until(next.Expires), "a key gets the same TTL each time")
			first = next
		}
		require.EqualValues(t, 6, loads.Load())
	})
}

func TestGetterSetsTTL(t *testing.T) {
	own := map[string]time.Duration{"short": 10 * time.Second, "none": 0, "long": time.Hour, "negative": -1}
	getter := geocache.ItemGetterFunc[string](func(
		_ context.Context, key string,
	) (geocache.Loaded[string], error) {
		return geocache.Loaded[string]{Value: key, TTL: own[key]}, nil
	})
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute)}
	alone(t, getter, opts, func(t *testing.T, g *geocache.Group[string]) {
		item, err := g.GetItem(t.Context(), "short")
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, time.Until(item.Expires))
		for _, key := range []string{"none", "long"} {
			item, err := g.GetItem(t.Context(), key)
			require.NoError(t, err)
			require.LessOrEqual(t, time.Until(item.Expires), time.Minute)
			require.Greater(t, time.Until(item.Expires), 54*time.Second)
		}
		_, err = g.Get(t.Context(), "negative")
		require.ErrorContains(t, err, "the getter returned a negative TTL, -1ns")

		time.Sleep(10 * time.Second)
		_, ok := g.Peek("short")
		require.False(t, ok)
		_, ok = g.Peek("long")
		require.True(t, ok)

		v, err := getter.Get(t.Context(), "used as a Getter")
		require.NoError(t, err)
		require.Equal(t, "used as a Getter", v)
	})
}

func TestPeekLoadsNothing(t *testing.T) {
	var loads atomic.Int64
	alone(t, countLoads(&loads, ada), nil, func(t *testing.T, g *geocache.Group[string]) {
		_, ok := g.Peek("ada")
		require.False(t, ok)
		require.Zero(t, loads.Load())
		_, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		before := g.Stats()
		v, ok := g.Peek("ada")
		require.True(t, ok)
		require.Equal(t, "value of ada", v)
		require.Equal(t, before, g.Stats(), "not counted")
	})
}

// loadNothing is a getter that finds no key.
func loadNothing(context.Context, string) (string, error) {
	return "", fmt.Errorf("select: %w", geocache.ErrNotFound)
}

func TestNegativeTTL(t *testing.T) {
	for ttl, want := range map[time.Duration]int64{0: 30, 10 * time.Second: 3} {
		t.Run(ttl.String(), func(t *testing.T) {
			var loads atomic.Int64
			opts := []geocache.GroupOption{geocache.WithNegativeTTL(ttl)}
			alone(t, countLoads(&loads, loadNothing), opts, func(t *testing.T, g *geocache.Group[string]) {
				for range 30 {
					_, err := g.Get(t.Context(), "ada")
					require.ErrorIs(t, err, geocache.ErrNotFound)
					_, ok := g.Peek("ada")
					require.False(t, ok)
					m, err := g.GetMany(t.Context(), nil)
					require.NoError(t, err)
					require.Empty(t, m)
					time.Sleep(time.Second)
				}
				require.Equal(t, want, loads.Load())
				s := g.Stats()
				require.EqualValues(t, 30, s.NotFound)
				require.EqualValues(t, 30, s.Reads())
				require.Zero(t, s.LoadErrors)
				require.Zero(t, s.HitRatio())
			})
		})
	}
}

func TestNegativeTTLInACluster(t *testing.T) {
	for ttl, want := range map[time.Duration]int{0: 6, 10 * time.Second: 2} {
		t.Run(ttl.String(), func(t *testing.T) {
			config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithNegativeTTL(ttl)}}
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				c.Origin.Behave(testcluster.Failing(fmt.Errorf("select: %w", geocache.ErrNotFound)))
				for range 2 {
					for _, n := range c.Nodes() {
						_, err := n.Get("ada")
						require.ErrorIs(t, err, geocache.ErrNotFound)
						time.Sleep(time.Second)
					}
					time.Sleep(10 * time.Second)
				}
				require.Equal(t, want, c.Origin.Loads("ada"))

				c.Origin.Behave(nil)
				time.Sleep(10 * time.Second)
				for _, n := range c.Nodes() {
					n.MustGet("ada") // it exists now
				}
			})
		})
	}
}

func TestOversizedValuesAreReturnedAndNotCached(t *testing.T) {
	const most = 64 << 10
	getter := geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) {
		if key == "large" {
			return make([]byte, most), nil
		}
		return make([]byte, 1<<10), nil
	})
	opts := []geocache.GroupOption{geocache.WithMaxBytes(most)}
	alone(t, getter, opts, func(t *testing.T, g *geocache.Group[[]byte]) {
		for _, key := range keys(500) {
			v, err := g.Get(t.Context(), key)
			require.NoError(t, err)
			require.Len(t, v, 1<<10)
			require.LessOrEqual(t, g.Stats().Bytes, int64(most))
		}
		s := g.Stats()
		require.Greater(t, s.Bytes, int64(most)*9/10)
		require.EqualValues(t, most, s.MaxBytes)
		require.EqualValues(t, 500, s.Evicted+uint64(s.Entries))
		for range 2 {
			v, err := g.Get(t.Context(), "large")
			require.NoError(t, err)
			require.Len(t, v, most)
		}
		require.EqualValues(t, 2, g.Stats().TooLarge)
		require.Equal(t, s.Entries, g.Stats().Entries)
	})
}

func TestLocate(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us", "ap"}}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 80*time.Millisecond)
		time.Sleep(time.Minute) // round trips are measured again by then
		want := c.Node("eu-1").Group.Locate("ada")
		require.Len(t, want, 3)
		for i, region := range []string{"eu", "ap", "us"} {
			l := want[i]
			require.Equal(t, region, l.Region, "home first, then the nearest")
			require.Equal(t, region, l.Owner.Region)
			require.Equal(t, region, l.Successor.Region)
			require.NotEqual(t, l.Owner, l.Successor)
		}
		require.InDelta(t, 80*time.Millisecond, want[1].Distance, float64(time.Millisecond))
		require.InDelta(t, 160*time.Millisecond, want[2].Distance, float64(time.Millisecond))
		for _, n := range c.Nodes() {
			for _, l := range n.Group.Locate("ada") {
				for _, w := range want {
					if w.Region == l.Region {
						require.Equal(t, w.Owner, l.Owner, "as seen by %s", n.Name)
						require.Equal(t, w.Successor, l.Successor, "as seen by %s", n.Name)
					}
				}
			}
		}

		c.Node(want[0].Owner.ID).Close()
		c.Settle()
		for _, n := range c.Nodes("eu") {
			require.Equal(t, want[0].Successor, n.Group.Locate("ada")[0].Owner)
		}
	})
	alone(t, ada, nil, func(t *testing.T, g *geocache.Group[string]) {
		locations := g.Locate("ada")
		require.Len(t, locations, 1)
		require.Equal(t, "alone", locations[0].Owner.ID)
		require.Zero(t, locations[0].Successor)
	})
}

func TestSourceString(t *testing.T) {
	for s, want := range map[geocache.Source]string{
		geocache.SourceStore: "store", geocache.SourceOwner: "owner", geocache.SourceRegion: "region",
		geocache.SourceGetter: "getter", geocache.SourceStale: "stale", 0: "unknown", 99: "unknown",
	} {
		require.Equal(t, want, s.String())
	}
}

func TestCopies(t *testing.T) {
	for share, want := range map[float64]geocache.Source{0: geocache.SourceOwner, 0.5: geocache.SourceStore} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithCopyShare(share)}}
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				key := c.KeyOf("eu-2")
				require.Equal(t, geocache.SourceGetter, c.Node("eu-1").MustGet(key).Source)
				require.Equal(t, want, c.Node("eu-1").MustGet(key).Source)
				require.Equal(t, geocache.SourceStore, c.Node("eu-2").MustGet(key).Source)
				require.Equal(t, geocache.SourceOwner, c.Node("eu-3").MustGet(key).Source)
				require.Equal(t, want, c.Node("eu-3").MustGet(key).Source)
				require.Equal(t, 1, c.Origin.Loads(key))

				s := c.Node("eu-1").Group.Stats()
				require.Equal(t, share > 0, s.Copies == 1 && s.Entries == 1 && s.CopyBytes > 0 && s.CopyBytes == s.Bytes)
				require.Zero(t, c.Node("eu-2").Group.Stats().Copies)
			})
		})
	}
}

func TestCopiesKeepToTheirShare(t *testing.T) {
	const most = 64 << 10
	testcluster.Run(t, testcluster.Config{
		Group: []geocache.GroupOption{geocache.WithMaxBytes(most), geocache.WithCopyShare(0.25)},
	}, func(c *testcluster.Cluster) {
		for _, key := range keys(1000) {
			c.Node("eu-1").MustGet(key)
			s := c.Node("eu-1").Group.Stats()
			require.LessOrEqual(t, s.Bytes, int64(most))
			require.LessOrEqual(t, s.CopyBytes, int64(most/4))
		}
		require.Positive(t, c.Node("eu-1").Group.Stats().Evicted)
	})
}

// A copy expires no later than the owner's entry, and is no younger.
func TestCopiesExpireWithTheirOwners(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 100*time.Millisecond)
		key := c.KeyOf("eu-2")
		owner := c.Node("eu-2").MustGet(key)
		time.Sleep(10 * time.Second)
		item := c.Node("eu-1").MustGet(key)
		require.Equal(t, owner.Generation, item.Generation)
		require.GreaterOrEqual(t, item.Age, 10*time.Second+200*time.Millisecond)
		require.Less(t, item.Age, 10*time.Second+301*time.Millisecond,
			"the answer's trip adds to the age, at most twice")
		require.False(t, item.Expires.After(owner.Expires))
	})
}

// Hits read a coarse clock that lags a little. Entries expire on time all the same.
func TestCoarseClockExpiresOnTime(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	const ttl = 2500 * time.Millisecond // more than two seconds: the exact clock decides in the last two
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	getter := geocache.GetterFunc[time.Time](func(context.Context, string) (time.Time, error) {
		return time.Now(), nil
	})
	g, err := geocache.NewGroup(cache, "test", getter, geocache.WithTTL(ttl))
	require.NoError(t, err)
	var loads []time.Time
	var pause time.Duration // the longest that this goroutine was not scheduled
	last := time.Now()
	for end := last.Add(2 * ttl); last.Before(end); {
		called := time.Now()
		pause, last = max(pause, called.Sub(last)), called
		loaded, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.LessOrEqual(t, called.Sub(loaded), ttl, "older than its TTL when the read began")
		if len(loads) == 0 || loaded.After(loads[len(loads)-1]) {
			loads = append(loads, loaded)
		}
	}
	require.GreaterOrEqual(t, len(loads), 2)
	for i := 1; i < len(loads); i++ {
		lived := loads[i].Sub(loads[i-1])
		require.GreaterOrEqual(t, lived, ttl*9/10-time.Millisecond, "not too early either")
		require.Less(t, lived, ttl+pause+5*time.Millisecond)
	}
	require.NoError(t, cache.Close()) // which stops the clock's ticker
	require.EqualValues(t, len(loads), g.Stats().Loads)
}

func TestPeerWithoutTheGroup(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		// A rolling deploy: only eu-1 runs the version that has this group.
		loads := 0
		getter := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
			loads++
			return "value of " + key, nil
		})
		g, err := geocache.NewGroup(c.Node("eu-1").Cache, "new", getter)
		require.NoError(t, err)
		for _, key := range keys(100) {
			v, err := g.Get(c.T.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "value of "+key, v)
		}
		require.Equal(t, 100, loads)
		_, err = g.Get(c.T.Context(), "key-1")
		require.NoError(t, err)
		require.Equal(t, 100, loads, "cached where it was loaded")
	})
}
