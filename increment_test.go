package geocache_test

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestIncrement(t *testing.T) {
	alone(t, geocache.Getter[int8](nil), nil, func(t *testing.T, g *geocache.Group[int8]) {
		for _, step := range []struct {
			delta, want int8
			overflow    bool
		}{{100, 100, false}, {27, 127, false}, {1, 127, true}, {0, 127, false}, {-128, -1, false}, {-127, -128, false}, {-1, -128, true}, {math.MinInt8, -128, true}, {127, -1, false}} {
			n, err := geocache.Increment(t.Context(), g, "ada", step.delta)
			if step.overflow {
				require.ErrorContains(t, err, "are more than a int8 holds")
			} else {
				require.NoError(t, err)
				require.Equal(t, step.want, n)
			}
			n, err = g.Get(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, step.want, n)
		}
	})
	alone(t, geocache.Getter[uint64](nil), nil, func(t *testing.T, g *geocache.Group[uint64]) {
		n, err := geocache.Increment(t.Context(), g, "ada", math.MaxUint64)
		require.NoError(t, err)
		require.EqualValues(t, uint64(math.MaxUint64), n)
		_, err = geocache.Increment(t.Context(), g, "ada", 1)
		require.EqualError(t, err, `geocache: update test/"ada": 18446744073709551615 and 1 are more than a uint64 holds`)
	})
	alone(t, geocache.Getter[time.Duration](geocache.GetterFunc[time.Duration](func(context.Context, string) (time.Duration, error) { return 10, nil })), nil,
		func(t *testing.T, g *geocache.Group[time.Duration]) {
			n, err := geocache.Increment(t.Context(), g, "ada", 5)
			require.NoError(t, err)
			require.EqualValues(t, 15, n, "from what the origin has")
		})
}

func TestIncrementInACluster(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		groups := onAll(c, "counts", geocache.Getter[int](nil), geocache.WithTTL(time.Hour))
		var all sync.WaitGroup
		for _, g := range groups {
			for range 20 {
				all.Go(func() {
					_, err := geocache.Increment(context.Background(), g, "ada", 1)
					require.NoError(t, err)
				})
			}
		}
		all.Wait()
		n, err := geocache.Increment(context.Background(), groups["us-2"], "ada", 0, geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, 120, n)
		for node, g := range groups {
			n, err := g.Get(context.Background(), "ada")
			require.NoError(t, err)
			require.Equal(t, 120, n, node)
		}
	})
}
