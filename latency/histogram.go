// Package latency counts how long things take, cheaply enough to count every one.
//
// A [Histogram] is what is counted into, from many goroutines at once; a
// [Distribution] is what it held at one moment. Both cover everything since the
// histogram was made. There is no window: whoever wants the last minute reads
// [Distribution.AtMost] from time to time, as Prometheus does, and takes the
// difference.
//
// The package has no I/O and does not read the clock.
package latency

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A bucket is the durations above its lower edge up to its upper one. The first
// eight are a microsecond wide each. From there on every doubling has eight of
// equal width, so a bucket's edges differ by an eighth at most. The last one has
// everything above 62.9 s too.
const (
	perDoubling = 8
	doublings   = 23 // from 8 µs to 67 s
	buckets     = perDoubling * (1 + doublings)
)

// bucketOf returns the bucket of d.
func bucketOf(d time.Duration) int {
	if d <= time.Microsecond {
		return 0
	}
	us := uint64(d-1) / uint64(time.Microsecond) // the upper edge belongs to the bucket
	halvings := max(bits.Len64(us)-bits.Len64(2*perDoubling-1), 0)
	return min(halvings*perDoubling+int(us>>halvings), buckets-1)
}

// upper returns the upper edge of bucket i.
func upper(i int) time.Duration {
	halvings := max(i/perDoubling-1, 0)
	return time.Duration(i-halvings*perDoubling+1) << halvings * time.Microsecond
}

// A Histogram counts durations. Its zero value is empty and ready for use. Its
// methods are safe for concurrent use and take no lock. It has a fixed size of 1.5 KiB.
type Histogram struct {
	sum, max atomic.Int64
	counts   [buckets]atomic.Uint64
}

// Record counts d. One that is negative counts as zero.
//
// It costs two atomic additions and allocates nothing.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	// The bucket comes last, and read looks at it first: what is in a bucket is
	// in sum and max too.
	h.sum.Add(int64(d))
	for was := h.max.Load(); int64(d) > was && !h.max.CompareAndSwap(was, int64(d)); {
		was = h.max.Load()
	}
	h.counts[bucketOf(d)].Add(1)
}

// Distribution returns what h has counted so far.
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
