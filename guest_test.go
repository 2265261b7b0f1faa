package geocache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file tests nodes that run but are not listed by the discovery, or by part of it: they become
// guests of their region.

// unlistedUnderLoad hides eu-3 by calling hide, while each node reads, writes and increments all
// the time. Whatever the discovery says, no read returns what was replaced before it began, and
// once the grace period is over no write takes longer than two leases.
func unlistedUnderLoad(t *testing.T, hide func(c *testcluster.Cluster), during func(c *testcluster.Cluster)) {
	config := testcluster.Config{
		Counters: true,
		TTL:      time.Hour,
		Cache:    []geocache.Option{geocache.WithGrace(shortGrace)},
	}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, key := range keys(60) {
			c.Owner("eu", key).MustGet(key) // no other node has a copy
		}
		hide(c)
		hidden := c.Now()

		var all sync.WaitGroup
		stop := make(chan struct{})
		wait := func() bool {
			select {
			case <-stop:
				return false
			case <-time.After(37 * time.Millisecond):
				return true
			}
		}
		last := make([]int, 12) // guarded by mu: the number last written to each key
		var mu sync.Mutex
		for i := range last {
			all.Go(func() {
				nodes := c.Nodes()
				for n := 1; wait(); n++ {
					began := c.Now()
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					err := nodes[n%3].Group.Set(ctx, fmt.Sprint("w", i), fmt.Sprint(n))
					cancel()
					require.NoError(t, err)
					if began.Sub(hidden) > shortGrace+2*defaultLease {
						require.LessOrEqual(t, c.Now().Sub(began), 2*defaultLease)
					}
					mu.Lock()
					last[i] = n
					mu.Unlock()
				}
			})
			all.Go(func() {
				for n := 0; wait(); n++ {
					mu.Lock()
					least := last[i]
					mu.Unlock()
					v, err := c.Nodes()[n%3].Group.Get(context.Background(), fmt.Sprint("w", i))
					require.NoError(t, err)
					if least > 0 {
						got := 0
						_, err = fmt.Sscan(v, &got)
						require.NoError(t, err)
						require.GreaterOrEqual(t, got, least, "at %s", c.Nodes()[n%3].Name)
					}
				}
			})
		}
		count := countInBackground(countersOf(c), 8, 59*time.Millisecond)
		time.Sleep(shortGrace + 5*time.Second)
		for _, name := range []string{"eu-1", "eu-2"} {
			require.True(t, c.Node(name).Cache.Stats().ServesCopies, "%s must serve copies", name)
		}
		during(c)
		close(stop)
		all.Wait()
		least, most := count()
		for i := range least {
			require.Greater(t, least[i], int64(60), "counter %d must go on", i)
		}
		for _, g := range countersOf(c) {
			requireCounts(c.T, g, least, most)
		}
	})
}

// A node that nobody lists any more becomes a guest of its region, and a member again when it is
// listed.
func TestUnlistedNodeBecomesAGuest(t *testing.T) {
	unlistedUnderLoad(t, func(c *testcluster.Cluster) {
		c.Directory.Unlist("eu-3")
	}, func(c *testcluster.Cluster) {
		out := c.Node("eu-3")
		require.True(t, out.Cache.Stats().Guest)
		require.False(t, out.Cache.Stats().ServesCopies)
		require.Contains(t, c.Log(), "it owns nothing now")
		for _, n := range c.Nodes() {
			require.Equal(t, 2, n.Cache.Stats().Regions[0].Nodes, n.Name)
		}
		loads := c.Origin.Total()
		for _, key := range keys(60) {
			out.MustGet(key)
		}
		require.Equal(t, loads, c.Origin.Total(), "it has handed over what it had")

		c.Directory.Relist("eu-3")
		time.Sleep(5 * time.Second)
		require.False(t, out.Cache.Stats().Guest)
		for _, n := range c.Nodes() {
			require.Equal(t, 3, n.Cache.Stats().Regions[0].Nodes, n.Name)
			require.True(t, n.Cache.Stats().ServesCopies, n.Name)
			for _, key := range keys(60) {
				n.MustGet(key)
			}
		}
		require.Equal(t, loads, c.Origin.Total(), "it returns without a load")
	})
}

// A node whose agent has died keeps what it knew last, which includes itself, while the others do
// not list it.
func TestNodeWithADeadAgentBecomesAGuest(t *testing.T) {
	unlistedUnderLoad(t, func(c *testcluster.Cluster) {
		c.Directory.Hide("eu-1", "eu-3")
		c.Directory.Hide("eu-2", "eu-3")
	}, func(c *testcluster.Cluster) {
		require.True(t, c.Node("eu-3").Cache.Stats().Guest)
	})
}

// A node that one of the others lists is a member for all of them.
func TestNodeListedByOnePeerIsAMember(t *testing.T) {
	unlistedUnderLoad(t, func(c *testcluster.Cluster) {
		c.Directory.Hide("eu-1", "eu-3")
	}, func(c *testcluster.Cluster) {
		for _, n := range c.Nodes() {
			require.False(t, n.Cache.Stats().Guest)
			require.Equal(t, 3, n.Cache.Stats().Regions[0].Nodes, n.Name)
		}
		require.True(t, c.Node("eu-3").Cache.Stats().ServesCopies)
	})
}

func TestNodeNotListedToItself(t *testing.T) {
	unlistedUnderLoad(t, func(c *testcluster.Cluster) {
		c.Directory.Hide("eu-3", "eu-3")
	}, func(c *testcluster.Cluster) {
		require.False(t, c.Node("eu-3").Cache.Stats().Guest)
		require.True(t, c.Node("eu-3").Cache.Stats().ServesCopies)
	})
}

func TestTwoNodesNotListedToEachOther(t *testing.T) {
	unlistedUnderLoad(t, func(c *testcluster.Cluster) {
		c.Directory.Hide("eu-1", "eu-3")
		c.Directory.Hide("eu-3", "eu-1")
	}, func(c *testcluster.Cluster) {
		for _, n := range c.Nodes() {
			require.False(t, n.Cache.Stats().Guest)
			require.True(t, n.Cache.Stats().ServesCopies)
		}
	})
}

// An agent that was restarted without its data lists nobody until the nodes have registered again.
func TestDirectoryForgetsWhileAllWrite(t *testing.T) {
	unlistedUnderLoad(t, func(c *testcluster.Cluster) { c.Directory.Forget() }, func(c *testcluster.Cluster) {
		for _, n := range c.Nodes() {
			require.False(t, n.Cache.Stats().Guest)
			require.True(t, n.Cache.Stats().ServesCopies)
		}
	})
}

// A write that is in progress when its owner becomes a guest is executed by the next owner.
func TestWriteWhoseOwnerBecomesAGuest(t *testing.T) {
	config := testcluster.Config{TTL: time.Hour, Cache: []geocache.Option{geocache.WithGrace(shortGrace)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 50*time.Millisecond)
		time.Sleep(untilLeased)
		c.Directory.Unlist("eu-3")
		var all sync.WaitGroup
		until := time.Now().Add(shortGrace + 3*time.Second)
		for i := range 30 {
			all.Go(func() {
				key := c.KeyOf("eu-3")
				for n := 0; time.Now().Before(until); n++ {
					value := fmt.Sprint(i, n)
					_, err := c.Nodes()[i%3].Set(fmt.Sprint(key, i), value)
					require.NoError(t, err)
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		all.Wait()
		require.True(t, c.Node("eu-3").Cache.Stats().Guest)
	})
}

// Another region learns from the guest itself that it is one, however long its own discovery lists
// it.
func TestGuestListedInAnotherRegion(t *testing.T) {
	config := testcluster.Config{
		Regions: []string{"eu", "us"}, TTL: time.Hour, Counters: true,
		Cache: []geocache.Option{geocache.WithGrace(shortGrace)},
	}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		time.Sleep(untilLeased)
		for _, n := range c.Nodes("eu") {
			c.Directory.Hide(n.Name, "eu-3")
		}
		time.Sleep(shortGrace + 5*time.Second)
		require.True(t, c.Node("eu-3").Cache.Stats().Guest)
		require.Equal(t, 2, c.Node("us-1").Cache.Stats().Regions[1].Nodes)
		for i := range 60 {
			key := fmt.Sprint(i)
			from, to := c.Nodes()[i%6], c.Nodes()[(i+3)%6] // of another region
			began := c.Now()
			_, err := from.Set(key, "set", geocache.WithAck(geocache.AckWorld))
			require.NoError(t, err)
			require.Less(t, c.Now().Sub(began), defaultLease)
			require.Equal(t, "set", text(t, to, key), "at %s", to.Name)
			_, err = geocache.Increment(context.Background(), to.Counters, key, 1)
			require.NoError(t, err)
		}
		for i := range 60 {
			for _, n := range c.Nodes() {
				v, err := geocache.Increment(context.Background(), n.Counters, fmt.Sprint(i), 0)
				require.NoError(t, err)
				require.Equal(t, 1, int(v), "at %s", n.Name)
			}
		}
	})
}

// withGuest runs f in a cluster in which the last node of eu is a guest of its region.
func withGuest(
	t *testing.T, config testcluster.Config, f func(c *testcluster.Cluster, guest *testcluster.Node),
) {
	config.TTL = time.Hour
	config.Cache = append(config.Cache, geocache.WithGrace(shortGrace))
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		nodes := c.Nodes("eu")
		guest := nodes[len(nodes)-1]
		c.Directory.Unlist(guest.Name)
		time.Sleep(shortGrace + 5*time.Second)
		require.True(t, guest.Cache.Stats().Guest)
		f(c, guest)
	})
}

// A node that is alone except for a guest has never been granted a lease, and executes the guest's
// writes all the same.
func TestGuestOfANewlyStartedNode(t *testing.T) {
	config := testcluster.Config{Nodes: 2, Counters: true}
	withGuest(t, config, func(c *testcluster.Cluster, guest *testcluster.Node) {
		c.Node("eu-1").Crash()
		time.Sleep(5 * time.Second)
		require.False(t, guest.Cache.Stats().Guest, "there is no other node")
		c.Node("eu-1").Restart(0)
		time.Sleep(5 * time.Second)
		require.True(t, guest.Cache.Stats().Guest)
		for _, key := range keys(10) {
			began := c.Now()
			_, err := guest.Set(key, "set")
			require.NoError(t, err)
			_, err = geocache.Increment(context.Background(), guest.Counters, key, 1)
			require.NoError(t, err)
			require.Less(t, c.Now().Sub(began), defaultLease)
		}
	})
}

func TestUnlistedNodeStaysForTheGracePeriod(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Directory.Unlist("eu-1")
		c.Settle()
		require.Len(t, c.Node("eu-2").Cache.Stats().Peers, 2, "it still answers, so it stays a member")
		time.Sleep(2 * time.Minute)
		require.True(t, c.Node("eu-1").Cache.Stats().Guest)
		require.Equal(t, 2, c.Node("eu-2").Cache.Stats().Regions[0].Nodes)
		readAll(c.Node("eu-1"), keys(100))
	})
}

// A guest is not told of writes, so its read does not join a fill that began before a write.
func TestGuestSharesNoFlight(t *testing.T) {
	withGuest(t, testcluster.Config{}, func(c *testcluster.Cluster, guest *testcluster.Node) {
		c.Origin.Behave(testcluster.After(500 * time.Millisecond))
		ctx := context.Background()
		one := func(key string) (string, error) { return guest.Group.Get(ctx, key) }
		many := func(key string) (string, error) {
			values, err := guest.Group.GetMany(ctx, []string{key, "other"})
			return values[key], err
		}
		for key, get := range map[string]func(string) (string, error){"one": one, "of many": many} {
			go get(key)
			time.Sleep(100 * time.Millisecond)
			version := c.Origin.Put(key, "a test")
			_, err := c.Node("eu-1").Remove(key)
			require.NoError(t, err)
			got, err := get(key)
			require.NoError(t, err)
			v, _ := testcluster.ParseValue(got)
			require.Equal(t, version, v.Version(), key)
		}
	})
}

// A guest that is cut off is alone for a while. What it did not know then does not invalidate the
// others' values.
func TestGuestThatWasAloneInvalidatesNothing(t *testing.T) {
	config := testcluster.Config{Counters: true, LookAside: true}
	withGuest(t, config, func(c *testcluster.Cluster, guest *testcluster.Node) {
		for _, key := range keys(30) {
			_, err := geocache.Increment(context.Background(), c.Node("eu-1").Counters, key, 1)
			require.NoError(t, err)
		}
		c.Net.Cut(guest.Name, "eu-1")
		c.Net.Cut(guest.Name, "eu-2")
		time.Sleep(5 * time.Second)
		require.False(t, guest.Cache.Stats().Guest)
		c.Directory.Relist(guest.Name)
		time.Sleep(time.Second)
		c.Net.HealAll()
		time.Sleep(5 * time.Second)
		for _, n := range c.Nodes() {
			require.Equal(t, 3, n.Cache.Stats().Regions[0].Nodes, n.Name)
			for _, key := range keys(30) {
				count, err := geocache.Increment(context.Background(), n.Counters, key, 0)
				require.NoError(t, err)
				require.Equal(t, 1, count, "%s at %s", key, n.Name)
			}
		}
	})
}

// Nodes that become guests at the same time may hand what they own to each other.
func TestNodesBecomeGuestsTogether(t *testing.T) {
	config := testcluster.Config{
		Nodes: 4, Counters: true, LookAside: true, TTL: time.Hour,
		Cache: []geocache.Option{geocache.WithGrace(shortGrace)},
	}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, key := range keys(200) {
			_, err := geocache.Increment(context.Background(), c.Node("eu-1").Counters, key, 1)
			require.NoError(t, err)
		}
		for _, name := range []string{"eu-2", "eu-3", "eu-4"} {
			c.Directory.Unlist(name)
		}
		time.Sleep(shortGrace + 5*time.Second)
		require.Equal(t, 1, c.Node("eu-1").Cache.Stats().Regions[0].Nodes)
		for _, key := range keys(200) {
			count, err := geocache.Increment(context.Background(), c.Node("eu-3").Counters, key, 1)
			require.NoError(t, err)
			require.Equal(t, 2, count, key)
		}
	})
}

// When the last member dies, its guests become members at once, and each is alone at first. A write
// by one of them is then known to all.
func TestGuestsBecomeMembersTogether(t *testing.T) {
	config := testcluster.Config{Counters: true, LookAside: true}
	withGuest(t, config, func(c *testcluster.Cluster, guest *testcluster.Node) {
		c.Net.SetLatency("eu", "eu", 20*time.Millisecond)
		c.Directory.Unlist("eu-2")
		time.Sleep(shortGrace + 5*time.Second)
		last, other := c.Node("eu-1"), c.Node("eu-2")
		last.Crash()
		time.Sleep(5 * time.Second)
		last.Restart(0) // it does not know of the guests: they ask it, and it does not ask them
		time.Sleep(5 * time.Second)
		require.True(t, guest.Cache.Stats().Guest)
		require.True(t, other.Cache.Stats().Guest)

		last.Crash()
		count := countInBackground([]*geocache.Group[int]{guest.Counters, other.Counters}, 20, 7*time.Millisecond)
		ctx := context.Background()
		for n := range 60 {
			for _, key := range keys(10) {
				_, _ = guest.Group.Get(ctx, key)
				began := c.Now()
				require.NoError(t, other.Group.Set(ctx, key, fmt.Sprint(n)))
				require.LessOrEqual(t, c.Now().Sub(began), 2*defaultLease)
				got, err := guest.Group.Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, fmt.Sprint(n), got)
			}
			time.Sleep(5 * time.Millisecond)
		}
		least, most := count()
		for _, n := range []*testcluster.Node{guest, other} {
			require.False(t, n.Cache.Stats().Guest)
			requireCounts(c.T, n.Counters, least, most)
		}
	})
}
