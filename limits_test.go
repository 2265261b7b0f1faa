package geocache_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

// threeOverTCP returns a group on two nodes of one region and one of another, over real TCP.
func threeOverTCP[V any](
	t *testing.T, getter geocache.Getter[V], opts ...geocache.Option,
) (groups []*geocache.Group[V]) {
	var meeting sharedDiscovery
	var caches []*geocache.Cache
	for _, region := range []string{"eu", "eu", "us"} {
		cache, err := geocache.Open(t.Context(),
			append(opts, geocache.WithRegion(region), geocache.WithListen("127.0.0.1:0"),
				geocache.WithDiscovery(&meeting))...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, cache.Close()) })
		caches = append(caches, cache)
	}
	for _, cache := range caches {
		g, err := geocache.NewGroup(cache, strings.Repeat("g", 255), getter)
		require.NoError(t, err)
		groups = append(groups, g)
		require.Eventually(t, func() bool { return len(g.Locate("a")) == 2 }, 10*time.Second, time.Millisecond)
	}
	return groups
}

// Keys, tags and values of the maximum length work like all others, whoever owns the key. One byte
// more is refused.
func TestLimits(t *testing.T) {
	const most = 1000
	ctx, world := t.Context(), geocache.WithAck(geocache.AckWorld)
	g := threeOverTCP[string](t, nil, geocache.WithMaxValueBytes(most),
		geocache.WithCluster(strings.Repeat("c", 255)))
	key := func(i, length int) string { return fmt.Sprintf("%03d", i) + strings.Repeat("\xff", length-3) }
	tags := make([]string, 255)
	for i := range tags {
		tags[i] = key(i, 255)
	}
	value := strings.Repeat("v", most)
	everywhere := func(want bool, key string) {
		t.Helper()
		for _, g := range g {
			v, err := g.Get(ctx, key)
			if want {
				require.NoError(t, err)
				require.Equal(t, value, v)
			} else {
				require.ErrorIs(t, err, geocache.ErrNotFound)
			}
		}
	}
	for i := range 8 { // owned by different nodes
		k := key(i, 4096)
		for what, remove := range map[string]func() error{
			"Remove":       func() error { return g[0].Remove(ctx, k, world) },
			"RemoveTag":    func() error { return g[0].RemoveTag(ctx, tags[254], world) },
			"all":          func() error { return g[0].RemovePrefix(ctx, k, world) },
			"4,095":        func() error { return g[0].RemovePrefix(ctx, k[:4095], world) },
			"4,094":        func() error { return g[0].RemovePrefix(ctx, k[:4094], world) },
			"4,093":        func() error { return g[0].RemovePrefix(ctx, k[:4093], world) },
			"RemoveMany":   func() error { return g[0].RemoveMany(ctx, []string{k, key(i+1, 4096)}, world) },
			"in 257 parts": func() error { return g[0].RemoveMany(ctx, manyKeys(k), world) },
		} {
			require.NoError(t, g[1].Set(ctx, k, value, geocache.WithTags(tags...), world), what)
			everywhere(true, k)
			require.NoError(t, remove(), what)
			everywhere(false, k)
		}
		_, err := g[1].Update(ctx, k, func(string, bool) (string, error) {
			return value, nil
		}, geocache.WithTags(tags...))
		require.NoError(t, err)
		_, err = g[1].Update(ctx, k, func(old string, ok bool) (string, error) {
			return old, nil
		}, geocache.WithTags(tags...))
		require.NoError(t, err)
	}

	long := key(0, 4097)
	for what, err := range map[string]error{
		"Set":          g[0].Set(ctx, long, ""),
		"Remove":       g[0].Remove(ctx, long),
		"RemovePrefix": g[0].RemovePrefix(ctx, long),
		"RemoveMany":   g[0].RemoveMany(ctx, []string{"a", long}),
		"value":        g[0].Set(ctx, "a", value+"v"),
	} {
		require.ErrorIs(t, err, geocache.ErrTooLarge, what)
		require.Regexp(t, "4097 bytes, at most 4096|1001 bytes, at most 1000", err.Error(), what)
	}
	_, err := g[0].Get(ctx, long)
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	_, err = g[0].GetMany(ctx, []string{"a", long})
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	require.ErrorContains(t, g[0].Set(ctx, "a", "", geocache.WithTags(append(tags, "x")...)), "256 tags")
	require.ErrorContains(t, g[0].RemoveTag(ctx, strings.Repeat("t", 256)), "256 bytes")
	require.ErrorContains(t, g[0].RemoveTag(ctx, ""), "tag")
	require.ErrorContains(t, g[0].RemovePrefix(ctx, ""), "empty")
}

// manyKeys returns k and enough other keys for their removal to take several requests.
func manyKeys(k string) []string {
	keys := []string{k}
	for i := range 3000 {
		keys = append(keys, fmt.Sprintf("%d", i))
	}
	return keys
}

// A getter's value of the maximum size with the maximum of tags can be read at every node.
func TestTagsDoNotCountAgainstTheValueSize(t *testing.T) {
	const most = 1000
	tags := make([]string, 255)
	for i := range tags {
		tags[i] = fmt.Sprintf("%0255d", i)
	}
	g := threeOverTCP[string](t, geocache.ItemGetterFunc[string](func(
		_ context.Context, key string,
	) (geocache.Loaded[string], error) {
		return geocache.Loaded[string]{Value: strings.Repeat("v", most), Tags: tags}, nil
	}), geocache.WithMaxValueBytes(most))
	for i := range 16 {
		for _, g := range g {
			_, err := g.Get(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
		}
	}
	var loads uint64
	for _, g := range g {
		loads += g.Stats().Loads
	}
	require.EqualValues(t, 32, loads, "once in each region")
}

// A nil context is an error before anything is called, and nothing panics on a goroutine of the
// cache's own.
func TestNilContext(t *testing.T) {
	var none context.Context
	for _, opts := range [][]geocache.Option{
		nil, {geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(regions.Static())},
	} {
		_, err := geocache.Open(none, opts...)
		require.EqualError(t, err, "geocache: the context is nil")
	}
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup(cache, "g", geocache.GetterFunc[int](func(context.Context, string) (int, error) {
		return 1, nil
	}))
	require.NoError(t, err)
	calls := map[string]func() error{
		"Get":          func() error { _, err := g.Get(none, "k"); return err },
		"GetItem":      func() error { _, err := g.GetItem(none, "k"); return err },
		"GetMany":      func() error { _, err := g.GetMany(none, []string{"k", "l"}); return err },
		"Set":          func() error { return g.Set(none, "k", 1) },
		"Remove":       func() error { return g.Remove(none, "k") },
		"RemoveMany":   func() error { return g.RemoveMany(none, []string{"k", "l"}) },
		"RemoveTag":    func() error { return g.RemoveTag(none, "t") },
		"RemovePrefix": func() error { return g.RemovePrefix(none, "t") },
		"Clear":        func() error { return g.Clear(none) },
		"Update": func() error {
			_, err := g.Update(none, "k", func(int, bool) (int, error) { return 1, nil })
			return err
		},
		"Increment": func() error { _, err := geocache.Increment(none, g, "k", 1); return err },
		"Warm": func() error {
			_, err := g.Warm(none, func(yield func(string) bool) { yield("k") })
			return err
		},
	}
	for what, call := range calls {
		require.ErrorContains(t, call(), "the context is nil", what)
	}
	require.Zero(t, g.Stats().Loads)
}

// Entries of the maximum size survive a snapshot. A truncated one is refused.
func TestLimitsInASnapshot(t *testing.T) {
	open := func() *geocache.Group[string] {
		cache, err := geocache.Open(t.Context(), geocache.WithMaxValueBytes(1000))
		require.NoError(t, err)
		t.Cleanup(func() { cache.Close() })
		g, err := geocache.NewGroup[string](cache, "g", nil)
		require.NoError(t, err)
		return g
	}
	g := open()
	long, value := strings.Repeat("\xff", 4096), strings.Repeat("v", 1000)
	tag := strings.Repeat("t", 255)
	for _, key := range []string{"", "a", long} {
		require.NoError(t, g.Set(t.Context(), key, value, geocache.WithTags(tag)))
	}
	require.NoError(t, g.RemovePrefix(t.Context(), long[:4095]+"x"))
	require.NoError(t, g.RemovePrefix(t.Context(), long))
	require.NoError(t, g.RemoveTag(t.Context(), strings.Repeat("u", 255)))
	var b bytes.Buffer
	require.NoError(t, g.Snapshot(&b))

	other := open()
	n, err := other.Restore(bytes.NewReader(b.Bytes()))
	require.NoError(t, err)
	require.Equal(t, 2, n)
	for _, key := range []string{"", "a"} {
		v, ok := other.Peek(key)
		require.True(t, ok && v == value, "%q", key)
	}
	require.Equal(t, g.Stats().Floors, other.Stats().Floors)
	for cut := 0; cut < b.Len(); cut += 97 {
		_, err := other.Restore(bytes.NewReader(b.Bytes()[:cut]))
		require.ErrorIs(t, err, geocache.ErrSnapshot, "%d bytes", cut)
	}
	require.ErrorContains(t, g.Snapshot(nil), "the writer is nil")
	_, err = g.Restore(nil)
	require.ErrorContains(t, err, "the reader is nil")
}

func TestWarmAtItsLimits(t *testing.T) {
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup(cache, "g", ada)
	require.NoError(t, err)
	for _, rate := range []float64{0, -1, math.NaN(), math.Inf(-1), 1e-300, math.SmallestNonzeroFloat64} {
		_, err := g.Warm(t.Context(), slices.Values([]string{"a"}), geocache.WithWarmRate(rate))
		requireMistakes(t, err, "WarmRate(")
	}
	for _, n := range []int{0, -1, math.MinInt, 1025, math.MaxInt} {
		_, err := g.Warm(t.Context(), slices.Values([]string{"a"}), geocache.WithWarmConcurrency(n))
		requireMistakes(t, err, "WarmConcurrency(")
	}
	_, err = g.Warm(t.Context(), nil, geocache.WithWarmRate(-1), geocache.WithWarmConcurrency(-1))
	requireMistakes(t, err, "WarmRate(-1)", "WarmConcurrency(-1)", "keys is nil")

	for _, rate := range []float64{1, 1e300, math.MaxFloat64, math.Inf(1)} {
		stats, err := g.Warm(t.Context(), slices.Values([]string{"", strings.Repeat("k", 4096)}),
			geocache.WithWarmRate(rate), geocache.WithWarmConcurrency(1024))
		require.NoError(t, err)
		require.Equal(t, 2, stats.Loaded+stats.Present)
	}
	stats, err := g.Warm(t.Context(), slices.Values([]string{strings.Repeat("k", 4097)}))
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	require.Equal(t, geocache.WarmStats{Failed: 1}, stats)
}
