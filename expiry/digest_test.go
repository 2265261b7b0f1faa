package expiry

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// given returns what one node is given by another, page by page: the floors that its digest lacks, and those of the
// parts that differ. hashes is of how many slices the parts were compared.
func given(t require.TestingT, from, to *Floors, d Digest, limit int) (all []KeyFloor, hashes int) {
	pages := func(page func(at Cursor) ([]KeyFloor, Cursor, bool)) {
		for at, more := (Cursor{}), true; more; {
			var floors []KeyFloor
			floors, at, more = page(at)
			require.LessOrEqual(t, len(floors), max(limit, 1))
			all = append(all, floors...)
		}
	}
	parts := from.Hashes(&d)
	pages(func(at Cursor) ([]KeyFloor, Cursor, bool) { return from.Missing(&d, at, limit) })
	selected := to.Differing(parts, d.Width)
	pages(func(at Cursor) ([]KeyFloor, Cursor, bool) { return from.Selected(selected, d.Width, at, limit) })
	return all, len(parts)
}

// Two nodes that have been told of some of the same floors, in any order, hold the same ones once each has been
// given what the digest of the other lacks. Little of what is given is there already.
func TestDigestFindsWhatDiffers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const start, wide, narrow = 1_000_000, 20, 48
		width := rapid.Uint64Range(1, 3).Draw(t, "width")
		later := At(time.Unix(int64(start+wide*width), 0)).Add(narrow * NarrowSlice)
		first := At(time.Unix(start-5, 0))
		generation := rapid.Map(rapid.Uint64Range(uint64(first), uint64(later.Add(5*time.Second))),
			func(g uint64) Generation { return Generation(g) })
		a, b := NewFloors(100_000), NewFloors(100_000)
		// Many floors that both hold, so that slices are compared by their parts.
		for i := range rapid.SampledFrom([]int{0, 0, 2000}).Draw(t, "same") {
			g := At(time.Unix(start, 0)).Add(time.Duration(i) * time.Duration(wide*width) * time.Second / 2000)
			a.Raise(Key(fmt.Sprint("same ", i)), Removal(g), 0, 1)
			b.Raise(Key(fmt.Sprint("same ", i)), Removal(g), 0, 1)
		}
		for range rapid.IntRange(0, 80).Draw(t, "floors") {
			key := Key(fmt.Sprint(rapid.IntRange(0, 30).Draw(t, "key")))
			s := Stamp{generation.Draw(t, "generation"), rapid.Uint64Range(1, 3).Draw(t, "origin")}
			told := rapid.IntRange(0, 9).Draw(t, "told")
			if told != 0 {
				a.Raise(key, s, 0, 1)
			}
			if told != 1 {
				b.Raise(key, s, 0, 1)
			}
		}
		digest := func(f *Floors) Digest {
			d := f.Digest(start, width, wide, narrow)
			d.Later = true
			return d
		}
		held := func(f *Floors) map[KeyFloor]bool {
			d, in := digest(f), map[KeyFloor]bool{}
			all, _, _ := f.Journal(0, 100_000)
			for _, w := range all {
				if d.slice(w.Floor.Generation) >= 0 {
					in[w] = true
				}
			}
			return in
		}
		limit := rapid.IntRange(1, 50).Draw(t, "limit")
		give := func(from, to *Floors) {
			all, _ := given(t, from, to, digest(to), limit)
			theirs, missing := held(to), map[KeyFloor]bool{}
			for w := range held(from) {
				if !theirs[w] && to.FloorOf(w.Subject).Below(w.Floor) {
					missing[w] = true
				}
			}
			require.LessOrEqual(t, len(all), 80*(wholeSlice+1+3), "it gives what is there already")
			for _, w := range all {
				delete(missing, w)
				to.Raise(w.Subject, w.Floor, 0, w.Sender)
			}
			require.Empty(t, missing)
		}
		give(a, b)
		give(b, a)
		require.Equal(t, digest(a), digest(b))
		require.Equal(t, held(a), held(b))
	})
}

// The sums are those of the floors that are held, whatever has been raised, replaced, collapsed or forgotten.
func TestSumsFollowTheFloors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := NewFloors(10)
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			g := At(time.Unix(100, 0).Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "time")) * time.Second / 2))
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				f.Forget(g)
			case 1:
				f.Clear(g-1, 0, 0)
			default:
				f.Raise(Key(fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "key"))), Removal(g), 0, 0)
			}
		}
		want := sums{seconds: map[uint64]*secondSum{}}
		for _, r := range f.journal {
			if !r.dropped {
				want.add(r)
			}
		}
		require.Len(t, f.sums.seconds, len(want.seconds))
		for second, sum := range want.seconds {
			require.Equal(t, sum.sum, f.sums.seconds[second].sum)
			require.Equal(t, sum.held, f.sums.seconds[second].held)
			held := slices.DeleteFunc(slices.Clone(f.sums.seconds[second].floors), func(r *floorRecord) bool { return r.dropped })
			require.Equal(t, sum.floors, held)
			require.LessOrEqual(t, len(f.sums.seconds[second].floors), 2*sum.held+wholeSlice)
		}
		for i := range want.narrow {
			if f.sums.narrow[i].slice == want.narrow[i].slice {
				require.Equal(t, want.narrow[i].sum, f.sums.narrow[i].sum)
			} else {
				require.Zero(t, want.narrow[i].sum)
			}
		}
	})
}

// Nodes that hold the same floors send each other nothing. A write that is on its way between them takes a floor out of
// an old slice, and makes no more than a part of that differ.
func TestWritesUnderWayMakeLittleDiffer(t *testing.T) {
	const floors = 100_000
	a, b := NewFloors(floors), NewFloors(floors)
	at := func(i int) Generation { return At(time.Unix(1000, 0).Add(time.Duration(i) * time.Millisecond)) }
	for i := range floors {
		a.Raise(Key(fmt.Sprint(i)), Removal(at(i)), 0, 0)
		b.Raise(Key(fmt.Sprint(floors-1-i)), Removal(at(floors-1-i)), 0, 0)
	}
	digest := a.Digest(1000, 1, 100, 3*narrowPerSecond)
	digest.Later = true
	none, hashes := given(t, b, a, digest, 10)
	require.Empty(t, none)
	require.Zero(t, hashes)

	late := KeyFloor{"5", Removal(at(floors + 100)), 0}
	b.Raise(late.Subject, late.Floor, 0, 0)
	news, hashes := given(t, b, a, digest, 10)
	require.Contains(t, news, late)
	require.Equal(t, 1, hashes)
	require.Less(t, len(news), 50)
}

// What a narrow slice has held is forgotten once a later one takes its place. It counts as differing then.
func TestNarrowSlicesThatAreForgotten(t *testing.T) {
	a, b := NewFloors(1000), NewFloors(1000)
	g := At(time.Unix(1000, 0))
	b.Raise("early", Removal(g), 0, 0)
	for _, f := range []*Floors{a, b} {
		f.Raise("late", Removal(g.Add(16*time.Second)), 0, 0)
	}
	digest := a.Digest(1000, 1, 0, narrowPerSecond)
	require.Equal(t, digest, b.Digest(1000, 1, 0, narrowPerSecond), "neither knows any more")
	missing, _, _ := b.Missing(&digest, Cursor{}, 10)
	require.Equal(t, []KeyFloor{{"early", Removal(g), 0}}, missing)
}

// A peer cannot do harm with any digest that it may send.
func TestMissingForExtremeDigests(t *testing.T) {
	f := NewFloors(10)
	f.Raise("a", Removal(horizon), 0, 0)
	f.Raise("b", Removal(math.MaxUint64), 0, 0)
	for _, start := range []uint64{0, 1, math.MaxUint32, math.MaxUint64} {
		for _, width := range []uint64{1, math.MaxUint32, math.MaxUint64} {
			for _, n := range []int{0, 1, 2, 1000} {
				d := Digest{Start: start, Width: width, Wide: make([]uint64, n), Narrow: make([]uint64, n), Later: true}
				all, _ := given(t, f, f, d, 1)
				require.LessOrEqual(t, len(all), 2)
				f.Differing([]Hashes{{Second: start}}, width)
				f.Selected([]Selection{{start, math.MaxUint64}, {0, 1}}, width, Cursor{start, start}, 0)
			}
		}
	}
	all, _, _ := f.Missing(&Digest{Width: 1, Later: true}, Cursor{}, 10)
	require.Len(t, all, 2)
	all, _, _ = f.Missing(&Digest{Width: 1}, Cursor{}, 10)
	require.Empty(t, all)
}
