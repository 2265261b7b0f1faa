package geocache_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests that values that were Set, and that no origin has, outlive the nodes that hold them.

// lookAside is a cluster whose group Counters has no getter.
func lookAside(nodes int) testcluster.Config {
	return testcluster.Config{Nodes: nodes, Counters: true, LookAside: true}
}

// setAll sets n counters to their number, each at another node, and returns their keys.
func setAll(c *testcluster.Cluster, n int) []string {
	time.Sleep(untilLeased)
	for i, key := range keys(n) {
		nodes := c.Nodes()
		require.NoError(c.T, nodes[i%len(nodes)].Counters.Set(context.Background(), key, i))
	}
	return keys(n)
}

// singles returns how many values have one holder only, by what all nodes say.
func singles(c *testcluster.Cluster) (sum int) {
	for _, n := range c.Nodes() {
		sum += n.Counters.Stats().SingleHolder
	}
	return sum
}

// awaitPairs waits until every value has two holders.
func awaitPairs(c *testcluster.Cluster) {
	c.T.Helper()
	require.Eventually(c.T, func() bool { return singles(c) == 0 }, time.Minute, 10*time.Millisecond)
}

func requireAll(c *testcluster.Cluster, all []string) {
	c.T.Helper()
	for _, n := range c.Nodes() {
		for i, key := range all {
			v, err := n.Counters.Get(context.Background(), key)
			require.NoError(c.T, err, "%s at %s", key, n.Name)
			require.Equal(c.T, i, v)
		}
	}
}

// Nodes are killed one at a time, each once all values have two holders again.
func TestMechanismSetValuesOutliveKills(t *testing.T) {
	testcluster.Run(t, lookAside(6), func(c *testcluster.Cluster) {
		all := setAll(c, 100)
		require.Zero(t, singles(c))
		for _, victim := range []string{"eu-3", "eu-1", "eu-6", "eu-4", "eu-5"} {
			c.Node(victim).Crash()
			require.Eventually(t, func() bool { return singles(c) > 0 }, 5*time.Second, time.Millisecond,
				"%s was the owner or the successor of some", victim)
			if len(c.Nodes()) > 1 {
				awaitPairs(c)
			}
		}
		time.Sleep(5 * time.Second)
		requireAll(c, all)
		require.Equal(t, 100, singles(c), "one node is left")
	})
}

// The same while nodes come, and while all are restarted one after the other.
func TestSetValuesOutliveDeploys(t *testing.T) {
	testcluster.Run(t, lookAside(4), func(c *testcluster.Cluster) {
		all := setAll(c, 100)
		for i := range 3 {
			c.Add("eu")
			awaitPairs(c)
			c.Node(fmt.Sprintf("eu-%d", 1+i)).Crash()
			time.Sleep(time.Second) // noticed
			awaitPairs(c)
		}
		requireAll(c, all)
		for _, n := range c.Nodes() {
			n.Close()
			n.Restart(0)
			time.Sleep(time.Second)
			awaitPairs(c)
		}
		requireAll(c, all)
		for _, n := range c.Nodes() { // under its ID, at once: its memory is gone
			n.Crash()
			n.Restart(0)
			time.Sleep(2 * time.Second)
			awaitPairs(c)
		}
		requireAll(c, all)
	})
}

// A value that is there already is not sent again, and one that a getter or a setter has is not sent at all.
func TestOnlyLackingValuesAreGiven(t *testing.T) {
	config := lookAside(5)
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		setAll(c, 100)
		readAll(c.Node("eu-1"), keys(50)) // loaded by a getter
		given := func() (sum uint64) {
			for _, n := range c.Nodes() {
				sum += n.Counters.Stats().GivenValues
			}
			return sum
		}
		require.Zero(t, given())
		lost := 0 // values that the victim held
		for _, key := range keys(100) {
			l := c.Node("eu-1").Counters.Locate(key)[0]
			if l.Owner.ID == "eu-5" || l.Successor.ID == "eu-5" {
				lost++
			}
		}
		c.Node("eu-5").Crash()
		time.Sleep(time.Second)
		awaitPairs(c)
		require.EqualValues(t, lost, given())
		for _, n := range c.Nodes() {
			require.Zero(t, n.Group.Stats().GivenValues)
		}
	})
}

// Values are given at a bounded rate, and say so for as long as it takes.
func TestGivingIsBounded(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
		groups := onAll[string](c, "large", nil, geocache.WithMaxBytes(1<<30))
		value := strings.Repeat("x", 1<<20)
		for _, key := range keys(90) {
			require.NoError(t, groups["eu-1"].Set(context.Background(), key, value))
		}
		c.Node("eu-3").Crash()
		time.Sleep(time.Second)
		sum := func() int { return groups["eu-1"].Stats().SingleHolder + groups["eu-2"].Stats().SingleHolder }
		require.Greater(t, sum(), 5)
		begun := time.Now()
		for sum() > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		require.Greater(t, time.Since(begun), time.Second)
		require.Less(t, time.Since(begun), 10*time.Second)
	})
}

// What a snapshot brings back on one node is given to its keys' owners and successors.
func TestRestoredValuesAreGiven(t *testing.T) {
	var snapshot bytes.Buffer
	testcluster.Run(t, lookAside(1), func(c *testcluster.Cluster) {
		setAll(c, 30)
		require.NoError(t, c.Node("eu-1").Counters.Snapshot(&snapshot))
	})
	testcluster.Run(t, lookAside(3), func(c *testcluster.Cluster) {
		time.Sleep(10 * time.Second)
		n, err := c.Node("eu-1").Counters.Restore(&snapshot)
		require.NoError(t, err)
		require.Equal(t, 30, n)
		require.Equal(t, 30, singles(c))
		awaitPairs(c)
		c.Node("eu-1").Crash()
		time.Sleep(time.Second)
		requireAll(c, keys(30))
	})
}
