package expiry

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Reading page after page yields every key: once, unless it is raised in between, and then again at the end.
func TestJournalPages(t *testing.T) {
	f := NewFloors(5 * chunk)
	for i := range 3 * chunk {
		f.Raise(Key(fmt.Sprint(i)), Removal(Generation(i+1)), 0, 0)
	}
	first, cursor, more := f.Journal(0, 10)
	require.True(t, more)
	require.Equal(t, KeyFloor{Subject: "0", Floor: Removal(1)}, first[0])

	f.Raise("5", Removal(horizon), 0, 0)    // was on the first page
	f.Raise("20", Removal(horizon+1), 0, 0) // was not
	require.Equal(t, 14, f.Forget(16))      // on both sides of the cursor
	for g := range Generation(6 * chunk) {  // so that the journal is compacted
		f.Raise("30", Removal(horizon+2+g), 0, 0)
	}
	rest, cursor, more := f.Journal(cursor, 5*chunk)
	require.False(t, more)
	require.Len(t, rest, 3*chunk-15+1) // "5" once more
	require.Equal(t, KeyFloor{Subject: "15", Floor: Removal(16)}, rest[0])
	require.Equal(t, []KeyFloor{
		{Subject: "5", Floor: Removal(horizon)},
		{Subject: "20", Floor: Removal(horizon + 1)},
		{Subject: "30", Floor: Removal(horizon + 1 + 6*chunk)},
	}, rest[len(rest)-3:])

	none, same, more := f.Journal(cursor, 10)
	require.Empty(t, none)
	require.False(t, more)
	require.Equal(t, cursor, same)
	f.Raise("new", Removal(horizon), 0, 0)
	news, _, _ := f.Journal(cursor, 10)
	require.Equal(t, []KeyFloor{{Subject: "new", Floor: Removal(horizon)}}, news)

	again, _, _ := f.Journal(cursor+100, 1)
	require.Equal(t, []KeyFloor{{Subject: "15", Floor: Removal(16)}}, again, "a cursor from before a restart")
	one, _, more := f.Journal(0, 0)
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
			floors, cursor, more = f.Journal(cursor, 700)
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
		d := Digest{Width: 1, Wide: []uint64{1}, Narrow: []uint64{1}, Later: now%2 == 0}
		f.Missing(&d, Cursor{}, 100)
		f.Selected(f.Differing(f.Hashes(&d), 1), 1, Cursor{}, 100)
		f.Digest(0, 1, 100, 100)
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
	floors, _, more := f.Journal(0, writers*each)
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
