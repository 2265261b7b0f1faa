package latency

import (
	"fmt"
	"time"
)

// A Distribution is how long a number of things took. Its zero value is that of none.
//
// The quantiles are upper bounds: half of the things took no longer than P50, 99 in
// 100 no longer than P99, 999 in 1,000 no longer than P999. Each is above the exact
// quantile by less than an eighth of it or than a microsecond, whichever is more, and
// never above Max; where the exact one is above 62.9 s, it is Max. Sum and Max are exact. If
// things are being counted at that moment, Sum and Max may have some that Count has not.
type Distribution struct {
	Count          uint64
	Sum            time.Duration
	P50, P99, P999 time.Duration
	Max            time.Duration

	counts []uint64 // by bucket; nil if Count is 0. It is never changed.
}

func newDistribution(counts []uint64, sum, most time.Duration) Distribution {
	d := Distribution{Sum: sum, Max: most, counts: counts}
	for _, n := range counts {
		d.Count += n
	}
	d.P50, d.P99, d.P999 = d.quantile(500), d.quantile(990), d.quantile(999)
	return d
}

// quantile returns what so many in a thousand took no longer than. Count is not 0.
func (d Distribution) quantile(thousandths uint64) time.Duration {
	// As many as the share needs, rounded up; divided first, lest it overflow.
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

// AtMost returns how many took no longer than limit. It is exact where limit is a
// power of two times a microsecond, up to 2²⁵ µs (33.6 s); otherwise it may leave out some that took
// less than limit by an eighth or a microsecond.
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

// Plus returns the distribution of what is in either.
func (d Distribution) Plus(e Distribution) Distribution {
	switch {
	case e.Count == 0:
		return d
	case d.Count == 0:
		return e
	}
	counts := make([]uint64, buckets)
	for _, from := range [][]uint64{d.counts, e.counts} { // none if somebody has filled the fields in
		for i, n := range from {
			counts[i] += n
		}
	}
	return newDistribution(counts, d.Sum+e.Sum, max(d.Max, e.Max))
}

// Mean returns the mean, or 0 if there is none.
func (d Distribution) Mean() time.Duration {
	if d.Count == 0 {
		return 0
	}
	return time.Duration(uint64(d.Sum) / d.Count)
}

// String returns the figures as one line.
func (d Distribution) String() string {
	return fmt.Sprintf("%d: p50 %v, p99 %v, p999 %v, max %v", d.Count, d.P50, d.P99, d.P999, d.Max)
}
