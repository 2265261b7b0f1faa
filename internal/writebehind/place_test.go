package writebehind

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPutWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{MaxBytes: 2000, parallel: 1}, handle)
		require.NoError(t, f.Put(t.Context(), sized("a", 1, 1000)))
		synctest.Wait()
		require.NoError(t, f.Put(t.Context(), sized("b", 1, 700)))

		// There is room for d, but c came first.
		var mu sync.Mutex
		var in []string
		var wg sync.WaitGroup
		for _, w := range []Write{sized("c", 1, 1500), sized("d", 1, 300)} {
			wg.Go(func() {
				require.NoError(t, f.Put(t.Context(), w))
				mu.Lock()
				defer mu.Unlock()
				in = append(in, w.Key)
			})
			synctest.Wait()
		}
		require.Equal(t, 2, f.Stats().Waiting)
		require.Empty(t, in)
		check(t, f.Queue)

		// A write that needs no more room does not wait.
		require.NoError(t, f.Put(t.Context(), sized("b", 2, 600)))
		require.NoError(t, f.Put(t.Context(), sized("b", 1, 2000)), "not needed")
		require.Equal(t, 2, f.Stats().Waiting)

		open <- nil
		synctest.Wait()
		require.Empty(t, in, "600 + 1500 > 2000")
		open <- nil
		synctest.Wait()
		require.ElementsMatch(t, []string{"c", "d"}, in)
		wg.Wait()
		check(t, f.Queue)
		open <- nil
		open <- nil
		require.NoError(t, f.Flush(t.Context()))
		require.Equal(t, Stats{stored: 4, Coalesced: 1}, f.Stats())
	})
}

func TestPutRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{MaxBytes: 1000}, down)
		err := f.Put(t.Context(), sized("large", 1, 1001))
		require.ErrorIs(t, err, ErrTooLarge)
		require.ErrorContains(t, err, "a write of 1001 bytes, at most 1000 fit")

		require.NoError(t, f.Put(t.Context(), sized("a", 1, 900)))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			err := f.Put(short, sized("b", 1, 500))
			require.ErrorIs(t, err, ErrFull)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		synctest.Wait()
		wg.Wait()
		require.EqualValues(t, 2, f.Stats().Refused)
		_, ok := f.Lookup("b")
		require.False(t, ok, "the refused write is not in the queue")
		check(t, f.Queue)
		f.end(context.Canceled)
	})
}

// When the first in line gives up, the next one may fit.
func TestPutBehindOneThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{MaxBytes: 1000}, handle)
		require.NoError(t, f.Put(t.Context(), sized("a", 1, 600)))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { require.ErrorIs(t, f.Put(short, sized("b", 1, 600)), ErrFull) })
		synctest.Wait()
		wg.Go(func() { require.NoError(t, f.Put(t.Context(), sized("c", 1, 400))) })
		wg.Wait()
		s := f.Stats()
		require.Equal(t, int64(1000), s.QueuedBytes)
		require.EqualValues(t, 1, s.Refused)
		check(t, f.Queue)
		open <- nil
		open <- nil
	})
}

// A newer write of the key that needs no more room supersedes a Put that waits. The older write must not be
// accepted when the newer one has been stored and is forgotten.
func TestWaitingPutIsSuperseded(t *testing.T) {
	for name, supersede := range map[string]func(*fixture) error{
		"put":  func(f *fixture) error { return f.Put(context.Background(), sized("a", 3, 300)) },
		"drop": func(f *fixture) error { f.Drop("a", stampOf(3)); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(Config{MaxBytes: 1000}, down)
				require.NoError(t, f.Put(t.Context(), sized("a", 1, 300)))
				require.NoError(t, f.Put(t.Context(), sized("b", 1, 700)))
				var first, second sync.WaitGroup
				first.Go(func() { require.ErrorIs(t, f.Put(t.Context(), sized("c", 1, 1000)), context.Canceled) })
				synctest.Wait()
				second.Go(func() { require.NoError(t, f.Put(t.Context(), sized("a", 2, 600))) })
				synctest.Wait()
				require.Equal(t, 2, f.Stats().Waiting)
				require.NoError(t, supersede(f))
				require.Equal(t, 1, f.Stats().Waiting)
				second.Wait()
				w, ok := f.Lookup("a")
				require.Equal(t, name == "put", ok && w.Stamp == stampOf(3))
				check(t, f.Queue)
				f.end(nil)
				first.Wait()
			})
		})
	}
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{MaxBytes: 1000}, healthy)
		require.NoError(t, f.Hold(sized("a", 2, 400)))
		require.NoError(t, f.Hold(sized("a", 1, 999)), "not needed")
		require.NoError(t, f.Hold(sized("a", 3, 500)), "replaces")
		require.NoError(t, f.Hold(sized("b", 1, 500)))
		require.ErrorIs(t, f.Hold(sized("c", 1, 300)), ErrFull)
		require.ErrorIs(t, f.Hold(sized("b", 2, 501)), ErrFull)
		w, ok := f.Lookup("b")
		require.True(t, ok && w.Stamp == stampOf(1), "the refused write has replaced nothing")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, f.origin.calls)
		require.NoError(t, f.Flush(t.Context()), "Flush stores only queued writes")
		require.Equal(t, Stats{Held: 2, HeldBytes: 1000, Refused: 2}, f.Stats())
		require.Len(t, f.Unwritten(), 2)
		check(t, f.Queue)

		f.Release("a", stampOf(2))
		_, ok = f.Lookup("a")
		require.True(t, ok, "the write is above")
		f.Release("a", stampOf(3))
		_, ok = f.Lookup("a")
		require.False(t, ok)
		require.NoError(t, f.Hold(sized("a", 3, 500)), "late")
		_, ok = f.Lookup("a")
		require.False(t, ok, "the origin has the write, so nobody would release it again")
		f.Drop("b", stampOf(1))
		require.NoError(t, f.Hold(sized("b", 1, 500)), "the write comes back")
		_, ok = f.Lookup("b")
		require.True(t, ok)
		f.Drop("b", stampOf(9))
		require.Equal(t, Stats{Refused: 2}, f.Stats())
		check(t, f.Queue)
	})
}

// adopt adopts the writes of keys, and returns how many that changed from held to queued.
func adopt(f *fixture, keys ...string) int {
	before := f.Stats().Held
	f.Adopt(func(key string) bool { return slices.Contains(keys, key) })
	return before - f.Stats().Held
}

func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{MaxBytes: 1000}, handle)
		require.NoError(t, f.Put(t.Context(), sized("owned", 1, 800)))
		require.NoError(t, f.Hold(sized("a", 1, 400)))
		require.NoError(t, f.Hold(sized("b", 1, 400)))
		require.Equal(t, 1, adopt(f, "a"))
		require.Zero(t, adopt(f, "a"), "it is queued already")
		synctest.Wait()
		require.Equal(t, []int{1}, f.origin.generations("a"))
		require.Equal(t, int64(1200), f.Stats().QueuedBytes, "there is always room")
		check(t, f.Queue)

		// The bound on both kinds together still holds.
		require.NoError(t, f.Hold(sized("c", 1, 300)))
		require.ErrorIs(t, f.Hold(sized("d", 1, 300)), ErrFull)
		for range 2 {
			open <- nil
		}
		require.NoError(t, f.Flush(t.Context()))
		require.Empty(t, f.origin.generations("b"))

		// A Put takes over a held write, too: an older one, or the same one.
		go func() { open <- nil; open <- nil }()
		require.NoError(t, f.Put(t.Context(), sized("b", 2, 500)))
		require.NoError(t, f.Put(t.Context(), sized("c", 1, 300)))
		require.NoError(t, f.Flush(t.Context()))
		require.Equal(t, []int{2}, f.origin.generations("b"))
		require.Equal(t, []int{1}, f.origin.generations("c"))
		require.Equal(t, Stats{stored: 4, Refused: 1}, f.Stats())
		check(t, f.Queue)
	})
}

func TestDisown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{parallel: 1}, handle)
		require.NoError(t, f.Put(t.Context(), write("storing", 1)))
		synctest.Wait()
		require.NoError(t, f.Put(t.Context(), write("a", 1)))
		require.NoError(t, f.Put(t.Context(), write("owned", 1)))
		owned := func(key string) bool { return key == "owned" }
		require.Equal(t, []Write{write("a", 1)}, f.Disown(owned))
		check(t, f.Queue)
		_, ok := f.Lookup("a")
		require.True(t, ok, "it is still there")
		require.NoError(t, f.Hold(write("owned", 2)), "the node with the newer write is the owner now")
		check(t, f.Queue)

		open <- errOrigin
		synctest.Wait()
		require.Equal(t, []Write{write("storing", 1)}, f.Disown(owned))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, f.origin.calls, 1)
		require.Equal(t, 3, f.Stats().Held)
		check(t, f.Queue)
	})
}

// A write that comes back is tried at once, however often it has failed here before.
func TestAdoptRetriesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{}, down)
		require.NoError(t, f.Put(t.Context(), write("a", 1)))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		before := len(f.origin.calls)
		require.Len(t, f.Disown(func(string) bool { return false }), 1)
		require.Equal(t, 1, adopt(f, "a"))
		synctest.Wait()
		require.Len(t, f.origin.calls, before+1)
		f.end(nil)
	})
}

// Adopt may fill the queue beyond its bound. A write that needs no more room is still accepted, and others
// wait.
func TestPutAfterAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{MaxBytes: 1000}, down)
		require.NoError(t, f.Put(t.Context(), sized("a", 1, 900)))
		require.NoError(t, f.Hold(sized("b", 1, 900)))
		f.Adopt(func(string) bool { return true })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, f.Put(ctx, sized("a", 2, 800)))
		require.ErrorIs(t, f.Put(ctx, sized("a", 3, 801)), ErrFull)
		check(t, f.Queue)
		f.end(nil)
	})
}

// While an older write is being stored here, it may overwrite the newer one that another node stores. So
// the newer one is stored again.
func TestHoldWhileStoring(t *testing.T) {
	for name, done := range map[string]func(*fixture){
		"released": func(f *fixture) { f.Release("a", stampOf(2)) },
		"dropped":  func(f *fixture) { f.Drop("a", stampOf(2)) },
		"neither":  func(*fixture) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				handle, open := gate()
				f := newFixture(Config{}, handle)
				require.NoError(t, f.Put(t.Context(), write("a", 1)))
				synctest.Wait()
				require.NoError(t, f.Hold(write("a", 2)))
				f.origin.land(write("a", 2)) // by the other node
				done(f)
				check(t, f.Queue)
				open <- nil
				open <- nil
				require.NoError(t, f.Flush(t.Context()))
				require.Equal(t, write("a", 2), f.origin.values["a"])
			})
		})
	}
}

func TestDropWhileStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{}, handle)
		for _, key := range []string{"same", "newer", "back", "above", "renewed"} {
			require.NoError(t, f.Put(t.Context(), write(key, 1)))
		}
		synctest.Wait()
		require.NoError(t, f.Put(t.Context(), write("newer", 2)))
		require.NoError(t, f.Put(t.Context(), write("above", 5)))
		f.Drop("same", stampOf(1))
		f.Drop("newer", stampOf(3))
		f.Drop("back", stampOf(1))
		f.Drop("above", stampOf(4))
		f.Drop("renewed", stampOf(1))
		_, ok := f.Lookup("newer")
		require.False(t, ok, "another node has a newer write")
		require.Equal(t, []Write{write("above", 5)}, f.Unwritten())
		require.NoError(t, f.Put(t.Context(), write("back", 1)))
		require.NoError(t, f.Put(t.Context(), write("renewed", 2)))
		check(t, f.Queue)
		require.Equal(t, 5, f.Stats().Queued, "dropped writes count until their calls have ended")
		for range 5 {
			open <- errOrigin
		}
		synctest.Wait()
		require.Equal(t, 3, f.Stats().Queued)
		go func() { open <- nil; open <- nil; open <- nil }()
		require.NoError(t, f.Flush(t.Context()))
		want := map[string]Write{
			"back": write("back", 1), "above": write("above", 5), "renewed": write("renewed", 2),
		}
		require.Equal(t, want, f.origin.values)
		check(t, f.Queue)
	})
}
