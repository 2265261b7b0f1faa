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
	"github.com/geocache/geocache/internal/testcluster/network/mangle"
	"github.com/geocache/geocache/regions"
)

// Each test here fails if one mechanism of writes is taken out, and needs no luck
// for that. See "A write" in docs/design.md.

// The tie-break: two Sets of one generation end with the same value everywhere.
func TestMechanismTwoSetsInTheSameInstant(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		ties := 0
		for i := range 20 {
			key := fmt.Sprint(i)
			var written sync.Map
			var writing sync.WaitGroup
			for _, region := range []string{"eu", "us"} {
				writing.Go(func() {
					w, err := c.Owner(region, key).Set(key, region)
					require.NoError(t, err)
					written.Store(w.Generation, region)
				})
			}
			writing.Wait()
			stamps := 0
			written.Range(func(any, any) bool { stamps++; return true })
			ties += 2 - stamps
			time.Sleep(time.Second)
			want := text(t, c.Node("eu-1"), key)
			for _, n := range c.Nodes() {
				require.Equal(t, want, text(t, n, key), n.Name)
			}
		}
		require.NotZero(t, ties)
	})
}

// Age: a value does not live longer for having been under way, or for having waited.
func TestMechanismAValueAgesOnItsWay(t *testing.T) {
	const life, way = 10 * time.Second, 2 * time.Second
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		check := func(key string, begun time.Time) {
			for _, n := range c.Nodes("us") {
				item := n.MustGet(key)
				v, _ := testcluster.ParseValue(item.Value)
				require.Equal(t, "written", v.By)
				require.LessOrEqual(t, item.Expires.Sub(begun), life+time.Millisecond, n.Name)
			}
		}
		c.Net.Cut("eu", "us")
		begun := time.Now()
		_, err := c.Node("eu-1").Set("waited", "written", geocache.WithItemTTL(life))
		require.NoError(t, err)
		time.Sleep(3 * time.Second)
		c.Net.HealAll()
		time.Sleep(4 * time.Second)
		check("waited", begun)

		c.Net.SetLatency("eu", "us", way)
		begun = time.Now()
		_, err = c.Node("eu-1").Set("travelled", "written", geocache.WithItemTTL(life))
		require.NoError(t, err)
		time.Sleep(way + 100*time.Millisecond)
		check("travelled", begun)
	})
}

// Settling: a node that the writer does not see any more, while others do, has a lease of
// those for a while, under which it fetches copies from them.
func TestMechanismAWriteWaitsForLeasesOfOthers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
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
func TestMechanismANodeThatIsNotSeenOwnsNothing(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
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

// blinkered is a discovery that lists its node and tells it of no other until it opens.
type blinkered struct {
	regions.Discovery
	opens <-chan struct{}
}

func (b blinkered) Run(ctx context.Context, self regions.Node, healthy func() error, found func(regions.View)) error {
	return b.Discovery.Run(ctx, self, healthy, func(v regions.View) {
		select {
		case <-b.opens:
		default:
			v = regions.View{Nodes: []regions.Node{self}}
		}
		found(v)
	})
}

// Strangers: a node that is seen by the others and does not see them would be alone in
// being told of what it writes.
func TestMechanismANodeThatSeesNobodyCarriesOutNoWrites(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Counters: true}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		old := c.Nodes()
		for i := range 40 {
			for _, n := range old {
				n.MustGet(fmt.Sprint(i))
			}
		}
		opens := make(chan struct{})
		newcomer := c.Add("eu", geocache.WithDiscovery(blinkered{c.Directory, opens}), geocache.WithJoinWait(0))
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

// unaware is a discovery that never tells its node of another one.
type unaware struct {
	regions.Discovery
	of string
}

func (u unaware) Run(ctx context.Context, self regions.Node, healthy func() error, found func(regions.View)) error {
	return u.Discovery.Run(ctx, self, healthy, func(v regions.View) {
		v.Nodes = slices.DeleteFunc(slices.Clone(v.Nodes), func(n regions.Node) bool { return n.ID == u.of })
		found(v)
	})
}

// Strangers: those whom it does see, and its own users, must not wait for a node that has just come either. It
// leaves its keys to their successors.
func TestMechanismANewNodeThatLacksOneHoldsUpNobody(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		newcomer := c.Add("eu", geocache.WithDiscovery(unaware{c.Directory, "eu-3"}))
		time.Sleep(standing)
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

// Doubt: what was loaded before the write loses, although the clock it was stamped by is ahead.
func TestMechanismALoadByAClockThatIsAhead(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Offset: func(node string) time.Duration {
		if node[:2] == "us" {
			return 200 * time.Millisecond
		}
		return 0
	}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		time.Sleep(standing)
		for i := range 30 {
			key := fmt.Sprint(i)
			for _, n := range c.Nodes("us") {
				n.MustGet(key)
			}
			time.Sleep(time.Millisecond)
			_, err := c.Node("eu-1").Set(key, "written")
			require.NoError(t, err)
			time.Sleep(60 * time.Millisecond)
			for _, n := range c.Nodes("us") {
				require.Equal(t, "written", text(t, n, key), n.Name)
			}
		}
	})
}

// Anti-entropy: a note in the outbox of a node that dies after it has ceased to own the key is
// nobody's to send.
func TestMechanismRegionsCompareFloors(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2, TTL: 10 * time.Minute}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		var keys []string
		for i := range 60 {
			if key := fmt.Sprint(i); c.Owner("eu", key).Name == "eu-1" {
				keys = append(keys, key)
				for _, n := range c.Nodes("us") {
					n.MustGet(key)
				}
			}
		}
		c.Net.Cut("eu", "us")
		time.Sleep(2 * time.Second)
		for _, key := range keys {
			_, err := c.Node("eu-2").Remove(key)
			require.NoError(t, err)
		}
		c.Add("eu")
		c.Settle()
		require.NotEqual(t, len(keys), 0)
		var moved []string
		for _, key := range keys {
			if c.Owner("eu", key).Name == "eu-3" {
				moved = append(moved, key)
			}
		}
		require.NotEmpty(t, moved)
		c.Node("eu-1").Crash()
		c.Settle()
		c.Net.HealAll()
		time.Sleep(30 * time.Second)
		for _, key := range moved {
			for _, n := range c.Nodes("us") {
				require.NotEqual(t, "load 1 in us", text(t, n, key), n.Name)
			}
		}
	})
}

// The second sending: with messages lost, regions agree all the same.
func TestMechanismLostMessages(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 2, TTL: 10 * time.Minute, Mangle: mangle.Rates{Lose: 1e-12}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		c.Mangler.Set(mangle.Rates{Lose: 1})
		var writing sync.WaitGroup
		begun := time.Now()
		for i := range 20 {
			key := fmt.Sprint(i)
			writing.Go(func() {
				_, err := c.Owner("eu", key).Set(key, "written", geocache.WithItemTTL(20*time.Second))
				require.NoError(t, err)
			})
		}
		time.Sleep(300 * time.Millisecond)
		c.Mangler.Set(mangle.Rates{})
		writing.Wait()
		require.Less(t, time.Since(begun), time.Second)
		time.Sleep(3 * time.Second)
		for i := range 20 {
			for _, n := range c.Nodes() {
				item := n.MustGet(fmt.Sprint(i))
				v, _ := testcluster.ParseValue(item.Value)
				require.Equal(t, "written", v.By, n.Name)
				require.LessOrEqual(t, item.Expires.Sub(begun), 20*time.Second+time.Millisecond, n.Name)
			}
		}
	})
}
