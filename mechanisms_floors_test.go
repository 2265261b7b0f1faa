package geocache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/internal/testcluster/network/mangle"
	"github.com/geocache/geocache/regions"
)

// This file tests how floors reach nodes that were not told of a write. See
// mechanisms_writes_test.go.

// Journals after a lease loss: a node that was cut off serves nothing from before once it is back,
// not even what it owns.
func TestMechanismJournalsAfterALeaseLoss(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		cut := c.Node("eu-4")
		owned := 0
		for i := range 40 {
			key := fmt.Sprint(i)
			cut.MustGet(key)
			if c.Owner("eu", key) == cut {
				owned++
			}
		}
		require.NotZero(t, owned)
		c.Net.Cut("eu-4", "eu")
		c.Settle()
		for i := range 40 {
			_, err := c.Node("eu-1").Set(fmt.Sprint(i), "written")
			require.NoError(t, err)
		}
		c.Net.HealAll()
		time.Sleep(10 * time.Second) // until connections are made again
		for i := range 40 {
			require.NotEqual(t, "load 1 in eu", text(t, cut, fmt.Sprint(i)))
		}
	})
}

// splitDiscovery lists to each node only the nodes of its own part of the region, until all parts
// are announced to everybody at the same time.
type splitDiscovery struct {
	all  []regions.Node
	part map[string]int // by ID
}

// splitTime is how long the parts do not know of each other.
const splitTime = 30 * time.Second

func (p *splitDiscovery) Region(context.Context) (string, error) { return "", nil }

func (p *splitDiscovery) Run(
	ctx context.Context, self regions.Node, _ func() error, found func(regions.View),
) error {
	var own regions.View
	for _, n := range p.all {
		if p.part[n.ID] == p.part[self.ID] {
			own.Nodes = append(own.Nodes, n)
		}
	}
	found(own)
	select {
	case <-time.After(splitTime):
		found(regions.View{Nodes: p.all})
		<-ctx.Done()
	case <-ctx.Done():
	}
	return nil
}

// Journals of new peers: two parts of a region that did not see each other have both written, and
// nobody loses a lease when they meet.
func TestMechanismJournalsWhenPartitionsMeet(t *testing.T) {
	p := &splitDiscovery{part: map[string]int{}}
	for i := range 4 {
		id := fmt.Sprintf("eu-%d", i+1)
		p.all = append(p.all, regions.Node{ID: id, Region: "eu", Address: id + ":7946"})
		p.part[id] = i / 2
	}
	config := testcluster.Config{Nodes: 4, Cache: []geocache.Option{geocache.WithDiscovery(p)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		meet := time.Now().Truncate(splitTime).Add(splitTime)
		time.Sleep(untilLeased)
		for i := range 40 {
			for _, n := range c.Nodes() {
				n.MustGet(fmt.Sprint(i))
			}
		}
		for i := range 40 {
			_, err := c.Node(fmt.Sprintf("eu-%d", 1+i%4)).Set(fmt.Sprint(i), "written")
			require.NoError(t, err)
		}
		require.Equal(t, 2, c.Node("eu-1").Cache.Stats().Regions[0].Nodes)
		time.Sleep(time.Until(meet) + 100*time.Millisecond) // the bubble's time began at a whole minute
		require.Equal(t, 4, c.Node("eu-1").Cache.Stats().Regions[0].Nodes)
		c.Settle()
		for i := range 40 {
			for _, n := range c.Nodes() {
				require.Equal(t, "written", text(t, n, fmt.Sprint(i)), "%s of %d", n.Name, i)
			}
		}
	})
}

// A new group's first journal: the only node of its region fetches it from another region. Its
// origin does not have the last writes yet, and nothing else would tell it.
func TestMechanismFirstNodeOfARegionFetchesAJournal(t *testing.T) {
	config := laggingConfig()
	config.Nodes = 1
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		_, err := c.Node("eu-1").Remove("ada", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		restarted := c.Node("us-1")
		restarted.Crash()
		restarted.Restart(0)
		time.Sleep(time.Millisecond) // a load in the instant of the journal may be from before
		require.Contains(t, text(t, restarted, "ada"), "in eu")
		require.Zero(t, c.Origin.Total("us"))
	})
}

// A group that could not fetch the journals fetches them before it acts as an owner.
func TestMechanismNewGroupRetriesTheJournals(t *testing.T) {
	config := laggingConfig()
	config.Mangle = mangle.Rates{Lose: 1e-12}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		late := c.Node("us-3")
		group := func(n *testcluster.Node) {
			getter := geocache.GetterFunc[string](func(context.Context, string) (string, error) {
				return n.Region, nil
			})
			g, err := geocache.NewGroup(n.Cache, "late", getter, config.Group...)
			require.NoError(t, err)
			n.Group = g
		}
		for _, n := range c.Nodes() {
			if n != late {
				group(n)
			}
		}
		var keys []string
		for i := range 40 {
			if c.Owner("us", fmt.Sprint(i)) == late {
				keys = append(keys, fmt.Sprint(i))
				require.NoError(t,
					c.Node("eu-1").Group.Remove(c.T.Context(), fmt.Sprint(i), geocache.WithAck(geocache.AckWorld)))
			}
		}
		require.NotEmpty(t, keys)
		c.Mangler.Set(mangle.Rates{Lose: 1})
		group(late)
		c.Mangler.Set(mangle.Rates{})
		time.Sleep(time.Second)
		for _, key := range keys {
			v, err := late.Group.Get(c.T.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "eu", v)
		}
	})
}

// clockAhead has the clock of us-2 run ahead, so that what it loads seems newer than it is.
func clockAhead(by time.Duration) func(node string) time.Duration {
	return func(node string) time.Duration {
		if node == "us-2" {
			return by
		}
		return 0
	}
}

// Ages: a node that has been told of a write gets a value that may be older from one that has not
// been told yet.
func TestMechanismMaybeOlderValueOfANodeThatMissedABroadcast(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Offset: clockAhead(200 * time.Millisecond),
		Group: []geocache.GroupOption{geocache.WithHomeRegion("eu")}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		writer, owner, reader := c.Node("us-1"), c.Node("us-2"), c.Node("us-3")
		key := keyOwnedAndSucceededBy(writer, owner.Name, writer.Name)
		began := time.Now()
		at := func(d time.Duration) { time.Sleep(time.Until(began.Add(d))) }
		var updating sync.WaitGroup
		updating.Go(func() {
			_, _, err := writer.Update(key, func(string, bool) (string, error) { return "written", nil })
			require.NoError(t, err)
		})
		at(85 * time.Millisecond) // the Swap is in transit
		require.Equal(t, "load 2 in us", text(t, owner, key), "the first load was the Update's, in eu")
		c.Net.CutOneWay(writer.Name, owner.Name) // the broadcast arrives late
		c.Net.CutOneWay("eu", owner.Name)        // so does the push
		at(165 * time.Millisecond)               // the reader has been told by now
		require.Equal(t, "written", text(t, reader, key), "from the successor: the owner's value is too old")
		c.Net.HealAll()
		updating.Wait()
		require.Equal(t, "written", text(t, owner, key))
		require.Equal(t, "written", text(t, reader, key))
	})
}

// The same from a node that was cut off and has not fetched the journals yet.
func TestMechanismMaybeOlderValueOfANodeThatWasCutOff(t *testing.T) {
	config := testcluster.Config{Regions: []string{"us"}, Nodes: 4, Offset: clockAhead(4 * time.Second),
		Cache: []geocache.Option{geocache.WithMaxDrift(5 * time.Second)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		c.Net.SetLatency("us", "us", 20*time.Millisecond)
		cut := c.Node("us-2")
		var keys []string
		for i := range 200 {
			if key := fmt.Sprint(i); c.Owner("us", key) == cut {
				keys = append(keys, key)
			}
		}
		c.Net.Cut(cut.Name, "us")
		time.Sleep(1500 * time.Millisecond)
		for _, key := range keys { // stamped by a clock that is ahead of all that the others have heard
			require.Equal(t, "load 1 in us", text(t, cut, key))
		}
		var writing sync.WaitGroup
		for _, key := range keys {
			writing.Go(func() {
				_, err := c.Node("us-1").Remove(key)
				require.NoError(t, err)
			})
		}
		writing.Wait()
		c.Net.HealAll()
		others := []*testcluster.Node{c.Node("us-1"), c.Node("us-3"), c.Node("us-4")}
		asked, left := 0, keys
		for range 6000 {
			time.Sleep(time.Millisecond)
			for _, n := range others {
				if len(left) > 0 && n.Group.Locate(left[0])[0].Owner.ID == cut.Name {
					require.NotEqual(t, "load 1 in us", text(t, n, left[0]), "%s of %s", n.Name, left[0])
					asked++
					left = left[1:]
				}
			}
		}
		require.NotZero(t, asked)
		c.Settle()
		for _, key := range keys {
			for _, n := range c.Nodes() {
				require.NotEqual(t, "load 1 in us", text(t, n, key), "%s of %s", n.Name, key)
			}
		}
	})
}

// A region that does not know of a removal, and whose clock is ahead, may answer with a value from
// before it. That value is not used.
func TestMechanismRegionUnawareOfARemoval(t *testing.T) {
	config := testcluster.Config{
		Regions: []string{"eu", "us"},
		Group:   []geocache.GroupOption{geocache.WithOriginRegion("us")},
		Offset: func(node string) time.Duration {
			if node[:2] == "us" {
				return 400 * time.Millisecond
			}
			return 0
		},
	}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 20*time.Millisecond)
		time.Sleep(untilLeased)
		eu := c.Node("eu-1")
		tried := 0
		for i := range 60 {
			key := fmt.Sprint(i)
			for name, remove := range map[string]func(key string) error{
				string(expiry.Tag("tag of " + key)): func(key string) error {
					return eu.Group.RemoveTag(context.Background(), "tag of "+key)
				},
				string(expiry.Prefix(key)): func(key string) error {
					return eu.Group.RemovePrefix(context.Background(), key)
				},
			} {
				if c.Owner("eu", name) != eu || c.Owner("eu", key) == eu {
					continue
				}
				tried++
				time.Sleep(2 * time.Second)
				require.NoError(t, c.Node("us-1").Group.Clear(context.Background(), geocache.WithAck(geocache.AckWorld)))
				time.Sleep(2 * time.Second)
				c.Net.Cut("eu-1", "us")         // the remover is cut off, the reader is not
				c.Owner("us", key).MustGet(key) // with a higher generation than eu has heard of
				before := c.Now()
				require.NoError(t, remove(key))
				for _, n := range c.Nodes("eu") {
					v, _ := testcluster.ParseValue(n.MustGet(key).Value)
					require.False(t, v.Begun.Before(before), "%q: loaded %v before", name, before.Sub(v.Begun))
				}
				c.Net.HealAll()
			}
		}
		require.Greater(t, tried, 10)
	})
}
