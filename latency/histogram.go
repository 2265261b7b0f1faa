// Package latency records how long operations take, cheaply enough to record every one.
//
// A [Histogram] records durations from many goroutines at once. A [Distribution] is a snapshot of it:
// quantiles within an eighth of the exact ones, and counts for cumulative buckets. Recording takes no
// lock and does not allocate, and the memory a histogram takes is fixed.
//
// Both cover everything since the histogram was created. There is no time window: for the last minute,
// read [Distribution.AtMost] periodically, as Prometheus does, and subtract.
//
// The package does no I/O and does not read the clock.
package latency

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A bucket holds the durations above its lower edge, up to and including its upper edge. The first eight
// buckets are a microsecond wide each. After that, every doubling has eight buckets of equal width, so
// the edges of a bucket differ by at most an eighth. The last bucket also holds everything above 62.9 s.
const (
	perDoubling = 8
	doublings   = 23 // from 8 µs to 67 s
	buckets     = perDoubling * (1 + doublings)
)

// bucketOf returns the index of the bucket that holds d.
func bucketOf(d time.Duration) int {
	if d <= time.Microsecond {
		return 0
	}
	us := uint64(d-1) / uint64(time.Microsecond) // -1 because the upper edge belongs to the bucket
	halvings := max(bits.Len64(us)-bits.Len64(2*perDoubling-1), 0)
	return min(halvings*perDoubling+int(us>>halvings), buckets-1)
}

// upper returns the upper edge of bucket i.
func upper(i int) time.Duration {
	halvings := max(i/perDoubling-1, 0)
	return time.Duration(i-halvings*perDoubling+1) << halvings * time.Microsecond
}

// A Histogram counts durations. The zero value is empty and ready for use. Its methods are safe for
// concurrent use and take no lock. Its size is fixed at 1.5 KiB. It must not be copied after first use.
type Histogram struct {
	sum, max atomic.Int64
	counts   [buckets]atomic.Uint64
}

// Record counts d. A negative d counts as zero. Record costs two atomic additions and does not allocate.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	// The bucket is written last, and Distribution reads it first. So whatever Distribution finds in a
	// bucket is in sum and max too.
	h.sum.Add(int64(d))
	for was := h.max.Load(); int64(d) > was && !h.max.CompareAndSwap(was, int64(d)); {
		was = h.max.Load()
	}
	h.counts[bucketOf(d)].Add(1)
}

// Distribution returns the distribution of the durations recorded so far.
func (h *Histogram) Distribution() Distribution {
	var counts []uint64
	for i := range h.counts {
		if n := h.counts[i].Load(); n > 0 {
			if counts == nil {
				counts = make([]uint64, buckets)
			}
			counts[i] = n
		}
	}
	if counts == nil {
		return Distribution{}
	}
	return newDistribution(counts, time.Duration(h.sum.Load()), time.Duration(h.max.Load()))
}
