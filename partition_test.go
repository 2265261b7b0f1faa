package geocache_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestDifferentViewsDoNotDelayReaders(t *testing.T) {
	config := testcluster.Config{Nodes: 4, Regions: []string{"eu", "us"}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
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
				waited := 0
				for _, key := range keys(200) {
					begun := time.Now()
					if _, err := n.Get(key); err != nil {
						t.Errorf("%s: %v", n.Name, err)
					}
					// It waits for the lease, which does not come back, and once only.
					took := time.Since(begun)
					if took > 100*time.Millisecond {
						waited++
					}
					if took > 1100*time.Millisecond || waited > 1 {
						t.Errorf("%s: %s took %v", n.Name, key, took)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestRegionIsCutOffAndHealed(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us", "ap"},
		Group:   []geocache.GroupOption{geocache.WithOriginRegion("us")},
	}, func(c *testcluster.Cluster) {
		require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet("before").Source)
		c.Net.Cut("eu", "us")
		require.LessOrEqual(t, readAll(c.Node("eu-1"), keys(20)), detectionTime)
		c.Settle()
		item := c.Node("eu-2").MustGet("during")
		require.Equal(t, geocache.SourceGetter, item.Source, "eu loads for itself")
		require.Len(t, c.Node("eu-1").Group.Locate("ada"), 2)

		c.Net.HealAll()
		time.Sleep(20 * time.Second) // TCP retransmits only now and then
		require.Equal(t, geocache.SourceRegion, c.Node("eu-1").MustGet("after").Source)
		require.Len(t, c.Node("eu-1").Group.Locate("ada"), 3)
	})
}

func TestLossyNetworkCausesNoReadErrors(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		c.Net.SetLoss("eu", "eu", 0.02)
		c.Net.SetLoss("eu", "us", 0.05)
		c.Origin.Behave(testcluster.Failing(errors.New("down")), "us")
		for _, n := range c.Nodes() {
			readAll(n, keys(200))
		}
	})
}

// A member that cannot be reached has stopped serving its copies before the write returns. The
// write waits for no more than that, and only once.
func TestCutOffMemberServesNoCopies(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
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
		require.Less(t, time.Since(begun), 10*time.Millisecond, "a write waits only once")

		c.Net.HealAll()
		time.Sleep(5 * time.Second)
		require.Equal(t, "again", text(t, cut, key))
	})
}
