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

// conflictConfig is a cluster that sweeps every second, with eu as its home region.
func conflictConfig(opts ...geocache.GroupOption) testcluster.Config {
	return testcluster.Config{
		Regions: []string{"eu", "us"},
		TTL:     5 * time.Second,
		Group:   append(opts, geocache.WithHomeRegion("eu")),
	}
}

// slowUpdate updates ada at a node with a function that takes 2.5 s the first time. Half a second
// after it has begun, meanwhile is called. slowUpdate returns the texts that the function was
// given.
func slowUpdate(t *testing.T, n *testcluster.Node, meanwhile func()) (given []string) {
	t.Helper()
	what, _, err := n.Update("ada", func(was string, written bool) (string, error) {
		given = append(given, was)
		if len(given) == 1 {
			time.Sleep(500 * time.Millisecond)
			meanwhile()
			time.Sleep(2 * time.Second)
		}
		return fmt.Sprintf("%s+%d", was, len(given)), nil
	})
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("%s+%d", given[len(given)-1], len(given)), what)
	return given
}

// An Update does not replace a value that has been removed since it was read, however it was
// removed and whether or not it is still in memory.
func TestUpdateWhileItsKeyIsRemoved(t *testing.T) {
	ctx := context.Background()
	removals := map[string]func(n *testcluster.Node) error{
		"RemoveTag": func(n *testcluster.Node) error {
			return n.Group.RemoveTag(ctx, "red", geocache.WithAck(geocache.AckWorld))
		},
		"RemovePrefix": func(n *testcluster.Node) error {
			return n.Group.RemovePrefix(ctx, "ad", geocache.WithAck(geocache.AckWorld))
		},
		"Remove": func(n *testcluster.Node) error {
			return n.Group.Remove(ctx, "ada", geocache.WithAck(geocache.AckWorld))
		},
		"Clear": func(n *testcluster.Node) error { return n.Group.Clear(ctx, geocache.WithAck(geocache.AckWorld)) },
	}
	for name, remove := range removals {
		for _, gone := range []string{"swept", "evicted", "still there"} {
			for _, by := range []string{"eu-1", "us-1"} {
				t.Run(fmt.Sprintf("%s, %s, at %s", name, gone, by), func(t *testing.T) {
					config := conflictConfig(geocache.WithMaxEntries(20))
					if gone != "swept" {
						config.TTL = 5 * time.Minute
					}
					testcluster.Run(t, config, func(c *testcluster.Cluster) {
						time.Sleep(untilLeased)
						n := c.Node(by)
						_, err := n.Set("ada", "set", geocache.WithTags("red", "blue"), geocache.WithAck(geocache.AckWorld))
						require.NoError(t, err)
						owner := c.Owner("eu", "ada")
						given := slowUpdate(t, n, func() {
							require.NoError(t, remove(c.Node("us-2")))
							for i := 0; gone == "evicted" && i < 100; i++ {
								owner.MustGet(fmt.Sprint(i))
							}
						})
						require.Equal(t, []string{"set", ""}, given)
					})
				})
			}
		}
	}
}

// Without a removal, a value that was evicted is replaced all the same.
func TestUpdateWhileItsValueIsEvicted(t *testing.T) {
	config := conflictConfig(geocache.WithMaxEntries(20))
	config.TTL = time.Minute
	for name, set := range map[string]bool{"set": true, "loaded": false} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
				owner := c.Owner("eu", "ada")
				want := ""
				if set {
					want = "set"
					_, err := owner.Set("ada", want, geocache.WithTags("red"))
					require.NoError(t, err)
				}
				given := slowUpdate(t, c.Node("us-1"), func() {
					require.NoError(t, c.Node("eu-1").Group.RemoveTag(context.Background(), "blue"))
					for i := 0; owner.Group.Contains("ada"); i++ {
						owner.MustGet(fmt.Sprint(i))
					}
				})
				require.Equal(t, []string{want}, given)
			})
		})
	}
}

// After a Set in between, the Update goes on from what was set, whatever its tags.
func TestUpdateWhileItsKeyIsSet(t *testing.T) {
	for _, tags := range [][]string{nil, {"red"}, {"blue"}} {
		testcluster.Run(t, conflictConfig(), func(c *testcluster.Cluster) {
			time.Sleep(untilLeased)
			n := c.Node("eu-1")
			_, err := n.Set("ada", "1", geocache.WithTags("red"))
			require.NoError(t, err)
			given := slowUpdate(t, n, func() {
				require.NoError(t, c.Node("eu-2").Group.RemoveTag(context.Background(), "red"))
				_, err := c.Node("eu-3").Set("ada", "2", geocache.WithTags(tags...))
				require.NoError(t, err)
			})
			require.Equal(t, []string{"1", "2"}, given)
		})
	}
}

// The clock of the node that loaded the value is ahead. So the load has a higher generation than a
// later removal in a region that has not heard of anything.
func TestUpdateOfAValueLoadedByAFastClock(t *testing.T) {
	config := conflictConfig(geocache.WithMaxEntries(20))
	config.TTL = time.Minute
	config.Offset = func(node string) time.Duration {
		if node[:2] == "eu" {
			return 400 * time.Millisecond
		}
		return 0
	}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		n := c.Nodes("eu")[0]
		if n == c.Owner("eu", "ada") {
			n = c.Nodes("eu")[1]
		}
		c.Net.Cut("eu", "us")
		time.Sleep(2 * time.Second)
		n.MustGet("ada")
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, c.Node("us-1").Group.RemoveTag(context.Background(), "tag of ada"))
		given := slowUpdate(t, n, func() {
			c.Net.HealAll()
			time.Sleep(2 * time.Second)
			for i := range 100 {
				c.Owner("eu", "ada").MustGet(fmt.Sprint(i))
			}
		})
		require.Len(t, given, 2)
	})
}

// An absence that is not cached has no tags, and is judged by when it was found. A recent removal
// does not matter.
func TestUpdateOfAnAbsentKey(t *testing.T) {
	for _, by := range []string{"eu-1", "us-1"} {
		t.Run(by, func(t *testing.T) {
			testcluster.Run(t, conflictConfig(), func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
				c.Origin.Behave(testcluster.Failing(geocache.ErrNotFound))
				for _, remove := range []func(n *testcluster.Node) error{
					func(n *testcluster.Node) error { return n.Group.Remove(c.T.Context(), "ada") },
					func(n *testcluster.Node) error { return n.Group.RemovePrefix(c.T.Context(), "a") },
					func(n *testcluster.Node) error { return n.Group.Clear(c.T.Context()) },
				} {
					time.Sleep(2 * time.Second)
					require.NoError(t, remove(c.Node("eu-2")))
					time.Sleep(100 * time.Millisecond)
					begun, calls := time.Now(), 0
					_, _, err := c.Node(by).Update("ada", func(was string, written bool) (string, error) {
						require.False(t, written)
						calls++
						return "new", nil
					})
					require.NoError(t, err)
					require.Equal(t, 1, calls)
					require.Less(t, time.Since(begun), 300*time.Millisecond)
				}
				// A removal while the function runs is one that it did not see.
				time.Sleep(2 * time.Second)
				require.NoError(t, c.Node("eu-2").Group.Remove(c.T.Context(), "ada"))
				given := slowUpdate(t, c.Node(by), func() {
					require.NoError(t, c.Node("eu-3").Group.RemovePrefix(c.T.Context(), "a"))
				})
				require.Len(t, given, 2)
			})
		})
	}
}

// A group that has no room for any value still updates what it loads, even if something is removed
// all the time.
func TestUpdateOfAnUncachedValue(t *testing.T) {
	testcluster.Run(t, conflictConfig(geocache.WithMaxBytes(1)), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 20 {
			n := c.Nodes()[i%6]
			require.NoError(t, c.Node("eu-1").Group.RemoveTag(c.T.Context(), "origin"))
			begun := time.Now()
			_, _, err := n.Update("ada", func(string, bool) (string, error) { return "new", nil })
			require.NoError(t, err)
			require.Less(t, time.Since(begun), time.Second)
		}
	})
}
