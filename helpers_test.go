package geocache_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/regions"
)

// untilLeased is how long a new cluster takes until its nodes hold leases and serve copies.
const untilLeased = 3 * time.Second

const (
	shortGrace   = 5 * time.Second
	defaultLease = time.Second // the default of WithLease
)

// detectionTime is how long a vanished node may delay a reader: the lease, and a heartbeat until
// the lease begins to run.
const detectionTime = time.Second + 250*time.Millisecond

// silent keeps the log out of the output of examples, and of tests with real clocks.
var silent = geocache.WithLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))

// ada is a getter that finds every key.
var ada = geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
	return "value of " + key, nil
})

// keys returns n keys.
func keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%d", i)
	}
	return keys
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// countLoads counts the calls of a getter.
func countLoads[V any](n *atomic.Int64, get geocache.GetterFunc[V]) geocache.Getter[V] {
	return geocache.GetterFunc[V](func(ctx context.Context, key string) (V, error) {
		n.Add(1)
		return get(ctx, key)
	})
}

// alone runs f in a bubble, with a group on a single-node Cache.
func alone[V any](
	t *testing.T, getter geocache.Getter[V], opts []geocache.GroupOption,
	f func(t *testing.T, g *geocache.Group[V]),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now))
		require.NoError(t, err)
		defer cache.Close()
		g, err := geocache.NewGroup(cache, "test", getter, opts...)
		require.NoError(t, err)
		f(t, g)
	})
}

// onAll opens a group of the same name on every node of the cluster, and waits until the nodes hold
// leases.
func onAll[V any](
	c *testcluster.Cluster, name string, getter geocache.Getter[V], opts ...geocache.GroupOption,
) map[string]*geocache.Group[V] {
	c.T.Helper()
	groups := map[string]*geocache.Group[V]{}
	for _, n := range c.Nodes() {
		g, err := geocache.NewGroup(n.Cache, name, getter, opts...)
		require.NoError(c.T, err)
		groups[n.Name] = g
	}
	time.Sleep(untilLeased)
	return groups
}

// readAll reads all keys at a node, and returns how long the slowest read took.
func readAll(n *testcluster.Node, keys []string) (slowest time.Duration) {
	for _, key := range keys {
		begun := time.Now()
		n.MustGet(key)
		slowest = max(slowest, time.Since(begun))
	}
	return slowest
}

// text reads a key at a node, and returns what its value says: what was written, or which load it
// is from.
func text(t *testing.T, n *testcluster.Node, key string) string {
	t.Helper()
	item, err := n.Get(key)
	require.NoError(t, err, "%s: Get(%q)", n.Name, key)
	v, _ := testcluster.ParseValue(item.Value)
	return v.By
}

// textUnchecked is text without the check of the value's age: what the origin does not have yet
// does not expire.
func textUnchecked(t *testing.T, n *testcluster.Node, key string) string {
	t.Helper()
	value, err := n.Group.Get(context.Background(), key)
	require.NoError(t, err, "%s: Get(%q)", n.Name, key)
	v, _ := testcluster.ParseValue(value)
	return v.By
}

// bystander returns a node of the region that is neither the key's owner nor its successor, or nil.
func bystander(c *testcluster.Cluster, region, key string) *testcluster.Node {
	at := c.Nodes(region)[0].Group.Locate(key)[0]
	for _, n := range c.Nodes(region) {
		if n.Name != at.Owner.ID && n.Name != at.Successor.ID {
			return n
		}
	}
	return nil
}

// countersOf returns the counter groups of all nodes.
func countersOf(c *testcluster.Cluster) (groups []*geocache.Group[int]) {
	for _, n := range c.Nodes() {
		groups = append(groups, n.Counters)
	}
	return groups
}

// countInBackground increments counters at each of the groups, with pauses, until stop is called.
// stop returns, for each counter, how many increments were acknowledged and how many may have
// happened.
func countInBackground(
	groups []*geocache.Group[int], counters int, pause time.Duration,
) (stop func() (acknowledged, possible []int64)) {
	acknowledged, possible := make([]atomic.Int64, counters), make([]atomic.Int64, counters)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, g := range groups {
		for i := range counters {
			all.Go(func() {
				for ctx.Err() == nil {
					limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
					possible[i].Add(1)
					_, err := geocache.Increment(limit, g, fmt.Sprint(i), 1)
					cancel()
					if err == nil {
						acknowledged[i].Add(1)
					}
					time.Sleep(pause)
				}
			})
		}
	}
	return func() (least, most []int64) {
		cancel()
		all.Wait()
		for i := range counters {
			least, most = append(least, acknowledged[i].Load()), append(most, possible[i].Load())
		}
		return least, most
	}
}

// requireCounts checks that no acknowledged increment is lost and none is counted twice.
func requireCounts(t *testing.T, g *geocache.Group[int], least, most []int64) {
	t.Helper()
	total := int64(0)
	for i := range least {
		n, err := geocache.Increment(t.Context(), g, fmt.Sprint(i), 0)
		require.NoError(t, err)
		require.GreaterOrEqual(t, int64(n), least[i], "counter %d has lost increments", i)
		require.LessOrEqual(t, int64(n), most[i], "counter %d", i)
		total += least[i]
	}
	require.NotZero(t, total)
}

// requireMistakes checks that err lists exactly these mistakes, each given by a part of its text.
func requireMistakes(t *testing.T, err error, mistakes ...string) {
	t.Helper()
	require.Error(t, err)
	for _, mistake := range mistakes {
		require.ErrorContains(t, err, mistake)
	}
	require.Equal(t, len(mistakes)-1, strings.Count(err.Error(), "\n"), "one line for each mistake:\n%v", err)
}

// listeners returns n TCP listeners on loopback, and nodes at their addresses.
func listeners(t testing.TB, n int) (ls []net.Listener, nodes []regions.Node) {
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ls = append(ls, l)
		nodes = append(nodes, regions.Node{ID: fmt.Sprintf("eu-%d", i+1), Region: "eu", Address: l.Addr().String()})
	}
	return ls, nodes
}

// writeBehindConfig is a cluster that writes to db behind.
func writeBehindConfig(db *database, more ...geocache.GroupOption) testcluster.Config {
	return testcluster.Config{Group: db.options(append(more, geocache.WithWriteBehind(1<<20))...)}
}

// queuedWrites sums up the writes that nodes have queued for the origin, and those that successors
// hold for them.
func queuedWrites(nodes []*testcluster.Node) (queued, held int) {
	for _, n := range nodes {
		b := n.Group.Stats().WriteBehind
		queued += b.Queued
		held += b.Held
	}
	return queued, held
}

// laggingConfig is a cluster in which all origins but that of eu lag by a minute, much longer than
// values live.
func laggingConfig() testcluster.Config {
	return testcluster.Config{
		Regions: []string{"eu", "us"},
		TTL:     5 * time.Second,
		Group: []geocache.GroupOption{geocache.WithHomeRegion("eu"), geocache.WithOriginLag(time.Minute),
			geocache.WithLoadTimeout(4 * time.Second)},
	}
}

// usClocksAhead is a cluster in which the clocks of us are ahead, by less than is allowed.
func usClocksAhead(nodes int) testcluster.Config {
	offset := func(node string) time.Duration {
		if strings.HasPrefix(node, "us") {
			return 450 * time.Millisecond
		}
		return 0
	}
	return testcluster.Config{Regions: []string{"eu", "us"}, Nodes: nodes, Offset: offset}
}

// keyOwnedAndSucceededBy returns a key with this owner and successor in n's region, as n sees it.
func keyOwnedAndSucceededBy(n *testcluster.Node, owner, successor string) string {
	for i := 0; ; i++ {
		key := fmt.Sprint(i)
		if at := n.Group.Locate(key)[0]; at.Owner.ID == owner && at.Successor.ID == successor {
			return key
		}
	}
}
