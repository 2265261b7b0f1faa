package geocache_test

import (
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests what a change of membership costs a large region, in virtual time. make fleet measures
// that on real processes. Processor time is free here, so what takes long there does not here: what shows
// here is what is sent.

var fleetNodes = flag.Int("fleet", 24, "nodes in the test of a large region; 200 take many minutes")

// What it may cost a large region that a node is killed.
const (
	// fleetBack is how long it may take until all copies are served again.
	fleetBack = 2 * defaultLease

	// fleetPair is how many bytes each node may send each other, requests and answers together: a digest has
	// 80 narrow slices and, with a TTL of an hour, 451 wide ones. fleetJournals is how many journals each may
	// be sent beyond that, on average: all floors of one node.
	fleetPair     = 4600.0
	fleetJournals = 0.5

	// fleetKept is the share of the copies that stays in memory, at least. Nobody has written them.
	fleetKept = 0.99
)

// A node of a large region is killed. The others soon serve copies again, and do not send each other all
// they know.
func TestKillInALargeRegion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute with the race detector")
	}
	const floors, each = 300, 30
	testcluster.Run(t, testcluster.Config{Nodes: *fleetNodes, TTL: time.Hour}, func(c *testcluster.Cluster) {
		written := keys(floors)
		writeTogether(c.Node("eu-1"), written)
		victim := c.Node(fmt.Sprint("eu-", *fleetNodes/2))
		survivors := slices.DeleteFunc(c.Nodes(), func(n *testcluster.Node) bool { return n == victim })
		held := holdCopies(survivors, written, each)
		require.EqualValues(t, 1, copiesHeld(held))

		usual := bytesSent(survivors)
		time.Sleep(time.Second)
		usual = bytesSent(survivors) - usual // in a second
		before, begun := bytesSent(survivors), time.Now()
		victim.Crash()
		lapsed, back := untilCopies(survivors, 10*time.Second)
		sent := bytesSent(survivors) - before - usual*time.Since(begun).Seconds()
		kept := copiesHeld(held)

		n := float64(len(survivors))
		journals := (sent - fleetPair*n*(n-1)) / (n * journalBytes(written))
		t.Logf("%d nodes: copies lapsed: %v, and all were back after %v; %.3g MB were sent, "+
			"%.3g journals for each node; %.3g%% of the copies stayed",
			*fleetNodes, lapsed, back, sent/1e6, journals, 100*kept)
		require.LessOrEqual(t, back, fleetBack)
		require.LessOrEqual(t, journals, fleetJournals)
		require.GreaterOrEqual(t, kept, fleetKept)
		for i, n := range survivors { // and copies are right
			key := written[i%floors]
			must(c.Owner("eu", key).Set(key, "written again"))
			require.Equal(t, "written again", text(t, n, key))
		}
		require.Zero(t, c.Origin.Total(), "what was Set is not loaded")
	})
}

// journalBytes returns how large the floors of keys are in a message.
func journalBytes(keys []string) (bytes float64) {
	for _, key := range keys {
		bytes += float64(message.Floor{Key: key}.Size())
	}
	return bytes
}

// writeTogether writes keys, by many callers.
func writeTogether(n *testcluster.Node, keys []string) {
	var writing sync.WaitGroup
	for _, key := range keys {
		writing.Go(func() { must(n.Set(key, "written")) })
	}
	writing.Wait()
}

// holdCopies has each node read so many keys that others own, and returns which: copies of them are in its
// memory.
func holdCopies(nodes []*testcluster.Node, keys []string, each int) map[*testcluster.Node][]string {
	held := make(map[*testcluster.Node][]string)
	for i, n := range nodes {
		for j := range keys {
			key := keys[(i*each+j)%len(keys)]
			if at := n.Group.Locate(key)[0]; at.Owner.ID == n.Name || at.Successor.ID == n.Name {
				continue
			}
			n.MustGet(key)
			if held[n] = append(held[n], key); len(held[n]) == each {
				break
			}
		}
	}
	return held
}

// copiesHeld returns which share of the keys is in the nodes' memory and may be served.
func copiesHeld(of map[*testcluster.Node][]string) float64 {
	all, held := 0, 0
	for n, keys := range of {
		for _, key := range keys {
			all++
			if n.Group.Contains(key) {
				held++
			}
		}
	}
	return float64(held) / float64(all)
}

// untilCopies waits until these nodes, which are all that are left, have seen so and have served copies for
// a lease since. It reports whether any of them did not, and how long it was until the last of them did
// again.
func untilCopies(nodes []*testcluster.Node, most time.Duration) (lapsed bool, back time.Duration) {
	begun, since := time.Now(), time.Now()
	for time.Since(since) < defaultLease && time.Since(begun) < most {
		time.Sleep(50 * time.Millisecond)
		for _, n := range nodes {
			s := n.Cache.Stats()
			if s.ServesCopies && s.Regions[0].Nodes == len(nodes) {
				continue
			}
			if since = time.Now(); !s.ServesCopies {
				lapsed, back = true, since.Sub(begun)
			}
			break
		}
	}
	if time.Since(since) < defaultLease {
		back = most
	}
	return lapsed, back
}

// bytesSent returns what has travelled over the connections that these nodes have dialled.
func bytesSent(nodes []*testcluster.Node) (bytes float64) {
	for _, n := range nodes {
		for _, p := range n.Cache.Stats().Peers {
			bytes += float64(p.Traffic.BytesIn + p.Traffic.BytesOut)
		}
	}
	return bytes
}
