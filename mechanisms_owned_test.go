package geocache_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests that a node serves what it owns under its lease only, what it does without one, and what
// a part of a divided region says of what it serves.

// cutOff cuts a node off from its region, has the others write a key that the node owns, and returns its
// instance of the key in memory before, and the other node that wrote.
func cutOff(c *testcluster.Cluster, cut *testcluster.Node) (key string, other *testcluster.Node) {
	time.Sleep(untilLeased)
	key = c.KeyOf(cut.Name)
	cut.MustGet(key)
	other = c.Node("eu-2")
	c.Net.Cut(cut.Name, "eu")
	_, err := other.Set(key, "written")
	require.NoError(c.T, err)
	return key, other
}

// An owner that is cut off serves no value that was written without it, unless it says so. The write waits
// until the owner's lease is over.
func TestMechanismACutOffOwnerNeedsALease(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		cut := c.Node("eu-1")
		key, _ := cutOff(c, cut)
		for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(20 * time.Millisecond) {
			item, err := cut.Get(key)
			require.NoError(t, err)
			if v, _ := testcluster.ParseValue(item.Value); v.By == "load 1 in eu" {
				require.True(t, item.Unconfirmed, "%v after the write", time.Since(begun))
			}
		}
		require.True(t, cut.Cache.Stats().Unconfirmed)
		require.False(t, c.Node("eu-2").Cache.Stats().Unconfirmed, "two of three are a majority")
		c.Net.HealAll()
		require.Eventually(t, func() bool { return !cut.Cache.Stats().Unconfirmed }, 20*time.Second, time.Millisecond)
		require.Equal(t, "written", text(t, cut, key))
	})
}

// A strict group loads instead. A value that no origin has it refuses.
func TestMechanismAStrictGroupLoads(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithStrictReads()}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		cut := c.Node("eu-1")
		time.Sleep(untilLeased)
		set := c.KeyOf(cut.Name, c.KeyOf(cut.Name))
		_, err := cut.Set(set, "no origin has it")
		require.NoError(t, err)
		key, other := cutOff(c, cut)
		require.NotEqual(t, key, set)
		time.Sleep(5 * time.Second)
		before := c.Origin.Total()
		for range 5 {
			item := cut.MustGet(key)
			require.Equal(t, geocache.SourceGetter, item.Source)
			require.False(t, item.Unconfirmed)
		}
		require.Equal(t, before+5, c.Origin.Total())
		_, err = cut.Get(set)
		require.ErrorIs(t, err, geocache.ErrCutOff)
		require.Equal(t, "written", text(t, other, key), "a majority serves as ever")
		_, ok := other.Group.Peek(key)
		require.True(t, ok)
		c.Net.HealAll()
		time.Sleep(20 * time.Second)
		require.Equal(t, "no origin has it", text(t, other, set), "the load has not hidden it")
	})
}

// Of two nodes, the one that is left when the other is killed goes on at full service. A node that has
// vanished may be alive, until the discovery has not listed it for the grace period.
func TestMechanismAKilledNodeIsNoPartition(t *testing.T) {
	config := testcluster.Config{Nodes: 2, Cache: []geocache.Option{geocache.WithGrace(shortGrace)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Node("eu-2").Crash()
		left := c.Node("eu-1")
		for begun := time.Now(); time.Since(begun) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
			require.False(t, left.Cache.Stats().Unconfirmed, "after %v", time.Since(begun))
		}
		require.True(t, left.Cache.Stats().ServesCopies)
	})
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Node("eu-2").Freeze()
		left := c.Node("eu-1")
		time.Sleep(5 * time.Second)
		require.True(t, left.Cache.Stats().Unconfirmed)
		c.Directory.Unlist("eu-2")
		time.Sleep(shortGrace + 2*time.Second)
		require.False(t, left.Cache.Stats().Unconfirmed)
	})
}

// A node that has just started, and reaches nobody that the discovery lists, may be in a part of its region.
func TestMechanismAPartitionedStart(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		restarted := c.Node("eu-1")
		key := c.KeyOf("eu-2")
		c.Net.Cut(restarted.Name, "eu")
		restarted.Crash()
		restarted.Restart(0)
		require.True(t, restarted.Cache.Stats().Unconfirmed)
		_, err := c.Node("eu-2").Set(key, "written")
		require.NoError(t, err)
		require.False(t, restarted.MustGet(key).Unconfirmed, "it has just been loaded")
		require.True(t, restarted.MustGet(key).Unconfirmed)
	})
}

// When all nodes lose their leases at once, reads wait for them to come back instead of loading everything.
func TestMechanismALapseOfAllIsNoStampede(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		all := keys(100)
		for _, n := range c.Nodes() {
			readAll(n, all)
		}
		before := c.Origin.Total()
		for _, n := range c.Nodes() {
			n.Freeze()
		}
		lapsed := func(n *testcluster.Node) bool { return !n.Cache.Stats().ServesCopies }
		for !slices.ContainsFunc(c.Nodes(), lapsed) {
			time.Sleep(time.Millisecond)
		}
		for _, n := range c.Nodes() {
			n.Thaw()
		}
		var reading sync.WaitGroup
		for _, n := range slices.DeleteFunc(c.Nodes(), func(n *testcluster.Node) bool { return !lapsed(n) }) {
			for _, key := range all {
				reading.Go(func() {
					begun := time.Now()
					_, err := n.Get(key)
					require.NoError(t, err)
					require.LessOrEqual(t, time.Since(begun), defaultLease+100*time.Millisecond)
				})
			}
		}
		reading.Wait()
		require.Less(t, c.Origin.Total()-before, 10)
	})
}

// Without a lease, reads of one key share a load that began after all of them. So loads run one after the
// other, however many reads there are.
func TestMechanismReadsWithoutALeaseShareLoads(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.Cut("eu-1", "eu-2") // eu-3 and eu-4 see both, so nobody agrees with all
		c.Net.Cut("eu-3", "eu-4")
		time.Sleep(5 * time.Second)
		owner := c.Node("eu-1")
		require.False(t, owner.Cache.Stats().ServesCopies)
		key := c.KeyOf(owner.Name)
		c.Origin.Behave(testcluster.After(100 * time.Millisecond))
		before := c.Origin.Total()
		var reading sync.WaitGroup
		for i := range 1000 {
			reading.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				begun := time.Now()
				item := owner.MustGet(key)
				v, _ := testcluster.ParseValue(item.Value)
				require.False(t, v.Begun.Before(begun), "it was loaded before it was asked for")
			})
		}
		reading.Wait()
		require.LessOrEqual(t, c.Origin.Total()-before, 12)
	})
}

// A node that has just come, and has no lease yet, takes what the owner has in memory.
func TestMechanismANewNodeAsksTheOwner(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		all := keys(50)
		for _, key := range all {
			c.Owner("eu", key).MustGet(key)
		}
		before := c.Origin.Total()
		added := c.Add("eu")
		for _, key := range all {
			added.MustGet(key)
		}
		_, err := added.Group.GetMany(context.Background(), all)
		require.NoError(t, err)
		require.Equal(t, before, c.Origin.Total())
	})
}

// Where a region is divided, other regions write to the part that has a majority, and read from it.
func TestMechanismPushesGoToTheMajority(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Group: []geocache.GroupOption{geocache.WithOriginRegion("eu")}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		cut := c.Node("eu-1")
		key := c.KeyOf(cut.Name)
		readAll(c.Node("eu-2"), []string{key})
		c.Net.Cut(cut.Name, "eu")
		_, err := c.Node("us-1").Set(key, "written", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, "written", text(t, c.Node("eu-2"), key))
		time.Sleep(5 * time.Second)
		for _, l := range c.Node("us-2").Group.Locate(key) {
			require.NotEqual(t, cut.Name, l.Owner.ID)
		}
		_, err = c.Node("us-1").Set(key, "again", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, "again", text(t, c.Node("eu-2"), key))
	})
}

// A region of which no part has a majority gets writes, and has confirmed none: another part may lack them.
func TestMechanismNobodyConfirmsForADividedRegion(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, name := range []string{"eu-1", "eu-2"} {
			c.Net.Cut(name, "eu-3")
			c.Net.Cut(name, "eu-4")
		}
		time.Sleep(5 * time.Second)
		set := func(what string, limit time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			v := testcluster.Value{Key: "ada", Begun: c.Now(), By: what}.String()
			return c.Node("us-1").Group.Set(ctx, "ada", v, geocache.WithAck(geocache.AckWorld))
		}
		for range 3 {
			require.ErrorIs(t, set("written", 2*time.Second), geocache.ErrUnconfirmed)
			outbox := c.Owner("us", "ada").Cache.Stats().Regions[1].Outbox
			require.Zero(t, outbox.Queued+outbox.InFlight, "it is there")
			told := 0
			for _, n := range c.Nodes("eu") {
				if item, err := n.Get("ada"); err == nil && strings.Contains(item.Value, "written") {
					require.True(t, item.Unconfirmed)
					told++
				}
			}
			require.GreaterOrEqual(t, told, 2)
		}
		waits := make(chan error, 1)
		go func() { waits <- set("again", 30*time.Second) }()
		time.Sleep(10 * time.Second)
		require.Empty(t, waits)
		c.Net.HealAll()
		require.NoError(t, <-waits)
		for _, n := range c.Nodes() {
			require.Equal(t, "again", text(t, n, "ada"), n.Name)
		}
	})
}

// That there is no value is no better known than a value is.
func TestMechanismAnAbsenceIsUnconfirmedToo(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithNegativeTTL(time.Minute)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Origin.Absent(func(string) bool { return true })
		time.Sleep(untilLeased)
		cut := c.Node("eu-1")
		key := c.KeyOf(cut.Name)
		read := func() geocache.Item[string] {
			item, err := cut.Group.GetItem(context.Background(), key)
			require.ErrorIs(t, err, geocache.ErrNotFound)
			return item
		}
		require.Equal(t, geocache.SourceGetter, read().Source)
		item := read()
		require.Equal(t, geocache.SourceStore, item.Source)
		require.False(t, item.Unconfirmed)
		require.NotZero(t, item.Generation)
		require.Zero(t, item.Value)
		c.Net.Cut(cut.Name, "eu")
		marked := 0
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if item := read(); item.Unconfirmed {
				require.NotEqual(t, geocache.SourceGetter, item.Source)
				marked++
			}
		}
		require.NotZero(t, marked)
	})
}

// A value that was Set, and that no origin has, outlives the loss of the lease: it is served, marked.
func TestMechanismASetValueOutlivesALapse(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Counters: true, LookAside: true}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Node("eu-1")
		key := c.KeyOf(owner.Name)
		require.NoError(t, owner.Counters.Set(context.Background(), key, 7))
		c.Net.Cut("eu-1", "eu-2") // eu-3 sees both
		time.Sleep(3 * time.Second)
		require.False(t, owner.Cache.Stats().ServesCopies)
		item, err := owner.Counters.GetItem(context.Background(), key)
		require.NoError(t, err)
		require.Equal(t, 7, item.Value)
		require.True(t, item.Unconfirmed)
		for _, n := range c.Nodes() {
			v, err := n.Counters.Get(context.Background(), key)
			require.NoError(t, err, n.Name)
			require.Equal(t, 7, v)
		}
		c.Net.HealAll()
		time.Sleep(20 * time.Second)
		item, err = owner.Counters.GetItem(context.Background(), key)
		require.NoError(t, err)
		require.False(t, item.Unconfirmed)
	})
}

// If the origin fails as well, the reads of a node without a lease fail, or are marked as stale where that
// is allowed.
func TestMechanismWithoutALeaseAndAnOrigin(t *testing.T) {
	for _, stale := range []time.Duration{0, time.Minute} {
		config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithStaleIfError(stale)}}
		testcluster.Run(t, config, func(c *testcluster.Cluster) {
			time.Sleep(untilLeased)
			owner := c.Node("eu-1")
			key := c.KeyOf(owner.Name)
			owner.MustGet(key)
			c.Net.Cut("eu-1", "eu-2") // eu-3 sees both
			c.Origin.Behave(testcluster.Failing(errors.New("down")))
			time.Sleep(5 * time.Second)
			require.False(t, owner.Cache.Stats().ServesCopies)
			item, err := owner.Get(key)
			if stale == 0 {
				require.ErrorContains(t, err, "down")
				return
			}
			require.NoError(t, err)
			require.Equal(t, geocache.SourceStale, item.Source)
		})
	}
}
