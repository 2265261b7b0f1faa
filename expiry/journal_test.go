package expiry

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The digests of two nodes differ exactly in the slices in which their floors differ, and exchanging the
// floors that Between returns for those slices makes the nodes agree.
func TestDigestFindsTheSlicesThatDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := NewFloors(1000), NewFloors(1000)
		const n = 20
		from := 1 + drawGeneration().Draw(t, "from")/2
		width := time.Duration(rapid.IntRange(1, 100).Draw(t, "width")) * time.Microsecond
		slice := func(i int) Generation { return from.Add(time.Duration(i) * width) }
		inRange := rapid.Map(rapid.Uint64Range(uint64(from), uint64(slice(n))-1),
			func(g uint64) Generation { return Generation(g) })
		differs := make([]bool, n)
		for key := range rapid.IntRange(1, 50).Draw(t, "keys") {
			k, s := Key(fmt.Sprint(key)), Stamp{inRange.Draw(t, "generation"), 1}
			a.Raise(k, s, 0, 0)
			other := s
			switch rapid.IntRange(0, 9).Draw(t, "other") {
			case 0:
				other = Stamp{}
			case 1:
				other.Origin++
			case 2:
				other.Generation = inRange.Draw(t, "other generation")
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
		require.Equal(t, a.Digest(from, width, n), b.Digest(from, width, n), "after the exchange")
	})
}

// A peer cannot do harm with any width, slice count or time that it may request.
func TestDigestAndBetweenOfExtremeRequests(t *testing.T) {
	f := NewFloors(10)
	f.Raise("a", Removal(horizon), 0, 0)
	f.Raise("b", Removal(^Generation(0)), 0, 0)
	require.Equal(t, []uint64{0, 0}, f.Digest(1, 0, 2), "the width is at least a microsecond")
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

// Repeated calls of Between return all floors, although each one returns only a few.
func TestBetweenEventuallyReturnsAll(t *testing.T) {
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

// Reading page after page yields every key: once, unless it is raised in between, and then again at the end.
func TestJournalPages(t *testing.T) {
	f := NewFloors(5 * chunk)
	for i := range 3 * chunk {
		f.Raise(Key(fmt.Sprint(i)), Removal(Generation(i+1)), 0, 0)
	}
	first, cursor, more := f.Journal(0, 0, 10)
	require.True(t, more)
	require.Equal(t, KeyFloor{Subject: "0", Floor: Removal(1)}, first[0])

	f.Raise("5", Removal(horizon), 0, 0)    // was on the first page
	f.Raise("20", Removal(horizon+1), 0, 0) // was not
	require.Equal(t, 14, f.Forget(16))      // on both sides of the cursor
	for g := range Generation(6 * chunk) {  // so that the journal is compacted
		f.Raise("30", Removal(horizon+2+g), 0, 0)
	}
	rest, cursor, more := f.Journal(0, cursor, 5*chunk)
	require.False(t, more)
	require.Len(t, rest, 3*chunk-15+1) // "5" once more
	require.Equal(t, KeyFloor{Subject: "15", Floor: Removal(16)}, rest[0])
	require.Equal(t, []KeyFloor{
		{Subject: "5", Floor: Removal(horizon)},
		{Subject: "20", Floor: Removal(horizon + 1)},
		{Subject: "30", Floor: Removal(horizon + 1 + 6*chunk)},
	}, rest[len(rest)-3:])

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
	require.Len(t, one, 1, "a limit of 0 would never end")
	require.True(t, more)
}

// A reader that pages through the journal during writes finds every floor that was raised before it began,
// or the group's floor covers it.
func TestJournalDuringWrites(t *testing.T) {
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
	watch(func() { // reads the whole journal
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
					t.Errorf("%s: raised to %v before, but %v in the journal, and the group's floor is %v",
						key(w, i), s, seen[key(w, i)], group)
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
	for i, r := range f.byGeneration {
		require.Equal(t, r.dropped, f.held[r.subject] != r.floorRecord)
		require.False(t, i > 0 && f.byGeneration[i].generation < f.byGeneration[(i-1)/2].generation, "a heap")
		require.False(t, i == 0 && r.dropped)
		if !r.dropped {
			live++
		}
	}
	require.Equal(t, live, f.Len())
	require.LessOrEqual(t, len(f.byGeneration), 2*f.Len()+64)
}
