package main

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// sent returns the frames that have travelled between the nodes so far.
func sent(c *testcluster.Cluster) frames { return sentBy(c.Nodes()) }

// sentBy returns those of the connections that these nodes have made.
func sentBy(nodes []*testcluster.Node) (f frames) {
	for _, n := range nodes {
		for _, p := range n.Cache.Stats().Peers {
			f.n += float64(p.Traffic.FramesIn + p.Traffic.FramesOut)
			f.bytes += float64(p.Traffic.BytesIn + p.Traffic.BytesOut)
		}
	}
	return f
}

// within fails the test if what was measured is not what the model says, give or take
// a share.
func within(t *testing.T, what string, model, measured frames, share float64) {
	t.Helper()
	t.Logf("%s: model %.0f frames, %.0f bytes; measured %.0f, %.0f", what, model.n, model.bytes, measured.n, measured.bytes)
	require.InEpsilon(t, model.n, measured.n, share, "%s: frames", what)
	require.InEpsilon(t, model.bytes, measured.bytes, share, "%s: bytes", what)
}

// The model says what real nodes send, in a cluster at rest and for each write.
func TestModelOfMessages(t *testing.T) {
	const rest, writes = time.Minute, 200
	for _, s := range []shape{{1, 3}, {1, 6}, {2, 3}, {3, 4}, {3, 7}} {
		t.Run(fmt.Sprintf("%d regions of %d", s.regions, s.nodes), func(t *testing.T) {
			var names []string
			for i := range s.regions {
				names = append(names, fmt.Sprint("r", i))
			}
			testcluster.Run(t, testcluster.Config{Regions: names, Nodes: s.nodes, TTL: time.Minute}, func(c *testcluster.Cluster) {
				l := load{group: "test", key: "key-0000", value: 40, retention: time.Minute + 15*time.Second}
				time.Sleep(time.Minute) // what is new to be compared has been
				before := sent(c)
				time.Sleep(rest)
				idle := frames{sent(c).n - before.n, sent(c).bytes - before.bytes}
				perSecond := heartbeats(s).plus(comparing(s, l))
				within(t, "at rest", perSecond.times(rest.Seconds()), idle, .03)

				nodes := c.Nodes()
				before = sent(c)
				begun := time.Now()
				for i := range writes {
					n := nodes[i%len(nodes)]
					l.key = fmt.Sprintf("key-%04d", i)
					now := c.Now()
					value := testcluster.Value{Key: l.key, Begun: now}.String()
					l.value = len(value)
					require.NoError(t, n.Group.Set(ctx, l.key, value))
					time.Sleep(50 * time.Millisecond) // so that no two share a push
				}
				time.Sleep(time.Second)
				took := time.Since(begun)
				all := frames{sent(c).n - before.n, sent(c).bytes - before.bytes}
				within(t, "writing", writing(s, l).times(writes).plus(perSecond.times(took.Seconds())), all, .04)
			})
		})
	}
}

// The model says how often real nodes load when some of them are restarted.
func TestModelOfDeploys(t *testing.T) {
	const nodes, seed = 10, 7
	for _, wave := range []int{1, 3, 6} {
		t.Run(fmt.Sprintf("waves of %d", wave), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Nodes: nodes, Seed: seed, TTL: 10 * time.Hour}, func(c *testcluster.Cluster) {
				var ids []string
				for _, n := range c.Nodes() {
					ids = append(ids, n.Name)
				}
				keys := makeKeys(300)
				readAll := func() {
					for _, key := range keys {
						c.Owner("eu", key).MustGet(key)
					}
				}
				readAll()
				model, err := newFleet(seed, ids, keys, true)
				require.NoError(t, err)
				before := c.Origin.Total()
				for some := range slices.Chunk(ids, wave) {
					require.NoError(t, model.restart(some))
					for _, id := range some {
						c.Node(id).Close()
						c.Settle()
					}
					var starting sync.WaitGroup
					for _, id := range some {
						starting.Go(func() { c.Node(id).Restart(0) })
					}
					starting.Wait()
					c.Settle()
					readAll()
				}
				require.Equal(t, model.loads, c.Origin.Total()-before)
				t.Logf("%d loads of %d keys", model.loads, len(keys))
			})
		})
	}
}

// What a joining node receives is what the model says.
func TestModelOfJoining(t *testing.T) {
	s := shape{2, 4} // when it has joined
	const writes = 2000
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 4, TTL: time.Hour, Group: []geocache.GroupOption{geocache.WithMaxBytes(64 << 20)}}, func(c *testcluster.Cluster) {
		c.Node("eu-4").Close()
		c.Settle()
		l := load{group: "test", writes: writes, retention: time.Second}
		for i := range writes {
			l.key = fmt.Sprintf("key-%04d", i)
			require.NoError(t, c.Node("eu-1").Group.Set(ctx, l.key, testcluster.Value{Key: l.key, Begun: c.Now()}.String()))
		}
		c.Settle()
		c.Node("eu-4").Restart(0)
		time.Sleep(2 * time.Second)
		var received float64
		for _, p := range c.Node("eu-4").Cache.Stats().Peers {
			received += float64(p.Traffic.BytesIn)
		}
		pongs := 2 * pingsALease * (s.all() - 1) * pongBytes
		model := joining(s, l).bytes + float64(pongs)
		t.Logf("model %.0f bytes, measured %.0f", model, received)
		require.InEpsilon(t, model, received, .05)
	})
}
