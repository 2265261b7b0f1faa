package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// Reads of other nodes' keys take a round trip, plus a load if there is one. A region's sums are
// those of its nodes.
func TestLatencies(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(30 * time.Millisecond))
		node := c.Node("eu-1")
		key := c.KeyOf("eu-2")
		// the successor would be told of the value
		for passed := []string{key}; node.Group.Locate(key)[0].Successor.ID == node.Name; {
			key = c.KeyOf("eu-2", passed...)
			passed = append(passed, key)
		}
		time.Sleep(2 * testcluster.TTL) // no owner looks for keys at former owners any more
		before := node.Cache.Stats().Regions[0]
		value := c.Node("eu-2").MustGet(key).Value
		for range 9 {
			require.NoError(t, node.Group.Set(c.T.Context(), key, value)) // one call
			require.Equal(t, geocache.SourceOwner, node.MustGet(key).Source)
			require.Equal(t, geocache.SourceStore, node.MustGet(key).Source) // which needs no peer
		}
		require.Equal(t, geocache.SourceGetter, node.MustGet(c.KeyOf("eu-3")).Source)

		s := node.Cache.Stats()
		eu := s.Regions[0]
		fetches := eu.FetchLatency
		require.EqualValues(t, 10, fetches.Count-before.FetchLatency.Count)
		require.Equal(t, 30500*time.Microsecond, fetches.Max) // a round trip plus a load
		require.Equal(t, 9*500*time.Microsecond+fetches.Max, fetches.Sum-before.FetchLatency.Sum)
		require.Equal(t, 512*time.Microsecond, fetches.P50)
		require.EqualValues(t, 9, eu.CallLatency.Count-before.CallLatency.Count)
		require.Equal(t, "us", s.Regions[1].Name)
		require.Positive(t, s.Regions[1].Requests)

		var sum uint64
		for _, p := range s.Peers {
			if p.Region == "eu" {
				sum += p.Requests
			}
		}
		require.Equal(t, sum, eu.Requests)
		loads := c.Node("eu-2").Group.Stats().LoadLatency
		require.EqualValues(t, 1, loads.Count)
		require.Equal(t, 30*time.Millisecond, loads.P50)
	})
}

// A node that has joined has lost its lease once, and loses it once more when it is cut off. That others close,
// or are killed, costs it none.
func TestLeaseLosses(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		require.EqualValues(t, 1, c.Node("eu-1").Cache.Stats().LeaseLosses)
		c.Node("eu-3").Close()
		c.Settle()
		c.Add("eu")
		c.Settle()
		require.EqualValues(t, 1, c.Node("eu-1").Cache.Stats().LeaseLosses, "a deploy does not end the lease")
		c.Node("eu-2").Crash()
		c.Settle()
		require.EqualValues(t, 1, c.Node("eu-1").Cache.Stats().LeaseLosses, "nor does a crash")
		c.Net.Cut("eu-1", "eu")
		c.Settle()
		c.Net.HealAll()
		time.Sleep(20 * time.Second)
		s := c.Node("eu-1").Cache.Stats()
		require.EqualValues(t, 2, s.LeaseLosses)
		require.True(t, s.ServesCopies)
		require.EqualValues(t, 1, c.Node("us-1").Cache.Stats().LeaseLosses)
	})
}

// Failures are not in the latency: a load that fails at once would make a slow origin look fast.
func TestLoadLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		took := map[string]time.Duration{"slow": 8 * time.Second, "absent": 20 * time.Millisecond, "fails": 0}
		getter := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
			d, special := took[key]
			if !special {
				d = 20 * time.Millisecond
			}
			time.Sleep(d)
			switch key {
			case "absent":
				return "", geocache.ErrNotFound
			case "fails":
				return "", errors.New("down")
			}
			return key, nil
		})
		g, err := geocache.NewGroup(cache, "g", getter)
		require.NoError(t, err)
		for i := range 97 {
			_, err = g.Get(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		for key := range took {
			_, _ = g.Get(t.Context(), key)
		}
		s := g.Stats()
		require.EqualValues(t, 100, s.Loads)
		require.EqualValues(t, 1, s.LoadErrors)
		require.EqualValues(t, 99, s.LoadLatency.Count)
		require.Equal(t, 98*20*time.Millisecond+8*time.Second, s.LoadLatency.Sum)
		require.Equal(t, 20480*time.Microsecond, s.LoadLatency.P50) // the upper bound of the bucket of 20 ms
		require.Equal(t, 8*time.Second, s.LoadLatency.P999)
		require.Equal(t, 8*time.Second, s.LoadLatency.Max)

		for range 1000 {
			_, _ = g.Get(t.Context(), "slow") // from memory
		}
		require.EqualValues(t, 99, g.Stats().LoadLatency.Count)
	})
}

// What GroupStats promises about its fields holds at any moment.
func TestStatsAreConsistent(t *testing.T) {
	const maxBytes = 1 << 20
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	getter := geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) {
		switch key[len(key)-1] {
		case '0':
			return nil, errors.New("down")
		case '1':
			panic("at the disco")
		case '2':
			return nil, geocache.ErrNotFound
		}
		return make([]byte, 10_000), nil
	})
	g, err := geocache.NewGroup(cache, "g", getter, geocache.WithMaxBytes(maxBytes))
	require.NoError(t, err)

	var begun, returned atomic.Uint64 // reads
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for i := range 4 {
		busy.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				key := fmt.Sprint(n % 200)
				switch {
				case i < 2:
					begun.Add(1)
					_, _ = g.Get(t.Context(), key)
					returned.Add(1)
				case i == 2:
					begun.Add(3)
					_, _ = g.GetMany(t.Context(), []string{key, key + "3", key + "4", key})
					returned.Add(3)
				case n%2 == 0:
					_ = g.Set(t.Context(), key, make([]byte, 1000))
				default:
					_ = g.Set(t.Context(), key, nil, geocache.WithItemTTL(-1)) // fails
				}
			}
		})
	}
	var last geocache.GroupStats
	for last.Reads() < 20_000 || last.Loads < 1500 || last.WriteErrors < 500 || last.Evicted == 0 {
		before := returned.Load()
		s := g.Stats()
		after := begun.Load()
		require.LessOrEqual(t, before, s.Reads())
		require.LessOrEqual(t, s.Reads(), after)
		require.LessOrEqual(t, s.LoadErrors+s.LoadLatency.Count, s.Loads)
		require.LessOrEqual(t, s.Panics, s.Loads)
		require.LessOrEqual(t, s.Abandoned, s.Loads)
		require.LessOrEqual(t, s.WriteErrors, s.Writes)
		require.LessOrEqual(t, s.Copies, s.Entries)
		require.LessOrEqual(t, s.CopyBytes, s.Bytes)
		require.LessOrEqual(t, s.Bytes, int64(maxBytes))

		for name, pair := range map[string][2]uint64{
			"store": {last.Store, s.Store}, "getter": {last.Getter, s.Getter},
			"not found": {last.NotFound, s.NotFound}, "errors": {last.Errors, s.Errors},
			"loads": {last.Loads, s.Loads}, "load errors": {last.LoadErrors, s.LoadErrors},
			"latency": {last.LoadLatency.Count, s.LoadLatency.Count},
			"writes":  {last.Writes, s.Writes}, "evictions": {last.Evicted, s.Evicted},
		} {
			require.LessOrEqual(t, pair[0], pair[1], name)
		}
		last = s
	}
	cancel()
	busy.Wait()
	s := g.Stats()
	require.Equal(t, returned.Load(), s.Reads())
	require.Equal(t, s.Loads, s.LoadErrors+s.LoadLatency.Count)
	require.Equal(t, s.Reads(), s.Store+s.Getter+s.NotFound+s.Errors, "%v", s)
}

// A value that is written while a load fails is the answer to the readers that wait for the load,
// and is not a stale one.
func TestWriteDuringAFailingLoadIsNotStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		getter := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "", errors.New("down")
		})
		g, err := geocache.NewGroup(cache, "g", getter)
		require.NoError(t, err)
		go func() {
			time.Sleep(time.Second / 2)
			_ = g.Set(t.Context(), "key", "written")
		}()
		item, err := g.GetItem(t.Context(), "key")
		require.NoError(t, err)
		require.Equal(t, "written", item.Value)
		require.Equal(t, geocache.SourceStore, item.Source)
		require.True(t, item.Expires.After(time.Now()))
		require.EqualValues(t, 1, g.Stats().Store)
		require.Zero(t, g.Stats().Stale)
	})
}

func TestEveryReadIsCountedOnce(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us"},
		TTL:     2 * time.Second,
		Group:   []geocache.GroupOption{geocache.WithStaleIfError(3 * time.Second)},
	}, func(c *testcluster.Cluster) {
		random := rand.New(rand.NewPCG(1, 2))
		want := map[string]*geocache.GroupStats{}
		for _, n := range c.Nodes() {
			want[n.Name] = &geocache.GroupStats{}
		}
		count := func(s *geocache.GroupStats, item geocache.Item[string], err error) {
			switch {
			case errors.Is(err, geocache.ErrNotFound):
				s.NotFound++
			case err != nil:
				s.Errors++
			default:
				*map[geocache.Source]*uint64{
					geocache.SourceStore: &s.Store, geocache.SourceOwner: &s.Owner, geocache.SourceRegion: &s.Region,
					geocache.SourceGetter: &s.Getter, geocache.SourceStale: &s.Stale,
				}[item.Source]++
			}
		}
		for i := range 3000 {
			switch i {
			case 1000:
				c.Origin.Behave(testcluster.Failing(errors.New("down")), "eu")
			case 1500:
				c.Origin.Behave(testcluster.Failing(errors.New("down")))
			case 2500:
				c.Origin.Behave(testcluster.Failing(geocache.ErrNotFound))
			}
			n := c.Nodes()[random.IntN(6)]
			item, err := n.Get(fmt.Sprintf("key-%d", random.IntN(20)))
			count(want[n.Name], item, err)
			time.Sleep(5 * time.Millisecond)
		}
		var all geocache.GroupStats
		for _, n := range c.Nodes() {
			s, w := n.Group.Stats(), want[n.Name]
			require.Equal(t, s, n.Cache.Stats().Groups["test"])
			require.Equal(t, [...]uint64{w.Store, w.Owner, w.Region, w.Getter, w.Stale, w.NotFound, w.Errors},
				[...]uint64{s.Store, s.Owner, s.Region, s.Getter, s.Stale, s.NotFound, s.Errors}, n.Name)
			require.Equal(t, w.Reads(), s.Reads())
			require.InDelta(t, float64(s.Store+s.Owner)/float64(w.Reads()), s.HitRatio(), 1e-9)
			require.LessOrEqual(t, s.LoadErrors, s.Loads)
			all.Store += s.Store
			all.Owner += s.Owner
			all.Region += s.Region
			all.Getter += s.Getter
			all.Stale += s.Stale
			all.NotFound += s.NotFound
			all.Errors += s.Errors
			all.Loads += s.Loads
		}
		require.EqualValues(t, 3000, all.Reads())
		require.EqualValues(t, c.Origin.Total(), all.Loads)
		for _, n := range []uint64{
			all.Store, all.Owner, all.Region, all.Getter, all.Stale, all.NotFound, all.Errors,
		} {
			require.Positive(t, n, "the test must have seen everything: %+v", all)
		}
	})
}
