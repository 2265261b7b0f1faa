package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// Of all nodes that set an absent key at once, in whichever region, exactly one succeeds.
func TestSetIfAbsentInACluster(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		groups := onAll[string](c, "jobs", nil)
		for i := range 10 {
			key := fmt.Sprint("job ", i)
			var setting sync.WaitGroup
			var set atomic.Int64
			for name, g := range groups {
				setting.Go(func() {
					stored, err := g.SetIfAbsent(c.T.Context(), key, fmt.Sprint(name))
					require.NoError(c.T, err)
					if stored {
						set.Add(1)
					}
				})
			}
			setting.Wait()
			require.EqualValues(c.T, 1, set.Load())
		}
	})
}

// A value that the getter finds counts as present, and a getter that fails is an error.
func TestSetIfAbsentAsksTheGetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		down := errors.New("down")
		g, err := geocache.NewGroupFunc(cache, "users", func(_ context.Context, key string) (string, error) {
			if key == "broken" {
				return "", down
			}
			return load(t.Context(), key)
		})
		require.NoError(t, err)
		stored, err := g.SetIfAbsent(t.Context(), "ada", "somebody")
		require.NoError(t, err)
		require.False(t, stored)
		stored, err = g.SetIfAbsent(t.Context(), "bob", "somebody")
		require.NoError(t, err)
		require.True(t, stored)
		_, err = g.SetIfAbsent(t.Context(), "broken", "somebody")
		require.ErrorIs(t, err, down)
		require.EqualValues(t, 3, g.Stats().Writes)
		require.EqualValues(t, 1, g.Stats().WriteErrors, "that a value is present is no error")
	})
}

// Counters that are incremented with CompareAndSet lose nothing, from whichever region.
func TestCompareAndSetLosesNothing(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		groups := onAll[int](c, "counters", nil)
		var raising sync.WaitGroup
		const each = 5
		_, err := groups["eu-1"].SetIfAbsent(c.T.Context(), "n", 0, geocache.WithAck(geocache.AckWorld))
		require.NoError(c.T, err)
		for _, g := range groups {
			raising.Go(func() {
				for range each {
					item, err := g.GetItem(c.T.Context(), "n")
					require.NoError(c.T, err)
					n, generation := item.Value, item.Generation
					for {
						if n, generation, err = g.CompareAndSet(c.T.Context(), "n", generation, n+1); err == nil {
							break
						}
						require.ErrorIs(c.T, err, geocache.ErrChanged)
					}
				}
			})
		}
		raising.Wait()
		n, err := groups["eu-1"].Update(c.T.Context(), "n", func(old int, _ bool) (int, error) { return old, nil })
		require.NoError(c.T, err)
		require.Equal(c.T, each*len(groups), n)
	})
}

func TestCompareAndSet(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup[string](cache, "g", nil)
	require.NoError(t, err)

	current, generation, err := g.CompareAndSet(t.Context(), "ada", 0, "1")
	require.ErrorIs(t, err, geocache.ErrChanged, "there is no value, so none of generation 0")
	require.Zero(t, current)
	require.Zero(t, generation)

	var set, swapped geocache.Receipt
	require.NoError(t, g.Set(t.Context(), "ada", "1", geocache.WithReceipt(&set)))
	current, generation, err = g.CompareAndSet(t.Context(), "ada", set.Generation, "2",
		geocache.WithReceipt(&swapped))
	require.NoError(t, err)
	require.Equal(t, "2", current)
	require.Equal(t, swapped.Generation, generation)
	require.Greater(t, generation, set.Generation)

	current, generation, err = g.CompareAndSet(t.Context(), "ada", set.Generation, "3")
	require.ErrorIs(t, err, geocache.ErrChanged)
	require.Equal(t, "2", current)
	require.Equal(t, swapped.Generation, generation)
	var e *geocache.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, "CompareAndSet", e.Op)
	require.Zero(t, g.Stats().WriteErrors)
}

// A call that finds a value which another call of its round has made does not rely on it before it is written.
func TestSetIfAbsentDoesNotRelyOnWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		down := errors.New("down")
		g, err := geocache.NewGroup[string](cache, "jobs", nil,
			geocache.WithSetter(func(context.Context, string, string) error { return down }))
		require.NoError(t, err)
		go g.Update(t.Context(), "job", func(string, bool) (string, error) {
			time.Sleep(time.Second) // the others wait for the next round, all of them
			return "", errors.New("changed its mind")
		})
		synctest.Wait()
		var setting sync.WaitGroup
		for range 3 {
			setting.Go(func() {
				stored, err := g.SetIfAbsent(t.Context(), "job", "mine")
				require.ErrorIs(t, err, down)
				require.False(t, stored)
			})
		}
		setting.Wait()
	})
}

// A value may be nil where its type and codec allow it.
func TestUpdateToNil(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup(cache, "g", geocache.Getter[any](nil), geocache.WithCodec(geocache.JSON[any]{}))
	require.NoError(t, err)
	require.NoError(t, g.Set(t.Context(), "ada", 1.0))
	v, err := g.Update(t.Context(), "ada", func(any, bool) (any, error) { return nil, nil })
	require.NoError(t, err)
	require.Nil(t, v)
	v, err = g.Get(t.Context(), "ada")
	require.NoError(t, err)
	require.Nil(t, v)
}
