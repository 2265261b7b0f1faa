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

// What a guest of its region must not do because nobody tells it of writes.

// A guest's read does not share what another one began to ask for before a write.
func TestAGuestSharesNoFlight(t *testing.T) {
	asGuest(t, testcluster.Config{}, func(c *testcluster.Cluster, guest *testcluster.Node) {
		c.Origin.Behave(testcluster.After(500 * time.Millisecond))
		ctx := context.Background()
		one := func(key string) (string, error) { return guest.Group.Get(ctx, key) }
		many := func(key string) (string, error) {
			values, err := guest.Group.GetMany(ctx, []string{key, "other"})
			return values[key], err
		}
		for key, get := range map[string]func(string) (string, error){"one": one, "of many": many} {
			go get(key)
			time.Sleep(100 * time.Millisecond)
			version := c.Origin.Put(key, "a test")
			_, err := c.Node("eu-1").Remove(key)
			require.NoError(t, err)
			got, err := get(key)
			require.NoError(t, err)
			v, _ := testcluster.ParseValue(got)
			require.Equal(t, version, v.Version(), key)
		}
	})
}

// A guest that is cut off is alone for a while. What it did not know then is not held against the
// others' values.
func TestAGuestThatWasAloneMakesNothingDead(t *testing.T) {
	config := testcluster.Config{Counters: true, LookAside: true}
	asGuest(t, config, func(c *testcluster.Cluster, guest *testcluster.Node) {
		for _, key := range keys(30) {
			_, err := geocache.Increment(context.Background(), c.Node("eu-1").Counters, key, 1)
			require.NoError(t, err)
		}
		c.Net.Cut(guest.Name, "eu-1")
		c.Net.Cut(guest.Name, "eu-2")
		time.Sleep(5 * time.Second)
		require.False(t, guest.Cache.Stats().Guest)
		c.Directory.Relist(guest.Name)
		time.Sleep(time.Second)
		c.Net.HealAll()
		time.Sleep(5 * time.Second)
		for _, n := range c.Nodes() {
			require.Equal(t, 3, n.Cache.Stats().Regions[0].Nodes, n.Name)
			for _, key := range keys(30) {
				count, err := geocache.Increment(context.Background(), n.Counters, key, 0)
				require.NoError(t, err)
				require.Equal(t, 1, count, "%s at %s", key, n.Name)
			}
		}
	})
}

// Nodes that become guests at the same time may hand what they own to each other.
func TestGuestsThatStepAsideTogether(t *testing.T) {
	config := testcluster.Config{
		Nodes: 4, Counters: true, LookAside: true, TTL: time.Hour,
		Cache: []geocache.Option{geocache.WithGrace(unlistedGrace)},
	}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for _, key := range keys(200) {
			_, err := geocache.Increment(context.Background(), c.Node("eu-1").Counters, key, 1)
			require.NoError(t, err)
		}
		for _, name := range []string{"eu-2", "eu-3", "eu-4"} {
			c.Directory.Unlist(name)
		}
		time.Sleep(unlistedGrace + 5*time.Second)
		require.Equal(t, 1, c.Node("eu-1").Cache.Stats().Regions[0].Nodes)
		for _, key := range keys(200) {
			count, err := geocache.Increment(context.Background(), c.Node("eu-3").Counters, key, 1)
			require.NoError(t, err)
			require.Equal(t, 2, count, key)
		}
	})
}

// When the last node dies that was no guest, its guests all come back at once, and each is alone at
// first. What one of them writes then all of them know.
func TestGuestsThatComeBackTogether(t *testing.T) {
	config := testcluster.Config{Counters: true, LookAside: true}
	asGuest(t, config, func(c *testcluster.Cluster, guest *testcluster.Node) {
		c.Net.SetLatency("eu", "eu", 20*time.Millisecond)
		c.Directory.Unlist("eu-2")
		time.Sleep(unlistedGrace + 5*time.Second)
		last, other := c.Node("eu-1"), c.Node("eu-2")
		last.Crash()
		time.Sleep(5 * time.Second)
		last.Restart(0) // and does not know of the guests: they ask it, and it does not ask them
		time.Sleep(5 * time.Second)
		require.True(t, guest.Cache.Stats().Guest)
		require.True(t, other.Cache.Stats().Guest)

		last.Crash()
		count := counting([]*geocache.Group[int]{guest.Counters, other.Counters}, 20, 7*time.Millisecond)
		ctx := context.Background()
		for n := range 60 {
			for _, key := range keys(10) {
				_, _ = guest.Group.Get(ctx, key)
				began := c.Now()
				require.NoError(t, other.Group.Set(ctx, key, fmt.Sprint(n)))
				require.LessOrEqual(t, c.Now().Sub(began), 2*lease)
				got, err := guest.Group.Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(n), got)
			}
			time.Sleep(5 * time.Millisecond)
		}
		least, most := count()
		for _, n := range []*testcluster.Node{guest, other} {
			require.False(t, n.Cache.Stats().Guest)
			requireCounts(c.T, n.Counters, least, most)
		}
	})
}
