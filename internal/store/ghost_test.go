package store

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// While its limit grows and shrinks by several powers of two, a ghost remembers what it should and little
// else.
func TestGhostRemembersTheLatest(t *testing.T) {
	g := newGhost()
	random := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{1, 100, 5_000, 60_000, 3_000, 50} {
		var added []uint32
		for range 3 * limit {
			hash := random.Uint32()
			added = append(added, hash)
			g.add(hash, limit)
		}
		kept, stale := 0, 0
		for i, hash := range added {
			_, found := g.take(hash, limit)
			if i >= 2*limit && found {
				kept++
			} else if i < 2*limit && found {
				stale++
			}
			_, again := g.take(hash, limit)
			require.False(t, again, "a hash that was taken is forgotten")
		}
		require.GreaterOrEqual(t, kept, limit*98/100, "of the last %d", limit)
		require.LessOrEqual(t, stale, limit/1000, "of those before the last %d", limit)
		slots := len(g.buckets) * len(ghostBucket{})
		require.LessOrEqual(t, slots, max(4*limit, minGhostBuckets*len(ghostBucket{})))
		require.GreaterOrEqual(t, slots, limit*5/4)
	}
}
