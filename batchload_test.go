package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func (bothGetters) GetBatch(context.Context, []string) (map[string]string, error) { return nil, nil }

func TestBatchIsOneQuery(t *testing.T) {
	q := &recordingGetter{}
	opts := []geocache.GroupOption{geocache.WithNegativeTTL(time.Minute), geocache.WithMaxLoads(1)}
	alone(t, geocache.Getter[string](q), opts, func(t *testing.T, g *geocache.Group[string]) {
		q.does(func(context.Context, []string) error { time.Sleep(time.Second); return nil })
		v, err := g.Get(t.Context(), "single")
		require.NoError(t, err)
		require.Equal(t, "value of single", v)
		require.Empty(t, q.sizes())

		begun := time.Now()
		m, err := g.GetMany(t.Context(), append(keys(100), "single", "none-1", "none-2"))
		require.NoError(t, err)
		require.Len(t, m, 101)
		require.Equal(t, "value of single", m["single"])
		for _, key := range keys(100) {
			require.Equal(t, "value of "+key, m[key])
		}
		require.Equal(t, time.Second, time.Since(begun), "it waits for the query alone")
		require.Equal(t, []int{102}, q.sizes())
		require.Equal(t, []string{"single"}, q.singles)
		s := g.Stats()
		require.EqualValues(t, 2, s.Loads)
		require.EqualValues(t, 2, s.NotFound)
		require.EqualValues(t, 101, s.Getter)

		_, err = g.GetMany(t.Context(), append(keys(100), "none-1"))
		require.NoError(t, err)
		require.Len(t, q.sizes(), 1, "everything is cached, absence included")
		_, ok := g.Peek("another")
		require.False(t, ok)
	})
}

func TestLargeBatchIsSplit(t *testing.T) {
	q := &recordingGetter{}
	alone(t, geocache.Getter[string](q), nil, func(t *testing.T, g *geocache.Group[string]) {
		m, err := g.GetMany(t.Context(), keys(2500))
		require.NoError(t, err)
		require.Len(t, m, 2500)
		require.Equal(t, []int{452, 1024, 1024}, q.sizes())
	})
}

func TestBatchFails(t *testing.T) {
	q := &recordingGetter{}
	alone(t, geocache.Getter[string](q), nil, func(t *testing.T, g *geocache.Group[string]) {
		q.does(func(context.Context, []string) error { return errDatabase })
		m, err := g.GetMany(t.Context(), keys(30))
		require.ErrorIs(t, err, errDatabase)
		require.Empty(t, m)
		require.EqualValues(t, 1, g.Stats().LoadErrors, "one call failed")
		require.EqualValues(t, 30, g.Stats().Errors)

		q.does(func(context.Context, []string) error { panic("at the disco") })
		_, err = g.GetMany(t.Context(), keys(30))
		var p *geocache.PanicError
		require.ErrorAs(t, err, &p)
		require.Equal(t, "at the disco", p.Value)
		require.EqualValues(t, 1, g.Stats().Panics)

		q.does(func(ctx context.Context, _ []string) error { <-ctx.Done(); return ctx.Err() })
		begun := time.Now()
		_, err = g.GetMany(t.Context(), keys(30))
		require.ErrorIs(t, err, geocache.ErrTimeout)
		require.Equal(t, 10*time.Second, time.Since(begun))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ended := make(chan error, 1)
		q.does(func(ctx context.Context, _ []string) error { <-ctx.Done(); ended <- ctx.Err(); return ctx.Err() })
		_, err = g.GetMany(ctx, keys(30))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, <-ended, context.Canceled, "nobody waits for it any more")

		q.does(nil)
		m, err = g.GetMany(t.Context(), keys(30))
		require.NoError(t, err)
		require.Len(t, m, 30)
	})
}

// A value that cannot be encoded does not fail the others of its batch.
func TestBatchWithUnencodableValue(t *testing.T) {
	getter := geocache.BatchGetterFunc[any](func(_ context.Context, keys []string) (map[string]any, error) {
		m := map[string]any{}
		for _, key := range keys {
			m[key] = key
		}
		m["bad"] = func() {}
		return m, nil
	})
	opts := []geocache.GroupOption{geocache.WithCodec(geocache.JSON[any]{})}
	alone(t, geocache.Getter[any](getter), opts, func(t *testing.T, g *geocache.Group[any]) {
		m, err := g.GetMany(t.Context(), []string{"a", "bad", "b"})
		require.ErrorContains(t, err, "the getter's value cannot be encoded")
		require.Equal(t, map[string]any{"a": "a", "b": "b"}, m)
		_, err = g.Get(t.Context(), "none but bad")
		require.NoError(t, err)
	})
	none := geocache.BatchGetterFunc[string](func(context.Context, []string) (map[string]string, error) {
		return nil, nil
	})
	_, err := none.Get(t.Context(), "ada")
	require.ErrorIs(t, err, geocache.ErrNotFound)
}

// A key that is being loaded already is not loaded again, and does not delay the others.
func TestBatchJoinsLoads(t *testing.T) {
	q := &recordingGetter{}
	alone(t, geocache.Getter[string](q), nil, func(t *testing.T, g *geocache.Group[string]) {
		q.does(func(_ context.Context, keys []string) error {
			if len(keys) == 1 {
				time.Sleep(5 * time.Second)
			}
			return nil
		})
		all := keys(20)
		go g.Get(t.Context(), all[7])
		time.Sleep(time.Second)
		done := make(chan time.Duration)
		begun := time.Now()
		go func() {
			_, err := g.GetMany(t.Context(), all)
			require.NoError(t, err)
			done <- time.Since(begun)
		}()
		time.Sleep(time.Nanosecond)
		_, ok := g.Peek(all[8])
		require.True(t, ok, "the others have been loaded")
		require.Equal(t, 4*time.Second, <-done)
		require.Equal(t, []int{19}, q.sizes())
		require.Len(t, q.loaded(), 20)
	})
}

// Nobody waits for a refresh, so the refreshes of keys that are read together make one query.
func TestRefreshesAreBatched(t *testing.T) {
	q := &recordingGetter{}
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithRefreshAhead(20 * time.Second),
		geocache.WithStaleWhileRevalidate(time.Minute)}
	alone(t, geocache.Getter[string](q), opts, func(t *testing.T, g *geocache.Group[string]) {
		for _, later := range []time.Duration{45 * time.Second, 70 * time.Second} {
			for range 3 {
				begun := time.Now()
				m, err := g.GetMany(t.Context(), keys(100))
				require.NoError(t, err)
				require.Len(t, m, 100)
				require.Zero(t, time.Since(begun))
				time.Sleep(later)
			}
		}
		require.Equal(t, []int{100, 100, 100, 100, 100, 100}, q.sizes())
		require.Empty(t, q.singles)
	})
}

func TestBatchesInACluster(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 5}, func(c *testcluster.Cluster) {
		q := &recordingGetter{behave: func(context.Context, []string) error { time.Sleep(time.Second); return nil }}
		groups := onAll(c, "batches", geocache.Getter[string](q))
		time.Sleep(2 * testcluster.TTL)
		all := keys(300)
		owned := map[string]int{}
		for _, key := range all {
			owned[c.Owner("eu", key).Name]++
		}
		var want []int
		for _, n := range owned {
			want = append(want, n)
		}
		slices.Sort(want)
		require.Len(t, want, 5)

		var readers sync.WaitGroup
		for _, g := range groups { // all at the same time
			readers.Go(func() {
				m, err := g.GetMany(context.Background(), all)
				require.NoError(t, err)
				require.Len(t, m, 300)
			})
		}
		readers.Wait()
		loaded := q.loaded()
		require.Len(t, loaded, 300, "each key is loaded once")
		require.Len(t, slices.Compact(loaded), 300)

		// A single reader causes one query for each owner.
		q.batches = nil
		var more []string
		owned = map[string]int{}
		for i := range 300 {
			key := fmt.Sprint("more-", i)
			more = append(more, key)
			owned[c.Owner("eu", key).Name]++
		}
		want = nil
		for _, n := range owned {
			want = append(want, n)
		}
		slices.Sort(want)
		begun := time.Now()
		_, err := groups["eu-1"].GetMany(context.Background(), more)
		require.NoError(t, err)
		require.Less(t, time.Since(begun), 1100*time.Millisecond)
		require.Equal(t, want, q.sizes())
		require.Empty(t, q.singles)
	})
}

// Keys whose fill takes long to find out that they must be loaded delay the others only a little,
// and are loaded in the end.
func TestBatchDoesNotWaitForLateKeys(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		q := &recordingGetter{behave: func(context.Context, []string) error { return errors.New("not in us") }}
		here := &recordingGetter{}
		groups := map[string]*geocache.Group[string]{}
		for _, n := range c.Nodes() {
			getter := here
			if n.Region == "us" {
				getter = q
			}
			g, err := geocache.NewGroup(n.Cache, "batches", geocache.Getter[string](getter),
				geocache.WithOriginRegion("us"), geocache.WithTTL(testcluster.TTL))
			require.NoError(t, err)
			groups[n.Name] = g
		}
		time.Sleep(2 * testcluster.TTL) // no owner looks for keys at former owners any more
		// Of the owners in us, two fail at once and one does not answer.
		c.Node("us-1").Freeze()
		late, early := map[string]bool{}, 0
		for _, key := range keys(100) {
			if groups["eu-1"].Locate(key)[0].Owner.ID == "eu-1" {
				if late[key] = groups["eu-1"].Locate(key)[1].Owner.ID == "us-1"; !late[key] {
					early++
				}
			}
		}
		begun := time.Now()
		done := make(chan error, 1)
		go func() {
			m, err := groups["eu-1"].GetMany(context.Background(), keys(100))
			if len(m) != 100 {
				err = errors.Join(err, fmt.Errorf("%d of 100", len(m)))
			}
			done <- err
		}()
		time.Sleep(200 * time.Millisecond)
		have := 0
		for key, late := range late {
			if _, ok := groups["eu-1"].Peek(key); ok {
				require.False(t, late)
				have++
			}
		}
		require.Equal(t, early, have)
		require.NoError(t, <-done)
		require.Less(t, time.Since(begun), 10*time.Second)
		sum := 0
		for _, n := range here.sizes() {
			sum += n
		}
		require.Equal(t, 100, sum, "all of them in batches")
	})
}
