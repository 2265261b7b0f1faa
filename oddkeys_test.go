package geocache_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests that keys, tags and prefixes may consist of any bytes, and none is taken for
// another.

// A node that learns first of the removal of a prefix, and then of the earlier removal of a tag,
// drops what bears the tag, whatever the prefix is: a prefix covers keys, not tags.
func TestPrefixRemovalCoversNoTags(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, TTL: 5 * time.Minute}
	for _, prefix := range []string{"\xff", "\xfft", "\xffp", "x"} {
		t.Run(fmt.Sprintf("%q", prefix), func(t *testing.T) {
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "us", 200*time.Millisecond)
				time.Sleep(untilLeased)
				away := c.Node("eu-3")
				key := c.KeyOf("eu-3")
				away.MustGet(key)
				time.Sleep(2 * time.Second)
				c.Net.Cut("eu", "us")
				for _, other := range []string{"eu-1", "eu-2", "us"} {
					c.Net.Cut("eu-3", other)
				}
				time.Sleep(untilLeased)
				require.NoError(t, c.Node("us-1").Group.RemoveTag(context.Background(), "origin"))
				removed := c.Now()
				time.Sleep(2 * time.Second)
				require.NoError(t, c.Node("eu-1").Group.RemovePrefix(context.Background(), prefix))
				c.Net.Heal("eu", "us") // the tag's removal reaches eu-1 after that of the prefix
				time.Sleep(10 * time.Second)
				c.Net.HealAll()
				time.Sleep(time.Minute)
				v, _ := testcluster.ParseValue(away.MustGet(key).Value)
				require.True(t, v.Begun.After(removed), "loaded %v before its tag was removed", removed.Sub(v.Begun))
			})
		})
	}
}

// A write to a key that looks like a tag or a prefix concerns that key alone, and the removal of
// the tag or prefix leaves the key alone.
func TestKeysThatLookLikeTagsOrPrefixes(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, TTL: 5 * time.Minute}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		ctx, world := context.Background(), geocache.WithAck(geocache.AckWorld)
		everywhere := func(key, want string) {
			t.Helper()
			for _, n := range c.Nodes() {
				require.Contains(t, text(t, n, key), want, "%q at %s", key, n.Name)
			}
		}
		keys := []string{"\xff", "\xfft", "\xfftorigin", "\xffporigin", "\xffk\xfftorigin", "ada", "origin"}
		for i, key := range keys {
			everywhere("bob", "load")
			loads := c.Origin.Total()
			n := c.Nodes()[i%6]
			_, err := n.Set(key, "set", world)
			require.NoError(t, err)
			everywhere(key, "set")
			_, err = n.Remove(key, world)
			require.NoError(t, err)
			_, err = n.Set(key, "again", world)
			require.NoError(t, err)
			everywhere(key, "again")
			everywhere("bob", "load")
			require.Equal(t, loads, c.Origin.Total(), "entries with the tag %q must stay", "origin")
		}
		// The keys bear no tags, and begin with none of these prefixes.
		for _, remove := range []func(n *testcluster.Node) error{
			func(n *testcluster.Node) error {
				return n.Group.RemoveTag(ctx, "origin", geocache.WithAck(geocache.AckWorld))
			},
			func(n *testcluster.Node) error {
				return n.Group.RemoveTag(ctx, "\xfftorigin", geocache.WithAck(geocache.AckWorld))
			},
			func(n *testcluster.Node) error {
				return n.Group.RemovePrefix(ctx, "o", geocache.WithAck(geocache.AckWorld))
			},
			func(n *testcluster.Node) error {
				return n.Group.RemovePrefix(ctx, "t", geocache.WithAck(geocache.AckWorld))
			},
		} {
			time.Sleep(2 * time.Second)
			require.NoError(t, remove(c.Node("us-2")))
		}
		for _, key := range keys[:len(keys)-1] {
			everywhere(key, "again")
		}
		everywhere("origin", "load")
		loads := c.Origin.Total()
		require.NoError(t, c.Node("us-2").Group.RemovePrefix(ctx, "\xff", world))
		for i, key := range keys[:5] {
			everywhere(key, "load")
			require.Equal(t, loads+2*(i+1), c.Origin.Total(), "once in each region")
		}
		everywhere("ada", "again")
		everywhere("origin", "load")
		require.Equal(t, loads+10, c.Origin.Total())
	})
}

// A write of a key that looks like a tag is queued for the origin. The removal of the tag takes it
// from neither the owner nor its successor.
func TestQueuedWriteOfAKeyThatLooksLikeATag(t *testing.T) {
	const key = "\xfftred"
	var mu sync.Mutex
	var stored []string
	var down atomic.Bool
	down.Store(true)
	config := testcluster.Config{TTL: 5 * time.Minute, Group: []geocache.GroupOption{
		geocache.WithWriteBehind(1 << 20),
		geocache.WithSetter(func(ctx context.Context, key, v string) error {
			if down.Load() {
				return errDatabase
			}
			mu.Lock()
			defer mu.Unlock()
			value, _ := testcluster.ParseValue(v)
			stored = append(stored, value.By)
			return nil
		}),
		geocache.WithRemover(func(context.Context, string) error { return errDatabase }),
	}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Owner("eu", key)
		_, err := owner.Set(key, "set")
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		require.NoError(t, owner.Group.RemoveTag(context.Background(), "red"))
		require.Equal(t, "set", text(t, owner, key))
		owner.Crash()
		down.Store(false)
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		require.Contains(t, stored, "set")
	})
}
