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

// The tests of what a node serves only while it is told of writes. See mechanisms_writes_test.go.
//
// To be left out of a write while its lease runs, or without noticing that it has run out, a node
// must not be seen by the writer, and see it: then it goes on taking the writer for the owner.
// That is what Reject does.

// loseSightOf has n lose sight of other, which still sees n.
func loseSightOf(n, other *testcluster.Node) {
	nodes := func() int { return n.Cache.Stats().Regions[0].Nodes }
	before := nodes()
	n.Reject(other.Name)
	for nodes() == before {
		time.Sleep(time.Millisecond)
	}
}

// peekText returns what the text is of the value that a node has in memory; "" if it has none.
func peekText(n *testcluster.Node, key string) string {
	value, _ := n.Group.Peek(key)
	v, _ := testcluster.ParseValue(value)
	return v.By
}

// Settling: the leases that the writer itself has granted. In a view of its own there is nobody
// else who could tell of them.
func TestMechanismWriteWaitsForLeasesGrantedByTheOwner(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 2}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		writer, unseen := c.Node("eu-1"), c.Node("eu-2")
		key := c.KeyOf(writer.Name)
		unseen.MustGet(key)
		loseSightOf(writer, unseen)
		require.Equal(t, "load 1 in eu", peekText(unseen, key), "it has a lease yet")
		_, err := writer.Set(key, "written")
		require.NoError(t, err)
		require.Empty(t, peekText(unseen, key))
		require.Equal(t, "written", text(t, unseen, key))
	})
}

// A node that acts as the owner does not answer from a copy when it has no lease: in the other part
// of the region the key may have been written since.
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

// Reclassing, when the view changes: what a node has owned it serves under a lease only once the
// key has another owner.
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

// Reclassing, when a group has synced: what a node that has just come was asked for as the owner is
// its own from then on. So it hands it over when it leaves.
func TestMechanismNodeOwnsWhatItLoadedBeforeItSynced(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		loseSightOf(c.Node("eu-3"), c.Node("eu-2")) // while views differ nobody has a lease, and nobody syncs
		newcomer := c.Add("eu")
		c.Settle()
		key := c.KeyOf(newcomer.Name)
		c.Node("eu-1").MustGet(key)
		require.Equal(t, 1, c.Origin.Loads(key))
		require.Empty(t, peekText(newcomer, key), "it is there, and may not be served here yet")

		c.Node("eu-3").Admit("eu-2")
		c.Settle()
		require.Equal(t, "load 1 in eu", peekText(newcomer, key))
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
func TestMechanismCopyRequestedBeforeALeaseLoss(t *testing.T) {
	testcluster.Run(t, usClocksAhead(3), func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 100*time.Millisecond)
		time.Sleep(untilLeased)
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
				if peekText(reader, other) != "" { // it has a lease again
					break
				}
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
			require.True(t, v.Begun.After(removed), "%s has what was loaded before the Remove", n.Name)
		}
	})
}

// Settling: a node that the writer does not see any more, while others do, has a lease of
// those for a while, under which it fetches copies from them.
func TestMechanismWriteWaitsForLeasesGrantedByOthers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		writer, unseen := c.Node("eu-1"), c.Node("eu-3")
		key := ""
		for i := 0; key == ""; i++ {
			if at := writer.Group.Locate(fmt.Sprint(i))[0]; at.Owner.ID == "eu-1" && at.Successor.ID == "eu-2" {
				key = fmt.Sprint(i)
			}
		}
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
		require.True(t, unseen.Cache.Stats().Guest, "it has been told so")
	})
}

// Strangers: a node that is seen by the others and does not see them would be alone in
// being told of what it writes.
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
		newcomer := c.Add("eu", geocache.WithDiscovery(isolatedDiscovery{c.Directory, opens}), geocache.WithJoinWait(0))
		for c.Nodes()[0].Cache.Stats().Regions[0].Nodes != 4 {
			time.Sleep(time.Millisecond)
		}
		owned := 0
		for i := range 40 {
			key := fmt.Sprint(i)
			if c.Owner("eu", key) == newcomer {
				owned++
			}
			begun := time.Now()
			_, err := old[i%3].Set(key, "written")
			require.NoError(t, err)
			require.Less(t, time.Since(begun), 2*time.Second, "another node carries it out")
			for _, n := range old {
				require.Equal(t, "written", text(t, n, key), n.Name)
			}
		}
		require.NotZero(t, owned)

		_, err := newcomer.Set("1", "alone")
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)

		// Two owners of a counter would each count for themselves: it waits.
		counter := c.KeyOf(newcomer.Name)
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
		c.Directory.Restore() // tells everybody once more
		c.Settle()
		for _, n := range c.Nodes() {
			require.Equal(t, "alone", text(t, n, "1"), n.Name)
			v, err := n.Counters.Get(c.T.Context(), counter)
			require.NoError(t, err)
			require.Zero(t, v, n.Name)
		}
	})
}

// omittingDiscovery is a discovery that never tells its node of another one.
type omittingDiscovery struct {
	regions.Discovery
	of string
}

func (u omittingDiscovery) Run(ctx context.Context, self regions.Node, healthy func() error, found func(regions.View)) error {
	return u.Discovery.Run(ctx, self, healthy, func(v regions.View) {
		v.Nodes = slices.DeleteFunc(slices.Clone(v.Nodes), func(n regions.Node) bool { return n.ID == u.of })
		found(v)
	})
}

// Strangers: those whom it does see, and its own users, must not wait for a node that has just come either. It
// leaves its keys to their successors.
func TestMechanismNewNodeUnawareOfAPeerDelaysNobody(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		newcomer := c.Add("eu", geocache.WithDiscovery(omittingDiscovery{c.Directory, "eu-3"}))
		time.Sleep(untilLeased)
		owned := 0
		for i := range 40 {
			key := fmt.Sprint(i)
			if c.Owner("eu", key) == newcomer {
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
