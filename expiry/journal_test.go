package expiry

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// A model of Floors: a plain map, and exact where Floors puts work off.
type model struct {
	limit          int
	keys           map[Subject]modelled
	group, cleared Generation
	raises         uint64
}

type modelled struct {
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
		m.keys[key] = modelled{own, m.raises}
		m.raises++
		return false
	}
	m.keys[key] = modelled{s, m.raises}
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

// late counts a write that the group's floor covers, if it is one that has not come before.
func (m *model) late(is bool) {
	if is {
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

// held returns the floors that f keeps, in the order of their raises.
func (m *model) held(f func(modelled) bool) []KeyFloor {
	var keys []Subject
	for key, k := range m.keys {
		if f(k) {
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

// horizon is the end of time in these tests.
var horizon = Generation(0).Add(1000 * time.Microsecond)

func drawGeneration() *rapid.Generator[Generation] {
	return rapid.Map(rapid.Uint64Range(1, uint64(horizon)), func(g uint64) Generation { return Generation(g) })
}

// TestFloorsAreTheModel: whatever is raised in whatever order, dropped and
// folded, Floors says what a map would.
func TestFloorsAreTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 4, chunk + 10, 10 * chunk}).Draw(t, "limit")
		f, m := NewFloors(limit), &model{limit: limit, keys: map[Subject]modelled{}}
		cursors := []uint64{0} // all that Journal has ever returned
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
				if rapid.IntRange(0, 3).Draw(t, "or not") != 0 {
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
				require.Equal(t, len(m.keys), f.Len(), "all that is old, wherever in the journal it is, and nothing else")
				require.Equal(t, had-len(m.keys), dropped)
			},
			"journal": func(t *rapid.T) {
				since := rapid.SampledFrom([]Generation{0, horizon / 2}).Draw(t, "since")
				cursor := rapid.SampledFrom(cursors).Draw(t, "cursor")
				limit := rapid.IntRange(1, 3*chunk).Draw(t, "limit")
				floors, next, more := f.Journal(since, cursor, limit)
				require.LessOrEqual(t, len(floors), limit)
				require.Equal(t, m.held(func(k modelled) bool {
					return k.floor.Generation >= since && k.seq >= cursor && k.seq < next
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
			"between": func(t *rapid.T) {
				from, to := drawGeneration().Draw(t, "from"), drawGeneration().Draw(t, "to")
				there := m.held(func(k modelled) bool { return from <= k.floor.Generation && k.floor.Generation < to })
				require.ElementsMatch(t, there, f.Between(from, to, manyKeys+7))
				few := f.Between(from, to, 2)
				require.Len(t, few, min(2, len(there)))
				require.Subset(t, append(there, KeyFloor{}), append(few, KeyFloor{}))
			},
			"digest": func(t *rapid.T) {
				other := NewFloors(manyKeys + 7)
				there := m.held(func(modelled) bool { return true })
				for _, i := range rand.Perm(len(there)) {
					other.Raise(there[i].Subject, there[i].Floor, 0, 0)
				}
				from := drawGeneration().Draw(t, "from") / 2
				width := time.Duration(rapid.IntRange(1, 100).Draw(t, "width")) * time.Microsecond
				require.Equal(t, other.Digest(from, width, 20), f.Digest(from, width, 20))
			},
			"": func(t *rapid.T) {
				require.Equal(t, m.group, f.Group())
				require.Equal(t, m.cleared, f.Cleared())
				require.LessOrEqual(t, f.Len(), limit)
				require.LessOrEqual(t, len(f.raised), 2*f.Len()+64)
				for key := range 7 {
					k := fmt.Sprint(key)
					require.Equal(t, m.floor(Key(k)), f.Floor(k))
				}
			},
		})
	})
}

// TestDigestTellsWhichSlicesDiffer: of two nodes that hold the same floors but
// for some, the digests differ in the slices of those, and Between has them.
func TestDigestTellsWhichSlicesDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := NewFloors(1000), NewFloors(1000)
		const n = 20
		from := 1 + drawGeneration().Draw(t, "from")/2
		width := time.Duration(rapid.IntRange(1, 100).Draw(t, "width")) * time.Microsecond
		slice := func(i int) Generation { return from.Add(time.Duration(i) * width) }
		inOne := rapid.Map(rapid.Uint64Range(uint64(from), uint64(slice(n))-1), func(g uint64) Generation { return Generation(g) })
		differs := make([]bool, n)
		for key := range rapid.IntRange(1, 50).Draw(t, "keys") {
			k, s := Key(fmt.Sprint(key)), Stamp{inOne.Draw(t, "generation"), 1}
			a.Raise(k, s, 0, 0)
			other := s
			switch rapid.IntRange(0, 9).Draw(t, "other") {
			case 0:
				other = Stamp{}
			case 1:
				other.Origin++
			case 2:
				other.Generation = inOne.Draw(t, "other generation")
			case 3:
				k += "'" // another key, written at the same time
				differs[int((s.Generation-from)/Generation(0).Add(width))] = true
			}
			b.Raise(k, other, 0, 0)
			for i := range differs {
				in := func(s Stamp) bool { return slice(i) <= s.Generation && s.Generation < slice(i+1) }
				if other != s && (in(s) || in(other)) {
					differs[i] = true
				}
			}
		}
		da, db := a.Digest(from, width, n), b.Digest(from, width, n)
		for i := range differs {
			require.Equal(t, differs[i], da[i] != db[i], "slice %d", i)
			for _, w := range a.Between(slice(i), slice(i+1), 1000) {
				b.Raise(w.Subject, w.Floor, 0, 0)
			}
			for _, w := range b.Between(slice(i), slice(i+1), 1000) {
				a.Raise(w.Subject, w.Floor, 0, 0)
			}
		}
		require.Equal(t, a.Digest(from, width, n), b.Digest(from, width, n), "exchanged")
	})
}

// TestDigestOfWhatPeersAsk: no width, slice or time that can be asked for does
// harm.
func TestDigestOfWhatPeersAsk(t *testing.T) {
	f := NewFloors(10)
	f.Raise("a", Removal(horizon), 0, 0)
	f.Raise("b", Removal(^Generation(0)), 0, 0)
	require.Equal(t, []uint64{0, 0}, f.Digest(1, 0, 2), "a width of a microsecond at least")
	require.Equal(t, []uint64{0}, f.Digest(1, -time.Hour, 1))
	require.Empty(t, f.Digest(0, time.Second, 0))
	all := f.Digest(0, 1<<63-1, 3) // the first slice ends where generations do
	require.NotContains(t, all[:2], uint64(0))
	require.Zero(t, all[2])
	require.Equal(t, []uint64{all[0] + all[1]}, f.Digest(horizon, 1<<63-1, 1))
	require.Empty(t, f.Between(5, 4, 10))
	require.Empty(t, f.Between(0, horizon+1, 0))
	require.Len(t, f.Between(0, horizon+1, 10), 1)
}

// TestBetweenComesToShowAll: what is more than fits in one answer is in another.
func TestBetweenComesToShowAll(t *testing.T) {
	f := NewFloors(200)
	for i := range 200 {
		f.Raise(Key(fmt.Sprint(i)), Removal(Generation(i+1)), 0, 0)
	}
	seen := map[Subject]bool{}
	for range 1000 {
		for _, w := range f.Between(0, horizon, 20) {
			seen[w.Subject] = true
		}
	}
	require.Len(t, seen, 200)
}

// TestJournalPages: who goes on where the last page ended sees every key, once if
// it is not raised meanwhile, and what is raised meanwhile at the end.
func TestJournalPages(t *testing.T) {
	f := NewFloors(5 * chunk)
	for i := range 3 * chunk {
		f.Raise(Key(fmt.Sprint(i)), Removal(Generation(i+1)), 0, 0)
	}
	first, cursor, more := f.Journal(0, 0, 10)
	require.True(t, more)
	require.Equal(t, KeyFloor{Subject: "0", Floor: Removal(1)}, first[0])

	f.Raise("5", Removal(horizon), 0, 0)    // was on the page
	f.Raise("20", Removal(horizon+1), 0, 0) // not yet
	require.Equal(t, 14, f.Forget(16))      // on both sides of the cursor
	for g := range Generation(6 * chunk) {  // so that the journal is compacted
		f.Raise("30", Removal(horizon+2+g), 0, 0)
	}
	rest, cursor, more := f.Journal(0, cursor, 5*chunk)
	require.False(t, more)
	require.Len(t, rest, 3*chunk-15+1) // "5" once more
	require.Equal(t, KeyFloor{Subject: "15", Floor: Removal(16)}, rest[0])
	require.Equal(t, []KeyFloor{{Subject: "5", Floor: Removal(horizon)}, {Subject: "20", Floor: Removal(horizon + 1)}, {Subject: "30", Floor: Removal(horizon + 1 + 6*chunk)}}, rest[len(rest)-3:])

	none, same, more := f.Journal(0, cursor, 10)
	require.Empty(t, none)
	require.False(t, more)
	require.Equal(t, cursor, same)
	f.Raise("new", Removal(horizon), 0, 0)
	news, _, _ := f.Journal(0, cursor, 10)
	require.Equal(t, []KeyFloor{{Subject: "new", Floor: Removal(horizon)}}, news)

	again, _, _ := f.Journal(0, cursor+100, 1)
	require.Equal(t, []KeyFloor{{Subject: "15", Floor: Removal(16)}}, again, "a cursor from before a restart")
	one, _, more := f.Journal(0, 0, 0)
	require.Len(t, one, 1, "a limit that would never end")
	require.True(t, more)
}

// TestClear: a Clear is told from floors that were folded.
func TestClear(t *testing.T) {
	f := NewFloors(10)
	require.True(t, f.RaiseGroup(5, 0))
	require.Zero(t, f.Cleared())
	require.True(t, f.Clear(4, 0, 0), "news, although the floor is above")
	require.Equal(t, Generation(5), f.Group())
	require.Equal(t, Generation(4), f.Cleared())
	require.False(t, f.Clear(4, 0, 0))
	require.False(t, f.Clear(3, 0, 0))
	require.True(t, f.Clear(6, 0, 0))
	require.Equal(t, []Generation{6, 6}, []Generation{f.Group(), f.Cleared()})
}

// TestClearOfMany: the keys that a Clear covers go by and by, and are not seen
// any more at once.
func TestClearOfMany(t *testing.T) {
	f := NewFloors(10 * chunk)
	for i := range 10 * chunk {
		f.Raise(Key(fmt.Sprint(i)), Removal(Generation(i+1)), 0, 0)
	}
	const g = 10*chunk - 1
	require.True(t, f.Clear(g, 0, 0))
	require.Equal(t, 9*chunk, f.Len())
	last := []KeyFloor{{Subject: Key(fmt.Sprint(g)), Floor: Removal(g + 1)}}
	floors, _, _ := f.Journal(0, 0, 100)
	require.Equal(t, last, floors)
	require.Equal(t, last, f.Between(0, horizon, 100))
	only := NewFloors(1)
	only.Raise(last[0].Subject, last[0].Floor, 0, 0)
	require.Equal(t, only.Digest(0, time.Hour, 1), f.Digest(0, time.Hour, 1))

	for i := range chunk {
		f.Raise("a", Removal(Generation(g+1+i)), 0, 0)
	}
	require.Equal(t, 7*chunk+1, f.Len(), "two for each that comes")
	require.Equal(t, Generation(g), f.Group(), "there is room for those that come")
	require.Equal(t, 7*chunk-1, f.Forget(1))
	require.Equal(t, 2, f.Len())
	require.Less(t, len(f.raised), 100)
}

// TestFoldingDoesNotDependOnTheOrder: nodes that have heard of the same writes
// have the same floors, however little room they have.
func TestFoldingDoesNotDependOnTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 8).Draw(t, "limit")
		writes := rapid.SliceOf(rapid.Custom(func(t *rapid.T) KeyFloor {
			return KeyFloor{Subject: Key(rapid.StringMatching("[a-p]").Draw(t, "key")), Floor: Removal(drawGeneration().Draw(t, "generation"))}
		})).Draw(t, "writes")
		floors := func(writes []KeyFloor) (Generation, []KeyFloor) {
			f := NewFloors(limit)
			for _, w := range writes {
				f.Raise(w.Subject, w.Floor, 0, 0)
			}
			held := f.Between(0, ^Generation(0), limit)
			slices.SortFunc(held, func(a, b KeyFloor) int { return strings.Compare(string(a.Subject), string(b.Subject)) })
			return f.Group(), held
		}
		group, held := floors(writes)
		group2, held2 := floors(rapid.Permutation(writes).Draw(t, "in another order"))
		require.Equal(t, group, group2)
		require.Equal(t, held, held2)
	})
}

// TestFloorsConcurrently: who turns the pages while others write finds every
// floor that was raised before, or that the group's covers it.
func TestFloorsConcurrently(t *testing.T) {
	const writers, each, rounds = 3, 1000, 2
	f := NewFloors(writers * each * 3 / 4) // overflows
	var clock, forgotten atomic.Uint64
	var raised [writers][each]atomic.Uint64 // by key, once Raise has returned
	key := func(w, i int) Subject { return Key(fmt.Sprintf("%d-%d", w, i)) }
	done := make(chan struct{})

	var writing, watching sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for range rounds * each {
				i := rand.IntN(each)
				g := clock.Add(1)
				if w == 0 { // late, and out of order
					g = max(g, 500) - rand.Uint64N(500)
				}
				f.Raise(key(w, i), Removal(Generation(g)), 0, 0)
				if was := raised[w][i].Load(); was < g {
					raised[w][i].Store(g)
				}
			}
		})
	}
	watch := func(step func()) {
		watching.Go(func() {
			for {
				select {
				case <-done:
					step()
					return
				default:
					step()
				}
			}
		})
	}
	watch(func() { // a journal
		var before [writers][each]uint64
		for w := range writers {
			for i := range each {
				before[w][i] = raised[w][i].Load()
			}
		}
		seen := map[Subject]Stamp{}
		for cursor, more := uint64(0), true; more; {
			var floors []KeyFloor
			floors, cursor, more = f.Journal(0, cursor, 700)
			for _, w := range floors {
				seen[w.Subject] = seen[w.Subject].Max(w.Floor)
			}
		}
		group := max(f.Group(), Generation(forgotten.Load()))
		for w := range writers {
			for i := range each {
				s := Removal(Generation(before[w][i]))
				if s.Generation > 0 && seen[key(w, i)].Max(Removal(group)).Below(s) {
					t.Errorf("%s: %v in the journal, %v in the group's floor, %v was raised before", key(w, i), seen[key(w, i)], group, s)
				}
			}
		}
	})
	watch(func() {
		now := Generation(clock.Load())
		f.Digest(0, time.Microsecond, 100)
		f.Between(now/2, now, 100)
	})
	watch(func() {
		before := clock.Load() / 2
		forgotten.Store(before)
		f.Forget(Generation(before))
		if g := Generation(before / 2); f.Clear(g, 0, 0) && f.Cleared() != g {
			t.Errorf("cleared at %d, not %d", f.Cleared(), g)
		}
		if cleared := f.Cleared(); f.Group() < cleared {
			t.Errorf("the group's floor is below %d, the last Clear", cleared)
		}
	})
	writing.Wait()
	close(done)
	watching.Wait()

	f.Forget(0)
	floors, _, more := f.Journal(0, 0, writers*each)
	require.False(t, more)
	require.Len(t, floors, f.Len())
	live := 0
	for i, r := range f.oldest {
		require.Equal(t, r.void, f.keys[r.subject] != r.raise)
		require.False(t, i > 0 && f.oldest[i].generation < f.oldest[(i-1)/2].generation, "a heap")
		require.False(t, i == 0 && r.void)
		if !r.void {
			live++
		}
	}
	require.Equal(t, live, f.Len())
	require.LessOrEqual(t, len(f.oldest), 2*f.Len()+64)
}
