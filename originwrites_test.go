package geocache_test

import (
	"context"
	"errors"
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

// A database is the origin that setters and removers write to, for all nodes.
type database struct {
	mu     sync.Mutex // guards the following
	rows   map[string]string
	log    []string // "key=what", or "key removed", in the order in which it was done
	behave func(ctx context.Context, key, what string) error
}

func newDatabase() *database { return &database{rows: map[string]string{}} }

// does sets what comes before each write; its error is the write's.
func (d *database) does(behave func(ctx context.Context, key, what string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behave = behave
}

func (d *database) fails(err error) {
	d.does(func(context.Context, string, string) error { return err })
}

func (d *database) write(ctx context.Context, key, what string, do func()) error {
	d.mu.Lock()
	behave := d.behave
	d.mu.Unlock()
	if behave != nil {
		if err := behave(ctx, key, what); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
	return nil
}

func (d *database) set(ctx context.Context, key, value string) error {
	v, _ := testcluster.ParseValue(value)
	return d.write(ctx, key, v.By, func() {
		d.rows[key] = v.By
		d.log = append(d.log, key+"="+v.By)
	})
}

func (d *database) remove(ctx context.Context, key string) error {
	return d.write(ctx, key, "", func() {
		delete(d.rows, key)
		d.log = append(d.log, key+" removed")
	})
}

func (d *database) row(key string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[key]
}

func (d *database) history() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

func (d *database) options(more ...geocache.GroupOption) []geocache.GroupOption {
	return append([]geocache.GroupOption{geocache.WithSetter(d.set), geocache.WithRemover(d.remove)}, more...)
}

var errDatabase = errors.New("the database is on strike")

// what is text without the check of the value's age: what the origin does not have
// yet does not expire.
func what(t *testing.T, n *testcluster.Node, key string) string {
	t.Helper()
	value, err := n.Group.Get(context.Background(), key)
	require.NoError(t, err, "%s: Get(%q)", n.Name, key)
	v, _ := testcluster.ParseValue(value)
	return v.By
}

// other returns a node of the region that neither owns nor succeeds the key, if there
// is one.
func other(c *testcluster.Cluster, region, key string) *testcluster.Node {
	at := c.Nodes(region)[0].Group.Locate(key)[0]
	for _, n := range c.Nodes(region) {
		if n.Name != at.Owner.ID && n.Name != at.Successor.ID {
			return n
		}
	}
	return nil
}

func TestSetWritesThrough(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for _, n := range c.Nodes() {
			n.MustGet("ada")
		}
		db.does(func(context.Context, string, string) error {
			for _, n := range c.Nodes() {
				require.Equal(t, "load 1 in eu", text(t, n, "ada"), "the origin comes first")
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
		require.Equal(t, "1", db.row("ada"), "Clear is the cache's alone")
		_, err = c.Node("eu-1").Remove("ada")
		require.NoError(t, err)
		require.Equal(t, []string{"ada=1", "ada removed"}, db.history())
	})
}

func TestRemoveWithoutARemoverLeavesTheOriginAlone(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: []geocache.GroupOption{geocache.WithSetter(db.set)}}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		_, err := c.Node("eu-1").Set("ada", "1")
		require.NoError(t, err)
		_, err = c.Node("eu-2").Remove("ada")
		require.NoError(t, err)
		require.Equal(t, []string{"ada=1"}, db.history())
		require.Equal(t, "load 1 in eu", text(t, c.Node("eu-3"), "ada"))
	})
}

func TestTheOriginGetsWritesInTheOrderOfTheirStamps(t *testing.T) {
	db := newDatabase()
	var n atomic.Int64
	db.does(func(context.Context, string, string) error {
		time.Sleep(time.Duration(n.Add(7)%5) * time.Millisecond)
		return nil
	})
	testcluster.Run(t, testcluster.Config{Nodes: 4, Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
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
		slices.SortFunc(want, func(i, j int) int { return int(generations[i].Generation) - int(generations[j].Generation) })
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

func TestASetterThatFails(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Regions: []string{"eu", "us"}, Group: db.options()}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for _, n := range c.Nodes() {
			n.MustGet("ada")
		}
		db.fails(errDatabase)
		loads := c.Origin.Loads("ada")
		owner := c.Owner("eu", "ada")
		w, err := owner.Set("ada", "1")
		require.ErrorIs(t, err, errDatabase, "it is the caller's own process")
		require.NotErrorIs(t, err, geocache.ErrUncertain)
		require.Zero(t, w.Generation)
		time.Sleep(time.Second)
		for _, n := range c.Nodes() {
			_, ok := n.Group.Peek("ada")
			require.False(t, ok, "%s: nobody knows what the origin has", n.Name)
		}
		require.Equal(t, fmt.Sprintf("load %d in us", loads+1), text(t, c.Node("us-1"), "ada"))
		require.Equal(t, fmt.Sprintf("load %d in eu", loads+2), text(t, c.Node("eu-1"), "ada"))

		caller := other(c, "eu", "ada")
		_, err = caller.Remove("ada")
		require.ErrorContains(t, err, "writing to the origin: the database is on strike")
		var e *geocache.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, owner.Name, e.Node)
		require.EqualValues(t, 2, owner.Group.Stats().OriginErrors)
	})
}

func TestASetterThatHangs(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Group: db.options(geocache.WithLoadTimeout(time.Second))}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(standing)
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
		require.Equal(t, "1", db.row("ada"), "late")
		for _, n := range c.Nodes() {
			require.Equal(t, "load 3 in eu", text(t, n, "ada"))
		}
	})
}

func TestASetterThatPanicsOrLeaves(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		owner := c.Owner("eu", "ada")
		db.does(func(context.Context, string, string) error { panic("at the disco") })
		_, err := owner.Set("ada", "1")
		var p *geocache.PanicError
		require.ErrorAs(t, err, &p)
		require.Equal(t, "at the disco", p.Value)
		_, err = other(c, "eu", "ada").Set("ada", "1")
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
		time.Sleep(standing)
		var callers sync.WaitGroup
		for i := range 60 {
			callers.Go(func() {
				_, _, err := c.Nodes()[i%6].Update("ada", func(old string, _ bool) (string, error) { return old + "x", nil })
				require.NoError(t, err)
			})
		}
		callers.Wait()
		require.Len(t, db.row("ada"), 60)
		last := 0
		for _, line := range db.history() {
			require.Greater(t, len(line), last, "each is made of the one before it")
			last = len(line)
		}
	})
}
