package latency

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Buckets are contiguous: a bucket's upper edge belongs to it, and a duration that is a nanosecond longer
// belongs to the next one.
func TestBucketsAreContiguous(t *testing.T) {
	require.Equal(t, 0, bucketOf(0))
	for i := range buckets - 1 {
		require.Equal(t, i, bucketOf(upper(i)))
		require.Equal(t, i+1, bucketOf(upper(i)+1))
		if width := upper(i+1) - upper(i); width > time.Microsecond {
			require.LessOrEqual(t, 8*width, upper(i), "bucket %d is too wide", i+1)
		}
	}
	require.Equal(t, 62_914_560*time.Microsecond, upper(buckets-2))
	require.Equal(t, buckets-1, bucketOf(math.MaxInt64))
}

// A Distribution read during concurrent recording covers only recorded durations: it never decreases, and
// is consistent with Max and Sum.
func TestReadWhileRecording(t *testing.T) {
	var h Histogram
	var recording sync.WaitGroup
	const goroutines, each = 4, 20_000
	for i := range goroutines {
		recording.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for range each {
				h.Record(time.Duration(r.IntN(int(time.Second))))
			}
		})
	}
	var last Distribution
	for last.Count < goroutines*each {
		d := h.Distribution()
		require.GreaterOrEqual(t, d.Count, last.Count)
		require.GreaterOrEqual(t, d.Sum, last.Sum)
		require.LessOrEqual(t, d.P50, d.P99)
		require.LessOrEqual(t, d.P999, d.Max)
		if d.P50 > 0 { // half of the durations exceed the lower edge of the bucket of P50
			require.Greater(t, d.Sum, time.Duration(d.Count/2)*(d.P50-d.P50/8-time.Microsecond))
		}
		last = d
	}
	recording.Wait()
	require.EqualValues(t, goroutines*each, h.Distribution().Count)
}

func TestRecordDoesNotAllocate(t *testing.T) {
	var h Histogram
	require.Zero(t, testing.AllocsPerRun(1000, func() { h.Record(time.Millisecond) }))
}

func BenchmarkRecord(b *testing.B) {
	var h Histogram
	for i := range b.N {
		h.Record(time.Duration(i) & (1<<30 - 1))
	}
}
