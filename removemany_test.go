package geocache_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// The second key of a RemoveMany is being written for longer than its caller waits. The region is told
// of the first one all the same.
func TestARemoveManyThatEndsBetweenItsKeys(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		var keys []string
		for i := 0; len(keys) < 2; i++ {
			if k := fmt.Sprint("x", i); c.Owner("eu", k).Name == "eu-2" {
				keys = append(keys, k)
			}
		}
		var loads atomic.Int64
		groups := onAll(c, "removals", geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			return fmt.Sprint(loads.Add(1)), nil
		}), geocache.WithTTL(time.Hour), geocache.WithSetter(func(context.Context, string, string) error {
			time.Sleep(3 * time.Second)
			return nil
		}))
		for _, g := range groups {
			_, err := g.Get(c.T.Context(), keys[0])
			require.NoError(t, err)
		}
		go groups["eu-2"].Set(context.Background(), keys[1], "new")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(c.T.Context(), time.Second)
		defer cancel()
		err := groups["eu-2"].RemoveMany(ctx, keys)
		require.ErrorIs(t, err, geocache.ErrUncertain)
		time.Sleep(10 * time.Second)
		w, err := groups["eu-2"].Get(c.T.Context(), keys[0])
		require.NoError(t, err)
		require.Equal(t, "2", w, "at the owner")
		for node, g := range groups {
			got, err := g.Get(c.T.Context(), keys[0])
			require.NoError(t, err)
			require.Equal(t, w, got, node)
		}
	})
}
