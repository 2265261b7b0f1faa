package expiry

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// allMissing returns what Missing returns, page by page.
func allMissing(f *Floors, d Digest, limit int) (all []KeyFloor) {
	for cursor, more := uint64(0), true; more; {
		var page []KeyFloor
		page, cursor, more = f.Missing(d, cursor, limit)
		all = append(all, page...)
	}
	return all
}

// Two nodes that have been told of some of the same floors, in any order, hold the same ones once each has been
// given what the digest of the other lacks. What is given are the floors of the slices that differ, and no others.
func TestDigestFindsTheSlicesThatDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const start, wide, narrow = 1_000_000, 20, 48
		width := rapid.Uint64Range(1, 3).Draw(t, "width")
		later := At(time.Unix(int64(start+wide*width), 0)).Add(narrow * NarrowSlice)
		first := At(time.Unix(start-5, 0))
		generation := rapid.Map(rapid.Uint64Range(uint64(first), uint64(later.Add(5*time.Second))),
			func(g uint64) Generation { return Generation(g) })
		a, b := NewFloors(1000), NewFloors(1000)
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
		held := func(f *Floors) (in []map[KeyFloor]bool) { // by slice
			d := digest(f)
			in = make([]map[KeyFloor]bool, d.slices()+1)
			for i := range in {
				in[i] = map[KeyFloor]bool{}
			}
			all, _, _ := f.Journal(0, 1000)
			for _, w := range all {
				if i := d.slice(w.Floor.Generation); i >= 0 {
					in[i][w] = true
				}
			}
			return in
		}
		limit := rapid.IntRange(1, 50).Draw(t, "limit")
		give := func(from, to *Floors) {
			var want []KeyFloor
			theirs := held(to)
			for i, in := range held(from) {
				same := len(in) == len(theirs[i])
				for w := range in {
					same = same && theirs[i][w]
				}
				if !same || i == len(theirs)-1 {
					for w := range in {
						want = append(want, w)
					}
				}
			}
			given := allMissing(from, digest(to), limit)
			require.ElementsMatch(t, want, given)
			for _, w := range given {
				to.Raise(w.Subject, w.Floor, 0, w.Sender)
			}
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
		want := sums{seconds: map[uint64]secondSum{}}
		for _, r := range f.journal {
			if !r.dropped {
				want.add(r)
			}
		}
		require.Len(t, f.sums.seconds, len(want.seconds))
		for second, sum := range want.seconds {
			require.Equal(t, sum.sum, f.sums.seconds[second].sum)
			require.Equal(t, sum.floors, f.sums.seconds[second].floors)
			require.LessOrEqual(t, f.sums.seconds[second].first, sum.first)
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

// Nodes that hold the same floors send each other nothing, and do not go through their journals for that.
func TestNothingIsMissingWhereNothingDiffers(t *testing.T) {
	a, b := NewFloors(1000), NewFloors(1000)
	at := func(i int) Generation { return At(time.Unix(1000, 0).Add(time.Duration(i) * 100 * time.Millisecond)) }
	for i := range 100 {
		a.Raise(Key(fmt.Sprint(i)), Removal(at(i)), 0, 0)
		b.Raise(Key(fmt.Sprint(99-i)), Removal(at(99-i)), 0, 0)
	}
	digest := a.Digest(1000, 1, 8, 3*narrowPerSecond)
	digest.Later = true
	_, from := b.differing(&digest)
	require.EqualValues(t, 100, from)
	require.Empty(t, allMissing(b, digest, 10))

	b.Raise("5", Removal(at(95)), 0, 0)
	_, from = b.differing(&digest)
	require.LessOrEqual(t, from, uint64(10), "what differs is in the second of 95")
	require.Contains(t, allMissing(b, digest, 10), KeyFloor{"5", Removal(at(95)), 0})
	require.Len(t, allMissing(b, digest, 10), 2+9, "the narrow slice of 95, and the second that 5 was in")
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
	require.Equal(t, []KeyFloor{{"early", Removal(g), 0}}, allMissing(b, digest, 10))
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
				require.LessOrEqual(t, len(allMissing(f, d, 1)), 2)
			}
		}
	}
	require.Len(t, allMissing(f, Digest{Width: 1, Later: true}, 1), 2)
	require.Empty(t, allMissing(f, Digest{Width: 1}, 1))
}
