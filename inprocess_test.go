package geocache_test

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
)

// TestContainsLenAndAll asks for what is in memory, some of which is absent or has expired.
func TestContainsLenAndAll(t *testing.T) {
	getter := geocache.ItemGetterFunc[string](func(
		_ context.Context, key string,
	) (geocache.Loaded[string], error) {
		switch {
		case strings.HasPrefix(key, "no"):
			return geocache.Loaded[string]{}, geocache.ErrNotFound
		case strings.HasPrefix(key, "short"):
			return geocache.Loaded[string]{Value: "v", TTL: time.Second}, nil
		}
		return geocache.Loaded[string]{Value: "value of " + key}, nil
	})
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithNegativeTTL(time.Minute),
		geocache.WithStaleIfError(time.Hour)}
	alone(t, getter, opts, func(t *testing.T, g *geocache.Group[string]) {
		for _, key := range []string{"ada", "bob", "no", "short"} {
			g.Get(t.Context(), key)
		}
		before := g.Stats()
		require.True(t, g.Contains("ada"))
		require.True(t, g.Contains("short"))
		require.False(t, g.Contains("no"))
		require.False(t, g.Contains("cy"))
		require.Equal(t, 3, g.Len())

		time.Sleep(time.Second)
		require.False(t, g.Contains("short"))
		require.Equal(t, 2, g.Len())
		require.Equal(t, map[string]string{"ada": "value of ada", "bob": "value of bob"}, maps.Collect(g.All()))

		for key := range g.All() { // the loop body may call the group
			err := g.Remove(t.Context(), key)
			require.NoError(t, err)
			break
		}
		require.Equal(t, 1, g.Len())
		after := g.Stats()
		require.Equal(t, before.Reads(), after.Reads())
		require.Equal(t, before.Loads, after.Loads)

		err := g.Clear(t.Context())
		require.NoError(t, err)
		require.Zero(t, g.Len())
	})
}

func TestAllInOrder(t *testing.T) {
	for policy, want := range map[geocache.Policy][]string{
		geocache.LRU:  {"b", "a", "d", "c"},
		geocache.LFU:  {"a", "b", "d", "c"},
		geocache.FIFO: {"d", "c", "b", "a"},
	} {
		opts := []geocache.GroupOption{geocache.WithPolicy(policy)}
		alone(t, ada, opts, func(t *testing.T, g *geocache.Group[string]) {
			for _, key := range []string{"a", "b", "c", "d", "a", "a", "b"} {
				_, err := g.Get(t.Context(), key)
				require.NoError(t, err)
			}
			for range 2 { // iterating does not change the order
				var got []string
				for key := range g.All() {
					got = append(got, key)
				}
				require.Equal(t, want, got, policy)
			}
		})
	}
}
