package expiry

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// raises calls Raise and reports whether that raised the floor.
func raises(f *Floors, key Subject, s Stamp) bool { return f.Raise(key, s, 0, 0).Below(s) }

func TestRaiseKeepsTheHighestStamp(t *testing.T) {
	f := NewFloors(10)
	require.Equal(t, Removal(0), f.Floor("a"), "below every stamp")
	set := Stamp{5, 77}
	require.True(t, raises(f, "a", set))
	require.False(t, raises(f, "a", set), "a duplicate")
	require.False(t, raises(f, "a", Removal(4)), "an older write that arrives late")
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

func TestForgetDropsFloorsByAge(t *testing.T) {
	f := NewFloors(10)
	for g := range Generation(5) {
		f.Raise(Subject(fmt.Sprintf("k%d", g+1)), Removal(g+1), 0, 0)
	}
	f.Raise("k1", Removal(9), 0, 0) // newer now: dropping the old floor must not drop this one
	require.Equal(t, 2, f.Forget(4))
	require.Equal(t, Removal(9), f.Floor("k1"))
	require.Equal(t, Removal(0), f.Floor("k2"))
	require.Zero(t, f.Group(), "dropping by age does not raise the group's floor")
}

func TestJournalDoesNotGrowWithWritesOfOneKey(t *testing.T) {
	f := NewFloors(10)
	for g := range Generation(100_000) {
		f.Raise("a", Removal(g+1), 0, 0)
	}
	require.Equal(t, 1, f.Len())
	require.Less(t, len(f.journal), 100)
}

// The floor of a key is never below the highest stamp that it was raised to, whatever had to be collapsed,
// and never falls.
func TestCollapsingNeverLowersAFloor(t *testing.T) {
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

// A model of Floors: a plain map that does at once what Floors defers.
type model struct {
	limit          int
	keys           map[Subject]modelFloor
	group, cleared Generation
	raises         uint64
}

type modelFloor struct {
	floor Stamp
	seq   uint64
}

func (m *model) floor(key Subject) Stamp { return m.keys[key].floor.Max(Removal(m.group)) }

func (m *model) raise(key Subject, s Stamp) bool {
	switch own := m.floor(key); {
	case s == own:
		return false
	case own == Removal(m.group) && s.Below(own):
		m.late(true)
		return false
	case s.Below(own):
		m.keys[key] = modelFloor{own, m.raises}
		m.raises++
		return false
	}
	m.keys[key] = modelFloor{s, m.raises}
	m.raises++
	if len(m.keys) > m.limit {
		lowest := s.Generation
		for _, k := range m.keys {
			lowest = min(lowest, k.floor.Generation)
		}
		m.raiseGroup(lowest)
	}
	return true
}

func (m *model) raiseGroup(g Generation) bool {
	if g <= m.group {
		m.late(g < m.group)
		return false
	}
	m.group = g
	m.raises++
	m.drop(g)
	return true
}

// late counts the late arrival of a write that the group's floor covers, unless it is a duplicate.
func (m *model) late(isNew bool) {
	if isNew {
		m.raises++
	}
}

func (m *model) drop(through Generation) {
	for key, k := range m.keys {
		if k.floor.Generation <= through {
			delete(m.keys, key)
		}
	}
}

// held returns the floors for which filter returns true, in the order in which they were raised.
func (m *model) held(filter func(modelFloor) bool) []KeyFloor {
	var keys []Subject
	for key, k := range m.keys {
		if filter(k) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b Subject) int { return int(m.keys[a].seq) - int(m.keys[b].seq) })
	var floors []KeyFloor
	for _, key := range keys {
		floors = append(floors, KeyFloor{Subject: key, Floor: m.keys[key].floor})
	}
	return floors
}

const manyKeys = 2 * chunk

// horizon is the highest generation that these tests draw.
var horizon = Generation(0).Add(1000 * time.Microsecond)

func drawGeneration() *rapid.Generator[Generation] {
	return rapid.Map(rapid.Uint64Range(1, uint64(horizon)), func(g uint64) Generation { return Generation(g) })
}

// Floors agrees with the model, whatever is raised, dropped and collapsed, in any order.
func TestFloorsMatchModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 4, chunk + 10, 10 * chunk}).Draw(t, "limit")
		f, m := NewFloors(limit), &model{limit: limit, keys: map[Subject]modelFloor{}}
		cursors := []uint64{0} // all that Journal has returned so far
		raise := func(key int, s Stamp) {
			k := Key(fmt.Sprint(key))
			require.Equal(t, m.raise(k, s), raises(f, k, s))
		}
		t.Repeat(map[string]func(*rapid.T){
			"raise": func(t *rapid.T) {
				origin := rapid.SampledFrom([]uint64{0, 1, 2, removed}).Draw(t, "origin")
				raise(rapid.IntRange(0, 6).Draw(t, "key"), Stamp{drawGeneration().Draw(t, "generation"), origin})
			},
			"raise many": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "skip") != 0 {
					return
				}
				random := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
				n := rapid.IntRange(1, manyKeys).Draw(t, "n")
				if limit < 10 {
					n %= 50
				}
				for range n {
					raise(random.IntN(manyKeys), Stamp{Generation(1 + random.Uint64N(uint64(horizon))), random.Uint64N(3)})
				}
			},
			"raise group": func(t *rapid.T) {
				g := drawGeneration().Draw(t, "generation") / 4
				require.Equal(t, m.raiseGroup(g), f.RaiseGroup(g, 0))
			},
			"clear": func(t *rapid.T) {
				g := drawGeneration().Draw(t, "generation") / 2
				require.Equal(t, g > m.cleared, f.Clear(g, 0, 0))
				if g <= m.cleared {
					m.late(g < m.cleared)
					return
				}
				m.cleared = g
				m.raiseGroup(g)
			},
			"forget": func(t *rapid.T) {
				before := 1 + drawGeneration().Draw(t, "before")/2
				had := f.Len()
				dropped := f.Forget(before)
				m.drop(before - 1)
				require.Equal(t, len(m.keys), f.Len(),
					"exactly the old floors are dropped, wherever they are in the journal")
				require.Equal(t, had-len(m.keys), dropped)
			},
			"journal": func(t *rapid.T) {
				cursor := rapid.SampledFrom(cursors).Draw(t, "cursor")
				limit := rapid.IntRange(1, 3*chunk).Draw(t, "limit")
				floors, next, more := f.Journal(cursor, limit)
				require.LessOrEqual(t, len(floors), limit)
				require.Equal(t, m.held(func(k modelFloor) bool {
					return k.seq >= cursor && k.seq < next
				}), floors)
				if more {
					require.Len(t, floors, limit)
					require.Greater(t, next, cursor)
					require.Less(t, next, m.raises)
				} else {
					require.Equal(t, m.raises, next)
				}
				cursors = append(cursors, next)
			},
			"missing": func(t *rapid.T) {
				there := m.held(func(modelFloor) bool { return true })
				missing, _, _ := f.Missing(&Digest{Width: 1, Later: true}, Cursor{}, manyKeys+7)
				require.ElementsMatch(t, there, missing)
			},
			"": func(t *rapid.T) {
				require.Equal(t, m.group, f.Group())
				require.Equal(t, m.cleared, f.Cleared())
				require.LessOrEqual(t, f.Len(), limit)
				require.LessOrEqual(t, len(f.journal), 2*f.Len()+64)
				for key := range 7 {
					k := fmt.Sprint(key)
					require.Equal(t, m.floor(Key(k)), f.Floor(k))
				}
			},
		})
	})
}

// Cleared distinguishes a Clear from floors that were collapsed.
func TestClearedIsNotRaisedByCollapsing(t *testing.T) {
	f := NewFloors(10)
	require.True(t, f.RaiseGroup(5, 0))
	require.Zero(t, f.Cleared())
	require.True(t, f.Clear(4, 0, 0), "a new Clear, although the floor is higher")
	require.Equal(t, Generation(5), f.Group())
	require.Equal(t, Generation(4), f.Cleared())
	require.False(t, f.Clear(4, 0, 0))
	require.False(t, f.Clear(3, 0, 0))
	require.True(t, f.Clear(6, 0, 0))
	require.Equal(t, []Generation{6, 6}, []Generation{f.Group(), f.Cleared()})
}

// The floors that a Clear covers are dropped gradually, but are invisible at once.
func TestClearCoversManyFloorsAtOnce(t *testing.T) {
	f := NewFloors(10 * chunk)
	for i := range 10 * chunk {
		f.Raise(Key(fmt.Sprint(i)), Removal(Generation(i+1)), 0, 0)
	}
	const g = 10*chunk - 1
	require.True(t, f.Clear(g, 0, 0))
	require.Equal(t, 9*chunk, f.Len())
	last := []KeyFloor{{Subject: Key(fmt.Sprint(g)), Floor: Removal(g + 1)}}
	floors, _, _ := f.Journal(0, 100)
	require.Equal(t, last, floors)
	missing, _, _ := f.Missing(&Digest{Width: 1, Wide: []uint64{0}}, Cursor{}, 100)
	require.Equal(t, last, missing)

	for i := range chunk {
		f.Raise("a", Removal(Generation(g+1+i)), 0, 0)
	}
	require.Equal(t, 7*chunk+1, f.Len(), "two are dropped for each one raised")
	require.Equal(t, Generation(g), f.Group(), "there is room, so nothing is collapsed")
	require.Equal(t, 7*chunk-1, f.Forget(1))
	require.Equal(t, 2, f.Len())
	require.Less(t, len(f.journal), 100)
}

// Nodes that know of the same writes have the same floors, however few they may hold.
func TestCollapsingDoesNotDependOnArrivalOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 8).Draw(t, "limit")
		writes := rapid.SliceOf(rapid.Custom(func(t *rapid.T) KeyFloor {
			return KeyFloor{
				Subject: Key(rapid.StringMatching("[a-p]").Draw(t, "key")),
				Floor:   Removal(drawGeneration().Draw(t, "generation")),
			}
		})).Draw(t, "writes")
		floors := func(writes []KeyFloor) (Generation, []KeyFloor) {
			f := NewFloors(limit)
			for _, w := range writes {
				f.Raise(w.Subject, w.Floor, 0, 0)
			}
			held, _, _ := f.Journal(0, limit)
			slices.SortFunc(held, func(a, b KeyFloor) int { return cmp.Compare(a.Subject, b.Subject) })
			return f.Group(), held
		}
		group, held := floors(writes)
		group2, held2 := floors(rapid.Permutation(writes).Draw(t, "in another order"))
		require.Equal(t, group, group2)
		require.Equal(t, held, held2)
	})
}
