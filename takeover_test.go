package geocache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests what happens to writes that a node has not sent to other regions, or has not
// finished, when it dies.

// keysOwnedBy returns some keys that a node owns, after reading them at all nodes of a region.
func keysOwnedBy(c *testcluster.Cluster, node, readIn string) (keys []string) {
	for i := range 60 {
		if key := fmt.Sprint(i); c.Owner(node[:2], key).Name == node {
			keys = append(keys, key)
			for _, n := range c.Nodes(readIn) {
				n.MustGet(key)
			}
		}
	}
	require.NotEmpty(c.T, keys)
	return keys
}

// healAndReconnect ends all cuts, and returns shortly after all nodes have connected again: too
// soon for them to have compared their floors.
func healAndReconnect(c *testcluster.Cluster) {
	c.Net.HealAll()
	for again := true; again; {
		time.Sleep(50 * time.Millisecond)
		again = false
		for _, n := range c.Nodes() {
			up := 0
			for _, p := range n.Cache.Stats().Peers {
				if p.Up {
					up++
				}
			}
			again = again || up < len(c.Nodes())-1
		}
	}
	time.Sleep(300 * time.Millisecond)
}

func requireText(c *testcluster.Cluster, want string, keys []string, regions ...string) {
	c.T.Helper()
	for _, key := range keys {
		for _, n := range c.Nodes(regions...) {
			require.Equal(c.T, want, text(c.T, n, key), "%s at %s", key, n.Name)
		}
	}
}

func requireNotText(c *testcluster.Cluster, old string, keys []string, regions ...string) {
	c.T.Helper()
	for _, key := range keys {
		for _, n := range c.Nodes(regions...) {
			require.NotEqual(c.T, old, text(c.T, n, key), "%s at %s", key, n.Name)
		}
	}
}

// A node writes, another one takes over its keys, and the first dies, all while the other region is
// cut off. The new owner then sends what the first has not.
func TestWritesUnsentByAFormerOwner(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, TTL: 175 * time.Second}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		keys := keysOwnedBy(c, "eu-1", "us")
		c.Net.Cut("eu", "us")
		time.Sleep(time.Second)
		for _, key := range keys {
			_, err := c.Node("eu-1").Set(key, "written")
			require.NoError(t, err)
		}
		c.Add("eu")
		c.Settle()
		c.Node("eu-1").Crash()
		time.Sleep(120 * time.Second)
		healAndReconnect(c)
		requireNotText(c, "load 1 in us", keys, "us")
	})
}

// The same, but the dead node is restarted under its ID before anybody has noticed.
func TestWritesUnsentBeforeARestart(t *testing.T) {
	// whether the group is opened before the others are found
	for _, wait := range []time.Duration{0, 5 * time.Second} {
		config := testcluster.Config{Regions: []string{"eu", "us"}, TTL: 175 * time.Second}
		testcluster.Run(t, config, func(c *testcluster.Cluster) {
			c.Add("eu", geocache.WithJoinWait(wait))
			time.Sleep(untilLeased)
			keys := keysOwnedBy(c, "eu-4", "us")
			c.Net.Cut("eu", "us")
			time.Sleep(time.Second)
			for _, key := range keys {
				_, err := c.Node("eu-4").Remove(key)
				require.NoError(t, err)
			}
			c.Node("eu-4").Crash()
			c.Node("eu-4").Restart(0)
			time.Sleep(10 * time.Second)
			healAndReconnect(c)
			requireNotText(c, "load 1 in us", keys, "us")
		})
	}
}

// A region that is lost has told one of two others of a write. Anti-entropy brings it to the other
// one, as long as an older value may live there.
func TestAntiEntropyBetweenThirdRegions(t *testing.T) {
	const ttl = 175 * time.Second
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 1, TTL: ttl}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.Cut("us", "eu")
		c.Net.Cut("us", "ap")
		time.Sleep(2 * time.Second)
		_, err := c.Node("eu-1").Set("ada", "written", geocache.WithItemTTL(time.Second))
		require.NoError(t, err)
		c.Node("us-1").MustGet("ada") // after the write, which us does not know of
		time.Sleep(time.Second)
		c.Node("eu-1").Crash()
		time.Sleep(ttl - 30*time.Second)
		c.Net.Heal("us", "ap")
		time.Sleep(15 * time.Second)
		w := c.Node("us-1").Group.Stats().Floors
		require.NotZero(t, w, "the floor must have arrived")
	})
}

// The members of a region have its floors, and send them in place of a node that died before it had
// sent them.
func TestWritesUnsentByADeadNode(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 3}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 60 {
			for _, n := range append(c.Nodes("eu"), c.Nodes("us")...) {
				n.MustGet(fmt.Sprint(i))
			}
		}
		c.Net.Cut("eu", "us")
		time.Sleep(2 * time.Second)
		for i := range 60 {
			_, err := c.Node("eu-1").Set(fmt.Sprint(i), "written")
			require.NoError(t, err)
		}
		c.Node("eu-2").Crash()
		c.Net.HealAll()
		time.Sleep(5 * time.Second)
		for i := range 60 {
			for _, n := range c.Nodes("us") {
				require.Equal(t, "written", text(t, n, fmt.Sprint(i)), "%s of %d, whose owner was %s", n.Name, i,
					c.Owner("eu", fmt.Sprint(i)).Name)
			}
		}
	})
}

// A node dies before it has told another region of the removal of a tag or prefix. The new owner of
// the tag or prefix then sends it, as such.
func TestTagOrPrefixRemovalUnsentByADeadNode(t *testing.T) {
	scopes := map[string]expiry.Subject{"tag": expiry.Tag("origin"), "prefix": expiry.Prefix("a")}
	for name, scope := range scopes {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
				for _, n := range c.Nodes() {
					n.MustGet("ada")
				}
				time.Sleep(2 * time.Second)
				owner := c.Owner("eu", string(scope))
				c.Net.Cut(owner.Name, "us")
				if name == "tag" {
					require.NoError(t, owner.Group.RemoveTag(context.Background(), "origin"))
				} else {
					require.NoError(t, owner.Group.RemovePrefix(context.Background(), "a"))
				}
				removed := c.Now()
				owner.Crash()
				time.Sleep(2500 * time.Millisecond) // too early for anti-entropy
				for _, n := range c.Nodes() {
					v, _ := testcluster.ParseValue(n.MustGet("ada").Value)
					require.True(t, v.Begun.After(removed), "at %s: loaded %v before", n.Name, removed.Sub(v.Begun))
				}
			})
		})
	}
}
