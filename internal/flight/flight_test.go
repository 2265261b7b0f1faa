package flight

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// table returns a table of numbers whose flights last a second at most.
func table(t *testing.T) *Table[int] {
	return NewTable(t.Context(), time.Second, func(f func()) bool { go f(); return true }, -1)
}

func TestCallersShareAFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights, runs := table(t), 0
		run := func(context.Context) int {
			runs++
			time.Sleep(time.Millisecond)
			return runs
		}
		first, leads := flights.JoinOrStart("ada", expiry.Stamp{}, 0, run)
		require.True(t, leads)
		second, leads := flights.JoinOrStart("ada", expiry.Stamp{}, 7, run)
		require.False(t, leads)
		require.Same(t, first, second)
		require.Zero(t, second.Known(), "of the flight, not of who joins")
		for range 2 {
			answer, ok := flights.Wait(t.Context(), first)
			require.True(t, ok)
			require.Equal(t, 1, answer)
		}
		third, leads := flights.JoinOrStart("ada", expiry.Stamp{}, 0, run)
		require.True(t, leads, "the first has ended")
		answer, _ := flights.Wait(t.Context(), third)
		require.Equal(t, 2, answer)
	})
}

func TestAFlightBelowTheFloorIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights, low, high := table(t), expiry.Removal(1), expiry.Removal(2)
		old, _ := flights.Join("ada", low, 0)
		_, leads := flights.Join("ada", low, 0)
		require.False(t, leads)
		current, leads := flights.Join("ada", high, 0)
		require.True(t, leads)
		joined, leads := flights.Join("ada", low, 0)
		require.False(t, leads, "what is above a higher floor is above a lower one")
		require.Same(t, current, joined)

		flights.Finish(old, 1)
		joined, leads = flights.Join("ada", high, 0)
		require.False(t, leads, "the old one's end does not concern it")
		require.Same(t, current, joined)
		answer, ok := flights.Wait(t.Context(), old)
		require.True(t, ok)
		require.Equal(t, 1, answer)
	})
}

func TestTheLastToGiveUpEndsTheFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights := table(t)
		var work context.Context
		f, _ := flights.JoinOrStart("ada", expiry.Stamp{}, 0, func(ctx context.Context) int {
			work = ctx
			<-ctx.Done()
			return 1
		})
		flights.Join("ada", expiry.Stamp{}, 0)
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, ok := flights.Wait(impatient, f)
		require.False(t, ok)
		synctest.Wait()
		require.NoError(t, work.Err(), "another waits")
		_, ok = flights.Wait(impatient, f)
		require.False(t, ok)
		require.ErrorIs(t, work.Err(), context.Canceled)
		_, leads := flights.Join("ada", expiry.Stamp{}, 0)
		require.True(t, leads, "a flight that is ending is not joined")
	})
}

func TestAFlightEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights, begun := table(t), time.Now()
		f, _ := flights.JoinOrStart("ada", expiry.Stamp{}, 0, func(ctx context.Context) int {
			<-ctx.Done()
			return 1
		})
		answer, ok := flights.Wait(t.Context(), f)
		require.True(t, ok)
		require.Equal(t, 1, answer)
		require.Equal(t, time.Second, time.Since(begun))
	})
}

// An answer that is there is taken even by a caller whose time is up.
func TestAnAnswerThatIsThereIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights := table(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 {
			f, leads := flights.Join("ada", expiry.Stamp{}, 0)
			require.True(t, leads)
			flights.Finish(f, 1)
			_, ok := flights.Wait(ctx, f)
			require.True(t, ok)
		}
	})
}

func TestFlightsThatNobodyJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights := table(t)
		sealed, _ := flights.Join("ada", expiry.Stamp{}, 0)
		flights.Seal(sealed)
		f, ok := flights.Lead("ada", expiry.Stamp{}, 0)
		require.True(t, ok, "a sealed one is in nobody's way")
		flights.Seal(sealed) // it has no place any more
		_, ok = flights.Lead("ada", expiry.Stamp{}, 0)
		require.False(t, ok)
		flights.Detach()
		_, leads := flights.Join("ada", expiry.Stamp{}, 0)
		require.True(t, leads)
		flights.Finish(f, 1) // which still can
	})
}

// Most misses end like this, and each allocation would cost all of them.
func TestAFlightWhoseLeaderDoesTheWorkNeedsNoContext(t *testing.T) {
	flights := table(t)
	f, leads := flights.Join("ada", expiry.Stamp{}, 0)
	require.True(t, leads)
	flights.Finish(f, 1)
	require.Nil(t, f.ctx)
	require.Nil(t, f.done)
	answer, ok := flights.Wait(t.Context(), f)
	require.True(t, ok)
	require.Equal(t, 1, answer)
	require.Nil(t, f.done)
	require.Empty(t, flights.byKey)
}

// A caller of Lead does not call Wait, and wants the answer all the same.
func TestALeaderThatDoesNotWaitKeepsTheFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights := table(t)
		led, ok := flights.Lead("ada", expiry.Stamp{}, 0)
		require.True(t, ok)
		ctx := flights.Context(led)
		joined, leads := flights.Join("ada", expiry.Stamp{}, 0)
		require.False(t, leads)
		require.Same(t, led, joined)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		_, ok = flights.Wait(gone, joined)
		require.False(t, ok)
		require.NoError(t, ctx.Err())
		_, leads = flights.Join("ada", expiry.Stamp{}, 0)
		require.False(t, leads, "it can still be joined")
		flights.Finish(led, 1)
		require.ErrorIs(t, ctx.Err(), context.Canceled, "the work is done")
		_, ok = flights.Lead("ada", expiry.Stamp{}, 0)
		require.True(t, ok)
	})
}

func TestWorkThatStartsTooLateIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights := table(t)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for _, f := range []*Flight[int]{
			sealed(flights),
			first(flights.Join("ada", expiry.Stamp{}, 0)),
		} {
			_, ok := flights.Wait(gone, f)
			require.False(t, ok)
			var err error
			flights.Start(f, func(ctx context.Context) int {
				err = ctx.Err()
				return 1
			})
			synctest.Wait()
			require.ErrorIs(t, err, context.Canceled)
		}
	})
}

func sealed(flights *Table[int]) *Flight[int] {
	f, _ := flights.Join("ada", expiry.Stamp{}, 0)
	flights.Seal(f)
	return f
}

func first[A, B any](a A, _ B) A { return a }

func TestDetachedFlightsStillAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flights := table(t)
		release := make(chan struct{})
		old, _ := flights.JoinOrStart("ada", expiry.Stamp{}, 0, func(context.Context) int {
			<-release
			return 1
		})
		flights.Detach()
		current, leads := flights.Join("ada", expiry.Stamp{}, 0)
		require.True(t, leads)
		close(release)
		answer, ok := flights.Wait(t.Context(), old)
		require.True(t, ok)
		require.Equal(t, 1, answer)
		joined, leads := flights.Join("ada", expiry.Stamp{}, 0)
		require.False(t, leads, "the old one's end does not concern it")
		require.Same(t, current, joined)
	})
}

func TestTheParentEndsAllFlights(t *testing.T) {
	parent, cancel := context.WithCancelCause(t.Context())
	flights := NewTable(parent, time.Second, func(f func()) bool { go f(); return true }, -1)
	f, _ := flights.Join("ada", expiry.Stamp{}, 0)
	ctx := flights.Context(f)
	require.Same(t, ctx, flights.Context(f))
	why := errors.New("closing")
	cancel(why)
	require.ErrorIs(t, context.Cause(ctx), why)
}

func TestATableThatIsClosed(t *testing.T) {
	flights := NewTable(t.Context(), time.Second, func(func()) bool { return false }, -1)
	f, _ := flights.JoinOrStart("ada", expiry.Stamp{}, 0, func(context.Context) int { return 1 })
	answer, ok := flights.Wait(t.Context(), f)
	require.True(t, ok)
	require.Equal(t, -1, answer)
}
