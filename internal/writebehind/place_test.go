package writebehind

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

func TestPutWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{MaxBytes: 2000, Parallel: 1}, handle)
		require.NoError(t, b.Put(t.Context(), sized("a", 1, 1000)))
		synctest.Wait()
		require.NoError(t, b.Put(t.Context(), sized("b", 1, 700)))

		// In line: there is room for d, but c was here first.
		var mu sync.Mutex
		var in []string
		var wg sync.WaitGroup
		for _, w := range []Write{sized("c", 1, 1500), sized("d", 1, 300)} {
			wg.Go(func() {
				require.NoError(t, b.Put(t.Context(), w))
				mu.Lock()
				defer mu.Unlock()
				in = append(in, w.Key)
			})
			synctest.Wait()
		}
		require.Equal(t, 2, b.Stats().Waiting)
		require.Empty(t, in)
		check(t, b.Queue)

		// What needs no more room does not wait.
		require.NoError(t, b.Put(t.Context(), sized("b", 2, 600)))
		require.NoError(t, b.Put(t.Context(), sized("b", 1, 2000)), "not needed")
		require.Equal(t, 2, b.Stats().Waiting)

		open <- nil
		synctest.Wait()
		require.Empty(t, in, "600 + 1500 > 2000")
		open <- nil
		synctest.Wait()
		require.ElementsMatch(t, []string{"c", "d"}, in)
		wg.Wait()
		check(t, b.Queue)
		open <- nil
		open <- nil
		require.NoError(t, b.Flush(t.Context()))
		require.Equal(t, Stats{Stored: 4, Coalesced: 1}, b.Stats())
	})
}

func TestPutRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{MaxBytes: 1000}, down)
		err := b.Put(t.Context(), sized("large", 1, 1001))
		require.ErrorIs(t, err, ErrTooLarge)
		require.ErrorContains(t, err, "a write of 1001 bytes, which takes 1000")

		require.NoError(t, b.Put(t.Context(), sized("a", 1, 900)))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			err := b.Put(short, sized("b", 1, 500))
			require.ErrorIs(t, err, ErrFull)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		synctest.Wait()
		wg.Wait()
		require.EqualValues(t, 2, b.Stats().Refused)
		_, ok := b.Lookup("b")
		require.False(t, ok, "what was refused is not there")
		check(t, b.Queue)
		b.end(context.Canceled)
	})
}

// When the first in line gives up, whoever stood behind it is looked at.
func TestPutBehindOneThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{MaxBytes: 1000}, handle)
		require.NoError(t, b.Put(t.Context(), sized("a", 1, 600)))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { require.ErrorIs(t, b.Put(short, sized("b", 1, 600)), ErrFull) })
		synctest.Wait()
		wg.Go(func() { require.NoError(t, b.Put(t.Context(), sized("c", 1, 400))) })
		wg.Wait()
		s := b.Stats()
		require.Equal(t, int64(1000), s.QueuedBytes)
		require.EqualValues(t, 1, s.Refused)
		check(t, b.Queue)
		open <- nil
		open <- nil
	})
}

// A Put that waits is overtaken by a newer write of its key that needs no room:
// it must not come in when that one has been stored and is forgotten.
func TestPutIsOvertaken(t *testing.T) {
	for name, overtake := range map[string]func(*bench) error{
		"put":  func(b *bench) error { return b.Put(context.Background(), sized("a", 3, 300)) },
		"drop": func(b *bench) error { b.Drop("a", at(3)); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(Config{MaxBytes: 1000}, down)
				require.NoError(t, b.Put(t.Context(), sized("a", 1, 300)))
				require.NoError(t, b.Put(t.Context(), sized("b", 1, 700)))
				var first, second sync.WaitGroup
				first.Go(func() { require.ErrorIs(t, b.Put(t.Context(), sized("c", 1, 1000)), context.Canceled) })
				synctest.Wait()
				second.Go(func() { require.NoError(t, b.Put(t.Context(), sized("a", 2, 600))) })
				synctest.Wait()
				require.Equal(t, 2, b.Stats().Waiting)
				require.NoError(t, overtake(b))
				require.Equal(t, 1, b.Stats().Waiting)
				second.Wait()
				w, ok := b.Lookup("a")
				require.Equal(t, name == "put", ok && w.Stamp == at(3))
				check(t, b.Queue)
				b.end(nil)
				first.Wait()
			})
		})
	}
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{MaxBytes: 1000}, healthy)
		require.NoError(t, b.Hold(sized("a", 2, 400)))
		require.NoError(t, b.Hold(sized("a", 1, 999)), "not needed")
		require.NoError(t, b.Hold(sized("a", 3, 500)), "replaces")
		require.NoError(t, b.Hold(sized("b", 1, 500)))
		require.ErrorIs(t, b.Hold(sized("c", 1, 300)), ErrFull)
		require.ErrorIs(t, b.Hold(sized("b", 2, 501)), ErrFull)
		w, ok := b.Lookup("b")
		require.True(t, ok && w.Stamp == at(1), "what was refused has replaced nothing")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, b.origin.calls)
		require.NoError(t, b.Flush(t.Context()), "which is for queued ones")
		require.Equal(t, Stats{Held: 2, HeldBytes: 1000, Refused: 2}, b.Stats())
		require.Len(t, b.Unwritten(), 2)
		check(t, b.Queue)

		b.Release("a", at(2))
		_, ok = b.Lookup("a")
		require.True(t, ok, "it is above")
		b.Release("a", at(3))
		_, ok = b.Lookup("a")
		require.False(t, ok)
		require.NoError(t, b.Hold(sized("a", 3, 500)), "late")
		_, ok = b.Lookup("a")
		require.False(t, ok, "the origin has it: nobody would release it again")
		b.Drop("b", at(1))
		require.NoError(t, b.Hold(sized("b", 1, 500)), "it came back")
		_, ok = b.Lookup("b")
		require.True(t, ok)
		b.Drop("b", at(9))
		require.Equal(t, Stats{Refused: 2}, b.Stats())
		check(t, b.Queue)
	})
}

func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{MaxBytes: 1000}, handle)
		require.NoError(t, b.Put(t.Context(), sized("mine", 1, 800)))
		require.NoError(t, b.Hold(sized("a", 1, 400)))
		require.NoError(t, b.Hold(sized("b", 1, 400)))
		require.Equal(t, 1, b.Adopt(func(key string) bool { return key == "a" }))
		require.Zero(t, b.Adopt(func(key string) bool { return key == "a" }), "twice")
		synctest.Wait()
		require.Equal(t, []int{1}, b.origin.told("a"))
		require.Equal(t, int64(1200), b.Stats().QueuedBytes, "there is always room")
		check(t, b.Queue)

		// The two bounds hold together nonetheless.
		require.NoError(t, b.Hold(sized("c", 1, 300)))
		require.ErrorIs(t, b.Hold(sized("d", 1, 300)), ErrFull)
		for range 2 {
			open <- nil
		}
		require.NoError(t, b.Flush(t.Context()))
		require.Empty(t, b.origin.told("b"))

		// A Put adopts too: as its older value's successor, or by the same stamp.
		go func() { open <- nil; open <- nil }()
		require.NoError(t, b.Put(t.Context(), sized("b", 2, 500)))
		require.NoError(t, b.Put(t.Context(), sized("c", 1, 300)))
		require.NoError(t, b.Flush(t.Context()))
		require.Equal(t, []int{2}, b.origin.told("b"))
		require.Equal(t, []int{1}, b.origin.told("c"))
		require.Equal(t, Stats{Stored: 4, Refused: 1}, b.Stats())
		check(t, b.Queue)
	})
}

func TestDisown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{Parallel: 1}, handle)
		require.NoError(t, b.Put(t.Context(), write("storing", 1)))
		synctest.Wait()
		require.NoError(t, b.Put(t.Context(), write("a", 1)))
		require.NoError(t, b.Put(t.Context(), write("mine", 1)))
		mine := func(key string) bool { return key == "mine" }
		require.Equal(t, []Write{write("a", 1)}, b.Disown(mine))
		check(t, b.Queue)
		_, ok := b.Lookup("a")
		require.True(t, ok, "nothing is lost on the way")
		require.NoError(t, b.Hold(write("mine", 2)), "who has the newer write is the owner now")
		check(t, b.Queue)

		open <- errOrigin
		synctest.Wait()
		require.Equal(t, []Write{write("storing", 1)}, b.Disown(mine))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, b.origin.calls, 1)
		require.Equal(t, 3, b.Stats().Held)
		check(t, b.Queue)
	})
}

// What comes back is tried at once, however often it has failed here before.
func TestAdoptAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{}, down)
		require.NoError(t, b.Put(t.Context(), write("a", 1)))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		before := len(b.origin.calls)
		require.Len(t, b.Disown(func(string) bool { return false }), 1)
		require.Equal(t, 1, b.Adopt(func(string) bool { return true }))
		synctest.Wait()
		require.Len(t, b.origin.calls, before+1)
		b.end(nil)
	})
}

// Adopt may fill the queue above its bound. What needs no more room is taken in
// nonetheless, and the rest waits.
func TestPutAfterAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{MaxBytes: 1000}, down)
		require.NoError(t, b.Put(t.Context(), sized("a", 1, 900)))
		require.NoError(t, b.Hold(sized("b", 1, 900)))
		b.Adopt(func(string) bool { return true })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, b.Put(ctx, sized("a", 2, 800)))
		require.ErrorIs(t, b.Put(ctx, sized("a", 3, 801)), ErrFull)
		check(t, b.Queue)
		b.end(nil)
	})
}

// While an older write is being stored here, the newer one that another node
// stores may be overwritten by it: it is stored once more.
func TestHoldWhileStoring(t *testing.T) {
	for name, done := range map[string]func(*bench){
		"released": func(b *bench) { b.Release("a", at(2)) },
		"dropped":  func(b *bench) { b.Drop("a", at(2)) },
		"neither":  func(*bench) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handle, open := gate()
				b := newBench(Config{}, handle)
				require.NoError(t, b.Put(t.Context(), write("a", 1)))
				synctest.Wait()
				require.NoError(t, b.Hold(write("a", 2)))
				b.origin.land(write("a", 2)) // by the other node
				done(b)
				check(t, b.Queue)
				open <- nil
				open <- nil
				require.NoError(t, b.Flush(t.Context()))
				require.Equal(t, write("a", 2), b.origin.values["a"])
			})
		})
	}
}

func TestDropWhileStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{}, handle)
		for _, key := range []string{"same", "newer", "back", "above", "renewed"} {
			require.NoError(t, b.Put(t.Context(), write(key, 1)))
		}
		synctest.Wait()
		require.NoError(t, b.Put(t.Context(), write("newer", 2)))
		require.NoError(t, b.Put(t.Context(), write("above", 5)))
		b.Drop("same", at(1))
		b.Drop("newer", at(3))
		b.Drop("back", at(1))
		b.Drop("above", at(4))
		b.Drop("renewed", at(1))
		_, ok := b.Lookup("newer")
		require.False(t, ok, "another node has a newer one")
		require.Equal(t, []Write{write("above", 5)}, b.Unwritten())
		require.NoError(t, b.Put(t.Context(), write("back", 1)))
		require.NoError(t, b.Put(t.Context(), write("renewed", 2)))
		check(t, b.Queue)
		require.Equal(t, 5, b.Stats().Queued, "until the calls have ended")
		for range 5 {
			open <- errOrigin
		}
		synctest.Wait()
		require.Equal(t, 3, b.Stats().Queued)
		go func() { open <- nil; open <- nil; open <- nil }()
		require.NoError(t, b.Flush(t.Context()))
		require.Equal(t, map[string]Write{"back": write("back", 1), "above": write("above", 5), "renewed": write("renewed", 2)}, b.origin.values)
		check(t, b.Queue)
	})
}

func TestRecentIsBounded(t *testing.T) {
	var r recent
	for i := range 10 * recentKeys {
		r.add(fmt.Sprint(i), at(i))
		require.LessOrEqual(t, len(r.young)+len(r.old), 2*recentKeys)
		if last := i - recentKeys + 1; last >= 0 {
			require.Equal(t, at(last), r.of(fmt.Sprint(last)))
		}
	}
	r.add("x", at(2))
	r.add("x", at(1))
	require.Equal(t, at(2), r.of("x"))
	require.Equal(t, expiry.Stamp{}, r.of("0"))
}
