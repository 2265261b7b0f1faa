package geocache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/internal/testcluster/network/mangle"
)

// The mechanisms_*_test.go files test the mechanisms that make writes and reads correct. Each
// TestMechanism… fails if its mechanism is taken out, and needs no luck for that. See
// docs/design.md.
//
// This file tests what happens to a write at its owner, and on its way there.

// The key lock: the origin gets a key's writes in the order of their stamps.
func TestMechanismWritesOfAKeyAreSerialized(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		var writing atomic.Int64
		slow := "first" // reaches the database at once, and is acknowledged late
		answer := func(what string) {
			if what == slow {
				time.Sleep(100 * time.Millisecond)
			}
		}
		set := geocache.WithSetter(func(ctx context.Context, key, value string) error {
			require.EqualValues(t, 1, writing.Add(1), "concurrent writes of %s", key)
			defer writing.Add(-1)
			v, _ := testcluster.ParseValue(value)
			err := db.set(ctx, key, value)
			answer(v.By)
			return err
		})
		for _, n := range c.Nodes() {
			getter := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
				return "", geocache.ErrNotFound
			})
			group, err := geocache.NewGroup(n.Cache, "ordered", getter, set)
			require.NoError(t, err)
			n.Group = group
		}
		time.Sleep(untilLeased)
		var sets sync.WaitGroup
		for i, value := range []string{"first", "second"} {
			sets.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				_, err := c.Nodes()[i].Set("ada", value)
				require.NoError(t, err)
			})
		}
		sets.Wait()
		for _, n := range c.Nodes() {
			require.Equal(t, db.row("ada"), textUnchecked(t, n, "ada"), n.Name)
		}
	})
}

// The key lock: a Swap swaps the value that it has compared.
func TestMechanismSwapIsAtomic(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, testcluster.Config{Group: db.options()}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.does(func(context.Context, string, string) error {
			time.Sleep(20 * time.Millisecond) // between comparing and swapping
			return nil
		})
		var updating sync.WaitGroup
		for _, n := range c.Nodes() {
			updating.Go(func() {
				_, _, err := n.Update("ada", func(was string, _ bool) (string, error) { return was + "x", nil })
				require.NoError(t, err)
			})
		}
		updating.Wait()
		require.Equal(t, "xxx", db.row("ada"))
		require.Equal(t, "xxx", textUnchecked(t, c.Node("eu-1"), "ada"))
	})
}

// The pause before a write is retried: its first owner may have it in a buffer. Setting the wall
// clock meanwhile must not shorten the pause.
func TestMechanismRetryWaitsForABufferedWrite(t *testing.T) {
	for _, step := range []time.Duration{0, 400 * time.Millisecond} {
		testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
			owner, writer := c.Node("eu-1"), c.Node("eu-2")
			writer.SetClock(-step)
			time.Sleep(untilLeased)
			key := c.KeyOf(owner.Name)
			writer.MustGet(key)
			owner.Freeze()
			var writing sync.WaitGroup
			writing.Go(func() {
				for _, value := range []string{"first", "second"} {
					_, err := writer.Set(key, value, geocache.WithAck(geocache.AckOwner))
					require.NoError(t, err)
				}
			})
			time.Sleep(time.Millisecond)             // the first write is in the owner's buffer
			c.Net.CutOneWay(writer.Name, owner.Name) // it does not notice that its caller has hung up
			writer.SetClock(0)
			writer.Reject(owner.Name)
			time.Sleep(700 * time.Millisecond)
			owner.Thaw()
			writing.Wait()
			c.Net.HealAll()
			writer.Admit(owner.Name)
			c.Settle()
			for _, n := range c.Nodes() {
				require.Equal(t, "second", text(t, n, key), "%s, step %v", n.Name, step)
			}
		})
	}
}

// The pause counts from when the write was last sent to a node that may have it, not from earlier
// attempts.
func TestMechanismRetryWaitsFromTheLastSending(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		owner, successor, writer := c.Node("eu-1"), c.Node("eu-2"), c.Node("eu-3")
		for _, n := range c.Nodes() {
			if n != owner { // eu-1 answers that it lacks the group, in time
				var err error
				n.Group, err = geocache.NewGroup(n.Cache, "late", ada)
				require.NoError(t, err)
			}
		}
		time.Sleep(untilLeased)
		key := keyOwnedAndSucceededBy(writer, owner.Name, successor.Name)
		owner.Freeze()
		var writing sync.WaitGroup
		writing.Go(func() {
			for _, value := range []string{"first", "second"} {
				require.NoError(t, writer.Group.Set(c.T.Context(), key, value, geocache.WithAck(geocache.AckOwner)))
			}
		})
		time.Sleep(600 * time.Millisecond)
		successor.Freeze()
		owner.Thaw()
		time.Sleep(50 * time.Millisecond)
		c.Net.CutOneWay(writer.Name, successor.Name)
		writer.Reject(successor.Name)
		time.Sleep(650 * time.Millisecond)
		successor.Thaw()
		writing.Wait()
		c.Net.HealAll()
		writer.Admit(successor.Name)
		c.Settle()
		for _, n := range c.Nodes() {
			if n != owner {
				v, err := n.Group.Get(c.T.Context(), key)
				require.NoError(t, err)
				require.Equal(t, "second", v, n.Name)
			}
		}
	})
}

// A push is answered after its region has been told: AckWorld promises that nobody serves anything
// older.
func TestMechanismPushIsAnsweredAfterTheBroadcast(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner, reader := c.Node("us-1"), c.Node("us-2")
		key := c.KeyOf(owner.Name)
		reader.MustGet(key)
		_, ok := reader.Group.Peek(key)
		require.True(t, ok)
		c.Net.Cut(owner.Name, reader.Name)
		_, err := c.Node("eu-1").Set(key, "written", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		if old, ok := reader.Group.Peek(key); ok {
			v, _ := testcluster.ParseValue(old)
			require.Equal(t, "written", v.By)
		}
	})
}

// closeSlowly begins to close n, which takes long because it waits for a value that owner loads.
// Messages between nodes are lost until end is called, which waits for the close.
func closeSlowly(c *testcluster.Cluster, n, owner *testcluster.Node) (end func()) {
	c.Origin.Behave(testcluster.After(3 * time.Second))
	var ending sync.WaitGroup
	ending.Go(func() { n.MustGet(c.KeyOf(owner.Name)) })
	time.Sleep(10 * time.Millisecond)
	c.Mangler.Set(mangle.Rates{Lose: 1})
	ending.Go(func() {
		time.Sleep(10 * time.Millisecond)
		n.Close()
	})
	return func() {
		c.Mangler.Set(mangle.Rates{})
		c.Origin.Behave(nil)
		ending.Wait()
	}
}

// A leaving node does not see the others any more, so nobody would be told of its writes.
func TestMechanismLeavingNodeExecutesNoWrites(t *testing.T) {
	config := testcluster.Config{Mangle: mangle.Rates{Lose: 1e-12}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		leaving := c.Node("eu-1")
		key := c.KeyOf(leaving.Name)
		end := closeSlowly(c, leaving, c.Node("eu-2"))
		time.Sleep(100 * time.Millisecond)
		w, err := leaving.Set(key, "written")
		end()
		require.ErrorIs(t, err, geocache.ErrClosed)
		require.NotErrorIs(t, err, geocache.ErrUnconfirmed, "the write is known not to have happened")
		require.Zero(t, w.Generation)
		c.Settle()
		for _, n := range c.Nodes() {
			require.Equal(t, "load 1 in eu", text(t, n, key), n.Name)
		}
	})
}

// An owner that closes before all others have a write that it was asked for says so. The write is then asked for
// again, of the next owner.
func TestMechanismWriteOfAnOwnerThatCloses(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Node("eu-1")
		key := c.KeyOf(owner.Name)
		c.Net.CutOneWay(owner.Name, "eu-3")
		done := make(chan error, 1)
		go func() { done <- c.Node("eu-2").Group.Set(context.Background(), key, "written") }()
		time.Sleep(10 * time.Millisecond)
		owner.Close()
		require.NoError(t, <-done)
		value, err := c.Node("eu-2").Group.Get(context.Background(), key)
		require.NoError(t, err)
		require.Equal(t, "written", value)
	})
}

// Nor is a write that it had begun acknowledged just because nobody is left to be told.
func TestMechanismLeavingNodeAcknowledgesNothingAlone(t *testing.T) {
	config := testcluster.Config{Mangle: mangle.Rates{Lose: 1e-12}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		leaving := c.Node("eu-1")
		key := c.KeyOf(leaving.Name)
		for _, n := range c.Nodes() {
			n.MustGet(key)
		}
		end := closeSlowly(c, leaving, c.Node("eu-2"))
		_, err := leaving.Remove(key)
		end()
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)
	})
}

// While the setter of an Update runs, the key may get another owner, which swaps the same value. No
// Increment that returned nil is lost.
func TestMechanismUpdateRechecksOwnershipAfterTheSetter(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 2}, func(c *testcluster.Cluster) {
		const keys = 60
		var rows sync.Map
		getter := geocache.GetterFunc[int](func(_ context.Context, key string) (int, error) {
			n, _ := rows.LoadOrStore(key, 0)
			return n.(int), nil
		})
		setter := geocache.WithSetter(func(ctx context.Context, key string, n int) error {
			select {
			case <-time.After(time.Second):
				rows.Store(key, n)
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		group := func(n *testcluster.Node) *geocache.Group[int] {
			g, err := geocache.NewGroup(n.Cache, "count", getter, geocache.WithTTL(time.Hour), setter)
			require.NoError(c.T, err)
			return g
		}
		var groups []*geocache.Group[int]
		for _, n := range c.Nodes() {
			groups = append(groups, group(n))
		}
		time.Sleep(untilLeased)
		var done [keys]atomic.Int64
		var running sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		for k := range keys {
			for _, g := range groups {
				running.Go(func() {
					for ctx.Err() == nil {
						if _, err := geocache.Increment(context.Background(), g, fmt.Sprint(k), 1); err == nil {
							done[k].Add(1)
						}
					}
				})
			}
		}
		time.Sleep(5 * time.Second)
		for range 4 {
			group(c.Add("eu"))
			time.Sleep(15 * time.Second)
		}
		cancel()
		running.Wait()
		time.Sleep(10 * time.Second)
		for k := range keys {
			n, err := groups[0].Get(context.Background(), fmt.Sprint(k))
			require.NoError(c.T, err)
			require.GreaterOrEqual(c.T, int64(n), done[k].Load(), "key %d", k)
		}
	})
}

// The new stamp: what was loaded while a write waited for room in the queue is older than the
// write, and must not pass for newer.
func TestMechanismWriteIsRestampedAfterWaitingForRoom(t *testing.T) {
	var rows sync.Map
	rows.Store("ada", "old")
	getter := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
		row, _ := rows.Load(key)
		return row.(string), nil
	})
	opts := []geocache.GroupOption{
		geocache.WithSetter(func(_ context.Context, key, value string) error {
			time.Sleep(3 * time.Second)
			rows.Store(key, value)
			return nil
		}),
		geocache.WithRemover(func(context.Context, string) error { return nil }),
		geocache.WithWriteBehind(1 << 10),
	}
	alone(t, geocache.Getter[string](getter), opts, func(t *testing.T, g *geocache.Group[string]) {
		get := func() string {
			v, err := g.Get(t.Context(), "ada")
			require.NoError(t, err)
			return v
		}
		require.NoError(t, g.Set(t.Context(), "bob", strings.Repeat("x", 600))) // leaves no room
		begun := time.Now()
		var writing sync.WaitGroup
		writing.Go(func() { require.NoError(t, g.Set(t.Context(), "ada", "new")) })
		time.Sleep(2 * time.Second) // longer than clocks may differ, so that a load of now is not maybe older
		require.Equal(t, "old", get())
		writing.Wait()
		require.Equal(t, 3*time.Second, time.Since(begun), "the Set has waited for room")
		require.Equal(t, "new", get())
		time.Sleep(10 * time.Second)
		require.Equal(t, "new", get())
	})
}

// A value that was removed by its tag does not match what a Swap expects, although it is still in
// memory and its stamp is the one that was read. Otherwise the removed value would live on in what
// an Update has made of it.
func TestMechanismSwapOfAValueRemovedByTag(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Node("eu-1")
		for _, n := range c.Nodes() {
			key := c.KeyOf(owner.Name)
			_, err := owner.Set(key, "removed", geocache.WithTags("red"))
			require.NoError(t, err)
			read, removed := make(chan struct{}), make(chan struct{})
			var updating sync.WaitGroup
			updating.Go(func() {
				var seen []string
				what, _, err := n.Update(key, func(was string, _ bool) (string, error) {
					if seen = append(seen, was); len(seen) == 1 {
						close(read)
						<-removed
					}
					return was + "updated", nil
				})
				require.NoError(t, err)
				require.Empty(t, seen[len(seen)-1], "by %s", n.Name)
				require.Equal(t, "updated", what)
			})
			<-read
			require.NoError(t, c.Node("eu-2").Group.RemoveTag(c.T.Context(), "red"))
			close(removed)
			updating.Wait()
			for _, reader := range c.Nodes() {
				require.Equal(t, "updated", text(t, reader, key), "by %s, at %s", n.Name, reader.Name)
			}
		}
	})
}
