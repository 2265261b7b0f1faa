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
)

func TestKeysInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{parallel: 3}, handle)
		for i := range 5 {
			require.NoError(t, f.Put(t.Context(), write(fmt.Sprint(i), 1)))
		}
		synctest.Wait()
		require.Len(t, f.origin.calls, 3)
		open <- nil
		synctest.Wait()
		require.Len(t, f.origin.calls, 4)
		check(t, f.Queue)
		for range 4 {
			open <- nil
		}
		require.NoError(t, f.Flush(t.Context()))
	})
}

func TestStoreThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan error)
		f := newFixture(Config{parallel: 1, Timeout: 10 * time.Second}, func(_ context.Context, w Write) error {
			if w.Key == "hangs" && w.Stamp == stampOf(1) {
				return <-open
			}
			return nil
		})
		require.NoError(t, f.Put(t.Context(), write("hangs", 1)))
		synctest.Wait()
		require.NoError(t, f.Put(t.Context(), write("hangs", 2)))
		require.NoError(t, f.Put(t.Context(), write("b", 1)))
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		require.Empty(t, f.origin.generations("b"))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, []int{1}, f.origin.generations("b"), "another key is stored instead")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, []int{1}, f.origin.generations("hangs"),
			"its own key waits, as the call may still reach the origin")
		s := f.Stats()
		require.Equal(t, 1, s.overdue)
		require.Equal(t, time.Hour+10*time.Second, s.Oldest)
		check(t, f.Queue)

		open <- nil
		synctest.Wait()
		require.Equal(t, []int{1, 2}, f.origin.generations("hangs"))
		require.Equal(t, write("hangs", 2), f.origin.values["hangs"])
		require.Equal(t, Stats{stored: 3}, f.Stats())
		require.Empty(t, f.origin.violations)
	})
}

func TestStoreTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lasted time.Duration
		f := newFixture(Config{Timeout: 3 * time.Second}, func(ctx context.Context, _ Write) error {
			if lasted > 0 {
				return nil
			}
			begin := time.Now()
			<-ctx.Done()
			lasted = time.Since(begin)
			return ctx.Err()
		})
		require.NoError(t, f.Put(t.Context(), write("a", 1)))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, 3*time.Second, lasted)
		require.Equal(t, Stats{stored: 1, failed: 1}, f.Stats())
	})
}

func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []time.Time
		f := newFixture(Config{}, func(context.Context, Write) error {
			calls = append(calls, time.Now())
			return errOrigin
		})
		require.NoError(t, f.Put(t.Context(), write("a", 1)))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		want, same := minBackoff, true
		for i := 1; i < len(calls); i++ {
			wait := calls[i].Sub(calls[i-1])
			require.LessOrEqual(t, wait, want)
			require.Greater(t, wait, want/2-1)
			same = same && wait == want
			want = min(2*want, maxBackoff)
		}
		require.False(t, same, "the waits have jitter")
		require.Equal(t, maxBackoff, want)
		require.Greater(t, len(calls), 20, "the queue never gives up")
		require.EqualValues(t, len(calls), f.Stats().failed)
		require.Equal(t, 10*time.Minute, f.Stats().Oldest)
		check(t, f.Queue)

		// A newer write waits as long as the older one would: the origin is still down.
		before := len(calls)
		require.NoError(t, f.Put(t.Context(), write("a", 2)))
		synctest.Wait()
		require.Len(t, calls, before)
		require.Equal(t, 10*time.Minute, f.Stats().Oldest,
			"the origin has lacked a write of the key since the first")

		f.origin.set(healthy)
		time.Sleep(maxBackoff)
		synctest.Wait()
		require.Equal(t, write("a", 2), f.origin.values["a"])
		require.Zero(t, f.Stats().QueuedBytes)
	})
}

// A success resets the backoff, and Oldest follows what the origin has.
func TestReplacedWhileStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		handle, open := gate()
		f := newFixture(Config{}, handle)
		require.NoError(t, f.Put(t.Context(), write("a", 1)))
		for range 5 {
			open <- errOrigin
			time.Sleep(2 * time.Second)
			synctest.Wait()
		}
		require.NoError(t, f.Put(t.Context(), write("a", 2)))
		require.Equal(t, 10*time.Second, f.Stats().Oldest)
		open <- errOrigin
		synctest.Wait()
		require.EqualValues(t, 1, f.Stats().Coalesced, "the first write is never stored")
		require.Equal(t, 10*time.Second, f.Stats().Oldest,
			"the origin has lacked a write of the key since the first")
		check(t, f.Queue)

		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.NoError(t, f.Put(t.Context(), write("a", 3)))
		time.Sleep(time.Second)
		open <- nil
		synctest.Wait()
		require.Equal(t, time.Second, f.Stats().Oldest, "since the third write")
		open <- errOrigin
		synctest.Wait()
		time.Sleep(minBackoff)
		synctest.Wait()
		require.Equal(t, []int{1, 1, 1, 1, 1, 1, 2, 3, 3}, f.origin.generations("a"), "the backoff starts again")
		open <- nil
		synctest.Wait()
		require.Equal(t, Stats{stored: 2, failed: 7, Coalesced: 1}, f.Stats())
	})
}

func TestWarningsAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{}, func(_ context.Context, w Write) error {
			if w.Key == "panics" {
				panic("a bug")
			}
			return errOrigin
		})
		for i := range 100 {
			require.NoError(t, f.Put(t.Context(), write(fmt.Sprint(i), 1)))
		}
		synctest.Wait()
		require.Len(t, f.log.records, 1)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		n := len(f.log.records)
		require.LessOrEqual(t, n, 6)
		require.Greater(t, n, 2)
		f.end(errors.New("closing"))
		synctest.Wait()
		require.Len(t, f.log.records, n)
	})
}

func TestPanicAndGoexitAreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls int
		f := newFixture(Config{}, func(context.Context, Write) error {
			switch calls++; calls {
			case 1:
				panic("a bug")
			case 2:
				runtime.Goexit()
			}
			return nil
		})
		require.NoError(t, f.Put(t.Context(), write("a", 1)))
		synctest.Wait()
		require.ErrorContains(t, f.lastFailure(), "panicked: a bug")
		require.Len(t, f.log.records, 1)
		stack := ""
		f.log.records[0].Attrs(func(a slog.Attr) bool {
			if a.Key == "stack" {
				stack = a.Value.String()
			}
			return true
		})
		require.Contains(t, stack, "TestPanicAndGoexitAreErrors")
		time.Sleep(time.Second)
		synctest.Wait()
		require.ErrorIs(t, f.lastFailure(), errGoexit)
		require.Equal(t, Stats{stored: 1, failed: 2}, f.Stats())
	})
}

func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(Config{parallel: 2}, down)
		require.NoError(t, f.Flush(t.Context()), "nothing is queued")
		for i := range 10 {
			require.NoError(t, f.Put(t.Context(), write(fmt.Sprint(i), 1)))
		}
		time.Sleep(10 * time.Minute)

		begin, before := time.Now(), f.Stats().failed
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := f.Flush(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errOrigin)
		require.EqualError(t, err, "10 writes have not reached the origin: "+
			"context deadline exceeded; the last failure: the origin is down")
		require.Equal(t, time.Second, time.Since(begin))
		require.GreaterOrEqual(t, f.Stats().failed-before, uint64(100), "each is tried at once, and every 100 ms")
		require.Len(t, f.Unwritten(), 10, "nothing is lost")
		check(t, f.Queue)

		// Flush waits for calls under way, and concurrent Flushes end together.
		f.origin.set(func(context.Context, Write) error { time.Sleep(time.Second); return nil })
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				require.NoError(t, f.Flush(t.Context()))
				require.Len(t, f.origin.values, 10)
				require.Zero(t, f.Stats().Queued)
			})
		}
		wg.Wait()
	})
}
