package geocache_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

type user struct {
	Name  string
	Karma int
}

// cachedGroup opens a single-node Cache as services do, with real clocks, and returns a group that
// has the key "ada" in memory.
func cachedGroup[V any](t testing.TB, v V, opts ...geocache.GroupOption) *geocache.Group[V] {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	t.Cleanup(func() { cache.Close() })
	g, err := geocache.NewGroup(cache, "test", geocache.GetterFunc[V](func(context.Context, string) (V, error) {
		return v, nil
	}), opts...)
	require.NoError(t, err)
	_, err = g.Get(t.Context(), "ada")
	require.NoError(t, err)
	time.Sleep(5 * time.Millisecond) // the coarse clock runs by then
	return g
}

func TestLocalHitAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	requireNoAllocations(t, []byte("v"))
	requireNoAllocations(t, "v")
	requireNoAllocations(t, user{"Ada", 7})
	requireNoAllocations(t, &user{"Ada", 7})
	requireNoAllocations(t, [64]int{})
}

func requireNoAllocations[V any](t *testing.T, v V) {
	g := cachedGroup(t, v)
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, err := g.Get(ctx, "ada"); err != nil {
			t.Error(err)
		}
	}), "Get of %T", v)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, ok := g.Peek("ada"); !ok {
			t.Error("gone")
		}
	}), "Peek of %T", v)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, err := g.GetItem(ctx, "ada"); err != nil {
			t.Error(err)
		}
	}), "GetItem of %T", v)
}

// BenchmarkGet measures a hit in this process's memory, on all cores.
func BenchmarkGet(b *testing.B) {
	b.Run("bytes", func(b *testing.B) { benchmarkGet(b, make([]byte, 1<<10)) })
	b.Run("struct", func(b *testing.B) { benchmarkGet(b, user{"Ada", 7}) })
}

func benchmarkGet[V any](b *testing.B, v V) {
	g := cachedGroup(b, v)
	all := keys(1024)
	ctx := b.Context()
	for _, key := range all {
		_, err := g.Get(ctx, key)
		require.NoError(b, err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := g.Get(ctx, all[i%len(all)]); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkPeerGet measures a read that the key's owner answers from its memory over loopback, with
// both nodes in this process and 64 concurrent readers.
func BenchmarkPeerGet(b *testing.B) {
	ls, nodes := listeners(b, 2)
	var groups []*geocache.Group[[]byte]
	for i, n := range nodes {
		cache, err := geocache.Open(b.Context(), silent, geocache.WithRegion("eu"), geocache.WithNodeID(n.ID),
			geocache.WithListener(ls[i]),
			geocache.WithDiscovery(regions.Static(nodes...)), geocache.WithJoinWait(100*time.Millisecond))
		require.NoError(b, err)
		b.Cleanup(func() { cache.Close() })
		getter := geocache.GetterFunc[[]byte](func(context.Context, string) ([]byte, error) {
			return make([]byte, 1<<10), nil
		})
		// so that each read goes to the owner
		g, err := geocache.NewGroup(cache, "test", getter, geocache.WithCopyShare(0))
		require.NoError(b, err)
		groups = append(groups, g)
	}
	reader := groups[1]
	require.Eventually(b, func() bool {
		return reader.Locate("ada")[0].Successor.ID != "" && groups[0].Locate("ada")[0].Successor.ID != ""
	}, 5*time.Second, time.Millisecond)
	var all []string
	for i := 0; len(all) < 1024; i++ {
		if key := fmt.Sprint("key-", i); reader.Locate(key)[0].Owner.ID == "eu-1" {
			all = append(all, key)
		}
	}
	ctx := b.Context()
	_, err := reader.GetMany(ctx, all)
	require.NoError(b, err)

	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := reader.Get(ctx, all[i%len(all)]); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	require.Zero(b, reader.Stats().Entries)
}
