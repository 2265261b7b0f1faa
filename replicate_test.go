package geocache_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// A region comes to be known while a Set waits for all regions. It has not been told, and is not among
// those that have confirmed; soon it has it.
func TestARegionThatComesWhileTheWorldIsWaitedFor(t *testing.T) {
	directory := newLists()
	known, all := nodesOf("eu-1", "us-1"), nodesOf("ap-1", "eu-1", "us-1")
	for _, n := range known {
		directory.tell(n.ID, known...)
	}
	directory.tell("ap-1", all...)
	config := testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 1, TTL: 10 * time.Minute, Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		c.Net.Cut("eu", "us")
		c.Node("ap-1").MustGet("ada")
		type result struct {
			geocache.Receipt
			err error
		}
		set := make(chan result, 1)
		go func() {
			w, err := c.Node("eu-1").Set("ada", "written", geocache.WithAck(geocache.AckWorld))
			set <- result{w, err}
		}()
		time.Sleep(time.Second)
		directory.tell("eu-1", all...)
		time.Sleep(100 * time.Millisecond)
		c.Net.HealAll()
		r := <-set
		require.NoError(t, r.err)
		require.Equal(t, []string{"eu", "us"}, r.Confirmed)
		time.Sleep(time.Second)
		require.Equal(t, "written", text(t, c.Node("ap-1"), "ada"))

		// From now on it is waited for.
		c.Net.Cut("eu", "ap")
		w, err := c.Node("eu-1").Set("ada", "again", geocache.WithAck(geocache.AckWorld))
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)
		require.Equal(t, []string{"ap"}, w.Pending)
	})
}

// The node whose user waits knows the new region, and the key's owner does not: what the owner has
// still to send it has not been confirmed.
func TestARegionThatTheOwnerHearsOfLater(t *testing.T) {
	directory := newLists()
	known, all := nodesOf("eu-1", "eu-2"), nodesOf("ap-1", "eu-1", "eu-2")
	for _, n := range known {
		directory.tell(n.ID, known...)
	}
	directory.tell("ap-1", all...)
	config := testcluster.Config{Regions: []string{"ap", "eu"}, Nodes: 1, TTL: 10 * time.Minute, Cache: []geocache.Option{geocache.WithDiscovery(directory)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Add("eu")
		time.Sleep(standing)
		key := c.KeyOf("eu-2")
		c.Node("ap-1").MustGet(key)
		c.Net.CutOneWay("eu-1", "eu-2") // so that eu-2 is not told of the region by eu-1
		directory.tell("eu-1", all...)
		time.AfterFunc(2*time.Second, func() {
			c.Net.HealAll()
			directory.tell("eu-2", all...)
		})
		w, err := c.Node("eu-1").Set(key, "written", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, []string{"eu", "ap"}, w.Confirmed)
		require.Equal(t, "written", text(t, c.Node("ap-1"), key))
	})
}
