package geocache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// clearAndReload returns how often each key is loaded in all when the origin's region has cleared the group and
// loaded the keys again, and then all nodes of another region read them. That region hears of the Clear
// 40 ms after, and could not tell by itself that what has been loaded meanwhile is no older. before is
// called with some keys before the Clear.
func clearAndReload(t *testing.T, watched int, before func(c *testcluster.Cluster, keys []string)) (loads map[string]int) {
	config := testcluster.Config{
		Regions: []string{"eu", "us"}, Nodes: 4,
		Group: []geocache.GroupOption{geocache.WithOriginRegion("eu")},
		Cache: []geocache.Option{geocache.WithLimits(0, 0, watched)},
	}
	loads = make(map[string]int)
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		all := keys(20)
		for _, n := range c.Nodes() {
			readAll(n, all)
		}
		time.Sleep(5 * time.Second)
		before(c, all)
		_, err := c.Node("eu-1").Clear()
		require.NoError(t, err)
		readAll(c.Node("eu-2"), all)
		time.Sleep(100 * time.Millisecond)
		for _, n := range c.Nodes("us") {
			readAll(n, all)
		}
		for _, key := range all {
			loads[key] = c.Origin.Loads(key)
		}
	})
	return loads
}

// After a Clear each key is loaded once, although other regions hear of it later.
func TestMechanismAClearHasEachKeyLoadedOnce(t *testing.T) {
	for _, watched := range []int{0, 1} {
		for key, n := range clearAndReload(t, watched, func(*testcluster.Cluster, []string) {}) {
			require.Equal(t, 2, n, key)
		}
	}
}

// If something else was written shortly before, it may have been written after what the origin's region has
// loaded: clocks may differ by so much. Then each key is loaded once more.
func TestMechanismAClearDoesNotHideWritesBeforeIt(t *testing.T) {
	loads := clearAndReload(t, 0, func(c *testcluster.Cluster, keys []string) {
		_, err := c.Node("us-1").Remove(keys[0])
		require.NoError(t, err)
	})
	delete(loads, "key-0")
	for key, n := range loads {
		require.Equal(t, 3, n, key)
	}
}
