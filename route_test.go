package geocache_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// onStack reports whether a function whose name ends like this is on the caller's stack.
func onStack(name string) bool {
	callers := make([]uintptr, 64)
	frames := runtime.CallersFrames(callers[:runtime.Callers(2, callers)])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, name) {
			return true
		}
		if !more {
			return false
		}
	}
}

// The owner pauses between checking how long a write has been in progress and stamping it. By then
// the caller has had the next owner execute the write, and has written something else. The first
// write must not come back.
func TestWriteWhoseOwnerPauses(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		var standsStill atomic.Bool
		var pauses atomic.Int64
		owner, writer := c.Add("eu", geocache.WithClock(func() time.Time {
			if standsStill.Load() && onStack("(*committer).stamp") {
				pauses.Add(1)
				time.Sleep(600 * time.Millisecond)
			}
			return time.Now()
		})), c.Node("eu-1")
		c.Settle()
		key := c.KeyOf(owner.Name)
		standsStill.Store(true)
		var writing sync.WaitGroup
		writing.Go(func() {
			for _, value := range []string{"first", "second"} {
				_, err := writer.Set(key, value, geocache.WithAck(geocache.AckOwner))
				require.NoError(t, err)
			}
		})
		time.Sleep(time.Millisecond)
		c.Net.CutOneWay(writer.Name, owner.Name) // it does not notice that its caller has hung up
		writer.Reject(owner.Name)
		writing.Wait()
		require.NotZero(t, pauses.Load())
		time.Sleep(3 * time.Second)
		standsStill.Store(false)
		c.Net.HealAll()
		writer.Admit(owner.Name)
		c.Settle()
		for _, n := range c.Nodes() {
			require.Equal(t, "second", text(t, n, key), n.Name)
		}
	})
}

// A caller whose owner goes away during a write cannot know whether it happened, unless the next
// owner can execute it again in time.
func TestWriteWhoseOwnerHangs(t *testing.T) {
	for name, config := range map[string]testcluster.Config{
		"cache":  {Nodes: 2},
		"origin": {Nodes: 2, Group: newDatabase().options()},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				time.Sleep(untilLeased)
				owner := c.Owner("eu", "ada")
				caller := c.Node(owner.Group.Locate("ada")[0].Successor.ID)
				set := func(timeout time.Duration) error {
					ctx, cancel := context.WithTimeout(context.Background(), timeout)
					defer cancel()
					return caller.Group.Set(ctx, "ada", testcluster.Value{Key: "ada", Begun: c.Now(), By: "1"}.String())
				}
				owner.Freeze()
				err := set(500 * time.Millisecond)
				require.ErrorIs(t, err, geocache.ErrUncertain)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				err = set(20 * time.Second)
				if name == "origin" {
					require.ErrorIs(t, err, geocache.ErrUncertain, "the origin is not written twice")
					return
				}
				require.NoError(t, err)
				require.Equal(t, "1", text(t, caller, "ada"))
			})
		})
	}
}

func TestUnconfirmedWrite(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		owner := c.Owner("eu", "ada")
		hung := bystander(c, "eu", "ada")
		hung.Freeze()
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		var w geocache.Receipt
		err := owner.Group.Set(ctx, "ada", testcluster.Value{Key: "ada", Begun: c.Now(), By: "1"}.String(),
			geocache.WithReceipt(&w))
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)
		require.NotErrorIs(t, err, geocache.ErrUncertain)
		require.NotZero(t, w.Generation)
		require.Empty(t, w.Confirmed)
		require.Equal(t, []string{"eu"}, w.Pending)

		w, err = owner.Set("ada", "2", geocache.WithAck(geocache.AckOwner))
		require.NoError(t, err)
		require.NotZero(t, w.Generation)
		require.Empty(t, w.Confirmed, "the write did not wait for it")
		hung.Thaw()
		c.Settle()
		require.Equal(t, "2", text(t, hung, "ada"), "the broadcast went on")
	})
}

// crashAsync kills a node without waiting for its goroutines to end. done is closed when they have.
func crashAsync(n *testcluster.Node) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		n.Crash()
		close(ended)
	}()
	synctest.Wait()
	return ended
}

// The owner of a key is killed during a Set, after another node has been told of it. A user of that
// node writes something else. When the next owner executes the first Set again, what followed it
// stays.
func TestRetriedWriteDoesNotUndoALaterOne(t *testing.T) {
	for _, remove := range []bool{false, true} {
		t.Run(fmt.Sprintf("remove %v", remove), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "eu", 5*time.Millisecond)
				time.Sleep(untilLeased)
				key, at := "", ""
				for i := 0; key == ""; i++ { // neither owned nor succeeded by the writer
					l := c.Node("eu-1").Group.Locate(fmt.Sprint(i))[0]
					if l.Owner.ID != "eu-1" && l.Successor.ID != "eu-1" {
						key, at = fmt.Sprint(i), l.Successor.ID
					}
				}
				other := c.Node(at)
				other.MustGet(key)
				first := make(chan error, 1)
				go func() {
					var err error
					if remove {
						_, err = c.Node("eu-1").Remove(key)
					} else {
						_, err = c.Node("eu-1").Set(key, "first")
					}
					first <- err
				}()
				time.Sleep(12 * time.Millisecond)
				crashed := crashAsync(c.Owner("eu", key))
				if !remove {
					require.Equal(t, "first", text(t, other, key))
				}
				_, err := other.Set(key, "second")
				require.NoError(t, err)
				require.NoError(t, <-first)
				<-crashed
				time.Sleep(2 * time.Second)
				requireText(c, "second", []string{key})
			})
		})
	}
}

// If nothing has been written since, the second owner has the value of the Set, even if it had been
// told of it before.
func TestRetriedSetKeepsItsValue(t *testing.T) {
	for killed := range 4 { // killed at each step of the Set
		testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
			c.Net.SetLatency("eu", "eu", 5*time.Millisecond)
			group := func(n *testcluster.Node) *geocache.Group[string] {
				g, err := geocache.NewGroup[string](n.Cache, "aside", nil)
				require.NoError(t, err)
				return g
			}
			groups := map[string]*geocache.Group[string]{}
			for _, n := range c.Nodes() {
				groups[n.Name] = group(n)
			}
			time.Sleep(untilLeased)
			key := c.KeyOf("eu-2")
			set := make(chan error, 1)
			go func() { set <- groups["eu-1"].Set(context.Background(), key, "value") }()
			time.Sleep(time.Duration(3+5*killed) * time.Millisecond)
			crashed := crashAsync(c.Node("eu-2"))
			require.NoError(t, <-set)
			<-crashed
			time.Sleep(2 * time.Second)
			for _, node := range []string{"eu-1", "eu-3"} {
				v, err := groups[node].Get(context.Background(), key)
				require.NoError(t, err, "killed at step %d", killed)
				require.Equal(t, "value", v, node)
			}
		})
	}
}
