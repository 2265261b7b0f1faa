package geocache_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
)

func TestGettersThatWaitForThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(context.Background(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		var g *geocache.Group[string]
		var other *geocache.Group[string]
		getter := geocache.GetterFunc[string](func(ctx context.Context, key string) (string, error) {
			return g.Get(ctx, "across")
		})
		other, err = geocache.NewGroup(cache, "other", getter)
		require.NoError(t, err)
		meet := func() { time.Sleep(time.Second) }
		get := func(ctx context.Context, key string) (string, error) {
			switch key {
			case "own":
				return g.Get(ctx, "own")
			case "a":
				return g.Get(ctx, "b")
			case "b":
				return g.Get(ctx, "a")
			case "left", "right": // read by two readers at the same time
				meet()
				return g.Get(ctx, map[string]string{"left": "right", "right": "left"}[key])
			case "across":
				return other.Get(ctx, "x")
			case "many":
				_, err := g.GetMany(ctx, []string{"fine", "many"})
				return "", err
			case "update":
				return g.Update(ctx, "update", func(string, bool) (string, error) { return "", nil })
			case "warm":
				_, err := g.Warm(ctx, func(yield func(string) bool) { yield("warm") })
				return "", err
			case "deep": // waits for keys that wait for others, but not for it
				for range 2 {
					if _, err := g.Get(ctx, "deeper"); err != nil {
						return "", err
					}
				}
				return g.Get(ctx, "fine")
			case "deeper":
				return g.Get(ctx, "fine")
			}
			return key, nil
		}
		g, err = geocache.NewGroup(cache, "g", geocache.GetterFunc[string](get),
			geocache.WithSetter(func(ctx context.Context, key, v string) error {
				if key == "own" {
					return g.Set(ctx, "own", v)
				}
				return nil
			}))
		require.NoError(t, err)
		begun := time.Now()
		for key, want := range map[string]string{
			"own":    `the getter of g/"own" waits for itself: g/"own" → g/"own"`,
			"a":      `the getter of g/"b" waits for itself: g/"b" → g/"a" → g/"b"`,
			"across": `the getter of other/"x" waits for itself: other/"x" → g/"across" → other/"x"`,
			"many":   `the getter of g/"many" waits for itself: g/"many" → g/"many"`,
			"update": `the getter of g/"update" waits for itself`,
			"warm":   `the getter of g/"warm" waits for itself`,
		} {
			_, err := g.Get(t.Context(), key)
			require.ErrorContains(t, err, want)
			require.False(t, errors.Is(err, geocache.ErrTimeout))
		}
		require.ErrorContains(t, g.Set(t.Context(), "own", "v"), `the setter of g/"own" waits for itself`)
		_, err = g.Get(t.Context(), "deep")
		require.NoError(t, err)
		require.Zero(t, time.Since(begun))

		var reading sync.WaitGroup
		for _, key := range []string{"left", "right"} {
			reading.Go(func() {
				_, err := g.Get(t.Context(), key)
				require.ErrorContains(t, err, "waits for itself")
			})
		}
		reading.Wait()
		require.Equal(t, time.Second, time.Since(begun))
	})
}
