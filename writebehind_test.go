package geocache_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestWriteBehind(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		open := make(chan struct{})
		db.does(func(context.Context, string, string) error { <-open; return nil })
		for i := range 10 {
			_, err := c.Node("eu-1").Set("ada", fmt.Sprint(i))
			require.NoError(t, err)
		}
		require.Empty(t, db.row("ada"))
		for _, n := range c.Nodes() {
			require.Equal(t, "9", text(t, n, "ada"))
		}
		time.Sleep(2 * time.Second)
		queued, held := queuedWrites(c.Nodes())
		require.Equal(t, []int{1, 1}, []int{queued, held}, "one at the owner, one at its successor")
		b := c.Owner("eu", "ada").Group.Stats().WriteBehind
		require.Equal(t, 1, b.Queued)
		require.Positive(t, b.QueuedBytes)
		require.Equal(t, 2*time.Second, b.Lag.Round(time.Second))
		require.EqualValues(t, 8, b.Coalesced, "the first is being written, the last is queued")

		close(open)
		time.Sleep(time.Second)
		require.Equal(t, []string{"ada=0", "ada=9"}, db.history())
		queued, held = queuedWrites(c.Nodes())
		require.Equal(t, []int{0, 0}, []int{queued, held}, "the successor knows that it has been written")
		require.EqualValues(t, 2, c.Owner("eu", "ada").Group.Stats().OriginWrites)
		require.Zero(t, c.Origin.Total())
	})
}

func TestReadsSeeQueuedWrites(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db, geocache.WithMaxBytes(4000)), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		_, err := c.Node("eu-1").Set("ada", "written")
		require.NoError(t, err)
		_, err = c.Node("eu-1").Remove("bob")
		require.NoError(t, err)
		check := func(why string) {
			for _, n := range c.Nodes() {
				require.Equal(t, "written", textUnchecked(t, n, "ada"), "%s, %s", n.Name, why)
				_, err := n.Group.Get(context.Background(), "bob")
				require.ErrorIs(t, err, geocache.ErrNotFound, "%s, %s", n.Name, why)
			}
		}
		check("at once")
		for i := range 500 {
			c.Nodes()[i%3].MustGet(fmt.Sprint(i))
			c.Nodes()[i%3].MustGet(fmt.Sprint(i))
		}
		check("after it was evicted")
		time.Sleep(3 * testcluster.TTL)
		check("after its time to live")
		require.Zero(t, c.Origin.Loads("ada"))
		require.Zero(t, c.Origin.Loads("bob"))
		require.Greater(t, c.Owner("eu", "ada").Group.Stats().OriginErrors, uint64(5))

		db.does(nil)
		time.Sleep(40 * time.Second)
		require.Equal(t, "written", db.row("ada"))
		require.Contains(t, db.history(), "bob removed")
		require.Len(t, db.history(), 2)
	})
}

func TestSuccessorWritesTheQueueOfADeadOwner(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		owner := c.Owner("eu", "ada")
		_, err := bystander(c, "eu", "ada").Set("ada", "1")
		require.NoError(t, err)
		owner.Crash()
		for _, n := range c.Nodes() {
			require.Equal(t, "1", text(t, n, "ada"))
		}
		require.Empty(t, db.history())
		db.does(nil)
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{"ada=1"}, db.history())
		queued, held := queuedWrites(c.Nodes())
		require.Equal(t, []int{0, 0}, []int{queued, held})
	})
}

func TestCloseFlushesTheQueue(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.does(func(context.Context, string, string) error { time.Sleep(100 * time.Millisecond); return nil })
		for i := range 60 {
			_, err := c.Node("eu-1").Set(fmt.Sprint(i), "1")
			require.NoError(t, err)
		}
		mine := 0
		c.Node("eu-2").Close()
		for _, line := range db.history() {
			var key string
			fmt.Sscanf(line, "%s=1", &key)
			mine++
		}
		require.GreaterOrEqual(t, mine, 10)
		require.Zero(t, c.Node("eu-2").Group.Stats().WriteBehind.Queued)
		time.Sleep(10 * time.Second)
		for i := range 60 {
			require.Equal(t, "1", db.row(fmt.Sprint(i)))
		}
	})
}

// What the origin does not accept before Close gives up goes to the next owner.
func TestCloseHandsOverWhatTheOriginRejects(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		owner := c.Owner("eu", "ada")
		next := c.Node(owner.Group.Locate("ada")[0].Successor.ID)
		_, err := owner.Set("ada", "1", geocache.WithAck(geocache.AckOwner))
		require.NoError(t, err)
		err = owner.Cache.Close()
		require.ErrorContains(t, err, "1 writes have not reached the origin")
		require.ErrorContains(t, err, "on strike")
		require.Zero(t, owner.Group.Stats().WriteBehind.Queued)
		require.Equal(t, "1", textUnchecked(t, next, "ada"))
		db.does(nil)
		time.Sleep(40 * time.Second)
		require.Equal(t, []string{"ada=1"}, db.history())
	})
}

// Queued writes of keys that a new node owns move to it, and it answers reads with them at once.
func TestNodeJoinsWhileWritesAreQueued(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db, geocache.WithMaxBytes(4000)), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		for i := range 60 {
			_, err := c.Nodes()[i%3].Set(fmt.Sprint(i), "1")
			require.NoError(t, err)
		}
		c.Add("eu")
		var moved []string
		for i := range 60 {
			key := fmt.Sprint(i)
			for _, n := range c.Nodes() {
				require.Equal(t, "1", textUnchecked(t, n, key), n.Name)
			}
			if c.Owner("eu", key).Name == "eu-4" {
				moved = append(moved, key)
			}
		}
		require.NotEmpty(t, moved)
		time.Sleep(2 * testcluster.TTL)
		for i := range 60 {
			for _, n := range c.Nodes() {
				require.Equal(t, "1", textUnchecked(t, n, fmt.Sprint(i)), n.Name)
			}
		}
		require.Equal(t, len(moved), c.Node("eu-4").Group.Stats().WriteBehind.Queued)
		queued, _ := queuedWrites(c.Nodes())
		require.Equal(t, 60, queued, "no write is queued at two nodes")
		require.Zero(t, c.Origin.Total())
		for _, key := range moved {
			_, err := c.Node("eu-1").Set(key, "2")
			require.NoError(t, err)
		}
		db.does(nil)
		time.Sleep(time.Minute)
		require.Len(t, db.history(), 60, "each once")
		for i := range 60 {
			want := "1"
			if slices.Contains(moved, fmt.Sprint(i)) {
				want = "2"
			}
			require.Equal(t, want, db.row(fmt.Sprint(i)))
		}
		queued, held := queuedWrites(c.Nodes())
		require.Equal(t, []int{0, 0}, []int{queued, held})
	})
}

func TestOriginWriteInProgressFollowsItsKey(t *testing.T) {
	db := newDatabase()
	config := writeBehindConfig(db, geocache.WithLoadTimeout(5*time.Second), geocache.WithTTL(5*time.Second))
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.does(func(ctx context.Context, _, _ string) error { <-ctx.Done(); return errDatabase })
		for i := range 12 {
			_, err := c.Nodes()[i%3].Set(fmt.Sprint(i), "1")
			require.NoError(t, err)
		}
		time.Sleep(time.Second) // all of them are being written to the origin
		c.Add("eu")
		time.Sleep(20 * time.Second)
		moved := 0
		for i := range 12 {
			if c.Owner("eu", fmt.Sprint(i)).Name == "eu-4" {
				moved++
			}
			for _, n := range c.Nodes() {
				require.Equal(t, "1", textUnchecked(t, n, fmt.Sprint(i)), n.Name)
			}
		}
		require.NotZero(t, moved)
		require.Equal(t, moved, c.Node("eu-4").Group.Stats().WriteBehind.Queued)
	})
}

func TestRemoveOfAQueuedWrite(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		_, err := c.Node("eu-1").Set("ada", "1")
		require.NoError(t, err)
		_, err = c.Node("eu-2").Remove("ada")
		require.NoError(t, err)
		for _, n := range c.Nodes() {
			_, err := n.Get("ada")
			require.ErrorIs(t, err, geocache.ErrNotFound, n.Name)
		}
		db.does(nil)
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{"ada removed"}, db.history())
		require.Equal(t, "load 1 in eu", text(t, c.Node("eu-1"), "ada"))
	})
}

// A load after a Clear must see what was written before it.
func TestClearWhileWritesAreQueued(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		_, err := c.Node("eu-1").Set("ada", "1")
		require.NoError(t, err)
		_, err = c.Node("eu-2").Clear()
		require.NoError(t, err)
		_, err = c.Owner("eu", "ada").Get("ada")
		require.ErrorIs(t, err, geocache.ErrTimeout)
		require.ErrorContains(t, err, "has been cleared")
		require.Zero(t, c.Origin.Loads("ada"), "a load would bring back what was there before")
		db.does(nil)
		time.Sleep(time.Minute) // the next attempt may come later than a load waits
		require.Equal(t, "load 1 in eu", text(t, c.Node("eu-1"), "ada"))
		require.Equal(t, []string{"ada=1"}, db.history())
	})
}

func TestFullQueue(t *testing.T) {
	db := newDatabase()
	// The load timeout is long: by then the pauses between attempts are, and a write waits that
	// long.
	config := testcluster.Config{Nodes: 2,
		Group: db.options(geocache.WithWriteBehind(1000), geocache.WithLoadTimeout(time.Minute))}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		owner, caller := c.Node("eu-1"), c.Node("eu-2")
		var keys []string
		for len(keys) < 6 {
			keys = append(keys, c.KeyOf("eu-1", keys...))
		}
		full := 0
		for _, key := range keys {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err := caller.Group.Set(ctx, key, testcluster.Value{Key: key, By: "1"}.String())
			cancel()
			if err == nil {
				require.Zero(t, full, "only those that come after the queue is full fail")
				continue
			}
			full++
		}
		require.Equal(t, 3, full)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := owner.Group.Set(ctx, keys[5], "")
		cancel()
		require.ErrorIs(t, err, geocache.ErrOverloaded)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for _, n := range []*testcluster.Node{owner, caller} {
			begun := time.Now()
			require.ErrorIs(t, n.Group.Set(context.Background(), keys[5], strings.Repeat("x", 2000)),
				geocache.ErrTooLarge)
			require.Less(t, time.Since(begun), time.Second, "it can never fit, so it does not wait for room")
		}
		require.EqualValues(t, 3, owner.Group.Stats().WriteBehind.Queued)
		require.GreaterOrEqual(t, owner.Group.Stats().WriteBehind.Refused, uint64(1))

		// A write that has waited for long is newer than what was read meanwhile.
		var waiting sync.WaitGroup
		waiting.Go(func() {
			_, err := caller.Set(keys[4], "2")
			require.NoError(t, err)
		})
		time.Sleep(3 * time.Second)
		require.Equal(t, 1, owner.Group.Stats().WriteBehind.Waiting)
		for _, n := range c.Nodes() {
			require.Contains(t, text(t, n, keys[4]), "load")
		}
		time.Sleep(2 * time.Second)
		db.does(nil)
		waiting.Wait()
		for _, n := range c.Nodes() {
			require.Equal(t, "2", text(t, n, keys[4]))
		}
		time.Sleep(30 * time.Second)
		require.Equal(t, "2", db.row(keys[4]))
		require.Equal(t, "1", db.row(keys[0]))
	})
}

// An Update does not hold the key's lock while it waits for room in the queue.
func TestUpdateWaitsForRoomInTheQueue(t *testing.T) {
	db := newDatabase()
	config := testcluster.Config{Nodes: 2, Group: db.options(geocache.WithWriteBehind(1000))}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		owner := c.Node("eu-1")
		var keys []string
		for len(keys) < 4 {
			keys = append(keys, c.KeyOf("eu-1", keys...))
		}
		for _, key := range keys[:3] {
			_, err := owner.Set(key, "1")
			require.NoError(t, err)
		}
		var updates sync.WaitGroup
		for _, n := range c.Nodes() {
			updates.Go(func() {
				_, _, err := n.Update(keys[3], func(string, bool) (string, error) { return "by " + n.Name, nil })
				require.NoError(t, err)
			})
		}
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 3, owner.Group.Stats().WriteBehind.Queued)
		require.Zero(t, owner.Group.Stats().WriteBehind.Waiting)
		db.does(nil)
		updates.Wait()
		time.Sleep(30 * time.Second)
		require.Contains(t, db.row(keys[3]), "by eu-")
	})
}

// A floor that comes back from a region that only passed it on is not a newer write.
func TestQueuedWriteIsNotDroppedForItsOwnEcho(t *testing.T) {
	db := newDatabase()
	config := writeBehindConfig(db)
	config.Regions = []string{"eu", "us"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		for i := range 30 {
			_, err := c.Node("eu-1").Set(fmt.Sprint(i), "1", geocache.WithAck(geocache.AckWorld))
			require.NoError(t, err)
		}
		c.Node("us-1").Crash() // its successors send eu what it may not have sent
		time.Sleep(20 * time.Second)
		queued, held := queuedWrites(c.Nodes("eu"))
		require.Equal(t, []int{30, 30}, []int{queued, held})
		db.does(nil)
		time.Sleep(40 * time.Second)
		require.Len(t, db.history(), 30)
	})
}

// A later write in another region replaces one that is queued here.
func TestWriteInAnotherRegionReplacesAQueuedWrite(t *testing.T) {
	db := newDatabase()
	config := writeBehindConfig(db)
	config.Regions = []string{"eu", "us"}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		_, err := c.Node("eu-1").Set("ada", "1", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		_, err = c.Node("us-1").Set("ada", "2", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		queued, held := queuedWrites(c.Nodes("eu"))
		require.Equal(t, []int{0, 0}, []int{queued, held})

		// If the older one is being written to the origin at that moment, the newer one is written
		// after it.
		slow := make(chan struct{})
		db.does(func(_ context.Context, _, what string) error {
			if what == "3" {
				<-slow
			}
			return nil
		})
		time.Sleep(20 * time.Second)
		_, err = c.Node("eu-1").Set("ada", "3", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		_, err = c.Node("us-1").Set("ada", "4", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		time.Sleep(time.Second)
		close(slow)
		time.Sleep(time.Second)
		require.Equal(t, []string{"ada=2", "ada=4", "ada=3", "ada=4"}, db.history())
		queued, held = queuedWrites(c.Nodes())
		require.Equal(t, []int{0, 0}, []int{queued, held})
	})
}

// A node that was away while a key was written again holds an old write of it. That write must not
// reach the origin when the node comes to own the key.
func TestReplacedWriteIsNotWrittenByItsHolder(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		owner := c.Owner("eu", "ada")
		next := c.Node(owner.Group.Locate("ada")[0].Successor.ID)
		_, err := owner.Set("ada", "1")
		require.NoError(t, err)
		next.Freeze()
		c.Settle()
		db.does(func(_ context.Context, _, what string) error {
			if what == "1" {
				return errDatabase // the node that is away tries too
			}
			return nil
		})
		_, err = owner.Set("ada", "2")
		require.NoError(t, err)
		time.Sleep(40 * time.Second)
		require.Equal(t, []string{"ada=2"}, db.history())
		next.Thaw()
		c.Settle()
		c.Settle()
		db.does(nil)
		owner.Crash()
		time.Sleep(40 * time.Second)
		require.Equal(t, []string{"ada=2"}, db.history())
		queued, held := queuedWrites(c.Nodes())
		require.Equal(t, []int{0, 0}, []int{queued, held})
	})
}

// What the next owner does not accept is written to the origin by the node that has it.
func TestNextOwnerDoesNotAcceptQueuedWrites(t *testing.T) {
	db := newDatabase()
	testcluster.Run(t, writeBehindConfig(db), func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		db.fails(errDatabase)
		for i := range 30 {
			_, err := c.Nodes()[i%3].Set(fmt.Sprint(i), "1")
			require.NoError(t, err)
		}
		c.Add("eu").Freeze()
		c.Settle()
		c.Settle()
		db.does(nil)
		time.Sleep(40 * time.Second)
		for i := range 30 { // at least once: the hung node may have accepted some before it hung
			require.Equal(t, "1", db.row(fmt.Sprint(i)))
		}
	})
}
