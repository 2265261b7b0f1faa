package main

import (
	"math/bits"
	"time"
)

// A histogram counts durations in buckets of growing width, 32 to each power of
// two, so that a quantile is at most 1/32 too high whatever its size. The zero
// value is empty. It travels as JSON with only the buckets that have counts.
type histogram map[int]uint64

const subBuckets = 32

// bucket returns the bucket of d: the first 32 are 1 ns wide, the next 32 too,
// the 32 after these 2 ns, and so on.
func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-6, 0)
	return shift*subBuckets + int(v>>shift)
}

// upper returns the longest duration in bucket b.
func upper(b int) time.Duration {
	if b < 2*subBuckets {
		return time.Duration(b)
	}
	shift := b/subBuckets - 1
	return time.Duration(uint64(b-shift*subBuckets+1)<<shift - 1)
}

func (h histogram) add(d time.Duration) { h[bucket(d)]++ }

func (h histogram) merge(other histogram) {
	for b, n := range other {
		h[b] += n
	}
}

func (h histogram) count() (n uint64) {
	for _, m := range h {
		n += m
	}
	return n
}

// quantile returns the shortest duration that the share q of those counted did
// not exceed, and 0 if there are none.
func (h histogram) quantile(q float64) time.Duration {
	var total uint64
	last := 0
	for b, n := range h {
		total += n
		last = max(last, b)
	}
	rank := uint64(q * float64(total))
	var below uint64
	for b := 0; b < last; b++ {
		if below += h[b]; below > rank {
			return upper(b)
		}
	}
	return upper(last)
}
