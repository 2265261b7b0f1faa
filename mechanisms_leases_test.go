package geocache_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/regions"
)

// This file tests what a node serves only while it has a lease, and who may own keys. See
// mechanisms_writes_test.go.
//
// To be left out of a write while its lease runs, or without noticing that it has expired, a node
// must see the writer without being seen by it: then it still takes the writer for the owner. That
// is what Reject does.

// loseSightOf has n lose sight of other, which still sees n.
func loseSightOf(n, other *testcluster.Node) {
	nodes := func() int { return n.Cache.Stats().Regions[0].Nodes }
	before := nodes()
	n.Reject(other.Name)
	for nodes() == before {
		time.Sleep(time.Millisecond)
	}
}

// peekText returns what the value says that a node has in memory, or "" if it has none.
func peekText(n *testcluster.Node, key string) string {
	value, _ := n.Group.Peek(key)
	v, _ := testcluster.ParseValue(value)
	return v.By
}

// Settling: a write waits for leases that the owner itself has granted. In a view of its own there
// is nobody else who could tell of them.
func TestMechanismWriteWaitsForLeasesGrantedByTheOwner(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 2}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		writer, unseen := c.Node("eu-1"), c.Node("eu-2")
		key := c.KeyOf(writer.Name)
		unseen.MustGet(key)
		loseSightOf(writer, unseen)
		require.Equal(t, "load 1 in eu", peekText(unseen, key), "it still has a lease")
		_, err := writer.Set(key, "written")
		require.NoError(t, err)
		require.Empty(t, peekText(unseen, key))
		require.Equal(t, "written", text(t, unseen, key))
	})
}

// A node that acts as the owner without a lease does not answer from a copy: the key may have been
// written in the other part of the region.
func TestMechanismOwnerDoesNotAnswerFromACopy(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
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

// Reclassification when the view changes: once a key has another owner, its former owner serves it
// under a lease only.
func TestMechanismFormerOwnerNeedsALease(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
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
		require.Equal(t, "load 1 in eu", peekText(former, moved), "it has a lease")
		loseSightOf(owner, former)
		_, err := owner.Set(moved, "written")
		require.NoError(t, err)
		require.Empty(t, peekText(former, moved))
		require.Equal(t, "written", text(t, former, moved))
	})
}

// Reclassification when a group has synced: a node that has just joined owns what it was asked for
// as the owner before that. So it hands it over when it leaves.
func TestMechanismNodeOwnsWhatItLoadedBeforeItSynced(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		loseSightOf(c.Node("eu-3"), c.Node("eu-2")) // while views differ, nobody has a lease and nobody syncs
		joining := c.Add("eu")
		c.Settle()
		key := c.KeyOf(joining.Name)
		c.Node("eu-1").MustGet(key)
		require.Equal(t, 1, c.Origin.Loads(key))
		require.Empty(t, peekText(joining, key), "the entry is there, but may not be served here yet")

		c.Node("eu-3").Admit("eu-2")
		c.Settle()
		require.Equal(t, "load 1 in eu", peekText(joining, key))
		joining.Close()
		c.Settle()
		for _, n := range c.Nodes() {
			require.Equal(t, "load 1 in eu", text(t, n, key), n.Name)
		}
		require.Equal(t, 1, c.Origin.Loads(key))
	})
}

// The lease epoch: a copy that was requested before a lease loss is not kept after it. What the
// node missed meanwhile need not be in the journals: a write with a lower stamp than one before it
// is not. See clocks_test.go.
func TestMechanismCopyRequestedBeforeALeaseLoss(t *testing.T) {
	testcluster.Run(t, usClocksAhead(3), func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 100*time.Millisecond)
		time.Sleep(untilLeased)
		owner, reader := c.Node("us-1"), c.Node("us-2")
		key, other := c.KeyOf(owner.Name), c.KeyOf("us-3")
		reader.MustGet(other)
		_, err := owner.Remove(key) // stamped by a clock that is ahead
		require.NoError(t, err)
		time.Sleep(50 * time.Millisecond)
		c.Origin.Behave(testcluster.After(6*time.Second), "us")
		var work sync.WaitGroup
		work.Go(func() { require.Equal(t, "load 1 in us", text(t, reader, key)) })
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 1, c.Origin.Running(), "the owner loads for the reader")

		removed := time.Now()
		work.Go(func() {
			time.Sleep(time.Millisecond) // before eu has received the first Remove
			_, err := c.Owner("eu", key).Remove(key, geocache.WithAck(geocache.AckWorld))
			require.NoError(t, err)
			require.Equal(t, 1, c.Origin.Running())
			owner.Admit(reader.Name)
			for peekText(reader, other) == "" { // it has a lease again then
				time.Sleep(10 * time.Millisecond)
			}
			require.Equal(t, 1, c.Origin.Running())
		})
		loseSightOf(owner, reader)
		work.Wait()
		c.Origin.Behave(nil)
		for _, n := range c.Nodes("us") {
			v, ok := testcluster.ParseValue(n.MustGet(key).Value)
			require.True(t, ok)
			require.True(t, v.Begun.After(removed), "%s has a value loaded before the Remove", n.Name)
		}
	})
}

// Settling: a node that the writer no longer sees, while others do, still has a lease from those
// for a while, under which it fetches copies from them.
func TestMechanismWriteWaitsForLeasesGrantedByOthers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		writer, unseen := c.Node("eu-1"), c.Node("eu-3")
		key := keyOwnedAndSucceededBy(writer, "eu-1", "eu-2")
		var reading sync.WaitGroup
		done := make(chan struct{})
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(3 * time.Millisecond):
					unseen.MustGet(key)
				}
			}
		})
		c.Net.Cut("eu-1", "eu-3")
		for i := range 200 {
			_, err := writer.Set(key, fmt.Sprint(i))
			require.NoError(t, err)
			if old, ok := unseen.Group.Peek(key); ok {
				v, _ := testcluster.ParseValue(old)
				require.Equal(t, fmt.Sprint(i), v.By)
			}
			time.Sleep(20 * time.Millisecond)
		}
		close(done)
		reading.Wait()
	})
}

// A node that sees the others and is not seen by them is not told of what they write.
func TestMechanismUnseenNodeOwnsNothing(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		var nodes []regions.Node
		for _, name := range []string{"eu-1", "eu-2", "eu-3", "eu-4"} {
			nodes = append(nodes, regions.Node{ID: name, Region: "eu", Address: name + ":7946"})
		}
		unseen := c.Add("eu", geocache.WithDiscovery(regions.Static(nodes...)))
		time.Sleep(time.Second / 2)
		owned := 0
		for i := range 40 {
			key := fmt.Sprint(i)
			if unseen.Group.Locate(key)[0].Owner.ID == unseen.Name {
				owned++
			}
			unseen.MustGet(key)
			_, err := c.Node("eu-1").Set(key, "written")
			require.NoError(t, err)
			require.Equal(t, "written", text(t, unseen, key))
		}
		require.NotZero(t, owned)
		c.Settle()
		require.True(t, unseen.Cache.Stats().Guest, "the others have told it so")
	})
}

// Unknown peers: a node that is seen by the others and does not see them would tell nobody of what
// it writes.
func TestMechanismNodeThatSeesNobodyExecutesNoWrites(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Counters: true}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		old := c.Nodes()
		for i := range 40 {
			for _, n := range old {
				n.MustGet(fmt.Sprint(i))
			}
		}
		opens := make(chan struct{})
		joining := c.Add("eu", geocache.WithDiscovery(isolatedDiscovery{c.Directory, opens}),
			geocache.WithJoinWait(0))
		for c.Nodes()[0].Cache.Stats().Regions[0].Nodes != 4 {
			time.Sleep(time.Millisecond)
		}
		owned := 0
		for i := range 40 {
			key := fmt.Sprint(i)
			if c.Owner("eu", key) == joining {
				owned++
			}
			begun := time.Now()
			_, err := old[i%3].Set(key, "written")
			require.NoError(t, err)
			require.Less(t, time.Since(begun), 2*time.Second, "another node executes the write")
			for _, n := range old {
				require.Equal(t, "written", text(t, n, key), n.Name)
			}
		}
		require.NotZero(t, owned)

		_, err := joining.Set("1", "alone")
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)

		// Two owners of a counter would each count for themselves, so Updates wait.
		counter := c.KeyOf(joining.Name)
		var counting sync.WaitGroup
		for _, n := range c.Nodes() {
			counting.Go(func() {
				for range 10 {
					ctx, cancel := context.WithTimeout(c.T.Context(), time.Second)
					_, err := n.Counters.Update(ctx, counter, func(old int, _ bool) (int, error) { return old + 1, nil })
					cancel()
					require.Error(t, err)
				}
			})
		}
		counting.Wait()
		close(opens)
		c.Directory.Restore() // notifies everybody again
		c.Settle()
		for _, n := range c.Nodes() {
			require.Equal(t, "alone", text(t, n, "1"), n.Name)
			v, err := n.Counters.Get(c.T.Context(), counter)
			require.NoError(t, err)
			require.Zero(t, v, n.Name)
		}
	})
}

// omittingDiscovery never lists one node.
type omittingDiscovery struct {
	regions.Discovery
	of string
}

func (u omittingDiscovery) Run(
	ctx context.Context, self regions.Node, healthy func() error, found func(regions.View),
) error {
	return u.Discovery.Run(ctx, self, healthy, func(v regions.View) {
		v.Nodes = slices.DeleteFunc(slices.Clone(v.Nodes), func(n regions.Node) bool { return n.ID == u.of })
		found(v)
	})
}

// Unknown peers: a node that has just joined and does not see one of the others must delay neither
// those it sees nor its own users. It leaves its keys to their successors.
func TestMechanismNewNodeUnawareOfAPeerDelaysNobody(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		joining := c.Add("eu", geocache.WithDiscovery(omittingDiscovery{c.Directory, "eu-3"}))
		time.Sleep(untilLeased)
		owned := 0
		for i := range 40 {
			key := fmt.Sprint(i)
			if c.Owner("eu", key) == joining {
				owned++
			}
			writer := c.Nodes()[i/4%4]
			begun := time.Now()
			_, err := writer.Set(key, "written")
			require.NoError(t, err, "%s at %s", key, writer.Name)
			require.Less(t, time.Since(begun), 2*time.Second, "%s at %s", key, writer.Name)
			for _, n := range c.Nodes() {
				require.Equal(t, "written", text(t, n, key), "%s at %s", key, n.Name)
			}
		}
		require.NotZero(t, owned)
	})
}
