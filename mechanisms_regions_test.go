package geocache_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/internal/testcluster/network/mangle"
)

// This file tests what brings writes to other regions, and which value wins there. See
// mechanisms_writes_test.go.

// The tie-break: two Sets with the same generation end with the same value everywhere.
func TestMechanismTieBreak(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		ties := 0
		for i := range 20 {
			key := fmt.Sprint(i)
			var written sync.Map
			var writing sync.WaitGroup
			for _, region := range []string{"eu", "us"} {
				writing.Go(func() {
					w, err := c.Owner(region, key).Set(key, region)
					require.NoError(t, err)
					written.Store(w.Generation, region)
				})
			}
			writing.Wait()
			stamps := 0
			written.Range(func(any, any) bool { stamps++; return true })
			ties += 2 - stamps
			time.Sleep(time.Second)
			want := text(t, c.Node("eu-1"), key)
			for _, n := range c.Nodes() {
				require.Equal(t, want, text(t, n, key), n.Name)
			}
		}
		require.NotZero(t, ties)
	})
}

// Age: a value does not live longer because it was in transit, or waited to be sent.
func TestMechanismValuesAgeInTransit(t *testing.T) {
	const life, way = 10 * time.Second, 2 * time.Second
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		check := func(key string, begun time.Time) {
			for _, n := range c.Nodes("us") {
				item := n.MustGet(key)
				v, _ := testcluster.ParseValue(item.Value)
				require.Equal(t, "written", v.By)
				require.LessOrEqual(t, item.Expires.Sub(begun), life+time.Millisecond, n.Name)
			}
		}
		c.Net.Cut("eu", "us")
		begun := time.Now()
		_, err := c.Node("eu-1").Set("waited", "written", geocache.WithItemTTL(life))
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		c.Net.HealAll()
		time.Sleep(4 * time.Second)
		check("waited", begun)

		c.Net.SetLatency("eu", "us", way)
		begun = time.Now()
		_, err = c.Node("eu-1").Set("travelled", "written", geocache.WithItemTTL(life))
		require.NoError(t, err)
		time.Sleep(way + 100*time.Millisecond)
		check("travelled", begun)
	})
}

// Maybe older: what was loaded before a write loses to it, although the clock that stamped the load
// is ahead.
func TestMechanismLoadByAFastClock(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Offset: func(node string) time.Duration {
		if node[:2] == "us" {
			return 200 * time.Millisecond
		}
		return 0
	}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		time.Sleep(untilLeased)
		for i := range 30 {
			key := fmt.Sprint(i)
			for _, n := range c.Nodes("us") {
				n.MustGet(key)
			}
			time.Sleep(time.Millisecond)
			_, err := c.Node("eu-1").Set(key, "written")
			require.NoError(t, err)
			time.Sleep(60 * time.Millisecond)
			for _, n := range c.Nodes("us") {
				require.Equal(t, "written", text(t, n, key), n.Name)
			}
		}
	})
}

// Anti-entropy: a write in the outbox of a node that dies after it has ceased to own the key is
// nobody else's to send.
func TestMechanismAntiEntropy(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2, TTL: 10 * time.Minute}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		var keys []string
		for i := range 60 {
			if key := fmt.Sprint(i); c.Owner("eu", key).Name == "eu-1" {
				keys = append(keys, key)
				for _, n := range c.Nodes("us") {
					n.MustGet(key)
				}
			}
		}
		c.Net.Cut("eu", "us")
		time.Sleep(2 * time.Second)
		for _, key := range keys {
			_, err := c.Node("eu-2").Remove(key)
			require.NoError(t, err)
		}
		c.Add("eu")
		c.Settle()
		require.NotEqual(t, len(keys), 0)
		var moved []string
		for _, key := range keys {
			if c.Owner("eu", key).Name == "eu-3" {
				moved = append(moved, key)
			}
		}
		require.NotEmpty(t, moved)
		c.Node("eu-1").Crash()
		c.Settle()
		c.Net.HealAll()
		time.Sleep(30 * time.Second)
		for _, key := range moved {
			for _, n := range c.Nodes("us") {
				require.NotEqual(t, "load 1 in us", text(t, n, key), n.Name)
			}
		}
	})
}

// Resending: regions agree although messages are lost.
func TestMechanismLostMessagesAreResent(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2, TTL: 10 * time.Minute,
		Mangle: mangle.Rates{Lose: 1e-12}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Mangler.Set(mangle.Rates{Lose: 1})
		var writing sync.WaitGroup
		begun := time.Now()
		for i := range 20 {
			key := fmt.Sprint(i)
			writing.Go(func() {
				_, err := c.Owner("eu", key).Set(key, "written", geocache.WithItemTTL(20*time.Second))
				require.NoError(t, err)
			})
		}
		time.Sleep(300 * time.Millisecond)
		c.Mangler.Set(mangle.Rates{})
		writing.Wait()
		require.Less(t, time.Since(begun), time.Second)
		time.Sleep(3 * time.Second)
		for i := range 20 {
			for _, n := range c.Nodes() {
				item := n.MustGet(fmt.Sprint(i))
				v, _ := testcluster.ParseValue(item.Value)
				require.Equal(t, "written", v.By, n.Name)
				require.LessOrEqual(t, item.Expires.Sub(begun), 20*time.Second+time.Millisecond, n.Name)
			}
		}
	})
}
