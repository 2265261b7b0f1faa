package geocache_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests what nodes do for other regions whose keys they do not own: each node here is connected to one
// node of each other region, or to few.

func gatewayConfig(watched int, names ...string) testcluster.Config {
	return testcluster.Config{
		Regions: names, Nodes: 5, Counters: true, Home: "us",
		Cache: []geocache.Option{geocache.WithLimits(0, 0, watched)},
	}
}

// elsewhere returns the peers of a node that are in another region.
func elsewhere(n *testcluster.Node) []geocache.PeerStats {
	return slices.DeleteFunc(n.Cache.Stats().Peers, func(p geocache.PeerStats) bool { return p.Region == n.Region })
}

// A read of another region is answered by the key's owner, whichever node is asked, and that node keeps nothing.
func TestMechanismAnyNodeAsksTheOwnerForAnotherRegion(t *testing.T) {
	testcluster.Run(t, gatewayConfig(1, "eu", "us"), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Origin.Behave(testcluster.Failing(errors.New("down")), "eu")
		forwarded := 0
		for _, key := range keys(40) {
			reader, owner := c.Owner("eu", key), c.Owner("us", key)
			require.Len(t, elsewhere(reader), 1)
			if elsewhere(reader)[0].ID != owner.Name {
				forwarded++
			}
			before := owner.Group.Stats().Loads
			require.Contains(t, text(t, reader, key), "in us")
			require.Equal(t, before+1, owner.Group.Stats().Loads)
			for _, n := range c.Nodes("us") {
				_, kept := n.Group.Peek(key)
				require.Equal(t, n == owner, kept, "%s at %s", key, n.Name)
			}
		}
		require.Greater(t, forwarded, 20)

		// What the region has in memory is found while its origin is down as well, and nothing is loaded for it.
		c.Origin.Behave(testcluster.Failing(errors.New("down")))
		loads := c.Origin.Total("us")
		for _, n := range c.Nodes("eu") {
			n.Crash()
			n.Restart(0)
		}
		c.Settle()
		for _, key := range keys(40) {
			require.Contains(t, text(t, c.Owner("eu", key), key), "in us")
		}
		require.Equal(t, loads, c.Origin.Total("us"))
	})
}

// A value that is pushed to a region is kept by its owner and its successor there, and by nobody else, whoever
// gets the push.
func TestMechanismAPushIsKeptByItsKeepers(t *testing.T) {
	testcluster.Run(t, gatewayConfig(1, "eu", "us"), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, key := range keys(40) {
			_, err := c.Owner("eu", key).Set(key, "written", geocache.WithAck(geocache.AckWorld))
			require.NoError(t, err)
			at := c.Nodes("us")[0].Group.Locate(key)[0]
			for _, n := range c.Nodes("us") {
				_, kept := n.Group.Peek(key)
				require.Equal(t, n.Name == at.Owner.ID || n.Name == at.Successor.ID, kept, "%s at %s", key, n.Name)
			}
		}
	})
}

// An Update is carried out by the key's owner in its home region. What that owner has confirmed to it by other
// regions, nobody else knows.
func TestMechanismAnUpdateIsForwarded(t *testing.T) {
	testcluster.Run(t, gatewayConfig(1, "ap", "eu", "us"), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i, n := range c.Nodes("eu") {
			v, err := n.Counters.Update(context.Background(), "hits", increment)
			require.NoError(t, err)
			require.Equal(t, i+1, v)
			require.LessOrEqual(t, n.Counters.Stats().UpdateRetries, uint64(1))
		}

		c.Net.Cut("ap", "us") // eu tells ap nothing of it
		time.Sleep(2 * time.Second)
		for _, n := range c.Nodes("eu") {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			var receipt geocache.Receipt
			_, err := n.Counters.Update(ctx, "hits", increment,
				geocache.WithAck(geocache.AckWorld), geocache.WithReceipt(&receipt))
			cancel()
			require.ErrorIs(t, err, geocache.ErrUnconfirmed)
			require.Equal(t, []string{"ap"}, receipt.Pending)
		}
		c.Net.HealAll()
		c.Settle()
		for _, n := range c.Nodes("eu") {
			_, err := n.Counters.Update(context.Background(), "hits", increment, geocache.WithAck(geocache.AckWorld))
			require.NoError(t, err)
		}
		for _, n := range c.Nodes() {
			require.Equal(t, 15, must(n.Counters.Get(context.Background(), "hits")), n.Name)
		}
	})
}

// The home region is not given up because the only node in sight has died.
func TestMechanismAnUpdateWaitsForAnotherGateway(t *testing.T) {
	testcluster.Run(t, gatewayConfig(1, "eu", "us"), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for range 3 {
			gone := elsewhere(c.Node("eu-1"))[0].ID
			c.Node(gone).Crash()
			for range 5 {
				_, err := c.Node("eu-1").Counters.Update(context.Background(), "hits", increment)
				if err != nil {
					require.ErrorIs(t, err, geocache.ErrUncertain)
				}
			}
			c.Node(gone).Restart(0)
			c.Settle()
		}
	})
}

// A third region has a key in memory, and the getters of two have failed already: it is asked for what it has, and
// its own getter is not called.
func TestMechanismAPeekIsForwarded(t *testing.T) {
	testcluster.Run(t, gatewayConfig(1, "ap", "eu", "us"), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.SetLatency("eu", "us", 200*time.Millisecond) // so that ap is asked first
		time.Sleep(10 * time.Second)
		for _, key := range keys(20) {
			c.Owner("us", key).MustGet(key)
		}
		c.Origin.Behave(testcluster.Failing(errors.New("down")))
		for _, key := range keys(20) {
			require.Contains(t, text(t, c.Owner("eu", key), key), "in us")
		}
		for _, key := range []string{"a", "b", "c"} {
			_, err := c.Owner("eu", key).Get(key)
			require.Error(t, err)
			require.Equal(t, 2, c.Origin.Loads(key))
		}
	})
}

// When a region joins that becomes the home of keys, it asks the others for their last values, which only the
// owners there know.
func TestMechanismARecallIsForwarded(t *testing.T) {
	config := gatewayConfig(1, "eu", "us")
	config.Home, config.LookAside, config.Hidden = "", true, []string{"us"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		count := func(n *testcluster.Node, key string) int {
			v, err := n.Counters.Update(context.Background(), key, increment)
			require.NoError(t, err)
			return v
		}
		for _, key := range keys(30) {
			require.Equal(t, 1, count(c.Node("eu-1"), key))
		}
		c.Directory.Show("eu", "us")
		c.Directory.Show("us", "eu")
		c.Settle()
		for _, key := range keys(30) {
			require.Equal(t, 2, count(c.Node("us-1"), key))
			require.Equal(t, 3, count(c.Node("eu-2"), key))
		}
	})
}

// A node of another region that dies is replaced by others, and nothing fails for longer than it takes to notice.
// A region that is away is noticed as soon, and so is that it is back.
func TestMechanismWatchedNodesAreReplaced(t *testing.T) {
	testcluster.Run(t, gatewayConfig(2, "eu", "us"), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Origin.Behave(testcluster.Failing(errors.New("down")), "eu")
		reader := c.Node("eu-1")
		mine := func(i int) (key string) {
			var not []string
			for range i + 1 {
				key = c.KeyOf(reader.Name, not...)
				not = append(not, key)
			}
			return key
		}
		for i := range 3 {
			first := elsewhere(reader)
			c.Node(first[0].ID).Crash()
			begun := time.Now()
			require.Contains(t, text(t, reader, mine(i)), "in us")
			require.Less(t, time.Since(begun), 2*time.Second)
			time.Sleep(4 * time.Second)
			up := slices.DeleteFunc(elsewhere(reader), func(p geocache.PeerStats) bool { return !p.Up })
			require.Len(t, up, 2)
			require.NotContains(t, up, first[0])
			c.Node(first[0].ID).Restart(0)
			c.Settle()
			require.Len(t, elsewhere(reader), 2)
		}

		c.Net.Cut("eu", "us")
		time.Sleep(time.Second)
		require.Zero(t, reader.Cache.Stats().Regions[1].Nodes)
		begun := time.Now()
		_, err := reader.Get(mine(4))
		require.Error(t, err)
		require.Less(t, time.Since(begun), time.Second)
		time.Sleep(time.Minute)
		require.Len(t, elsewhere(reader), 5, "all have been tried")
		c.Net.HealAll()
		c.Settle()
		require.Len(t, elsewhere(reader), 2)
		require.Contains(t, text(t, reader, mine(4)), "in us")
	})
}

// A region whose only node in sight is cut off from the others there has not confirmed what that one was sent.
func TestMechanismOneMinorityNodeIsNotItsRegion(t *testing.T) {
	testcluster.Run(t, gatewayConfig(1, "eu", "us"), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		writer := c.Node("eu-1")
		key := c.KeyOf(writer.Name)
		to := c.Node(elsewhere(writer)[0].ID)
		others := slices.DeleteFunc(c.Nodes("us"), func(n *testcluster.Node) bool { return n == to })
		for _, n := range others {
			n.MustGet(key)
			c.Net.Cut(to.Name, n.Name)
		}
		_, err := writer.Set(key, "written", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		for _, n := range others {
			require.Equal(t, "written", text(t, n, key), n.Name)
		}
	})
}
