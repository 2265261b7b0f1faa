package geocache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests clocks that are off. A write can get a lower stamp than one before it: in some
// tests the clocks of us are ahead, by less than is allowed.

// What was loaded in us between a write there and one in eu is gone once the second has been
// acknowledged by all regions.
func TestWriteWithALowerStamp(t *testing.T) {
	ctx, world := context.Background(), geocache.WithAck(geocache.AckWorld)
	kinds := map[string]func(n *testcluster.Node) error{
		"Remove":       func(n *testcluster.Node) error { return n.Group.Remove(ctx, "ada", world) },
		"Clear":        func(n *testcluster.Node) error { return n.Group.Clear(ctx, world) },
		"RemovePrefix": func(n *testcluster.Node) error { return n.Group.RemovePrefix(ctx, "a", world) },
		"RemoveTag":    func(n *testcluster.Node) error { return n.Group.RemoveTag(ctx, "origin", world) },
	}
	for first, inUS := range kinds {
		for second, inEU := range kinds {
			t.Run(first+", then "+second, func(t *testing.T) {
				testcluster.Run(t, usClocksAhead(1), func(c *testcluster.Cluster) {
					time.Sleep(untilLeased)
					eu, us := c.Node("eu-1"), c.Node("us-1")
					for range 3 {
						time.Sleep(2 * time.Second)
						require.NoError(t, inUS(us))
						time.Sleep(time.Millisecond)
						us.MustGet("ada")
						time.Sleep(time.Millisecond)
						changed := time.Now()
						require.NoError(t, inEU(eu))
						v, ok := testcluster.ParseValue(us.MustGet("ada").Value)
						require.True(t, ok)
						require.False(t, v.Begun.Before(changed), "loaded %v before the write", changed.Sub(v.Begun))
					}
				})
			})
		}
	}
}

// A load that was in progress when a write with a lower stamp was acknowledged is not what later
// readers get.
func TestWriteWithALowerStampDuringALoad(t *testing.T) {
	testcluster.Run(t, usClocksAhead(1), func(c *testcluster.Cluster) {
		var row atomic.Value
		row.Store("old")
		groups := onAll(c, "rows", geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			v := row.Load().(string)
			time.Sleep(300 * time.Millisecond)
			return v, nil
		}))
		time.Sleep(untilLeased)
		require.NoError(t, groups["us-1"].Remove(c.T.Context(), "ada", geocache.WithAck(geocache.AckOwner)))
		time.Sleep(time.Millisecond)
		go groups["us-1"].Get(context.Background(), "ada")
		time.Sleep(time.Millisecond)
		row.Store("new")
		require.NoError(t, groups["eu-1"].Remove(c.T.Context(), "ada", geocache.WithAck(geocache.AckWorld)))
		v, err := groups["us-1"].Get(c.T.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "new", v)
	})
}

// A write with a lower stamp leaves no trace in the journals, which have the higher stamp as
// before. So an owner that was cut off when it came must keep nothing that it may have replaced.
func TestOwnerMissesAWriteWithALowerStamp(t *testing.T) {
	testcluster.Run(t, usClocksAhead(3), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Node("us-1")
		key := c.KeyOf("us-1")
		_, err := owner.Remove(key)
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
		owner.MustGet(key)
		time.Sleep(time.Millisecond)
		c.Net.Cut("us-1", "us")
		c.Net.Cut("us-1", "eu")
		changed := time.Now()
		_, err = c.Owner("eu", key).Remove(key, geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		time.Sleep(20 * time.Second)
		c.Net.HealAll()
		time.Sleep(8 * time.Second)
		for _, n := range c.Nodes() {
			v, ok := testcluster.ParseValue(n.MustGet(key).Value)
			require.True(t, ok)
			require.False(t, v.Begun.Before(changed), "%s has a value loaded %v before the Remove", n.Name,
				changed.Sub(v.Begun))
		}
	})
}

func TestClockTooFarAheadIsRefused(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Node("eu-1").Close()
		c.Node("eu-1").Restart(10 * time.Second)
		c.Settle()
		// 10 s less the time that the clock's reading took to arrive.
		require.True(t, strings.Contains(c.Log(),
			`node=eu-1 region=eu reason=clock error="refused (clock): `+
				`clock is 9.99975s ahead of ours, the limit is 500ms`), c.Log())
		for _, key := range keys(100) {
			require.NotEqual(t, "eu-1", c.Node("eu-2").Group.Locate(key)[0].Owner.ID)
		}
		readAll(c.Node("eu-2"), keys(100))
		readAll(c.Node("eu-1"), keys(100)) // alone, but it serves
	})
}

// Node.Get compares ages with the true time. This test gives it something to find.
func TestAgesDoNotDependOnWallClocks(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us"},
		TTL:     time.Second,
		Group:   []geocache.GroupOption{geocache.WithOriginRegion("us")}, // values are in transit for a while
	}, func(c *testcluster.Cluster) {
		for i, n := range c.Nodes() {
			n.Close()
			n.Restart(time.Duration(i-3) * 80 * time.Millisecond) // they differ by 400 ms
		}
		c.Settle()
		c.Origin.Behave(testcluster.After(100 * time.Millisecond))
		key := "ada" // one that lives for the whole TTL, so that no jitter hides a mistake
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

// Each clock is within the limit of every other one but one. Hybrid clocks carry the fastest
// reading to everybody, and nobody may be refused for having received it.
func TestHybridClockDoesNotCauseRefusal(t *testing.T) {
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
