package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestWarm(t *testing.T) {
	var loads, running, most atomic.Int64
	getter := countLoads(&loads, func(_ context.Context, key string) (string, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		time.Sleep(20 * time.Millisecond)
		switch {
		case strings.HasPrefix(key, "none"):
			return "", geocache.ErrNotFound
		case strings.HasPrefix(key, "bad"):
			return "", errDatabase
		}
		return key, nil
	})
	alone(t, getter, nil, func(t *testing.T, g *geocache.Group[string]) {
		_, err := g.Get(t.Context(), "key-7")
		require.NoError(t, err)
		all := append(keys(2000), "none-1", "none-2")
		begun := time.Now()
		s, err := g.Warm(t.Context(), slices.Values(all))
		require.NoError(t, err)
		require.Equal(t, geocache.WarmStats{Loaded: 1999, Present: 1, Missing: 2}, s)
		require.InDelta(t, 2, time.Since(begun).Seconds(), 0.1, "the default is a thousand a second")
		require.LessOrEqual(t, most.Load(), int64(64))
		require.EqualValues(t, 2002, loads.Load())

		begun = time.Now()
		s, err = g.Warm(t.Context(), slices.Values(all[:50]), geocache.WithWarmRate(10))
		require.NoError(t, err)
		require.Equal(t, geocache.WarmStats{Present: 50}, s)
		require.InDelta(t, 4.9, time.Since(begun).Seconds(), 0.1)
		require.EqualValues(t, 2002, loads.Load())

		var bad []string
		for i := range 100 {
			bad = append(bad, fmt.Sprint("bad-", i), fmt.Sprint("good-", i))
		}
		s, err = g.Warm(t.Context(), slices.Values(append(bad, strings.Repeat("x", 5000))),
			geocache.WithWarmRate(1e9), geocache.WithWarmConcurrency(1024))
		require.Equal(t, geocache.WarmStats{Loaded: 100, Failed: 101}, s)
		require.ErrorIs(t, err, errDatabase)
		require.ErrorContains(t, err, `geocache: warm test/"bad-`)
		require.ErrorContains(t, err, "81 more keys could not be loaded")
	})
}

func TestWarmEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		g, err := geocache.NewGroup(cache, "g", ada)
		require.NoError(t, err)
		endless := func(yield func(string) bool) {
			for i := 0; yield(fmt.Sprint(i)); i++ {
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second+time.Millisecond)
		defer cancel()
		s, err := g.Warm(ctx, endless)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, s.Failed)
		require.InDelta(t, 1000, s.Loaded, 100)

		time.AfterFunc(time.Second, func() { cache.Close() })
		_, err = g.Warm(t.Context(), endless)
		require.ErrorIs(t, err, geocache.ErrClosed)

		_, err = g.Warm(t.Context(), endless, geocache.WithWarmRate(0), geocache.WithWarmConcurrency(0))
		requireMistakes(t, err, "geocache: warm g: WithWarmRate(0): must be positive",
			"WarmConcurrency(0): must be from 1 to 1024")
	})
	alone(t, geocache.Getter[string](nil), nil, func(t *testing.T, g *geocache.Group[string]) {
		_, err := g.Warm(t.Context(), slices.Values(keys(3)))
		require.ErrorContains(t, err, "the group has no getter")
	})
}

func TestWarmInACluster(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		q := &recordingGetter{}
		groups := onAll(c, "warm", geocache.Getter[string](q), geocache.WithTTL(testcluster.TTL))
		time.Sleep(2 * testcluster.TTL)
		all := keys(900)
		s, err := groups["eu-1"].Warm(context.Background(), slices.Values(append(all, "none")))
		require.NoError(t, err)
		require.Equal(t, geocache.WarmStats{Loaded: 900, Missing: 1}, s)
		require.Len(t, q.loaded(), 901, "in this region alone")
		require.Less(t, len(q.sizes())+len(q.singles), 901/10, "most of them in batches")
		for node, g := range groups {
			require.Zero(t, g.Stats().Copies, node)
			require.Equal(t, strings.HasPrefix(node, "eu"), g.Stats().Entries > 0, node)
		}
		for _, node := range []string{"eu-1", "eu-2", "eu-3"} {
			m, err := groups[node].GetMany(context.Background(), all)
			require.NoError(t, err)
			require.Len(t, m, 900)
		}
		require.Len(t, q.loaded(), 901)
		s, err = groups["eu-2"].Warm(context.Background(), slices.Values(all))
		require.NoError(t, err)
		require.Equal(t, geocache.WarmStats{Present: 900}, s)

		// A hung owner does not prevent its keys from being loaded, and a failed key does not fail
		// others.
		c.Node("eu-3").Freeze()
		q.behave = func(_ context.Context, keys []string) error {
			if slices.Contains(keys, "new-5") {
				return errors.New("cannot have that")
			}
			return nil
		}
		var more []string
		for i := range 30 {
			more = append(more, fmt.Sprint("new-", i))
		}
		s, err = groups["eu-1"].Warm(context.Background(), slices.Values(more), geocache.WithWarmConcurrency(1))
		require.ErrorContains(t, err, "cannot have that")
		require.Equal(t, geocache.WarmStats{Loaded: 29, Failed: 1}, s)
	})
}
