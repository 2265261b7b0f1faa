package geocache_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// An origin that has become slower than values live must not be asked more often
// for that.
func TestALoadSlowerThanTheTTLIsNotRepeated(t *testing.T) {
	for name, origin := range map[string][]geocache.GroupOption{
		"each region for itself": nil,
		"origin region":          {geocache.WithOriginRegion("us")},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, TTL: time.Second, Group: origin}, func(c *testcluster.Cluster) {
				c.Origin.Behave(testcluster.After(1100 * time.Millisecond))
				for i, n := range c.Nodes() {
					key := fmt.Sprint("key-", i)
					require.Equal(c.T, geocache.SourceStale, n.MustGet(key).Source)
					require.Equal(c.T, 1, c.Origin.Loads(key), n.Name)
				}
			})
		})
	}
}

func TestMaxLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		defer cache.Close()
		var running, most atomic.Int64
		g, err := geocache.NewGroup(cache, "g", geocache.GetterFunc[string](func(ctx context.Context, key string) (string, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(time.Second)
			return key, nil
		}), geocache.WithMaxLoads(10), geocache.WithLoadTimeout(time.Minute))
		require.NoError(t, err)

		begun := time.Now()
		m, err := g.GetMany(t.Context(), keys(95))
		require.NoError(t, err)
		require.Len(t, m, 95)
		require.EqualValues(t, 10, most.Load())
		require.Equal(t, 10*time.Second, time.Since(begun))
	})
}

func TestACallerWhoseTimeIsUpStartsNoLoad(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		ctx, cancel := context.WithCancel(c.T.Context())
		cancel()
		for _, n := range c.Nodes() {
			_, err := n.GetContext(ctx, "ada")
			require.ErrorIs(t, err, context.Canceled)
			_, err = n.Group.GetMany(ctx, keys(10))
			require.ErrorIs(t, err, context.Canceled)
		}
		require.Zero(t, c.Origin.Total())
	})
}

// A key cut out of a request must not keep the request in memory.
func TestAKeyDoesNotKeepWhatItWasCutFrom(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup(cache, "g", geocache.GetterFunc[string](func(context.Context, string) (string, error) { return "", nil }))
	require.NoError(t, err)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range 100 {
		body := strings.Repeat("x", 1<<20) + fmt.Sprintf("%08d", i)
		_, err := g.Get(t.Context(), body[1<<20:])
		require.NoError(t, err)
		body = strings.Repeat("x", 1<<20) + fmt.Sprintf("many%04d", i)
		_, err = g.GetMany(t.Context(), []string{body[1<<20:]})
		require.NoError(t, err)
	}
	require.Equal(t, 200, g.Stats().Entries)
	require.Less(t, heap()-before, int64(20<<20))
}

// Values that live shorter than they take to load, at nodes whose round trips are no whole
// microseconds: what was loaded for a read, or for an Update, is its answer.
func TestAValueThatLivesShorterThanItsLoad(t *testing.T) {
	for name, read := range map[string]func(g *geocache.Group[int], key string) error{
		"Get": func(g *geocache.Group[int], key string) error { _, err := g.Get(context.Background(), key); return err },
		"Update": func(g *geocache.Group[int], key string) error {
			_, err := geocache.Increment(context.Background(), g, key, 1)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "eu", 500*time.Microsecond+333*time.Nanosecond)
				var loads atomic.Int64
				groups := onAll(c, "short", geocache.GetterFunc[int](func(context.Context, string) (int, error) {
					loads.Add(1)
					time.Sleep(500*time.Millisecond + 777)
					return 7, nil
				}), geocache.WithTTL(100*time.Millisecond))
				for i, owner := range []string{"eu-1", "eu-2"} {
					require.NoError(t, read(groups["eu-1"], c.KeyOf(owner)))
					require.EqualValues(t, i+1, loads.Load(), owner)
				}
			})
		})
	}
}
