package geocache_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests how the owners of keys tell their region of writes. internal/engine/courier_test.go has
// the details.

// keysOf returns n keys that a node owns.
func keysOf(c *testcluster.Cluster, owner *testcluster.Node, n int) (keys []string) {
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprint("key-", i); c.Owner(owner.Region, key) == owner {
			keys = append(keys, key)
		}
	}
	return keys
}

// What gathers while messages are under way shares the next ones. A lone write waits for nothing.
func TestMechanismBroadcastsShareMessages(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		const there = 5 * time.Millisecond
		c.Net.SetLatency("eu", "eu", there)
		owner := c.Node("eu-1")
		keys := keysOf(c, owner, 100)
		sent := func() (requests uint64) {
			for _, p := range owner.Cache.Stats().Peers {
				requests += p.Requests
			}
			return requests
		}
		set := func(key string) {
			_, err := owner.Set(key, "written")
			require.NoError(t, err)
		}
		for _, key := range keys[:3] {
			before, begun := sent(), time.Now()
			set(key)
			require.Equal(t, 2*there, time.Since(begun))
			require.EqualValues(t, 3, sent()-before, "one to each other node")
		}
		before, begun := sent(), time.Now()
		var setting sync.WaitGroup
		for _, key := range keys {
			setting.Go(func() { set(key) })
		}
		setting.Wait()
		require.LessOrEqual(t, time.Since(begun), 4*there, "two rounds")
		require.LessOrEqual(t, sent()-before, uint64(2*3))
		for _, n := range c.Nodes() {
			for _, key := range keys {
				n.MustGet(key)
			}
		}
	})
}

// A node that does not answer keeps nobody from hearing of later writes, although no write is complete
// without it.
func TestMechanismASlowNodeHoldsUpNoOther(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner, slow := c.Node("eu-1"), c.Node("eu-4")
		first := keyOwnedAndSucceededBy(owner, owner.Name, "eu-2")
		keys := keysOf(c, owner, 20)
		readers := []*testcluster.Node{c.Node("eu-2"), c.Node("eu-3")}
		for _, n := range readers {
			for _, key := range keys {
				n.MustGet(key)
			}
		}
		slow.Freeze()
		set := func(key string) {
			_, err := owner.Set(key, "written", geocache.WithAck(geocache.AckOwner))
			require.NoError(t, err)
		}
		set(first)
		for _, key := range keys {
			time.Sleep(time.Millisecond)
			set(key)
		}
		time.Sleep(200 * time.Millisecond) // half a lease has not passed, let alone a whole one
		for _, n := range readers {
			for _, key := range keys {
				if v, ok := n.Group.Peek(key); ok {
					parsed, _ := testcluster.ParseValue(v)
					require.Equal(t, "written", parsed.By, "%s at %s", key, n.Name)
				}
			}
		}
		slow.Thaw()
		c.Settle()
		for _, n := range c.Nodes() {
			for _, key := range keys {
				require.Equal(t, "written", text(t, n, key), "%s at %s", key, n.Name)
			}
		}
	})
}
