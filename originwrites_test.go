package geocache_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestSetWritesThrough(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, n := range c.Nodes() {
			n.MustGet("ada")
		}
		db.does(func(context.Context, string, string) error {
			for _, n := range c.Nodes() {
				require.Equal(t, "load 1 in eu", text(t, n, "ada"), "the origin gets the write first")
			}
			return nil
		})
		_, err := c.Node("eu-2").Set("ada", "1")
		require.NoError(t, err)
		require.Equal(t, "1", db.row("ada"))
		for _, n := range c.Nodes() {
			require.Equal(t, "1", text(t, n, "ada"))
		}
		require.Equal(t, 1, c.Origin.Loads("ada"))
		require.EqualValues(t, 1, c.Owner("eu", "ada").Group.Stats().OriginWrites)

		db.does(nil)
		_, err = c.Node("eu-1").Clear()
		require.NoError(t, err)
		require.Equal(t, "1", db.row("ada"), "Clear does not reach the origin")
		_, err = c.Node("eu-1").Remove("ada")
		require.NoError(t, err)
		require.Equal(t, []string{"ada=1", "ada removed"}, db.history())
	})
}

func TestRemoveWithoutARemoverLeavesTheOriginAlone(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithSetter(db.set)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		_, err := c.Node("eu-1").Set("ada", "1")
		require.NoError(t, err)
		_, err = c.Node("eu-2").Remove("ada")
		require.NoError(t, err)
		require.Equal(t, []string{"ada=1"}, db.history())
		require.Equal(t, "load 1 in eu", text(t, c.Node("eu-3"), "ada"))
	})
}

func TestOriginGetsWritesInStampOrder(t *testing.T) {
	db := newDatabase()
	var n atomic.Int64
	db.does(func(context.Context, string, string) error {
		time.Sleep(time.Duration(n.Add(7)%5) * time.Millisecond)
		return nil
	})
	testcluster.Run(t, testcluster.Config{Nodes: 4, Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		const total = 40
		generations := make([]geocache.Receipt, total)
		var writers sync.WaitGroup
		for i := range total {
			writers.Go(func() {
				var err error
				generations[i], err = c.Nodes("eu")[i%4].Set("ada", fmt.Sprint(i))
				require.NoError(t, err)
			})
		}
		writers.Wait()
		want := make([]int, total)
		for i := range want {
			want[i] = i
		}
		slices.SortFunc(want, func(i, j int) int {
			return int(generations[i].Generation) - int(generations[j].Generation)
		})
		var order []string
		for _, i := range want {
			order = append(order, fmt.Sprintf("ada=%d", i))
		}
		require.Equal(t, order, db.history())
		for _, n := range c.Nodes() {
			require.Equal(t, db.row("ada"), text(t, n, "ada"))
		}
	})
}

func TestSetterFails(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Regions: []string{"eu", "us"}, Group: db.options()}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for _, n := range c.Nodes() {
			n.MustGet("ada")
		}
		db.fails(errDatabase)
		loads := c.Origin.Loads("ada")
		owner := c.Owner("eu", "ada")
		w, err := owner.Set("ada", "1")
		require.ErrorIs(t, err, errDatabase, "the caller's own process reports the setter's own error")
		require.NotErrorIs(t, err, geocache.ErrUncertain)
		require.Zero(t, w.Generation)
		time.Sleep(time.Second)
		for _, n := range c.Nodes() {
			_, ok := n.Group.Peek("ada")
			require.False(t, ok, "%s: the origin's value is unknown now", n.Name)
		}
		require.Equal(t, fmt.Sprintf("load %d in us", loads+1), text(t, c.Node("us-1"), "ada"))
		require.Equal(t, fmt.Sprintf("load %d in eu", loads+2), text(t, c.Node("eu-1"), "ada"))

		caller := bystander(c, "eu", "ada")
		_, err = caller.Remove("ada")
		require.ErrorContains(t, err, "writing to the origin: the database is on strike")
		var e *geocache.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, owner.Name, e.Node)
		require.EqualValues(t, 2, owner.Group.Stats().OriginErrors)
	})
}

func TestSetterHangs(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Group: db.options(geocache.WithLoadTimeout(time.Second))}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Node("eu-1").MustGet("ada")
		awake := make(chan struct{})
		db.does(func(context.Context, string, string) error { <-awake; return nil })
		begun := time.Now()
		_, err := c.Owner("eu", "ada").Set("ada", "1")
		require.ErrorIs(t, err, geocache.ErrTimeout)
		require.Less(t, time.Since(begun), 1100*time.Millisecond)
		time.Sleep(time.Second)
		require.Equal(t, "load 2 in eu", text(t, c.Node("eu-1"), "ada"))
		require.Equal(t, "load 2 in eu", text(t, c.Node("eu-2"), "ada"))
		db.does(nil)
		close(awake)
		time.Sleep(time.Second)
		require.Equal(t, "1", db.row("ada"), "written late")
		for _, n := range c.Nodes() {
			require.Equal(t, "load 3 in eu", text(t, n, "ada"))
		}
	})
}

func TestSetterPanicsOrExits(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Owner("eu", "ada")
		db.does(func(context.Context, string, string) error { panic("at the disco") })
		_, err := owner.Set("ada", "1")
		var p *geocache.PanicError
		require.ErrorAs(t, err, &p)
		require.Equal(t, "at the disco", p.Value)
		_, err = bystander(c, "eu", "ada").Set("ada", "1")
		require.ErrorContains(t, err, "at the disco")
		db.does(func(context.Context, string, string) error { runtime.Goexit(); return nil })
		begun := time.Now()
		_, err = owner.Set("ada", "1")
		require.ErrorContains(t, err, "Goexit")
		require.Less(t, time.Since(begun), time.Second)
		db.does(nil)
		_, err = owner.Set("ada", "2")
		require.NoError(t, err)
		require.Equal(t, "2", text(t, owner, "ada"))
	})
}

func TestUpdateWritesThrough(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Regions: []string{"eu", "us"}, Group: db.options()}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		var callers sync.WaitGroup
		for i := range 60 {
			callers.Go(func() {
				_, _, err := c.Nodes()[i%6].Update("ada", func(old string, _ bool) (string, error) {
					return old + "x", nil
				})
				require.NoError(t, err)
			})
		}
		callers.Wait()
		require.Len(t, db.row("ada"), 60)
		last := 0
		for _, line := range db.history() {
			require.Greater(t, len(line), last, "each is made from the one before")
			last = len(line)
		}
	})
}

// A lateContext ends some time after its deadline, as every context does on a busy machine whose
// timers are late.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// The owner's setter fails at the caller's deadline, and the caller learns of that before its
// context has ended.
func TestSetterFailsAtTheDeadline(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
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
