package store

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// workloads are made up, to have what the traces do not: each is a number of requests
// of one kind.
var workloads = map[string]func(r *rand.Rand, requests int) []int{
	"zipf 1.01": func(r *rand.Rand, n int) []int { return zipf(r, 1.01, n) },
	"zipf 1.1":  func(r *rand.Rand, n int) []int { return zipf(r, 1.1, n) },
	"zipf 1.4":  func(r *rand.Rand, n int) []int { return zipf(r, 1.4, n) },
	"scans in between": func(r *rand.Rand, n int) (ids []int) {
		popular := zipf(r, 1.05, n)
		for next := 1_000_000; len(ids) < n; {
			ids = append(ids, popular[len(ids):min(len(ids)+20_000, n)]...)
			for range 10_000 {
				ids = append(ids, next)
				next++
			}
		}
		return ids
	},
	// Loops that are a little longer than the larger of the caches.
	"loop of 103%": func(_ *rand.Rand, n int) []int { return loop(10_300, n) },
	"loop of 110%": func(_ *rand.Rand, n int) []int { return loop(11_000, n) },
	"loop of 150%": func(_ *rand.Rand, n int) []int { return loop(15_000, n) },
	// Working sets that shift, all the time or at once.
	"sliding": func(r *rand.Rand, n int) (ids []int) {
		for i := range n {
			ids = append(ids, max(0, i/20-int(r.ExpFloat64()*1500)))
		}
		return ids
	},
	"sets": func(r *rand.Rand, n int) (ids []int) {
		for i := range n {
			ids = append(ids, i/50_000*2000+r.IntN(3000))
		}
		return ids
	},
	// What was requested lately is requested again, the sooner the likelier: what
	// LRU is made for.
	"recency": func(r *rand.Rand, n int) (ids []int) {
		for next := 0; len(ids) < n; {
			if back := int(r.ExpFloat64() * 4000); r.IntN(10) >= 3 && back < len(ids) {
				ids = append(ids, ids[len(ids)-1-back])
				continue
			}
			ids = append(ids, next)
			next++
		}
		return ids
	},
}

func zipf(r *rand.Rand, skew float64, n int) []int {
	z := rand.NewZipf(r, skew, 1, 50_000)
	ids := make([]int, n)
	for i := range ids {
		ids[i] = int(z.Uint64())
	}
	return ids
}

func loop(length, n int) []int {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = i % length
	}
	return ids
}

// TestTheShareFollowsTheWorkload sees that the default policy keeps up with the better
// of LRU and the published S3-FIFO on every workload, whichever that is, and is
// clearly better than the published one where a tenth is far too little.
func TestTheShareFollowsTheWorkload(t *testing.T) {
	if raceEnabled {
		t.Skip("nothing here is concurrent")
	}
	const requests = 600_000
	for name, workload := range workloads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var keys []string
			for _, id := range workload(rand.New(rand.NewPCG(1, 2)), requests) {
				keys = append(keys, fmt.Sprintf("%0*d", keySize, id))
			}
			for _, size := range []int{500, 2_500, 10_000} {
				ours, lru, published := replay(S3FIFO, keys, size), replay(LRU, keys, size), replayPublished(keys, size)
				t.Logf("%6d entries: LRU %.3f, S3-FIFO as published %.3f, ours %.3f", size, lru, published, ours)
				require.GreaterOrEqual(t, ours, max(lru, published)-.03, "%d entries", size)
				require.GreaterOrEqual(t, ours, published-.01, "%d entries", size)
			}
			if name == "recency" {
				require.Greater(t, replay(S3FIFO, keys, 10_000), replayPublished(keys, 10_000)+.04)
			}
		})
	}
}
