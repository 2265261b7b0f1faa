package geocache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// evictions records the calls of a WithOnEvict function.
type evictions struct {
	mu    sync.Mutex
	calls []string
}

func (d *evictions) record(key, v string, reason geocache.EvictReason) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf("%s=%s %v", key, v, reason))
}

// drain waits until everything is idle, and returns the calls since the last drain.
func (d *evictions) drain() []string {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

func TestPolicies(t *testing.T) {
	for policy, want := range map[geocache.Policy]string{
		geocache.LRU:  "a", // b was read later
		geocache.LFU:  "b", // b was read once, a twice
		geocache.FIFO: "a",
	} {
		t.Run(policy.String(), func(t *testing.T) {
			opts := []geocache.GroupOption{geocache.WithPolicy(policy), geocache.WithMaxEntries(2)}
			alone(t, ada, opts, func(t *testing.T, g *geocache.Group[string]) {
				for _, key := range []string{"a", "b", "a", "a", "b"} {
					_, err := g.Get(t.Context(), key)
					require.NoError(t, err)
				}
				_, err := g.Get(t.Context(), "c")
				require.NoError(t, err)
				require.False(t, g.Contains(want))
				require.Equal(t, 2, g.Len())
				require.EqualValues(t, 1, g.Stats().Evicted)
			})
		})
	}
}

func TestResize(t *testing.T) {
	alone(t, ada, nil, func(t *testing.T, g *geocache.Group[string]) {
		for _, key := range keys(1000) {
			_, err := g.Get(t.Context(), key)
			require.NoError(t, err)
		}
		require.Equal(t, 1000, g.Len())
		bytes := g.Stats().Bytes

		require.NoError(t, g.Resize(bytes/2, 0))
		stats := g.Stats()
		require.LessOrEqual(t, stats.Bytes, bytes/2)
		require.Equal(t, bytes/2, stats.MaxBytes)
		require.InDelta(t, 500, stats.Entries, 5)
		require.EqualValues(t, 1000-stats.Entries, stats.Evicted)

		require.NoError(t, g.Resize(bytes, 100))
		require.Equal(t, 100, g.Len())
		require.Equal(t, 100, g.Stats().MaxEntries)
		require.NoError(t, g.Resize(bytes, 0))
		for _, key := range keys(1000) {
			_, err := g.Get(t.Context(), key)
			require.NoError(t, err)
		}
		require.Equal(t, 1000, g.Len())

		require.ErrorContains(t, g.Resize(0, -1),
			"WithMaxBytes(0): must be positive\nWithMaxEntries(-1): must not be negative")
		require.Equal(t, bytes, g.Stats().MaxBytes, "nothing has changed")
	})
}

func TestOnEvictIsCalledOnceForEachValue(t *testing.T) {
	var d evictions
	version := 0
	versioned := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
		if strings.HasPrefix(key, "no") {
			return "", geocache.ErrNotFound
		}
		version++
		return fmt.Sprint(version), nil
	})
	opts := []geocache.GroupOption{
		geocache.WithTTL(time.Minute), geocache.WithNegativeTTL(time.Second), geocache.WithMaxEntries(3),
		geocache.WithPolicy(geocache.FIFO),
		geocache.WithOnEvict(d.record),
	}
	alone(t, versioned, opts, func(t *testing.T, g *geocache.Group[string]) {
		get := func(key string) {
			_, err := g.Get(t.Context(), key)
			if key != "no" {
				require.NoError(t, err)
			}
		}
		for _, key := range []string{"a", "b", "c", "d"} {
			get(key)
		}
		require.Equal(t, []string{"a=1 capacity"}, d.drain())

		err := g.Set(t.Context(), "b", "new")
		require.NoError(t, err)
		require.Equal(t, []string{"b=2 replaced"}, d.drain())

		err = g.Remove(t.Context(), "c")
		require.NoError(t, err)
		require.Equal(t, []string{"c=3 removed"}, d.drain())

		get("no")
		time.Sleep(3 * time.Second)
		require.Empty(t, d.drain(), "cached absence has no value")

		err = g.Clear(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"b=new removed", "d=4 removed"}, d.drain())

		time.Sleep(time.Millisecond) // a load in the instant of a Clear may be from before it
		get("e")
		time.Sleep(time.Minute + 2*time.Second)
		require.Equal(t, []string{"e=5 expired"}, d.drain())

		s := g.Stats()
		require.Equal(t, []uint64{1, 2, 3, 1}, []uint64{s.Evicted, s.Expired, s.Removed, s.Replaced})
	})
}

// TestExpiredValuesLeaveMemory gives items TTLs from one to sixty seconds in a group with one of an
// hour. Each leaves memory within a second of its expiry, and not before. What may be served stale
// stays for as long as it may.
func TestExpiredValuesLeaveMemory(t *testing.T) {
	for _, stale := range []time.Duration{0, 10 * time.Minute} {
		life := func(key string) time.Duration { return time.Duration(1+len(key)*7%60) * time.Second }
		getter := geocache.ItemGetterFunc[string](func(
			_ context.Context, key string,
		) (geocache.Loaded[string], error) {
			return geocache.Loaded[string]{Value: "v", TTL: life(key)}, nil
		})
		var begun time.Time
		left := map[string]time.Duration{}
		onEvict := func(key, _ string, reason geocache.EvictReason) {
			if reason == geocache.EvictedExpired {
				left[key] = time.Since(begun)
			}
		}
		opts := []geocache.GroupOption{geocache.WithTTL(time.Hour), geocache.WithStaleIfError(stale),
			geocache.WithOnEvict(onEvict)}
		alone(t, getter, opts, func(t *testing.T, g *geocache.Group[string]) {
			begun = time.Now()
			for i := range 200 {
				_, err := g.Get(t.Context(), strings.Repeat("k", i))
				require.NoError(t, err)
			}
			time.Sleep(stale + time.Minute + 2*time.Second)
			synctest.Wait()
			require.Len(t, left, 200)
			for key, after := range left {
				require.GreaterOrEqual(t, after, life(key)+stale)
				require.LessOrEqual(t, after, life(key)+stale+time.Second)
			}
			require.Zero(t, g.Stats().Entries)
			require.EqualValues(t, 200, g.Stats().Expired)
		})
	}
}

// TestOnEvictDoesNotDelayReads has a function that panics and then one that hangs. Reads go on.
func TestOnEvictDoesNotDelayReads(t *testing.T) {
	calls := 0
	var release chan struct{}
	onEvict := func(key, _ string, _ geocache.EvictReason) {
		if calls++; calls < 3 {
			panic(key)
		}
		<-release
	}
	opts := []geocache.GroupOption{geocache.WithMaxEntries(1), geocache.WithOnEvict(onEvict)}
	alone(t, ada, opts, func(t *testing.T, g *geocache.Group[string]) {
		release = make(chan struct{})
		for _, key := range keys(50) {
			_, err := g.Get(t.Context(), key)
			require.NoError(t, err)
		}
		synctest.Wait()
		require.Equal(t, 3, calls)
		close(release)
		synctest.Wait()
		require.Equal(t, 49, calls)
	})
}

// TestOnEvictOfCopies writes a key, and sees its copies leave the nodes that have them.
func TestOnEvictOfCopies(t *testing.T) {
	var d evictions
	config := testcluster.Config{Nodes: 2, Group: []geocache.GroupOption{geocache.WithOnEvict(d.record)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		owner := c.Owner("eu", "ada")
		for _, n := range c.Nodes() {
			n.MustGet("ada")
		}
		require.Empty(t, d.drain())
		_, err := owner.Set("ada", "new")
		require.NoError(t, err)
		calls := d.drain()
		require.Len(t, calls, 2, "%v", calls)
	})
}

func TestEvictionOptionsAreChecked(t *testing.T) {
	alone(t, ada, nil, func(t *testing.T, g *geocache.Group[string]) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now))
		require.NoError(t, err)
		defer cache.Close()
		_, err = geocache.NewGroup(cache, "g", ada, geocache.WithMaxEntries(-1), geocache.WithPolicy(9),
			geocache.WithOnEvict(func(string, int, geocache.EvictReason) {}))
		requireMistakes(t, err,
			"WithMaxEntries(-1): must not be negative",
			"WithPolicy(Policy(9)): no such policy",
			"WithOnEvict: func(string, int, geocache.EvictReason) does not take a string")
	})
}
