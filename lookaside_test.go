package geocache_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// onAll adds a group of the same name to every node of the cluster.
func onAll[V any](c *testcluster.Cluster, name string, getter geocache.Getter[V], opts ...geocache.GroupOption) map[string]*geocache.Group[V] {
	c.T.Helper()
	groups := map[string]*geocache.Group[V]{}
	for _, n := range c.Nodes() {
		g, err := geocache.NewGroup(n.Cache, name, getter, opts...)
		require.NoError(c.T, err)
		groups[n.Name] = g
	}
	time.Sleep(standing)
	return groups
}

func TestAGroupWithoutAGetter(t *testing.T) {
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
		require.Zero(t, s.Loads, "there is nothing to call")
		require.EqualValues(t, 4, s.NotFound)
		require.EqualValues(t, 2, s.Store)
		require.EqualValues(t, 6, s.Reads())
	})
}

func TestWithoutAGetterInACluster(t *testing.T) {
	for name, negative := range map[string]time.Duration{"absence not cached": 0, "absence cached": 10 * time.Second} {
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

				// Whatever absence is cached or was about to be, a write is seen at once.
				require.NoError(t, groups["eu-1"].Set(ctx, "ada", "1", geocache.WithAck(geocache.AckWorld)))
				found("ada", "1")
				require.NoError(t, groups["us-2"].Remove(ctx, "ada", geocache.WithAck(geocache.AckWorld)))
				notFound("ada")

				// The owner goes, its successor has the value. A new owner asks for it.
				require.NoError(t, groups["eu-1"].Set(ctx, "bob", "2", geocache.WithAck(geocache.AckWorld)))
				owner := c.Owner("eu", "bob").Name
				c.Node(owner).Crash()
				delete(groups, owner)
				c.Settle()
				found("bob", "2")
				joined := c.Add("eu")
				g, err := geocache.NewGroup(joined.Cache, "aside", geocache.Getter[string](nil), geocache.WithNegativeTTL(negative))
				require.NoError(t, err)
				groups[joined.Name] = g
				time.Sleep(standing)
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

// A region that has not got a value asks another for it only if one is named.
func TestAMissWithoutAGetterAsksTheOriginRegion(t *testing.T) {
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
