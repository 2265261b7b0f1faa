package expiry

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// raises raises a floor, and reports whether that has lifted it.
func raises(f *Floors, key Subject, s Stamp) bool { return f.Raise(key, s, 0, 0).Below(s) }

func TestFloorsRaise(t *testing.T) {
	f := NewFloors(10)
	require.Equal(t, Removal(0), f.Floor("a"), "below everything that exists")
	set := Stamp{5, 77}
	require.True(t, raises(f, "a", set))
	require.False(t, raises(f, "a", set), "the same floor is no raise")
	require.False(t, raises(f, "a", Removal(4)), "an older write arrives late")
	require.False(t, raises(f, "a", Stamp{5, 76}), "a lower origin loses")
	require.Equal(t, set, f.Floor("a"))
	require.True(t, raises(f, "a", Stamp{5, 78}), "a higher origin wins")
	require.True(t, raises(f, "a", Removal(5)), "and a Remove beats both")
	require.Equal(t, Removal(0), f.Floor("b"))

	require.True(t, f.RaiseGroup(7, 0))
	require.False(t, f.RaiseGroup(6, 0))
	require.Equal(t, Removal(7), f.Floor("a"))
	require.Equal(t, Removal(7), f.Floor("b"))
	require.Zero(t, f.Len(), "the group's floor covers the key's")
	require.False(t, raises(f, "a", Removal(6)), "a write from before the Clear")
	require.True(t, raises(f, "a", Removal(8)))
	require.Equal(t, Removal(8), f.Floor("a"))
}

func TestFloorsForgetByAge(t *testing.T) {
	f := NewFloors(10)
	for g := range Generation(5) {
		f.Raise(Subject(fmt.Sprintf("k%d", g+1)), Removal(g+1), 0, 0)
	}
	f.Raise("k1", Removal(9), 0, 0) // newer now: the old raise must not take it along
	require.Equal(t, 2, f.Forget(4))
	require.Equal(t, Removal(9), f.Floor("k1"))
	require.Equal(t, Removal(0), f.Floor("k2"))
	require.Zero(t, f.Group(), "dropped by age: nobody needs to be told")
}

func TestFloorsOneKeyWrittenForEver(t *testing.T) {
	f := NewFloors(10)
	for g := range Generation(100_000) {
		f.Raise("a", Removal(g+1), 0, 0)
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
		highest := map[string]Stamp{}
		var cleared Generation
		key := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"})
		for range rapid.IntRange(1, 60).Draw(t, "writes") {
			g := Generation(rapid.Uint64Range(1, 1000).Draw(t, "generation"))
			before := map[string]Stamp{}
			for k := range highest {
				before[k] = f.Floor(k)
			}
			if rapid.IntRange(0, 9).Draw(t, "kind") == 0 {
				f.RaiseGroup(g, 0)
				cleared = max(cleared, g)
			} else {
				k := key.Draw(t, "key")
				stamp := Stamp{g, rapid.SampledFrom([]uint64{0, 1, 2, removed}).Draw(t, "origin")}
				f.Raise(Key(k), stamp, 0, 0)
				highest[k] = highest[k].Max(stamp)
			}
			for k, s := range highest {
				if f.Floor(k).Below(s.Max(Removal(cleared))) {
					t.Fatalf("floor of %s is %v, written at %v, cleared at %v", k, f.Floor(k), s, cleared)
				}
				if f.Floor(k).Below(before[k]) {
					t.Fatalf("floor of %s fell from %v to %v", k, before[k], f.Floor(k))
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
