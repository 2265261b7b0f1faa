package writebehind

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

func TestPutStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{}, handle)
		w := write("a", 1)
		w.Born, w.Expires = 3, 4
		require.NoError(t, f.Put(t.Context(), w))
		time.Sleep(time.Second)
		synctest.Wait()
		found, ok := f.Lookup("a")
		require.True(t, ok, "while it is being stored")
		require.Equal(t, w, found)
		require.Equal(t, []Write{w}, f.Unwritten())
		require.Equal(t, Stats{Queued: 1, QueuedBytes: w.charge(), Oldest: time.Second}, f.Stats())
		check(t, f.Queue)

		open <- nil
		synctest.Wait()
		_, ok = f.Lookup("a")
		require.False(t, ok)
		require.Empty(t, f.Unwritten())
		require.Equal(t, Stats{stored: 1}, f.Stats())
		require.Equal(t, []Write{w}, f.origin.calls)
		require.Equal(t, []Write{w}, f.stored)
		check(t, f.Queue)

		removal := Write{Key: "a", Stamp: expiry.Removal(2), Removed: true}
		require.NoError(t, f.Put(t.Context(), removal))
		open <- nil
		synctest.Wait()
		require.Equal(t, removal, f.origin.values["a"])
	})
}

func TestPutCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{}, handle)
		for g := 1; g <= 5; g++ {
			require.NoError(t, f.Put(t.Context(), write("a", g)))
			synctest.Wait()
		}
		require.NoError(t, f.Put(t.Context(), write("a", 4)), "older than the present write, so not needed")
		check(t, f.Queue)
		found, _ := f.Lookup("a")
		require.Equal(t, write("a", 5), found)

		open <- nil
		synctest.Wait()
		check(t, f.Queue)
		require.Equal(t, []Write{write("a", 1)}, f.stored)
		require.Equal(t, 1, f.Stats().Queued)
		open <- nil
		synctest.Wait()
		require.Equal(t, []int{1, 5}, f.origin.generations("a"),
			"never two at once, and no write that a newer one has replaced")
		require.Equal(t, Stats{stored: 2, Coalesced: 3}, f.Stats())

		require.NoError(t, f.Put(t.Context(), write("a", 4)), "late")
		synctest.Wait()
		require.Equal(t, []int{1, 5}, f.origin.generations("a"), "the origin has a newer write")
		check(t, f.Queue)
	})
}

func TestClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := errors.New("closed")
		f := newFixture(Config{MaxBytes: 1000}, func(ctx context.Context, _ Write) error {
			<-ctx.Done()
			return ctx.Err()
		})
		require.NoError(t, f.Put(t.Context(), sized("a", 1, 1000)))
		var wg sync.WaitGroup
		wg.Go(func() { require.ErrorIs(t, f.Put(t.Context(), sized("b", 1, 1000)), closed) })
		wg.Go(func() {
			err := f.Flush(t.Context())
			require.ErrorIs(t, err, closed)
			require.ErrorContains(t, err, "1 writes")
		})
		synctest.Wait()
		f.end(closed)
		wg.Wait()
		synctest.Wait()
		require.ErrorIs(t, f.Put(t.Context(), write("c", 1)), closed)
		require.NoError(t, f.Hold(write("d", 1)))
		require.Len(t, f.Unwritten(), 2, "a is not lost, and can be handed over")
		require.Zero(t, f.Stats().failed, "the queue ended the call, so it counts as no failure")
		f.Drop("a", stampOf(1))
		f.Drop("d", stampOf(1))
		require.Zero(t, f.Stats().QueuedBytes)
		check(t, f.Queue)
	})
}

// Room that is freed after the queue has closed accepts no write: it would be acknowledged and never
// stored.
func TestPutWaitsWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			f := newFixture(Config{MaxBytes: 1000}, down)
			require.NoError(t, f.Put(t.Context(), sized("a", 1, 1000)))
			var wg sync.WaitGroup
			wg.Go(func() { require.ErrorIs(t, f.Put(t.Context(), sized("b", 1, 1000)), context.Canceled) })
			synctest.Wait()
			f.end(nil)
			f.Drop("a", stampOf(1))
			wg.Wait()
		}
	})
}

func TestSpawnFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{}, healthy)
		f.closed = true
		require.ErrorIs(t, f.Put(t.Context(), write("a", 1)), errStopped)
		require.ErrorIs(t, f.Put(t.Context(), write("b", 1)), errStopped)
		require.ErrorIs(t, f.Flush(t.Context()), errStopped)
		require.Equal(t, []Write{write("a", 1)}, f.Unwritten(),
			"the write that found out can still be handed over")
	})
}
