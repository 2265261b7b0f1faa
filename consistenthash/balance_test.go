package consistenthash

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// peak returns the largest share, relative to the mean.
func peak(r *Ring) float64 {
	return slices.Max(r.Shares()) * float64(len(r.members))
}

func TestBalance(t *testing.T) {
	for seed := range uint64(3) {
		for _, test := range []struct {
			members int
			peak    float64
		}{
			{10, 1.10}, {100, 1.10}, {300, 1.10},
		} {
			peak := peak(newRing(t, seed, equal(test.members)...))
			t.Logf("%d members, seed %d: peak over mean %.3f", test.members, seed, peak)
			require.LessOrEqual(t, peak, test.peak)
		}
	}
}

func TestSharesAreProportionalToWeights(t *testing.T) {
	weights := []float64{0.1, 0.25, 0.5, 1, 1, 2, 3, 5, 8, 20}
	members, total := equal(len(weights)), 0.0
	for i, weight := range weights {
		members[i].Weight = weight
		total += weight
	}
	for seed := range uint64(5) {
		r := newRing(t, seed, members...)
		sum := 0.0
		for i, share := range r.Shares() {
			want := weights[i] / total
			deviation := want / math.Sqrt(weights[i]*pointsPerWeight)
			require.InDelta(t, want, share, 5*deviation, "weight %v, seed %d", weights[i], seed)
			sum += share
		}
		require.Equal(t, 1.0, sum)
	}
}

// Shares counts slots. Keys must be distributed accordingly.
func TestKeysAreDistributedLikeShares(t *testing.T) {
	r := newRing(t, 7, equal(10)...)
	count := make(map[string]int)
	for _, key := range sample {
		count[owner(t, r, key)]++
	}
	for i, m := range r.members {
		require.InDelta(t, r.Shares()[i]*float64(len(sample)), count[m.ID], 5*math.Sqrt(float64(len(sample))/10))
	}
}

// Adding members moves little more than the minimum number of keys. In reverse, the same holds for leaves.
func TestMovementIsNearMinimum(t *testing.T) {
	for _, test := range []struct{ before, after int }{{9, 10}, {100, 110}, {1000, 1010}} {
		a, b := newRing(t, 1, equal(test.before)...), newRing(t, 1, equal(test.after)...)
		moved := 0
		for slot := range uint32(1 << slotBits) {
			was, is := a.members[a.member(a.first(slot))], b.members[b.member(b.first(slot))]
			if was != is {
				moved++
				require.Contains(t, b.members[test.before:], is, "only new members gain keys")
			}
		}
		minimum := 1 - float64(test.before)/float64(test.after)
		movement := float64(moved) / (1 << slotBits) / minimum
		t.Logf("%d to %d members: moved %.3f times the minimum", test.before, test.after, movement)
		require.LessOrEqual(t, movement, 1.05)
	}
}
