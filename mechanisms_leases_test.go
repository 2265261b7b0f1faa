package geocache_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// The tests of what a node serves only while it is told of writes. See mechanisms_writes_test.go.
//
// To be left out of a write while its lease runs, or without noticing that it has run out, a node
// must not be seen by the writer, and see it: then it goes on taking the writer for the owner.
// That is what Reject does.

// unsee has n lose sight of other, which still sees n.
func unsee(n, other *testcluster.Node) {
	nodes := func() int { return n.Cache.Stats().Regions[0].Nodes }
	before := nodes()
	n.Reject(other.Name)
	for nodes() == before {
		time.Sleep(time.Millisecond)
	}
}

// peeked returns what the text is of the value that a node has in memory; "" if it has none.
func peeked(n *testcluster.Node, key string) string {
	value, _ := n.Group.Peek(key)
	v, _ := testcluster.ParseValue(value)
	return v.By
}

// Settling: the leases that the writer itself has granted. In a view of its own there is nobody
// else who could tell of them.
func TestMechanismAWriteWaitsForTheLeasesOfItsOwner(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 2}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		writer, unseen := c.Node("eu-1"), c.Node("eu-2")
		key := c.KeyOf(writer.Name)
		unseen.MustGet(key)
		unsee(writer, unseen)
		require.Equal(t, "load 1 in eu", peeked(unseen, key), "it has a lease yet")
		_, err := writer.Set(key, "written")
		require.NoError(t, err)
		require.Empty(t, peeked(unseen, key))
		require.Equal(t, "written", text(t, unseen, key))
	})
}

// A node that acts as the owner does not answer from a copy when it has no lease: in the other part
// of the region the key may have been written since.
func TestMechanismACopyIsNoOwnersEntry(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		owner, cut := c.Node("eu-1"), c.Node("eu-3")
		key := c.KeyOf(owner.Name)
		cut.MustGet(key)
		c.Net.Cut(cut.Name, "eu")
		c.Settle()
		_, err := owner.Set(key, "written")
		require.NoError(t, err)
		require.Equal(t, cut.Name, cut.Group.Locate(key)[0].Owner.ID, "it sees nobody else")
		require.Equal(t, "load 2 in eu", text(t, cut, key))
	})
}

// Reclassing, when the view changes: what a node has owned it serves under a lease only once the
// key has another owner.
func TestMechanismAFormerOwnerNeedsALease(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		former := c.Node("eu-1")
		var owned []string
		for len(owned) < 40 {
			owned = append(owned, c.KeyOf(former.Name, owned...))
			former.MustGet(owned[len(owned)-1])
		}
		owner := c.Add("eu")
		c.Settle()
		moved := ""
		for _, key := range owned {
			if c.Owner("eu", key) == owner {
				moved = key
			}
		}
		require.NotEmpty(t, moved)
		require.Equal(t, "load 1 in eu", peeked(former, moved), "it has a lease")
		unsee(owner, former)
		_, err := owner.Set(moved, "written")
		require.NoError(t, err)
		require.Empty(t, peeked(former, moved))
		require.Equal(t, "written", text(t, former, moved))
	})
}

// Reclassing, when a group has synced: what a node that has just come was asked for as the owner is
// its own from then on. So it hands it over when it leaves.
func TestMechanismANodeOwnsWhatItGotBeforeItHadSynced(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		unsee(c.Node("eu-3"), c.Node("eu-2")) // while views differ nobody has a lease, and nobody syncs
		newcomer := c.Add("eu")
		c.Settle()
		key := c.KeyOf(newcomer.Name)
		c.Node("eu-1").MustGet(key)
		require.Equal(t, 1, c.Origin.Loads(key))
		require.Empty(t, peeked(newcomer, key), "it is there, and may not be served here yet")

		c.Node("eu-3").Admit("eu-2")
		c.Settle()
		require.Equal(t, "load 1 in eu", peeked(newcomer, key))
		newcomer.Close()
		c.Settle()
		for _, n := range c.Nodes() {
			require.Equal(t, "load 1 in eu", text(t, n, key), n.Name)
		}
		require.Equal(t, 1, c.Origin.Loads(key))
	})
}

// The period of a lease: a copy that was asked for before a lapse is not kept after it. What it has
// missed meanwhile need not be in the journals: a late write, with a lower stamp than that of one
// before it, is not. See clocks_test.go.
func TestMechanismACopyThatWasAskedForBeforeALapse(t *testing.T) {
	testcluster.Run(t, fastUS(3), func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 100*time.Millisecond)
		time.Sleep(standing)
		owner, reader := c.Node("us-1"), c.Node("us-2")
		key, other := c.KeyOf(owner.Name), c.KeyOf("us-3")
		reader.MustGet(other)
		_, err := owner.Remove(key) // by a clock that is ahead
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
		c.Origin.Behave(testcluster.After(6*time.Second), "us")
		var work sync.WaitGroup
		work.Go(func() { require.Equal(t, "load 1 in us", text(t, reader, key)) })
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 1, c.Origin.Running(), "the owner loads for the reader")

		removed := time.Now()
		work.Go(func() {
			time.Sleep(time.Millisecond) // before eu has heard of the first
			_, err := c.Owner("eu", key).Remove(key, geocache.WithAck(geocache.AckWorld))
			require.NoError(t, err)
			require.Equal(t, 1, c.Origin.Running())
			owner.Admit(reader.Name)
			for {
				reader.MustGet(other)
				if peeked(reader, other) != "" { // it has a lease again
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			require.Equal(t, 1, c.Origin.Running())
		})
		unsee(owner, reader)
		work.Wait()
		c.Origin.Behave(nil)
		for _, n := range c.Nodes("us") {
			v, ok := testcluster.ParseValue(n.MustGet(key).Value)
			require.True(t, ok)
			require.True(t, v.Begun.After(removed), "%s has what was loaded before the Remove", n.Name)
		}
	})
}
