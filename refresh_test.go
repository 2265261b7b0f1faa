package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// versions is a getter that takes a second. Its n-th value, of any key, is n.
func versions(loads *atomic.Int64) geocache.Getter[string] {
	return geocache.GetterFunc[string](func(context.Context, string) (string, error) {
		n := loads.Add(1)
		time.Sleep(time.Second)
		return fmt.Sprint(n), nil
	})
}

func TestRefreshAhead(t *testing.T) {
	var loads atomic.Int64
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithRefreshAhead(20 * time.Second)}
	alone(t, versions(&loads), opts, func(t *testing.T, g *geocache.Group[string]) {
		item, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		window := item.Expires.Add(-20 * time.Second)
		get := func() (v string, after time.Duration) {
			begun := time.Now()
			v, err := g.Get(t.Context(), "ada")
			require.NoError(t, err)
			return v, time.Since(begun)
		}
		time.Sleep(time.Until(window) - 1)
		get()
		time.Sleep(time.Nanosecond)
		require.EqualValues(t, 1, loads.Load(), "not yet")
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				v, after := get()
				require.Equal(t, "1", v)
				require.Zero(t, after, "readers do not wait")
			})
		}
		all.Wait()
		time.Sleep(time.Second + 1)
		v, _ := get()
		require.Equal(t, "2", v)
		require.EqualValues(t, 2, loads.Load(), "the window's readers cause one refresh")

		for range 1200 { // for ten minutes
			time.Sleep(500 * time.Millisecond)
			_, after := get()
			require.Zero(t, after)
		}
		time.Sleep(2 * time.Second) // a refresh begun by the last read ends meanwhile
		require.InDelta(t, 2+600/37, loads.Load(), 3)
		s := g.Stats()
		require.EqualValues(t, 1, s.Getter)
		require.EqualValues(t, s.Loads-1, s.Refreshes)

		before := loads.Load()
		time.Sleep(10 * time.Minute)
		require.Equal(t, before, loads.Load(), "a value that nobody reads expires")
		require.Zero(t, g.Stats().Entries)
	})
}

func TestRefreshFails(t *testing.T) {
	var loads atomic.Int64
	down := false
	getter := countLoads(&loads, func(context.Context, string) (string, error) {
		if down {
			return "", errDatabase
		}
		return "v", nil
	})
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithRefreshAhead(20 * time.Second)}
	alone(t, getter, opts, func(t *testing.T, g *geocache.Group[string]) {
		item, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		down = true
		time.Sleep(time.Until(item.Expires) - 10*time.Second)
		for range 1000 {
			_, err := g.Get(t.Context(), "ada")
			require.NoError(t, err)
			time.Sleep(10*time.Millisecond - 1)
		}
		require.InDelta(t, 1+10, loads.Load(), 1, "once a second")
		time.Sleep(time.Second)
		_, err = g.Get(t.Context(), "ada")
		require.ErrorIs(t, err, errDatabase)
	})
}

// A TTL shorter than twice the refresh window does not mean that the value is refreshed all the
// time.
func TestRefreshOfShortLivedValues(t *testing.T) {
	var loads atomic.Int64
	getter := geocache.ItemGetterFunc[string](func(context.Context, string) (geocache.Loaded[string], error) {
		loads.Add(1)
		return geocache.Loaded[string]{Value: "v", TTL: 10 * time.Second}, nil
	})
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithRefreshAhead(30 * time.Second)}
	alone(t, geocache.Getter[string](getter), opts, func(t *testing.T, g *geocache.Group[string]) {
		for range 600 {
			_, err := g.Get(t.Context(), "ada")
			require.NoError(t, err)
			time.Sleep(100 * time.Millisecond)
		}
		require.InDelta(t, 12, loads.Load(), 1, "every five seconds")
		require.EqualValues(t, 1, g.Stats().Getter)
	})
}

func TestRefreshAheadInACluster(t *testing.T) {
	for name, origin := range map[string][]geocache.GroupOption{
		"each region for itself": nil,
		"origin region":          {geocache.WithOriginRegion("us")},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{
				Regions: []string{"eu", "us"},
				Group:   append(origin, geocache.WithRefreshAhead(20*time.Second)),
			}, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "us", 80*time.Millisecond)
				c.Origin.Behave(testcluster.After(time.Second))
				time.Sleep(untilLeased)
				for _, n := range c.Nodes() {
					n.MustGet("ada")
				}
				first := c.Origin.Loads("ada")
				for range 400 { // for 200 s, copies and owners are read all the time
					time.Sleep(500 * time.Millisecond)
					for _, n := range c.Nodes() {
						require.Equal(t, geocache.SourceStore, n.MustGet("ada").Source, n.Name)
					}
				}
				rounds := c.Origin.Loads("ada")/first - 1
				require.InDelta(t, 200/38, rounds, 1)
				require.Equal(t, 0, c.Origin.Loads("ada")%first, "once in each region, or once in the world")
			})
		})
	}
}

func TestWriteDuringARefresh(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithRefreshAhead(20 * time.Second)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Owner("eu", "ada")
		item := owner.MustGet("ada")
		for _, n := range c.Nodes() {
			n.MustGet("ada")
		}
		c.Origin.Behave(testcluster.After(5 * time.Second))
		time.Sleep(time.Until(item.Expires) - 15*time.Second)
		for _, n := range c.Nodes() {
			n.MustGet("ada")
		}
		time.Sleep(time.Second)
		require.Equal(t, 1, c.Origin.Running())
		_, err := c.Node("eu-1").Set("ada", "written")
		require.NoError(t, err)
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			for _, n := range c.Nodes() {
				require.Equal(t, "written", text(t, n, "ada"), n.Name)
			}
		}
	})
}

// Until the origin has a queued write, the queue is the origin.
func TestRefreshDoesNotBypassTheQueue(t *testing.T) {
	db := newDatabase()
	config := writeBehindConfig(db, geocache.WithRefreshAhead(20*time.Second),
		geocache.WithStaleWhileRevalidate(time.Minute))
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		_, err := c.Node("eu-1").Set("ada", "written")
		require.NoError(t, err)
		for range 300 {
			time.Sleep(time.Second)
			for _, n := range c.Nodes() {
				require.Equal(t, "written", textUnchecked(t, n, "ada"))
			}
		}
		require.Zero(t, c.Origin.Loads("ada"))
	})
}

func TestHitInTheRefreshWindowAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	down := make(chan struct{})
	defer close(down)
	hangs := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
		<-down
		return "", errDatabase
	})
	g, err := geocache.NewGroup(cache, "g", hangs, geocache.WithTTL(time.Hour),
		geocache.WithRefreshAhead(time.Hour-1))
	require.NoError(t, err)
	require.NoError(t, g.Set(t.Context(), "ada", "v", geocache.WithItemTTL(4*time.Second)))
	require.Eventually(t, func() bool {
		_, _ = g.Get(t.Context(), "ada")
		return g.Stats().Refreshes > 0
	}, 10*time.Second, 10*time.Millisecond)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = g.Get(ctx, "ada") }))
}

func TestStaleWhileRevalidate(t *testing.T) {
	var loads atomic.Int64
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute),
		geocache.WithStaleWhileRevalidate(30 * time.Second)}
	alone(t, versions(&loads), opts, func(t *testing.T, g *geocache.Group[string]) {
		item, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		time.Sleep(time.Until(item.Expires))
		_, ok := g.Peek("ada")
		require.False(t, ok, "it has expired")
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				begun := time.Now()
				item, err := g.GetItem(t.Context(), "ada")
				require.NoError(t, err)
				require.Equal(t, "1", item.Value)
				require.Equal(t, geocache.SourceStale, item.Source)
				require.Zero(t, time.Since(begun))
				m, err := g.GetMany(t.Context(), []string{"ada"})
				require.NoError(t, err)
				require.Equal(t, "1", m["ada"])
			})
		}
		all.Wait()
		time.Sleep(time.Second + 1)
		item, err = g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "2", item.Value)
		require.Equal(t, geocache.SourceStore, item.Source)
		require.EqualValues(t, 2, loads.Load())
		require.EqualValues(t, 200, g.Stats().Stale)

		time.Sleep(time.Until(item.Expires) + 30*time.Second)
		begun := time.Now()
		item, err = g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, geocache.SourceGetter, item.Source, "too old to be served stale")
		require.Equal(t, time.Second, time.Since(begun))
	})
}

func TestStaleWhileRevalidateInACluster(t *testing.T) {
	for name, origin := range map[string][]geocache.GroupOption{
		"each region for itself": nil,
		"origin region":          {geocache.WithOriginRegion("us")},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{
				Regions: []string{"eu", "us"},
				Group:   append(origin, geocache.WithStaleWhileRevalidate(30*time.Second)),
			}, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "us", 80*time.Millisecond)
				c.Origin.Behave(testcluster.After(time.Second))
				time.Sleep(untilLeased)
				var expires time.Time
				for _, n := range c.Nodes() {
					if item := n.MustGet("ada"); item.Expires.After(expires) {
						expires = item.Expires
					}
				}
				first := c.Origin.Loads("ada")
				time.Sleep(time.Until(expires))
				for _, n := range c.Nodes() {
					begun := time.Now()
					require.Equal(t, geocache.SourceStale, n.MustGet("ada").Source, n.Name)
					require.Less(t, time.Since(begun), 10*time.Millisecond, "a stale read goes to the owner at most")
				}
				time.Sleep(1300 * time.Millisecond)
				for _, n := range c.Nodes() {
					require.NotEqual(t, geocache.SourceStale, n.MustGet("ada").Source, n.Name)
				}
				require.Equal(t, 2*first, c.Origin.Loads("ada"))
			})
		})
	}
}

// revalidate is an option of some of the clusters below.
var revalidate = geocache.WithStaleWhileRevalidate(30 * time.Second)

func TestOverwrittenValueIsNotServedWhileRevalidating(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{revalidate}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		item := c.Owner("eu", "ada").MustGet("ada")
		time.Sleep(time.Until(item.Expires) + time.Second)
		_, err := c.Node("eu-1").Remove("ada")
		require.NoError(t, err)
		time.Sleep(10 * time.Millisecond) // what is loaded at the same moment may be older
		for _, n := range c.Nodes() {
			require.NotEqual(t, geocache.SourceStale, n.MustGet("ada").Source)
		}
		require.Equal(t, 2, c.Origin.Loads("ada"))
		time.Sleep(testcluster.TTL + 30*time.Second)
		held := 0
		for _, n := range c.Nodes() {
			held += n.Group.Stats().Floors
		}
		require.Equal(t, 3, held, "a floor stays as long as an entry below it may be served")
	})
}

func TestRevalidationFails(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{revalidate}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Owner("eu", "ada")
		item := owner.MustGet("ada")
		c.Origin.Behave(testcluster.Failing(errors.New("down")))
		time.Sleep(time.Until(item.Expires))
		for range 28 * 4 {
			for _, n := range c.Nodes() {
				require.Equal(t, geocache.SourceStale, n.MustGet("ada").Source, n.Name)
			}
			time.Sleep(250 * time.Millisecond)
		}
		require.InDelta(t, 1+28, c.Origin.Loads("ada"), 2, "once a second")
		time.Sleep(3 * time.Second)
		for _, n := range c.Nodes() {
			_, err := n.Get("ada")
			require.ErrorContains(t, err, "down")
		}
	})
}

// Update is atomic, so it does not use a stale value but waits for a fresh one.
func TestUpdateWhileRevalidating(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{revalidate}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, n := range c.Nodes() {
			key := "key of " + n.Name
			item := c.Owner("eu", key).MustGet(key)
			c.Origin.Behave(testcluster.After(time.Second))
			time.Sleep(time.Until(item.Expires))
			what, _, err := n.Update(key, func(what string, written bool) (string, error) {
				require.False(t, written)
				return "updated", nil
			})
			require.NoError(t, err)
			require.Equal(t, "updated", what)
			require.Equal(t, 2, c.Origin.Loads(key))
			c.Origin.Behave(nil)
		}
	})
}

// A refresh that is in progress when a tag of its value is removed does not bring the value back.
func TestTagIsRemovedDuringARefresh(t *testing.T) {
	for name, option := range map[string]geocache.GroupOption{
		"ahead":        geocache.WithRefreshAhead(20 * time.Second),
		"revalidating": geocache.WithStaleWhileRevalidate(time.Minute),
	} {
		t.Run(name, func(t *testing.T) {
			var loads atomic.Int64
			getter := geocache.ItemGetterFunc[string](func(context.Context, string) (geocache.Loaded[string], error) {
				v := fmt.Sprint(loads.Add(1))
				time.Sleep(time.Second)
				return geocache.Loaded[string]{Value: v, Tags: []string{"tag"}}, nil
			})
			opts := []geocache.GroupOption{geocache.WithTTL(time.Minute), option}
			alone(t, geocache.Getter[string](getter), opts, func(t *testing.T, g *geocache.Group[string]) {
				item, err := g.GetItem(t.Context(), "ada")
				require.NoError(t, err)
				if name == "ahead" {
					time.Sleep(time.Until(item.Expires) - time.Second)
				} else {
					time.Sleep(time.Until(item.Expires))
				}
				v, err := g.Get(t.Context(), "ada")
				require.NoError(t, err)
				require.Equal(t, "1", v)
				time.Sleep(500 * time.Millisecond)
				require.EqualValues(t, 2, loads.Load())
				require.NoError(t, g.RemoveTag(t.Context(), "tag"))
				time.Sleep(time.Millisecond)
				v, err = g.Get(t.Context(), "ada")
				require.NoError(t, err)
				require.Equal(t, "3", v)
				time.Sleep(time.Second)
				v, err = g.Get(t.Context(), "ada")
				require.NoError(t, err)
				require.Equal(t, "3", v)
			})
		})
	}
}
