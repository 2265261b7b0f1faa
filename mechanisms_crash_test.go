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

// This file tests what the death, the silence and the restart of a node cost the others. See
// mechanisms_writes_test.go.

// copiesAt returns those of the keys that a node has in memory and does not own.
func copiesAt(c *testcluster.Cluster, n *testcluster.Node, keys []string) (copies []string) {
	for _, key := range keys {
		if c.Owner("eu", key) != n && peekText(n, key) != "" {
			copies = append(copies, key)
		}
	}
	return copies
}

// readerWithCopies returns a node that has read all keys, and those that it holds copies of.
func readerWithCopies(c *testcluster.Cluster) (n *testcluster.Node, copies []string) {
	time.Sleep(untilLeased)
	n = c.Node("eu-4")
	all := keys(100)
	readAll(n, all)
	return n, copiesAt(c, n, all)
}

// servesNow returns how many of the keys a node can serve from memory.
func servesNow(n *testcluster.Node, keys []string) (count int) {
	for _, key := range keys {
		if peekText(n, key) != "" {
			count++
		}
	}
	return count
}

// A process that is killed costs the others no lease: its connections are reset and new ones refused, so its view
// ceases to count at once.
func TestMechanismAKilledNodeEndsNoLeases(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		reader, copies := readerWithCopies(c)
		require.Greater(t, len(copies), 50)
		c.Node("eu-1").Crash()
		for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
			for _, n := range c.Nodes() {
				require.True(t, n.Cache.Stats().ServesCopies, "%s after %v", n.Name, time.Since(begun))
			}
		}
		require.Equal(t, len(copies), servesNow(reader, copies))
		require.EqualValues(t, 1, reader.Cache.Stats().LeaseLosses)
	})
}

// One that falls silent may hold leases. It is given up, and its view forgotten, before the last leases end that the
// others have granted each other in the view with it.
func TestMechanismASilentNodeEndsNoLeases(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Node("eu-1").Freeze()
		for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
			for _, n := range c.Nodes()[1:] {
				require.True(t, n.Cache.Stats().ServesCopies, "%s after %v", n.Name, time.Since(begun))
			}
		}
	})
}

// A node that is cut off loses its lease. Its copies have stayed in memory when it is back, but for those whose keys
// were written meanwhile.
func TestMechanismCopiesOutliveALeaseLoss(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		reader, copies := readerWithCopies(c)
		cut := c.KeyOf("eu-2")
		reader.MustGet(cut)
		c.Net.Cut("eu-4", "eu")
		c.Settle()
		require.Zero(t, servesNow(reader, copies))
		_, err := c.Node("eu-2").Set(cut, "written")
		require.NoError(t, err)
		c.Net.HealAll()
		require.Eventually(t, func() bool { return reader.Cache.Stats().ServesCopies && !reader.Cache.Stats().Unconfirmed }, 20*time.Second, time.Millisecond)
		require.GreaterOrEqual(t, servesNow(reader, copies), len(copies)-1)
		require.NotEqual(t, "load 1 in eu", peekText(reader, cut))
	})
}

// What a node had told only some of the others when it was killed all of them know soon.
func TestMechanismWritesThatADeadNodeToldSome(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner, told, untold := c.Node("eu-1"), c.Node("eu-2"), c.Node("eu-3")
		key := c.KeyOf(owner.Name)
		untold.MustGet(key)
		told.MustGet(key)
		c.Net.CutOneWay(owner.Name, untold.Name)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		require.Error(t, owner.Group.Remove(ctx, key))
		require.Empty(t, peekText(told, key))
		require.NotEmpty(t, peekText(untold, key))
		owner.Crash()
		c.Net.HealAll()
		time.Sleep(500 * time.Millisecond)
		for _, n := range c.Nodes() {
			require.EqualValues(t, 1, n.Cache.Stats().LeaseLosses, n.Name)
		}
		require.Empty(t, peekText(untold, key))
	})
}

// A process does not know which leases an earlier one under its ID has granted. Its first writes wait for their end.
func TestMechanismARestartWithinALease(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 2}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		restarted, other := c.Node("eu-1"), c.Node("eu-2")
		key := c.KeyOf(restarted.Name)
		other.MustGet(key)
		c.Net.Cut(restarted.Name, other.Name)
		restarted.Crash()
		restarted.Restart(0, geocache.WithJoinWait(0))
		require.NotEmpty(t, peekText(other, key), "it still has its lease")
		_, err := restarted.Set(key, "written")
		require.NoError(t, err)
		require.Empty(t, peekText(other, key))
	})
}

// Requests for journals queue at whoever has them, and each brings what is lacking and little else: a region in which
// everybody lost its lease is back soon.
func TestJournalsOfManyNodes(t *testing.T) {
	const nodes, floors = 10, 500
	testcluster.Run(t, testcluster.Config{Nodes: nodes}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range floors {
			_, err := c.Node("eu-1").Set(fmt.Sprint(i), "written")
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Second)
		sent := func() (bytes uint64) {
			for _, n := range c.Nodes() {
				for _, p := range n.Cache.Stats().Peers {
					bytes += p.Traffic.BytesOut + p.Traffic.BytesIn
				}
			}
			return bytes
		}
		time.Sleep(5 * time.Second)
		before := sent()
		time.Sleep(5 * time.Second)
		idle := sent() - before

		before = sent()
		for _, n := range c.Nodes() {
			c.Net.Cut(n.Name, "eu")
		}
		time.Sleep(2 * time.Second)
		c.Net.HealAll()
		time.Sleep(3 * time.Second)
		for _, n := range c.Nodes() {
			require.True(t, n.Cache.Stats().ServesCopies)
			require.EqualValues(t, 2, n.Cache.Stats().LeaseLosses)
		}
		// Each asks each other with a digest of 80 narrow slices and one wide slice for each second of a minute.
		require.Less(t, sent()-before, idle+nodes*nodes*3000)
	})
}
