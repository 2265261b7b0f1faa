package geocache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestCloseHandsEntriesToTheirNextOwners(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		leaving := c.Node("eu-2")
		for i := range 300 {
			leaving.MustGet(fmt.Sprint(i))
		}
		leaving.Close()
		for i := range 300 {
			require.Equal(t, "load 1 in eu", text(t, c.Node("eu-1"), fmt.Sprint(i)))
		}
		c.Settle()
		for i := range 300 {
			for _, n := range c.Nodes() {
				require.Equal(t, "load 1 in eu", text(t, n, fmt.Sprint(i)), "%s has %d", n.Name, i)
			}
		}
		require.Equal(t, 300, c.Origin.Total())
	})
}

// A next owner that hangs loses what it is given, and nobody waits for it for long.
func TestCloseDoesNotWaitForAHungNextOwner(t *testing.T) {
	for seed := range uint64(6) { // in different orders
		testcluster.Run(t, testcluster.Config{Nodes: 4, Seed: seed}, func(c *testcluster.Cluster) {
			time.Sleep(untilLeased)
			leaving := c.Node("eu-2")
			var keys []string // those it owns whose next owner is not the one that hangs
			for i := range 400 {
				key := fmt.Sprint(i)
				leaving.MustGet(key)
				if i%2 == 0 {
					leaving.MustGet(key)
				}
				if at := leaving.Group.Locate(key)[0]; at.Owner.ID == "eu-2" && at.Successor.ID != "eu-3" {
					keys = append(keys, key)
				}
			}
			c.Node("eu-3").Freeze()
			begun := time.Now()
			require.NoError(t, leaving.Cache.Close())
			require.Less(t, time.Since(begun), 8*time.Second)
			time.Sleep(2 * time.Second)
			handedOver := 0
			for _, key := range keys {
				if _, ok := c.Owner("eu", key).Group.Peek(key); ok {
					handedOver++
				}
			}
			require.Equal(t, len(keys), handedOver)
		})
	}
}

// What is handed over was loaded or set earlier. A write since then is newer.
func TestHandedOverEntryDoesNotBeatAWrite(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 200 {
			c.Node("eu-1").MustGet(fmt.Sprint(i))
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 200 {
				value := testcluster.Value{Key: fmt.Sprint(i), Begun: c.Now(), By: "written"}
				require.NoError(t, c.Node("eu-1").Group.Set(context.Background(), value.Key, value.String()))
			}
		}()
		c.Node("eu-2").Close()
		<-done
		c.Settle()
		for i := range 200 {
			for _, n := range c.Nodes() {
				require.Equal(t, "written", text(t, n, fmt.Sprint(i)), n.Name)
			}
		}
	})
}

func TestCloseFinishesLoads(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(time.Second))
		key := c.KeyOf("eu-1")
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if _, err := c.Node("eu-2").Get(key); err != nil {
					t.Errorf("%v", err)
				}
			})
		}
		time.Sleep(500 * time.Millisecond)
		c.Node("eu-1").Close() // while it loads
		wg.Wait()
		require.Equal(t, 1, c.Origin.Loads(key), "the load in progress was finished")

		_, err := c.Node("eu-1").Get("other")
		require.ErrorIs(t, err, geocache.ErrClosed)
		require.False(t, strings.Contains(c.Log(), "level=ERROR"), c.Log())
	})
}
