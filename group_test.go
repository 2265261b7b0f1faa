package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// alone runs f in a bubble with a group on a Cache that is alone.
func alone[V any](t *testing.T, getter geocache.Getter[V], opts []geocache.GroupOption, f func(t *testing.T, g *geocache.Group[V])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now))
		require.NoError(t, err)
		defer cache.Close()
		g, err := geocache.NewGroup(cache, "test", getter, opts...)
		require.NoError(t, err)
		f(t, g)
	})
}

// counted counts the loads of a getter.
func counted[V any](n *atomic.Int64, get geocache.GetterFunc[V]) geocache.Getter[V] {
	return geocache.GetterFunc[V](func(ctx context.Context, key string) (V, error) {
		n.Add(1)
		return get(ctx, key)
	})
}

func TestGetItemTellsAboutTheValue(t *testing.T) {
	slow := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
		time.Sleep(3 * time.Second)
		return "v", nil
	})
	alone(t, slow, nil, func(t *testing.T, g *geocache.Group[string]) {
		begun := time.Now()
		loaded, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, "v", loaded.Value)
		require.Equal(t, geocache.SourceGetter, loaded.Source)
		require.Equal(t, 3*time.Second, loaded.Age, "since the load began, not since it ended")
		require.WithinDuration(t, begun, loaded.Generation.Time(), time.Microsecond)
		life := loaded.Expires.Sub(begun)
		require.LessOrEqual(t, life, 5*time.Minute)
		require.GreaterOrEqual(t, life, 5*time.Minute*9/10)

		time.Sleep(time.Second)
		item, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		require.Equal(t, geocache.Item[string]{
			Value: "v", Generation: loaded.Generation, Age: 4 * time.Second, Expires: loaded.Expires, Source: geocache.SourceStore,
		}, item)
	})
}

func TestValuesExpireOnTime(t *testing.T) {
	var loads atomic.Int64
	alone(t, counted(&loads, ada), []geocache.GroupOption{geocache.WithTTL(time.Minute)}, func(t *testing.T, g *geocache.Group[string]) {
		lives := map[time.Duration]int{}
		for _, key := range keys(200) {
			item, err := g.GetItem(t.Context(), key)
			require.NoError(t, err)
			life := time.Until(item.Expires)
			require.LessOrEqual(t, life, time.Minute)
			require.Greater(t, life, 54*time.Second)
			lives[life/time.Second]++
		}
		require.Len(t, lives, 6, "spread over the last tenth")
		for _, n := range lives {
			require.Less(t, n, 70)
		}
		time.Sleep(2 * time.Minute)
		require.Zero(t, g.Stats().Entries, "what is dead is swept")

		loads.Store(0)
		first, err := g.GetItem(t.Context(), "ada")
		require.NoError(t, err)
		for range 5 {
			time.Sleep(time.Until(first.Expires) - 1)
			_, ok := g.Peek("ada")
			require.True(t, ok)
			last, err := g.GetItem(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, geocache.SourceStore, last.Source)
			time.Sleep(time.Nanosecond)
			_, ok = g.Peek("ada")
			require.False(t, ok, "not a nanosecond longer")
			next, err := g.GetItem(t.Context(), "ada")
			require.NoError(t, err)
			require.Equal(t, geocache.SourceGetter, next.Source)
			require.Equal(t, last.Age+1, time.Until(next.Expires), "a key has the same life each time")
			first = next
		}
		require.EqualValues(t, 6, loads.Load())
	})
}

func TestAnItemsOwnTTL(t *testing.T) {
	own := map[string]time.Duration{"short": 10 * time.Second, "none": 0, "long": time.Hour, "negative": -1}
	getter := geocache.ItemGetterFunc[string](func(_ context.Context, key string) (geocache.Loaded[string], error) {
		return geocache.Loaded[string]{Value: key, TTL: own[key]}, nil
	})
	alone(t, getter, []geocache.GroupOption{geocache.WithTTL(time.Minute)}, func(t *testing.T, g *geocache.Group[string]) {
		item, err := g.GetItem(t.Context(), "short")
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, time.Until(item.Expires))
		for _, key := range []string{"none", "long"} {
			item, err := g.GetItem(t.Context(), key)
			require.NoError(t, err)
			require.LessOrEqual(t, time.Until(item.Expires), time.Minute)
			require.Greater(t, time.Until(item.Expires), 54*time.Second)
		}
		_, err = g.Get(t.Context(), "negative")
		require.ErrorContains(t, err, "the getter returned a negative TTL, -1ns")

		time.Sleep(10 * time.Second)
		_, ok := g.Peek("short")
		require.False(t, ok)
		_, ok = g.Peek("long")
		require.True(t, ok)

		v, err := getter.Get(t.Context(), "used as a Getter")
		require.NoError(t, err)
		require.Equal(t, "used as a Getter", v)
	})
}

func TestPeekAsksNobody(t *testing.T) {
	var loads atomic.Int64
	alone(t, counted(&loads, ada), nil, func(t *testing.T, g *geocache.Group[string]) {
		_, ok := g.Peek("ada")
		require.False(t, ok)
		require.Zero(t, loads.Load())
		_, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		before := g.Stats()
		v, ok := g.Peek("ada")
		require.True(t, ok)
		require.Equal(t, "value of ada", v)
		require.Equal(t, before, g.Stats(), "not counted")
	})
}

// missing is a getter of keys that there are not.
func missing(context.Context, string) (string, error) {
	return "", fmt.Errorf("select: %w", geocache.ErrNotFound)
}

func TestAbsenceIsCachedIfAskedFor(t *testing.T) {
	for ttl, want := range map[time.Duration]int64{0: 30, 10 * time.Second: 3} {
		t.Run(ttl.String(), func(t *testing.T) {
			var loads atomic.Int64
			alone(t, counted(&loads, missing), []geocache.GroupOption{geocache.WithNegativeTTL(ttl)}, func(t *testing.T, g *geocache.Group[string]) {
				for range 30 {
					_, err := g.Get(t.Context(), "ada")
					require.ErrorIs(t, err, geocache.ErrNotFound)
					_, ok := g.Peek("ada")
					require.False(t, ok)
					m, err := g.GetMany(t.Context(), nil)
					require.NoError(t, err)
					require.Empty(t, m)
					time.Sleep(time.Second)
				}
				require.Equal(t, want, loads.Load())
				s := g.Stats()
				require.EqualValues(t, 30, s.NotFound)
				require.EqualValues(t, 30, s.Reads())
				require.Zero(t, s.LoadErrors)
				require.Zero(t, s.HitRatio())
			})
		})
	}
}

func TestAbsenceAcrossNodes(t *testing.T) {
	for ttl, want := range map[time.Duration]int{0: 6, 10 * time.Second: 2} {
		t.Run(ttl.String(), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Group: []geocache.GroupOption{geocache.WithNegativeTTL(ttl)}}, func(c *testcluster.Cluster) {
				c.Origin.Behave(testcluster.Failing(fmt.Errorf("select: %w", geocache.ErrNotFound)))
				for range 2 {
					for _, n := range c.Nodes() {
						_, err := n.Get("ada")
						require.ErrorIs(t, err, geocache.ErrNotFound)
						time.Sleep(time.Second)
					}
					time.Sleep(10 * time.Second)
				}
				require.Equal(t, want, c.Origin.Loads("ada"))

				c.Origin.Behave(nil)
				time.Sleep(10 * time.Second)
				for _, n := range c.Nodes() {
					n.MustGet("ada") // it has come to be
				}
			})
		})
	}
}

func TestGetManyAlone(t *testing.T) {
	var loads atomic.Int64
	bad := errors.New("out of order")
	getter := counted(&loads, func(_ context.Context, key string) (string, error) {
		time.Sleep(time.Second)
		switch {
		case strings.HasPrefix(key, "none"):
			return "", geocache.ErrNotFound
		case strings.HasPrefix(key, "bad"):
			return "", bad
		}
		return "value of " + key, nil
	})
	alone(t, getter, nil, func(t *testing.T, g *geocache.Group[string]) {
		_, err := g.Get(t.Context(), "cached")
		require.NoError(t, err)

		begun := time.Now()
		m, err := g.GetMany(t.Context(), []string{"a", "b", "a", "none-1", "bad-1", "cached", "b", "bad-2", "cached", "none-1"})
		require.Equal(t, time.Second, time.Since(begun), "all at the same time")
		require.Equal(t, map[string]string{"a": "value of a", "b": "value of b", "cached": "value of cached"}, m)
		require.ErrorIs(t, err, bad)
		require.NotErrorIs(t, err, geocache.ErrNotFound)
		require.ElementsMatch(t, []string{
			`geocache: getmany test/"bad-1" at alone in local: out of order`,
			`geocache: getmany test/"bad-2" at alone in local: out of order`,
		}, strings.Split(err.Error(), "\n"))
		require.EqualValues(t, 6, loads.Load())

		s := g.Stats()
		require.EqualValues(t, 7, s.Reads(), "one, and six different keys")
		require.EqualValues(t, 1, s.Store)
		require.EqualValues(t, 3, s.Getter)
		require.EqualValues(t, 1, s.NotFound)
		require.EqualValues(t, 2, s.Errors)
		require.EqualValues(t, 6, s.Loads)
		require.EqualValues(t, 2, s.LoadErrors)
		require.InDelta(t, 1.0/7, s.HitRatio(), 1e-9)
	})
}

func TestValuesThatDoNotFitAreReturnedAndNotKept(t *testing.T) {
	const most = 64 << 10
	getter := geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) {
		if key == "large" {
			return make([]byte, most), nil
		}
		return make([]byte, 1<<10), nil
	})
	alone(t, getter, []geocache.GroupOption{geocache.WithMaxBytes(most)}, func(t *testing.T, g *geocache.Group[[]byte]) {
		for _, key := range keys(500) {
			v, err := g.Get(t.Context(), key)
			require.NoError(t, err)
			require.Len(t, v, 1<<10)
			require.LessOrEqual(t, g.Stats().Bytes, int64(most))
		}
		s := g.Stats()
		require.Greater(t, s.Bytes, int64(most)*9/10)
		require.EqualValues(t, most, s.MaxBytes)
		require.EqualValues(t, 500, s.Evicted+uint64(s.Entries))
		for range 2 {
			v, err := g.Get(t.Context(), "large")
			require.NoError(t, err)
			require.Len(t, v, most)
		}
		require.EqualValues(t, 2, g.Stats().TooLarge)
		require.Equal(t, s.Entries, g.Stats().Entries)
	})
}

func TestErrClosedAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now))
		require.NoError(t, err)
		waiting := make(chan struct{})
		g, err := geocache.NewGroup(cache, "test", geocache.GetterFunc[string](func(ctx context.Context, key string) (string, error) {
			if key == "ada" {
				return "v", nil
			}
			close(waiting)
			<-ctx.Done()
			return "", context.Cause(ctx)
		}))
		require.NoError(t, err)
		_, err = g.Get(t.Context(), "ada")
		require.NoError(t, err)
		got := make(chan error)
		go func() {
			_, err := g.Get(context.Background(), "bob")
			got <- err
		}()
		<-waiting
		require.NoError(t, cache.Close())
		require.ErrorIs(t, <-got, geocache.ErrClosed, "whoever waited")

		v, err := g.Get(t.Context(), "ada")
		require.NoError(t, err, "memory still answers")
		require.Equal(t, "v", v)
		_, err = g.Get(t.Context(), "eve")
		require.ErrorIs(t, err, geocache.ErrClosed)
		m, err := g.GetMany(t.Context(), []string{"ada", "eve", "dan"})
		require.ErrorIs(t, err, geocache.ErrClosed)
		require.Equal(t, map[string]string{"ada": "v"}, m)
		require.NoError(t, cache.Close(), "again")
	})
}
