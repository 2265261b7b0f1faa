package geocache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestNoGetter(t *testing.T) {
	alone(t, geocache.Getter[string](nil), nil, func(t *testing.T, g *geocache.Group[string]) {
		ctx := t.Context()
		_, err := g.Get(ctx, "ada")
		require.ErrorIs(t, err, geocache.ErrNotFound)
		require.NoError(t, g.Set(ctx, "ada", "1"))
		item, err := g.GetItem(ctx, "ada")
		require.NoError(t, err)
		require.Equal(t, "1", item.Value)
		require.Equal(t, geocache.SourceStore, item.Source)
		m, err := g.GetMany(ctx, []string{"ada", "bob"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"ada": "1"}, m)
		require.NoError(t, g.Remove(ctx, "ada"))
		_, err = g.Get(ctx, "ada")
		require.ErrorIs(t, err, geocache.ErrNotFound)
		require.NoError(t, g.Set(ctx, "eve", "1"))
		time.Sleep(5 * time.Minute)
		_, err = g.Get(ctx, "eve")
		require.ErrorIs(t, err, geocache.ErrNotFound, "expired")
		v, err := g.Update(ctx, "eve", func(old string, ok bool) (string, error) {
			require.False(t, ok)
			return old + "from nothing", nil
		})
		require.NoError(t, err)
		require.Equal(t, "from nothing", v)
		s := g.Stats()
		require.Zero(t, s.Loads, "there is no getter to call")
		require.EqualValues(t, 4, s.NotFound)
		require.EqualValues(t, 2, s.Store)
		require.EqualValues(t, 6, s.Reads())
	})
}

func TestNoGetterInACluster(t *testing.T) {
	for name, negative := range map[string]time.Duration{
		"absence not cached": 0, "absence cached": 10 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
				ctx := context.Background()
				groups := onAll(c, "aside", geocache.Getter[string](nil), geocache.WithNegativeTTL(negative))
				notFound := func(key string) {
					t.Helper()
					for node, g := range groups {
						_, err := g.Get(ctx, key)
						require.ErrorIs(t, err, geocache.ErrNotFound, node)
					}
				}
				found := func(key, want string) {
					t.Helper()
					for node, g := range groups {
						v, err := g.Get(ctx, key)
						require.NoError(t, err, node)
						require.Equal(t, want, v, node)
					}
				}
				notFound("ada")
				absences := 0
				for _, g := range groups {
					absences += g.Stats().Entries
				}
				require.Equal(t, negative > 0, absences > 0)

				// A write is visible at once, even if absence is cached or about to be.
				require.NoError(t, groups["eu-1"].Set(ctx, "ada", "1", geocache.WithAck(geocache.AckWorld)))
				found("ada", "1")
				require.NoError(t, groups["us-2"].Remove(ctx, "ada", geocache.WithAck(geocache.AckWorld)))
				notFound("ada")

				// The owner dies, and its successor has the value. A new owner asks for it.
				require.NoError(t, groups["eu-1"].Set(ctx, "bob", "2", geocache.WithAck(geocache.AckWorld)))
				owner := c.Owner("eu", "bob").Name
				c.Node(owner).Crash()
				delete(groups, owner)
				c.Settle()
				found("bob", "2")
				joined := c.Add("eu")
				g, err := geocache.NewGroup(joined.Cache, "aside", geocache.Getter[string](nil),
					geocache.WithNegativeTTL(negative))
				require.NoError(t, err)
				groups[joined.Name] = g
				time.Sleep(untilLeased)
				found("bob", "2")

				n, err := geocache.NewGroup(c.Node("us-1").Cache, "counts", geocache.Getter[int](nil))
				require.NoError(t, err)
				for want := 1; want <= 3; want++ {
					v, err := n.Update(ctx, "ada", func(old int, ok bool) (int, error) {
						require.Equal(t, want > 1, ok)
						return old + 1, nil
					})
					require.NoError(t, err)
					require.Equal(t, want, v)
				}
				for node, g := range groups {
					require.Zero(t, g.Stats().Loads, node)
				}
			})
		})
	}
}

// A region without a value asks another region for it only if an origin region is named.
func TestNoGetterMissAsksTheOriginRegion(t *testing.T) {
	for region, want := range map[string]bool{"": false, "us": true} {
		t.Run(region, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
				ctx := context.Background()
				opts := []geocache.GroupOption{geocache.WithOriginRegion(region), geocache.WithTTL(time.Hour)}
				groups := onAll(c, "aside", geocache.Getter[string](nil), opts...)
				require.NoError(t, groups["us-1"].Set(ctx, "ada", "1", geocache.WithAck(geocache.AckWorld)))
				eu := c.Nodes("eu")
				for _, n := range eu {
					n.Crash()
				}
				c.Settle()
				for _, n := range eu {
					n.Restart(0)
				}
				c.Settle()
				for _, n := range eu {
					g, err := geocache.NewGroup(n.Cache, "aside", geocache.Getter[string](nil), opts...)
					require.NoError(t, err)
					groups[n.Name] = g
				}
				item, err := groups["eu-1"].GetItem(ctx, "ada")
				if want {
					require.NoError(t, err)
					require.Equal(t, "1", item.Value)
				} else {
					require.ErrorIs(t, err, geocache.ErrNotFound)
				}
				_, err = groups["eu-1"].Get(ctx, "bob")
				require.ErrorIs(t, err, geocache.ErrNotFound)
			})
		})
	}
}

// A new owner that cannot reach the former owners does not conclude that there is no value: in a
// group without a getter nothing would bring it back.
func TestNewOwnerCannotReachFormerOwners(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		group := func(n *testcluster.Node) *geocache.Group[int] {
			g, err := geocache.NewGroup[int](n.Cache, "votes", nil, geocache.WithTTL(time.Hour))
			require.NoError(t, err)
			return g
		}
		var old *geocache.Group[int]
		for _, n := range c.Nodes() {
			old = group(n)
		}
		time.Sleep(untilLeased)
		for i := range 40 {
			require.NoError(t, old.Set(c.T.Context(), fmt.Sprint(i), 5))
		}
		owner := c.Add("eu")
		votes := group(owner)
		c.Settle()
		key := ""
		for i := 0; key == ""; i++ {
			if c.Owner("eu", fmt.Sprint(i)) == owner {
				key = fmt.Sprint(i)
			}
		}
		c.Net.Cut(owner.Name, "eu") // for less than a lease
		time.AfterFunc(400*time.Millisecond, c.Net.HealAll)
		ctx, cancel := context.WithTimeout(c.T.Context(), 5*time.Second)
		defer cancel()
		n, err := geocache.Increment(ctx, votes, key, 1)
		require.NoError(t, err)
		require.Equal(t, 6, n)
	})
}

// So many nodes join before anybody reads a value that the nodes that have it are far down its
// key's line of succession. It is found all the same: no origin has what was set, and a 0 that was
// loaded would hide it.
func TestValuesSurviveManyNewNodes(t *testing.T) {
	for _, update := range []bool{false, true} { // it is updated first, or read first
		testcluster.Run(t, testcluster.Config{Nodes: 2, Counters: true}, func(c *testcluster.Cluster) {
			time.Sleep(untilLeased)
			for i := range 30 {
				_, err := geocache.Increment(c.T.Context(), c.Node("eu-1").Counters, fmt.Sprint(i), 7)
				require.NoError(t, err)
			}
			for range 5 {
				c.Add("eu")
			}
			time.Sleep(untilLeased)
			for i := range 30 {
				key, want := fmt.Sprint(i), 7
				if update {
					want++
					n, err := geocache.Increment(c.T.Context(), c.Node("eu-1").Counters, key, 1)
					require.NoError(t, err)
					require.Equal(t, want, n, key)
				}
				for _, node := range c.Nodes() {
					n, err := node.Counters.Get(c.T.Context(), key)
					require.NoError(t, err)
					require.Equal(t, want, n, "%s at %s", key, node.Name)
				}
			}
		})
	}
}
