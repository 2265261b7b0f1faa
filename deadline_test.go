package geocache_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// A lateContext ends some time after its deadline, as every context does on a busy
// machine, whose timers are late.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// TestAFailureAtTheDeadlineIsOne: the owner's setter fails when the caller's time is
// up, and the caller hears of that before its context has ended.
func TestAFailureAtTheDeadlineIsOne(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		db.does(func(ctx context.Context, _, _ string) error {
			<-ctx.Done()
			return ctx.Err()
		})
		ending, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		late := lateContext{ending, time.Now().Add(time.Second / 2)}
		err := c.Node("eu-1").Group.Set(late, c.KeyOf("eu-2"), "1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, geocache.ErrUncertain)
		require.Empty(t, db.row(c.KeyOf("eu-2")))
	})
}
