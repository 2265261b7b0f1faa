package geocache_test

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestLaggingOriginIsNotAskedAfterAWrite(t *testing.T) {
	writes := map[string]func(n *testcluster.Node) error{
		"Set": func(n *testcluster.Node) error {
			_, err := n.Set("ada", "1", geocache.WithAck(geocache.AckWorld))
			return err
		},
		"Remove": func(n *testcluster.Node) error {
			_, err := n.Remove("ada", geocache.WithAck(geocache.AckWorld))
			return err
		},
		"Clear": func(n *testcluster.Node) error {
			_, err := n.Clear(geocache.WithAck(geocache.AckWorld))
			return err
		},
	}
	for name, write := range writes {
		for _, writer := range []string{"eu-1", "us-1"} {
			t.Run(name+" at "+writer, func(t *testing.T) {
				testcluster.Run(t, laggingConfig(), func(c *testcluster.Cluster) {
					time.Sleep(untilLeased)
					for _, n := range c.Nodes("us") {
						require.Equal(t, "load 1 in us", text(t, n, "ada"))
					}
					require.NoError(t, write(c.Node(writer)))
					before := c.Origin.Total("us")
					for range 11 {
						for _, n := range c.Nodes("us") {
							require.NotContains(t, text(t, n, "ada"), "in us", n.Name)
						}
						time.Sleep(testcluster.TTL / 12)
					}
					require.Equal(t, before, c.Origin.Total("us"))
					time.Sleep(testcluster.TTL / 2)
					for _, n := range c.Nodes("us") {
						require.Contains(t, text(t, n, "ada"), "in us", "the origin has it by now")
					}
				})
			})
		}
	}
}

func TestLaggingOriginWhileThePrimaryIsCutOff(t *testing.T) {
	testcluster.Run(t, laggingConfig(), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		_, err := c.Node("eu-1").Remove("ada", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		c.Net.Cut("eu", "us")
		for _, n := range c.Nodes("us") {
			begun := time.Now()
			_, err := n.Get("ada")
			require.ErrorContains(t, err, "may not have that yet")
			require.Less(t, time.Since(begun), 6*time.Second)
			require.Contains(t, text(t, n, "bob"), "in us", "a key that has not been written")
		}
		require.Zero(t, c.Origin.Loads("ada"))
	})
}

// The region whose origin does not lag asks other regions when that origin fails. They must not ask
// theirs.
func TestLaggingOriginIsNotAskedForAnotherRegion(t *testing.T) {
	testcluster.Run(t, laggingConfig(), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		_, err := c.Node("eu-1").Remove("ada", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		c.Origin.Behave(testcluster.Failing(errDatabase), "eu")
		_, err = c.Node("eu-2").Get("ada")
		require.ErrorContains(t, err, "on strike")
		require.Zero(t, c.Origin.Total("us"))
	})
}

// The tags of a value are known only once it has been loaded. If one of them, or a prefix of the
// key, has just been removed, what a lagging origin returns is not used, whoever asks for it.
func TestLaggingOriginIsNotTrustedAfterATagOrPrefixRemoval(t *testing.T) {
	ctx, world := context.Background(), geocache.WithAck(geocache.AckWorld)
	removals := map[string]func(n *testcluster.Node) error{
		"RemoveTag":    func(n *testcluster.Node) error { return n.Group.RemoveTag(ctx, "origin", world) },
		"RemovePrefix": func(n *testcluster.Node) error { return n.Group.RemovePrefix(ctx, "ad", world) },
	}
	reads := map[string]func(n *testcluster.Node) string{
		"Get": func(n *testcluster.Node) string { return n.MustGet("ada").Value },
		"GetMany": func(n *testcluster.Node) string {
			m, err := n.Group.GetMany(context.Background(), []string{"ada", "adb"})
			require.NoError(t, err)
			return m["ada"] + m["adb"]
		},
		"Warm": func(n *testcluster.Node) string {
			_, _ = n.Group.Warm(context.Background(), slices.Values([]string{"ada"}))
			v, _ := n.Group.Peek("ada")
			return v
		},
	}
	options := map[string][]geocache.GroupOption{
		"none":       nil,
		"refreshed":  {geocache.WithRefreshAhead(2 * time.Second)},
		"revalidate": {geocache.WithStaleWhileRevalidate(2 * time.Second)},
		"origin":     {geocache.WithOriginRegion("eu")},
	}
	for _, name := range slices.Sorted(maps.Keys(removals)) {
		for how, read := range reads {
			for with, opts := range options {
				t.Run(name+", "+how+", "+with, func(t *testing.T) {
					config := laggingConfig()
					config.Group = append(config.Group, opts...)
					testcluster.Run(t, config, func(c *testcluster.Cluster) {
						time.Sleep(untilLeased)
						for _, n := range c.Nodes("us") {
							n.MustGet("ada")
						}
						require.NoError(t, removals[name](c.Node("us-1")))
						for range 20 {
							for _, n := range c.Nodes("us") {
								require.NotContains(t, read(n), "in us", n.Name)
							}
							time.Sleep(testcluster.TTL / 22)
						}
						time.Sleep(testcluster.TTL / 2)
						for _, n := range c.Nodes("us") {
							if with != "origin" {
								require.Contains(t, text(t, n, "ada"), "in us", "the origin has it by now")
							}
						}
					})
				})
			}
		}
	}
}

// A load that takes longer than the lag is as old as its beginning.
func TestLongLoadFromALaggingOrigin(t *testing.T) {
	config := laggingConfig()
	config.Group = []geocache.GroupOption{geocache.WithHomeRegion("eu"), geocache.WithOriginLag(time.Second)}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		err := c.Node("us-1").Group.RemoveTag(context.Background(), "origin", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		c.Origin.Behave(testcluster.After(3*time.Second), "us")
		require.Contains(t, text(t, c.Node("us-2"), "ada"), "in eu")
	})
}

// Nor is it used while the primary is cut off: then there is an error, or the value from before if
// stale values may be served.
func TestLaggingOriginAfterARemovalWhileThePrimaryIsCutOff(t *testing.T) {
	testcluster.Run(t, laggingConfig(), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		err := c.Node("eu-1").Group.RemoveTag(context.Background(), "origin", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		c.Net.Cut("eu", "us")
		for _, n := range c.Nodes("us") {
			_, err := n.Get("ada")
			require.ErrorContains(t, err, "may not have that yet")
			require.False(t, n.Group.Contains("ada"))
		}
	})
	config := laggingConfig()
	config.Group = append(config.Group, geocache.WithStaleIfError(time.Minute))
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		err := c.Node("eu-1").Group.RemoveTag(context.Background(), "origin", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Contains(t, text(t, c.Node("us-1"), "ada"), "in eu")
		c.Net.Cut("eu", "us")
		time.Sleep(6 * time.Second)
		item := c.Node("us-1").MustGet("ada")
		require.Equal(t, geocache.SourceStale, item.Source)
		require.Contains(t, item.Value, "in eu")
	})
}

// A third region whose own origin fails asks a region whose origin lags and that does not know of
// the removal.
func TestLaggingOriginOfARegionUnawareOfTheRemoval(t *testing.T) {
	config := laggingConfig()
	config.Regions = []string{"ap", "eu", "us"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.Cut("us", "eu")
		require.NoError(t, c.Node("eu-1").Group.RemoveTag(context.Background(), "origin"))
		time.Sleep(time.Second)
		c.Net.Cut("ap", "eu")
		c.Origin.Behave(testcluster.Failing(errDatabase), "ap")
		for _, n := range c.Nodes("ap") {
			_, err := n.Get("ada")
			require.Error(t, err)
		}
		require.Positive(t, c.Origin.Total("us"))
	})
}

// Of several regions, the one whose origin does not lag is asked, even if it is the farthest.
func TestLaggingOriginAmongThreeRegions(t *testing.T) {
	config := laggingConfig()
	config.Regions = []string{"ap", "eu", "us"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("us", "eu", 100*time.Millisecond)
		time.Sleep(time.Minute) // round trips are measured again by then
		err := c.Node("us-1").Group.RemoveTag(context.Background(), "origin", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Contains(t, text(t, c.Node("us-1"), "ada"), "in eu")
		require.Zero(t, c.Origin.Total("ap"))

		// Nor does that region use the others' origins when its own fails.
		c.Origin.Behave(testcluster.Failing(errDatabase), "eu")
		_, err = c.Node("eu-1").Get("bob")
		require.Error(t, err)
	})
}

// An Update uses what its key's home region has in memory, which came from a good origin.
func TestUpdateInARegionWithALaggingOrigin(t *testing.T) {
	config := laggingConfig()
	config.Group = []geocache.GroupOption{geocache.WithOriginRegion("eu"), geocache.WithOriginLag(time.Minute)}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		err := c.Node("us-1").Group.RemoveTag(context.Background(), "origin", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		for i, key := range keys(10) { // the home of some is us
			n := c.Nodes()[i%6]
			require.Contains(t, text(t, c.Node("us-1"), key), "in eu")
			what, _, err := n.Update(key, func(string, bool) (string, error) { return "new", nil })
			require.NoError(t, err)
			require.Equal(t, "new", what)
		}
		require.Zero(t, c.Origin.Total("us"))
	})
}

// What was loaded together is judged one by one. Values of a batch have no tags, but a prefix may
// be removed during the load.
func TestBatchFromALaggingOrigin(t *testing.T) {
	testcluster.Run(t, laggingConfig(), func(c *testcluster.Cluster) {
		groups := map[string]*geocache.Group[string]{}
		var calls atomic.Int64
		for _, n := range c.Nodes() {
			getter := geocache.BatchGetterFunc[string](func(
				ctx context.Context, keys []string,
			) (map[string]string, error) {
				if n.Region == "us" {
					calls.Add(1)
					time.Sleep(time.Second)
				}
				m := map[string]string{}
				for _, key := range keys {
					m[key] = "in " + n.Region
				}
				return m, nil
			})
			g, err := geocache.NewGroup(n.Cache, "batches", getter, laggingConfig().Group...)
			require.NoError(t, err)
			groups[n.Name] = g
		}
		time.Sleep(untilLeased)
		got := make(chan map[string]string)
		read := func() {
			m, err := groups["us-1"].GetMany(context.Background(), []string{"a1", "a2", "b1", "b2"})
			got <- m
			require.NoError(t, err)
		}
		go read()
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, groups["us-2"].RemovePrefix(context.Background(), "a"))
		<-got
		go read()
		m := <-got
		require.Equal(t, map[string]string{"a1": "in eu", "a2": "in eu", "b1": "in us", "b2": "in us"}, m)
		require.Positive(t, calls.Load())
	})
}

// The region whose origin does not lag has loaded a key again before another one learns of its
// removal. By its age that value may be from before, and the other region may not load the key
// itself: it has it loaded once more.
func TestLaggingRegionLearnsOfAWriteAfterTheNextLoad(t *testing.T) {
	removals := map[string]func(n *testcluster.Node) error{
		"Remove": func(n *testcluster.Node) error { _, err := n.Remove("ada"); return err },
		"RemoveTag": func(n *testcluster.Node) error {
			return n.Group.RemoveTag(context.Background(), testcluster.TagsOf("ada")[0])
		},
	}
	for name, remove := range removals {
		t.Run(name, func(t *testing.T) {
			config := laggingConfig()
			config.TTL = 10 * time.Minute
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
				for _, n := range c.Nodes() {
					n.MustGet("ada")
				}
				require.NoError(t, remove(c.Node("eu-1")))
				c.Node("eu-2").MustGet("ada")
				time.Sleep(time.Second)
				before := c.Origin.Total("eu")
				for range 10 {
					for _, n := range c.Nodes("us") {
						require.Contains(t, text(t, n, "ada"), "in eu", n.Name)
					}
					time.Sleep(5 * time.Second)
				}
				require.LessOrEqual(t, c.Origin.Total("eu"), before+1)
			})
		})
	}
}
