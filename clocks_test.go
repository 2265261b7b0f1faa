package geocache_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file is about writes with a lower stamp than that of one before them: us' clocks are
// ahead, by less than is allowed.

func fastUS(nodes int) testcluster.Config {
	return testcluster.Config{Regions: []string{"eu", "us"}, Nodes: nodes, Offset: func(node string) time.Duration {
		if strings.HasPrefix(node, "us") {
			return 450 * time.Millisecond
		}
		return 0
	}}
}

// What was loaded in us between a write there and one in eu is gone when the second has been
// acknowledged by the world.
func TestALateWriteOfAnyKind(t *testing.T) {
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
				testcluster.Run(t, fastUS(1), func(c *testcluster.Cluster) {
					time.Sleep(standing)
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

// A load that was under way when a late write was acknowledged is not what a reader gets who
// comes after that.
func TestALateWriteAndALoadUnderWay(t *testing.T) {
	testcluster.Run(t, fastUS(1), func(c *testcluster.Cluster) {
		var row atomic.Value
		row.Store("old")
		groups := everywhere(c, "rows", geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			v := row.Load().(string)
			time.Sleep(300 * time.Millisecond)
			return v, nil
		}))
		time.Sleep(standing)
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

// A late write leaves no trace in the journals: they have the higher stamp as before. So an
// owner that was cut off when it came keeps nothing that it may have replaced.
func TestALateWriteThatAnOwnerHasMissed(t *testing.T) {
	testcluster.Run(t, fastUS(3), func(c *testcluster.Cluster) {
		time.Sleep(standing)
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
			require.False(t, v.Begun.Before(changed), "%s has what was loaded %v before the Remove", n.Name, changed.Sub(v.Begun))
		}
	})
}
