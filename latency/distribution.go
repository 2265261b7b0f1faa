package latency

import (
	"fmt"
	"time"
)

// A Distribution describes a set of recorded durations. The zero value describes the empty set.
//
// The quantiles are upper bounds: half of the durations are at most P50, 99 in 100 are at most P99,
// and 999 in 1,000 are at most P999. Each exceeds the exact quantile by less than an eighth of it or
// by less than a microsecond, whichever is more, and never exceeds Max. If the exact quantile is above
// 62.9 s, the reported one is Max. Sum and Max are exact. A duration that is being recorded while the
// distribution is read may be included in Sum and Max but not yet in Count.
type Distribution struct {
	Count          uint64
	Sum            time.Duration
	P50, P99, P999 time.Duration
	Max            time.Duration

	counts []uint64 // by bucket; nil if Count is 0. Never modified: copies of a Distribution share it.
}

func newDistribution(counts []uint64, sum, longest time.Duration) Distribution {
	d := Distribution{Sum: sum, Max: longest, counts: counts}
	for _, n := range counts {
		d.Count += n
	}
	d.P50, d.P99, d.P999 = d.quantile(500), d.quantile(990), d.quantile(999)
	return d
}

// quantile returns the duration that the given number in a thousand do not exceed. Count must not be 0.
func (d Distribution) quantile(thousandths uint64) time.Duration {
	// The number of durations in that share, rounded up. Dividing first avoids an overflow.
	rank := d.Count/1000*thousandths + (d.Count%1000*thousandths+999)/1000
	for i, n := range d.counts {
		if rank <= n {
			if i == buckets-1 {
				break
			}
			return min(upper(i), d.Max)
		}
		rank -= n
	}
	return d.Max
}

// AtMost returns how many durations are at most limit. It is exact if limit is a power of two times a
// microsecond, up to 2²⁵ µs (33.6 s). For other limits it may miss durations that are within an eighth
// of limit, or within a microsecond, below it.
func (d Distribution) AtMost(limit time.Duration) (n uint64) {
	if limit >= d.Max {
		return d.Count
	}
	for i := range d.counts {
		if i == buckets-1 || upper(i) > limit {
			break
		}
		n += d.counts[i]
	}
	return n
}

// Plus returns the distribution of the durations of d and e together.
func (d Distribution) Plus(e Distribution) Distribution {
	switch {
	case e.Count == 0:
		return d
	case d.Count == 0:
		return e
	}
	counts := make([]uint64, buckets)
	for _, from := range [][]uint64{d.counts, e.counts} { // nil if the caller filled in the fields by hand
		for i, n := range from {
			counts[i] += n
		}
	}
	return newDistribution(counts, d.Sum+e.Sum, max(d.Max, e.Max))
}

// Mean returns the mean duration, or 0 if Count is 0.
func (d Distribution) Mean() time.Duration {
	if d.Count == 0 {
		return 0
	}
	return time.Duration(uint64(d.Sum) / d.Count)
}

// String formats the count, the quantiles and the maximum as one line.
func (d Distribution) String() string {
	return fmt.Sprintf("%d: p50 %v, p99 %v, p999 %v, max %v", d.Count, d.P50, d.P99, d.P999, d.Max)
}
