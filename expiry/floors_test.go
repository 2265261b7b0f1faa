package expiry

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestFloorsRaise(t *testing.T) {
	f := NewFloors(10)
	require.Zero(t, f.Floor("a"))
	require.True(t, f.Raise("a", 5))
	require.False(t, f.Raise("a", 5), "the same floor is no raise")
	require.False(t, f.Raise("a", 4), "an older write arrives late")
	require.Equal(t, Generation(5), f.Floor("a"))
	require.Zero(t, f.Floor("b"))

	require.True(t, f.RaiseGroup(7))
	require.False(t, f.RaiseGroup(6))
	require.Equal(t, Generation(7), f.Floor("a"))
	require.Equal(t, Generation(7), f.Floor("b"))
	require.Zero(t, f.Len(), "the group's floor covers the key's")
	require.False(t, f.Raise("a", 6), "a write from before the Clear")
	require.True(t, f.Raise("a", 8))
	require.Equal(t, Generation(8), f.Floor("a"))
}

func TestFloorsForgetByAge(t *testing.T) {
	f := NewFloors(10)
	for g := range Generation(5) {
		f.Raise(fmt.Sprintf("k%d", g+1), g+1)
	}
	f.Raise("k1", 9) // newer now: the old raise must not take it along
	require.Equal(t, 2, f.Forget(4))
	require.Equal(t, Generation(9), f.Floor("k1"))
	require.Zero(t, f.Floor("k2"))
	require.Zero(t, f.Group(), "dropped by age: nobody needs to be told")
}

func TestFloorsOneKeyWrittenForEver(t *testing.T) {
	f := NewFloors(10)
	for g := range Generation(100_000) {
		f.Raise("a", g+1)
	}
	require.Equal(t, 1, f.Len())
	require.Less(t, len(f.raised), 100)
}

// The floor of a key is never below the highest that was raised for it,
// whatever the bound forgot, and never falls.
func TestFloorsNeverForgetTowardsStale(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		f := NewFloors(limit)
		highest := map[string]Generation{}
		var cleared Generation
		key := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"})
		for range rapid.IntRange(1, 60).Draw(t, "writes") {
			g := Generation(rapid.Uint64Range(1, 1000).Draw(t, "generation"))
			before := map[string]Generation{}
			for k := range highest {
				before[k] = f.Floor(k)
			}
			if rapid.IntRange(0, 9).Draw(t, "kind") == 0 {
				f.RaiseGroup(g)
				cleared = max(cleared, g)
			} else {
				k := key.Draw(t, "key")
				f.Raise(k, g)
				highest[k] = max(highest[k], g)
			}
			for k, g := range highest {
				if f.Floor(k) < max(g, cleared) {
					t.Fatalf("floor of %s is %d, written at %d, cleared at %d", k, f.Floor(k), g, cleared)
				}
				if f.Floor(k) < before[k] {
					t.Fatalf("floor of %s fell from %d to %d", k, before[k], f.Floor(k))
				}
			}
			if f.Len() > limit {
				t.Fatalf("%d floors held, %d allowed", f.Len(), limit)
			}
		}
	})
}

func TestLife(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ttl := time.Duration(rapid.Int64Range(1, int64(20*365*24*time.Hour)).Draw(t, "ttl"))
		life := Life(ttl, rapid.Uint64().Draw(t, "hash"))
		if life > ttl || life < ttl-ttl/jitterShare {
			t.Fatalf("life %v of ttl %v", life, ttl)
		}
	})
	require.Equal(t, 10*time.Minute, Life(10*time.Minute, 0))
	require.InDelta(t, float64(9*time.Minute), float64(Life(10*time.Minute, ^uint64(0))), float64(time.Second))
}
