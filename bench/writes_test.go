package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
)

// BenchmarkSet is a Set that a region has acknowledged, all of it in this process.
func BenchmarkSet(b *testing.B) {
	for _, n := range []int{3, 9} {
		c, err := openCluster(here(n), func(context.Context, string) ([]byte, error) { return nil, geocache.ErrNotFound }, geocache.WithTTL(ttl))
		require.NoError(b, err)
		keys, value := makeKeys(writeKeys), makeValue(1, 1<<10)
		for _, callers := range []int{1, 128} {
			b.Run(fmt.Sprintf("nodes=%d/callers=%d", n, callers), func(b *testing.B) {
				b.ReportAllocs()
				s, err := writeAll(keys, n, max(b.N/callers, 1)*callers, callers, func(node int, key string) error { return c[node].Set(ctx, key, value) })
				require.NoError(b, err)
				b.ReportMetric(s.quantities["rate"], "sets/s")
				b.ReportMetric(s.quantities["p50"], "p50-µs")
				b.ReportMetric(s.quantities["p99"], "p99-µs")
			})
		}
		c.close()
	}
}
