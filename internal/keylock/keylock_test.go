package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestWaitersComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		held, err := l.Lock(t.Context(), "ada")
		require.NoError(t, err)
		var order []int
		var waiting sync.WaitGroup
		for i := range 10 {
			waiting.Go(func() {
				held, err := l.Lock(t.Context(), "ada")
				require.NoError(t, err)
				order = append(order, i)
				held.Unlock()
			})
			synctest.Wait()
		}
		other, err := l.Lock(t.Context(), "bob")
		require.NoError(t, err, "another key is free")
		other.Unlock()
		held.Unlock()
		waiting.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, order)
		requireFree(t, &l)
	})
}

func TestAWaiterGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		held, err := l.Lock(t.Context(), "ada")
		require.NoError(t, err)
		why := errors.New("tired")
		ctx, cancel := context.WithCancelCause(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := l.Lock(ctx, "ada")
			gaveUp <- err
		}()
		synctest.Wait()
		next := make(chan Held, 1)
		go func() {
			held, _ := l.Lock(t.Context(), "ada")
			next <- held
		}()
		synctest.Wait()
		cancel(why)
		require.ErrorIs(t, <-gaveUp, why)
		require.Empty(t, next)
		held.Unlock()
		(<-next).Unlock()
		requireFree(t, &l)
	})
}

// A caller waits for others only, so a context that has ended does not matter if there are none.
func TestAFreeKeyIsLockedWhateverTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var l Locks
	held, err := l.Lock(ctx, "ada")
	require.NoError(t, err)
	_, err = l.Lock(ctx, "ada")
	require.ErrorIs(t, err, context.Canceled)
	held.Unlock()
	requireFree(t, &l)
}

// requireFree checks that no lock is held and no memory is kept for one.
func requireFree(t *testing.T, l *Locks) {
	t.Helper()
	for i := range l.shards {
		require.Empty(t, l.shards[i].held)
	}
}

// A waiter may be handed the lock as it gives up. If it notices its context it passes the lock on.
func TestAWaiterGivesUpAtItsTurn(t *testing.T) {
	for i := range 100 {
		synctest.Test(t, func(t *testing.T) {
			var l Locks
			held, err := l.Lock(t.Context(), "ada")
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				if held, err := l.Lock(ctx, "ada"); err == nil {
					held.Unlock()
				}
			}()
			synctest.Wait()
			if i%2 == 0 {
				held.Unlock()
				cancel()
			} else { // as a rule, Unlock comes before the waiter has run
				cancel()
				held.Unlock()
			}
			held, err = l.Lock(t.Context(), "ada")
			require.NoError(t, err)
			held.Unlock()
			requireFree(t, &l)
		})
	}
}
