package latency

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestEmptyHistogram(t *testing.T) {
	require.Zero(t, new(Histogram).Distribution())
	require.Zero(t, Distribution{}.Mean())
	require.Zero(t, Distribution{}.AtMost(time.Hour))
	require.Zero(t, Distribution{}.Plus(Distribution{}))
}

func TestQuantiles(t *testing.T) {
	var h Histogram
	for i := range 1000 {
		h.Record(time.Duration(i+1) * time.Millisecond)
	}
	d := h.Distribution()
	require.EqualValues(t, 1000, d.Count)
	require.Equal(t, 500500*time.Millisecond, d.Sum)
	require.Equal(t, time.Duration(500.5*float64(time.Millisecond)), d.Mean())
	require.Equal(t, 524288*time.Microsecond, d.P50) // upper edge of the bucket of 500 ms
	require.Equal(t, time.Second, d.P99)             // the bucket of 990 ms ends after Max
	require.Equal(t, time.Second, d.P999)
	require.Equal(t, time.Second, d.Max)
	require.EqualValues(t, 131, d.AtMost(131072*time.Microsecond))
	require.EqualValues(t, 1000, d.AtMost(time.Hour))
	require.Equal(t, "1000: p50 524.288ms, p99 1s, p999 1s, max 1s", d.String())
}

// The distribution of a single duration is exact.
func TestSingleDurationIsExact(t *testing.T) {
	for _, took := range []time.Duration{
		-time.Second, 0, 1, time.Microsecond, 80 * time.Millisecond, time.Hour,
	} {
		var h Histogram
		h.Record(took)
		d, want := h.Distribution(), max(took, 0)
		require.Equal(t,
			[]time.Duration{want, want, want, want, want},
			[]time.Duration{d.P50, d.P99, d.P999, d.Max, d.Sum})
	}
}

// The quantiles are as close to the exact ones as documented, and adding two halves gives the whole.
func TestQuantileErrorBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var whole Histogram
		var halves [2]Histogram
		var took []time.Duration
		for i, f := range rapid.SliceOfN(rapid.Float64Range(0, 27), 1, 3000).Draw(t, "log2 of µs") {
			d := time.Duration(math.Exp2(f) * float64(time.Microsecond))
			took = append(took, d)
			whole.Record(d)
			halves[i%2].Record(d)
		}
		slices.Sort(took)
		d := whole.Distribution()
		require.Equal(t, d, halves[0].Distribution().Plus(halves[1].Distribution()))
		for _, q := range []struct {
			thousandths int
			got         time.Duration
		}{{500, d.P50}, {990, d.P99}, {999, d.P999}} {
			exact := took[(len(took)*q.thousandths+999)/1000-1]
			require.GreaterOrEqual(t, q.got, exact)
			require.LessOrEqual(t, q.got, d.Max)
			if exact <= upper(buckets-2) {
				require.LessOrEqual(t, q.got-exact, max(exact/8, time.Microsecond))
			}
		}
		for k := range 26 {
			limit := time.Microsecond << k
			at, _ := slices.BinarySearch(took, limit+1)
			require.EqualValues(t, at, d.AtMost(limit))
		}
	})
}

// Extreme durations, and distributions whose fields were filled in by hand, do not panic.
func TestExtremeAndHandmadeInput(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, time.Hour} {
		h.Record(d)
	}
	d := h.Distribution()
	require.EqualValues(t, 5, d.Count)
	require.Equal(t, time.Hour+1, d.Sum)
	require.EqualValues(t, 5, d.AtMost(math.MaxInt64))
	require.EqualValues(t, 0, d.AtMost(math.MinInt64))
	require.Equal(t, time.Duration(0), Distribution{}.Mean())

	byHand := Distribution{Count: 1, Sum: 1, Max: 1}
	require.EqualValues(t, 5, d.Plus(byHand).Count)
	require.EqualValues(t, 5, byHand.Plus(d).Count)
	require.EqualValues(t, 0, byHand.Plus(byHand).Count)

	var long Histogram
	long.Record(math.MaxInt64)
	require.Equal(t, time.Duration(math.MaxInt64), long.Distribution().P50)
}
