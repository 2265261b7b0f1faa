package main

import (
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/testcluster"
)

var manyNodes = flag.Int("nodes", 12, "nodes of TestManyNodes, in two regions")

// Real nodes in virtual time, as many as -nodes says: 200 take seven minutes on two cores. At rest they send what the
// model says. When one is killed, the others serve what they have all along, or very soon again, and keep it.
func TestManyNodes(t *testing.T) {
	const written, copies = 2000, 20
	s := shape{2, *manyNodes / 2}
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: s.nodes, TTL: 10 * time.Minute}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		set := func(key string) {
			v := testcluster.Value{Key: key, Begun: c.Now()}.String()
			require.NoError(t, c.Node("eu-1").Group.Set(ctx, key, v))
		}
		time.Sleep(10 * time.Second)
		var writing sync.WaitGroup
		for i := range 20 {
			writing.Go(func() {
				for j := range written / 20 {
					set(fmt.Sprintf("key-%d-%d", i, j))
				}
			})
		}
		writing.Wait()
		time.Sleep(5 * time.Second)
		for _, n := range c.Nodes() {
			for i := range copies {
				n.MustGet(fmt.Sprintf("key-%d-0", i))
			}
		}

		connections := 0
		for _, n := range c.Nodes() {
			for _, p := range n.Cache.Stats().Peers {
				require.True(t, p.Up)
				connections++
			}
		}
		require.Equal(t, s.all()*s.watched(), connections)
		l := load{group: "test", key: "key-10-10", retention: 10*time.Minute + 15*time.Second}
		before, rest := sent(c), 5*time.Second
		time.Sleep(rest)
		idle := frames{sent(c).n - before.n, sent(c).bytes - before.bytes}
		within(t, "at rest", heartbeats(s).plus(comparing(s, l)).times(rest.Seconds()), idle, .05)

		t.Logf("%d nodes in 2 regions, %d connections and %.0f frames/s a node at rest",
			s.all(), 2*s.watched(), idle.n/rest.Seconds()/float64(s.all()))

		gone := map[*testcluster.Node]bool{}
		left := func(regions ...string) []*testcluster.Node {
			return slices.DeleteFunc(c.Nodes(regions...), func(n *testcluster.Node) bool { return gone[n] })
		}
		for i, lose := range []struct {
			what string
			how  func(n *testcluster.Node)
		}{{"killed", (*testcluster.Node).Crash}, {"silent", (*testcluster.Node).Freeze}} {
			n := c.Node(fmt.Sprint("eu-", s.nodes-i))
			gone[n] = true
			survivors := left("eu")
			had, before := entriesOf(survivors), sentBy(left())
			lose.how(n)
			died := c.Now()
			var lapsed time.Duration
			for agree := false; !agree; {
				time.Sleep(20 * time.Millisecond)
				require.Less(t, c.Now().Sub(died), 20*time.Second)
				agree = true
				for _, n := range survivors {
					stats := n.Cache.Stats()
					if !stats.ServesCopies {
						lapsed = c.Now().Sub(died)
					}
					agree = agree && stats.ServesCopies && stats.Regions[0].Nodes == len(survivors)
				}
			}
			took := c.Now().Sub(died)
			bytes := sentBy(left()).bytes - before.bytes - heartbeats(s).bytes*took.Seconds()
			t.Logf("one %s: all agree after %v, memory was last not served %v after; %.2f MB above heartbeats; %d of %d entries left",
				lose.what, took, lapsed, max(bytes, 0)/1e6, entriesOf(survivors), had)
			require.Less(t, took, 4*time.Second, "a lease and three seconds")
			require.GreaterOrEqual(t, float64(entriesOf(survivors)), .99*float64(had))
			time.Sleep(5 * time.Second)
		}

		set("key-0-0")
		time.Sleep(time.Second)
		want := c.Node("eu-2").MustGet("key-0-0")
		for _, n := range left() {
			require.Equal(t, want.Generation, n.MustGet("key-0-0").Generation, n.Name)
		}
	})
}

// entriesOf returns how many entries the nodes have in memory.
func entriesOf(nodes []*testcluster.Node) (n int) {
	for _, node := range nodes {
		n += node.Group.Stats().Entries
	}
	return n
}
