package writebehind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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
		b := newBench(Config{}, handle)
		w := write("a", 1)
		w.Born, w.Expires = 3, 4
		require.NoError(t, b.Put(t.Context(), w))
		time.Sleep(time.Second)
		synctest.Wait()
		found, ok := b.Lookup("a")
		require.True(t, ok, "while it is being stored")
		require.Equal(t, w, found)
		require.Equal(t, []Write{w}, b.Unwritten())
		require.Equal(t, Stats{Queued: 1, QueuedBytes: w.charge(), Oldest: time.Second}, b.Stats())
		check(t, b.Queue)

		open <- nil
		synctest.Wait()
		_, ok = b.Lookup("a")
		require.False(t, ok)
		require.Empty(t, b.Unwritten())
		require.Equal(t, Stats{Stored: 1}, b.Stats())
		require.Equal(t, []Write{w}, b.origin.calls)
		require.Equal(t, []Write{w}, b.stored)
		check(t, b.Queue)

		removal := Write{Key: "a", Stamp: expiry.Removal(2), Removed: true}
		require.NoError(t, b.Put(t.Context(), removal))
		open <- nil
		synctest.Wait()
		require.Equal(t, removal, b.origin.values["a"])
	})
}

func TestPutCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{}, handle)
		for g := 1; g <= 5; g++ {
			require.NoError(t, b.Put(t.Context(), write("a", g)))
			synctest.Wait()
		}
		require.NoError(t, b.Put(t.Context(), write("a", 4)), "below the present one: not needed")
		check(t, b.Queue)
		found, _ := b.Lookup("a")
		require.Equal(t, write("a", 5), found)

		open <- nil
		synctest.Wait()
		check(t, b.Queue)
		require.Equal(t, []Write{write("a", 1)}, b.stored)
		require.Equal(t, 1, b.Stats().Queued)
		open <- nil
		synctest.Wait()
		require.Equal(t, []int{1, 5}, b.origin.told("a"), "never in parallel, and none that a newer one has replaced")
		require.Equal(t, Stats{Stored: 2, Coalesced: 3}, b.Stats())

		require.NoError(t, b.Put(t.Context(), write("a", 4)), "late")
		synctest.Wait()
		require.Equal(t, []int{1, 5}, b.origin.told("a"), "the origin has a newer one")
		check(t, b.Queue)
	})
}

func TestKeysInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{Parallel: 3}, handle)
		for i := range 5 {
			require.NoError(t, b.Put(t.Context(), write(fmt.Sprint(i), 1)))
		}
		synctest.Wait()
		require.Len(t, b.origin.calls, 3)
		open <- nil
		synctest.Wait()
		require.Len(t, b.origin.calls, 4)
		check(t, b.Queue)
		for range 4 {
			open <- nil
		}
		require.NoError(t, b.Flush(t.Context()))
	})
}

func TestStoreThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan error)
		b := newBench(Config{Parallel: 1, Timeout: 10 * time.Second}, func(_ context.Context, w Write) error {
			if w.Key == "hangs" && w.Stamp == at(1) {
				return <-open
			}
			return nil
		})
		require.NoError(t, b.Put(t.Context(), write("hangs", 1)))
		synctest.Wait()
		require.NoError(t, b.Put(t.Context(), write("hangs", 2)))
		require.NoError(t, b.Put(t.Context(), write("b", 1)))
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		require.Empty(t, b.origin.told("b"))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, []int{1}, b.origin.told("b"), "another key has the place")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, []int{1}, b.origin.told("hangs"), "its own key waits: the call may still reach the origin")
		s := b.Stats()
		require.Equal(t, 1, s.Overdue)
		require.Equal(t, time.Hour+10*time.Second, s.Oldest)
		check(t, b.Queue)

		open <- nil
		synctest.Wait()
		require.Equal(t, []int{1, 2}, b.origin.told("hangs"))
		require.Equal(t, write("hangs", 2), b.origin.values["hangs"])
		require.Equal(t, Stats{Stored: 3}, b.Stats())
		require.Empty(t, b.origin.wrong)
	})
}

func TestStoreHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lasted time.Duration
		b := newBench(Config{Timeout: 3 * time.Second}, func(ctx context.Context, _ Write) error {
			if lasted > 0 {
				return nil
			}
			begin := time.Now()
			<-ctx.Done()
			lasted = time.Since(begin)
			return ctx.Err()
		})
		require.NoError(t, b.Put(t.Context(), write("a", 1)))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, 3*time.Second, lasted)
		require.Equal(t, Stats{Stored: 1, Failed: 1}, b.Stats())
	})
}

func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []time.Time
		b := newBench(Config{}, func(context.Context, Write) error {
			calls = append(calls, time.Now())
			return errOrigin
		})
		require.NoError(t, b.Put(t.Context(), write("a", 1)))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		want, same := firstRetry, true
		for i := 1; i < len(calls); i++ {
			gap := calls[i].Sub(calls[i-1])
			require.LessOrEqual(t, gap, want)
			require.Greater(t, gap, want/2-1)
			same = same && gap == want
			want = min(2*want, lastRetry)
		}
		require.False(t, same, "jitter")
		require.Equal(t, lastRetry, want)
		require.Greater(t, len(calls), 20, "it never gives up")
		require.EqualValues(t, len(calls), b.Stats().Failed)
		require.Equal(t, 10*time.Minute, b.Stats().Oldest)
		check(t, b.Queue)

		// A newer write waits with the key: the origin is down all the same.
		before := len(calls)
		require.NoError(t, b.Put(t.Context(), write("a", 2)))
		synctest.Wait()
		require.Len(t, calls, before)
		require.Equal(t, 10*time.Minute, b.Stats().Oldest, "the origin has lacked the key since the first")

		b.origin.set(healthy)
		time.Sleep(lastRetry)
		synctest.Wait()
		require.Equal(t, write("a", 2), b.origin.values["a"])
		require.Zero(t, b.Stats().QueuedBytes)
	})
}

// A success ends a row of failures, and Oldest follows what the origin has.
func TestReplacedWhileStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		b := newBench(Config{}, handle)
		require.NoError(t, b.Put(t.Context(), write("a", 1)))
		for range 5 {
			open <- errOrigin
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		require.NoError(t, b.Put(t.Context(), write("a", 2)))
		require.Equal(t, 10*time.Second, b.Stats().Oldest)
		open <- errOrigin
		synctest.Wait()
		require.EqualValues(t, 1, b.Stats().Coalesced, "the first one will never be stored")
		require.Equal(t, 10*time.Second, b.Stats().Oldest, "the origin lacks the key since the first")
		check(t, b.Queue)

		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.NoError(t, b.Put(t.Context(), write("a", 3)))
		time.Sleep(time.Second)
		open <- nil
		synctest.Wait()
		require.Equal(t, time.Second, b.Stats().Oldest, "since the third")
		open <- errOrigin
		synctest.Wait()
		time.Sleep(firstRetry)
		synctest.Wait()
		require.Equal(t, []int{1, 1, 1, 1, 1, 1, 2, 3, 3}, b.origin.told("a"), "the row begins anew")
		open <- nil
		synctest.Wait()
		require.Equal(t, Stats{Stored: 2, Failed: 7, Coalesced: 1}, b.Stats())
	})
}

func TestWarningsAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{}, func(_ context.Context, w Write) error {
			if w.Key == "panics" {
				panic("a bug")
			}
			return errOrigin
		})
		for i := range 100 {
			require.NoError(t, b.Put(t.Context(), write(fmt.Sprint(i), 1)))
		}
		synctest.Wait()
		require.Len(t, b.warned.all, 1)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		n := len(b.warned.all)
		require.LessOrEqual(t, n, 6)
		require.Greater(t, n, 2)
		b.end(errors.New("closing"))
		synctest.Wait()
		require.Len(t, b.warned.all, n)
	})
}

func TestPanicAndGoexitAreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls int
		b := newBench(Config{}, func(context.Context, Write) error {
			switch calls++; calls {
			case 1:
				panic("a bug")
			case 2:
				runtime.Goexit()
			}
			return nil
		})
		require.NoError(t, b.Put(t.Context(), write("a", 1)))
		synctest.Wait()
		require.ErrorContains(t, b.lastFailure(), "panicked: a bug")
		require.Len(t, b.warned.all, 1)
		stack := ""
		b.warned.all[0].Attrs(func(a slog.Attr) bool {
			if a.Key == "stack" {
				stack = a.Value.String()
			}
			return true
		})
		require.Contains(t, stack, "TestPanicAndGoexitAreErrors")
		time.Sleep(time.Second)
		synctest.Wait()
		require.ErrorIs(t, b.lastFailure(), errGoexit)
		require.Equal(t, Stats{Stored: 1, Failed: 2}, b.Stats())
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{Parallel: 2}, down)
		require.NoError(t, b.Flush(t.Context()), "of nothing")
		for i := range 10 {
			require.NoError(t, b.Put(t.Context(), write(fmt.Sprint(i), 1)))
		}
		time.Sleep(10 * time.Minute)

		begin, before := time.Now(), b.Stats().Failed
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := b.Flush(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errOrigin)
		require.EqualError(t, err, "10 writes have not reached the origin: context deadline exceeded; the last failure: the origin is down")
		require.Equal(t, time.Second, time.Since(begin))
		require.GreaterOrEqual(t, b.Stats().Failed-before, uint64(100), "each tried at once, and every 100 ms")
		require.Len(t, b.Unwritten(), 10, "nothing is lost")
		check(t, b.Queue)

		// It waits for calls that are under way, and its end is everybody's.
		b.origin.set(func(context.Context, Write) error { time.Sleep(time.Second); return nil })
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				require.NoError(t, b.Flush(t.Context()))
				require.Len(t, b.origin.values, 10)
				require.Zero(t, b.Stats().Queued)
			})
		}
		wg.Wait()
	})
}

func TestClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := errors.New("closed")
		b := newBench(Config{MaxBytes: 1000}, func(ctx context.Context, _ Write) error { <-ctx.Done(); return ctx.Err() })
		require.NoError(t, b.Put(t.Context(), sized("a", 1, 1000)))
		var wg sync.WaitGroup
		wg.Go(func() { require.ErrorIs(t, b.Put(t.Context(), sized("b", 1, 1000)), closed) })
		wg.Go(func() {
			err := b.Flush(t.Context())
			require.ErrorIs(t, err, closed)
			require.ErrorContains(t, err, "1 writes")
		})
		synctest.Wait()
		b.end(closed)
		wg.Wait()
		synctest.Wait()
		require.ErrorIs(t, b.Put(t.Context(), write("c", 1)), closed)
		require.NoError(t, b.Hold(write("d", 1)))
		require.Len(t, b.Unwritten(), 2, "a is not lost: it can be handed over")
		require.Zero(t, b.Stats().Failed, "the origin has not failed")
		b.Drop("a", at(1))
		b.Drop("d", at(1))
		require.Zero(t, b.Stats().QueuedBytes)
		check(t, b.Queue)
	})
}

// Room that comes when the queue has ended lets nobody in: it would be
// acknowledged and never stored.
func TestPutWaitsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			b := newBench(Config{MaxBytes: 1000}, down)
			require.NoError(t, b.Put(t.Context(), sized("a", 1, 1000)))
			var wg sync.WaitGroup
			wg.Go(func() { require.ErrorIs(t, b.Put(t.Context(), sized("b", 1, 1000)), context.Canceled) })
			synctest.Wait()
			b.end(nil)
			b.Drop("a", at(1))
			wg.Wait()
		}
	})
}

func TestSpawnRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{}, healthy)
		b.closed = true
		require.ErrorIs(t, b.Put(t.Context(), write("a", 1)), errStopped)
		require.ErrorIs(t, b.Put(t.Context(), write("b", 1)), errStopped)
		require.ErrorIs(t, b.Flush(t.Context()), errStopped)
		require.Equal(t, []Write{write("a", 1)}, b.Unwritten(), "the one that found out can still be handed over")
	})
}
