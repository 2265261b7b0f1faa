package geocache_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// What a node leaves unsent, or unfinished, when it dies.

// ownedBy returns some keys that a node owns, read by all nodes of a region.
func ownedBy(c *testcluster.Cluster, node, readIn string) (keys []string) {
	for i := range 60 {
		if key := fmt.Sprint(i); c.Owner(node[:2], key).Name == node {
			keys = append(keys, key)
			for _, n := range c.Nodes(readIn) {
				n.MustGet(key)
			}
		}
	}
	require.NotEmpty(c.T, keys)
	return keys
}

// reunite ends all cuts, and returns a moment after all nodes have found all again: too soon for
// them to have compared their floors.
func reunite(c *testcluster.Cluster) {
	c.Net.HealAll()
	for again := true; again; {
		time.Sleep(50 * time.Millisecond)
		again = false
		for _, n := range c.Nodes() {
			up := 0
			for _, p := range n.Cache.Stats().Peers {
				if p.Up {
					up++
				}
			}
			again = again || up < len(c.Nodes())-1
		}
	}
	time.Sleep(300 * time.Millisecond)
}

func requireText(c *testcluster.Cluster, want string, keys []string, regions ...string) {
	c.T.Helper()
	for _, key := range keys {
		for _, n := range c.Nodes(regions...) {
			require.Equal(c.T, want, text(c.T, n, key), "%s at %s", key, n.Name)
		}
	}
}

func requireNoneOf(c *testcluster.Cluster, old string, keys []string, regions ...string) {
	c.T.Helper()
	for _, key := range keys {
		for _, n := range c.Nodes(regions...) {
			require.NotEqual(c.T, old, text(c.T, n, key), "%s at %s", key, n.Name)
		}
	}
}

// A node writes, another one takes its keys over, and it dies, all while the other region cannot be
// reached. Who owns the keys then sends what the first owner has not.
func TestWhatAnEarlierOwnerHasNotSent(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, TTL: 175 * time.Second}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		keys := ownedBy(c, "eu-1", "us")
		c.Net.Cut("eu", "us")
		time.Sleep(time.Second)
		for _, key := range keys {
			_, err := c.Node("eu-1").Set(key, "written")
			require.NoError(t, err)
		}
		c.Add("eu")
		c.Settle()
		c.Node("eu-1").Crash()
		time.Sleep(120 * time.Second)
		reunite(c)
		requireNoneOf(c, "load 1 in us", keys, "us")
	})
}

// The same, and it is back under its ID before anybody has taken it for gone.
func TestWhatAProcessBeforeARestartHasNotSent(t *testing.T) {
	for _, wait := range []time.Duration{0, 5 * time.Second} { // whether the group is there before the others are found
		testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}, TTL: 175 * time.Second}, func(c *testcluster.Cluster) {
			c.Add("eu", geocache.WithJoinWait(wait))
			time.Sleep(standing)
			keys := ownedBy(c, "eu-4", "us")
			c.Net.Cut("eu", "us")
			time.Sleep(time.Second)
			for _, key := range keys {
				_, err := c.Node("eu-4").Remove(key)
				require.NoError(t, err)
			}
			c.Node("eu-4").Crash()
			c.Node("eu-4").Restart(0)
			time.Sleep(10 * time.Second)
			reunite(c)
			requireNoneOf(c, "load 1 in us", keys, "us")
		})
	}
}

// A region that is lost has told one of two others of a write. Comparing floors brings it to the
// other one, as long as any value that is older may be alive.
func TestRegionsCompareAllFloorsThatMatter(t *testing.T) {
	const ttl = 175 * time.Second
	testcluster.Run(t, testcluster.Config{Regions: []string{"ap", "eu", "us"}, Nodes: 1, TTL: ttl}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		c.Net.Cut("us", "eu")
		c.Net.Cut("us", "ap")
		time.Sleep(2 * time.Second)
		_, err := c.Node("eu-1").Set("ada", "written", geocache.WithItemTTL(time.Second))
		require.NoError(t, err)
		c.Node("us-1").MustGet("ada") // after the write, of which us does not know
		time.Sleep(time.Second)
		c.Node("eu-1").Crash()
		time.Sleep(ttl - 30*time.Second)
		c.Net.Heal("us", "ap")
		time.Sleep(15 * time.Second)
		w := c.Node("us-1").Group.Stats().Floors
		require.NotZero(t, w, "the floor has come")
	})
}

// crash kills a node, and does not wait until its goroutines have ended.
func crash(n *testcluster.Node) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		n.Crash()
		close(ended)
	}()
	synctest.Wait()
	return ended
}

// A Set is under way to an owner that is killed, after another node has been told of it. That
// one's user writes something else. When the first Set is carried out by the next owner, what
// followed from it stays.
func TestAWriteThatIsAskedForAgain(t *testing.T) {
	for _, remove := range []bool{false, true} {
		t.Run(fmt.Sprintf("remove %v", remove), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "eu", 5*time.Millisecond)
				time.Sleep(standing)
				key, at := "", ""
				for i := 0; key == ""; i++ { // not the writer's, and its next owner reads it
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
				crashed := crash(c.Owner("eu", key))
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

// Where nothing has been written since, the second owner has the value of the Set, even if it had
// been told of it before.
func TestAWriteThatIsAskedForAgainHasItsValue(t *testing.T) {
	for killed := range 4 { // at each step on the way
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
			time.Sleep(standing)
			key := c.KeyOf("eu-2")
			set := make(chan error, 1)
			go func() { set <- groups["eu-1"].Set(context.Background(), key, "value") }()
			time.Sleep(time.Duration(3+5*killed) * time.Millisecond)
			crashed := crash(c.Node("eu-2"))
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

// So many nodes come before anybody asks for a value that those who have it are far down its key's
// succession. It is there all the same: no origin has what was set, and a 0 that is loaded would hide it.
func TestWhatWasSetBeforeManyNodesCame(t *testing.T) {
	for _, update := range []bool{false, true} { // whether it is updated, or read first
		testcluster.Run(t, testcluster.Config{Nodes: 2, Counters: true}, func(c *testcluster.Cluster) {
			time.Sleep(standing)
			for i := range 30 {
				_, err := geocache.Increment(c.T.Context(), c.Node("eu-1").Counters, fmt.Sprint(i), 7)
				require.NoError(t, err)
			}
			for range 5 {
				c.Add("eu")
			}
			time.Sleep(standing)
			for i := range 30 {
				key, want := fmt.Sprint(i), 7
				if update {
					want++
					n, err := geocache.Increment(c.T.Context(), c.Node("eu-1").Counters, key, 1)
					require.NoError(t, err)
					require.Equal(t, want, n, key)
				}
				for _, node := range c.Nodes() {
					n, err := node.Counters.Get(c.T.Context(), key)
					require.NoError(t, err)
					require.Equal(t, want, n, "%s at %s", key, node.Name)
				}
			}
		})
	}
}
