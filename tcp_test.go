package geocache_test

import (
	"context"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/authority"
	"github.com/geocache/geocache/regions"
)

// A tcpNode is a node on loopback, with real clocks and real TCP.
type tcpNode struct {
	*geocache.Cache
	group *geocache.Group[string]
	loads *atomic.Int64 // of all nodes
}

// openTCP opens nodes that list each other, all at the same time. opts returns the options of the
// i-th node.
func openTCP(t *testing.T, n int, opts func(i int) []geocache.Option) []*tcpNode {
	ls, all := listeners(t, n)
	nodes := make([]*tcpNode, n)
	loads := new(atomic.Int64)
	var opening sync.WaitGroup
	for i, l := range ls {
		opening.Go(func() {
			cache, err := geocache.Open(t.Context(), append([]geocache.Option{
				silent, geocache.WithRegion("eu"), geocache.WithNodeID(all[i].ID), geocache.WithListener(l),
				geocache.WithDiscovery(regions.Static(all...)),
			}, opts(i)...)...)
			if err != nil {
				t.Errorf("%v", err)
				return
			}
			g, err := geocache.NewGroup(cache, "test", countLoads(loads, ada))
			if err != nil {
				t.Errorf("%v", err)
			}
			nodes[i] = &tcpNode{cache, g, loads}
		})
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return nodes
}

// waitJoined waits until each of the nodes sees these nodes, and no others, as members.
func waitJoined(t *testing.T, nodes ...*tcpNode) {
	t.Helper()
	for _, n := range nodes {
		require.Eventually(t, func() bool {
			return n.Stats().Regions[0].Nodes == len(nodes)
		}, 10*time.Second, 5*time.Millisecond)
	}
}

// readThrough reads the keys at all nodes.
func readThrough(t *testing.T, keys []string, nodes ...*tcpNode) {
	t.Helper()
	for _, n := range nodes {
		for _, key := range keys {
			v, err := n.group.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "value of "+key, v)
		}
	}
}

func TestThreeNodesOverTCP(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	nodes := openTCP(t, 3, func(int) []geocache.Option { return nil })
	waitJoined(t, nodes...)
	readThrough(t, keys(200), nodes...)
	require.EqualValues(t, 200, nodes[0].loads.Load())
	m, err := nodes[1].group.GetMany(t.Context(), keys(400))
	require.NoError(t, err)
	require.Len(t, m, 400)
	require.EqualValues(t, 400, nodes[0].loads.Load())
	for _, p := range nodes[0].Stats().Peers {
		require.True(t, p.Up)
		require.Positive(t, p.Requests)
	}

	require.NoError(t, nodes[2].Close())
	readThrough(t, keys(600), nodes[:2]...)
	waitJoined(t, nodes[:2]...)

	var closing sync.WaitGroup
	for range 3 { // and twice again
		for _, n := range nodes[:2] {
			closing.Go(func() {
				if err := n.Close(); err != nil {
					t.Errorf("%v", err)
				}
			})
		}
	}
	closing.Wait()
}

func TestMutualTLS(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ours, theirs, loopback := authority.New(t), authority.New(t), authority.IP("127.0.0.1")
	configs := []*tls.Config{
		ours.Config(ours.Issue(loopback)),
		ours.Config(ours.Issue(loopback)),
		theirs.Config(theirs.Issue(loopback), ours), // trusts us, so that we have to refuse it
		theirs.Config(theirs.Issue(loopback)),       // another authority
		nil,                                         // plaintext
	}
	nodes := openTCP(t, len(configs), func(i int) []geocache.Option {
		return []geocache.Option{geocache.WithTLS(configs[i]), geocache.WithJoinWait(300 * time.Millisecond)}
	})
	waitJoined(t, nodes[:2]...)
	readThrough(t, keys(100), nodes[:2]...)
	require.EqualValues(t, 100, nodes[0].loads.Load())

	for i, n := range nodes[2:] {
		waitJoined(t, n)
		readThrough(t, keys(10), n) // each of them is alone
		require.EqualValues(t, 110+10*i, n.loads.Load())
	}
	for _, n := range nodes {
		require.Eventually(t, func() bool {
			return n.Stats().Refused["tls"] >= 3
		}, 10*time.Second, 5*time.Millisecond, "%s", n.Node().ID)
	}
	require.Equal(t, 2, nodes[0].Stats().Regions[0].Nodes, "still")
	for _, n := range nodes {
		require.NoError(t, n.Close())
	}
}

func (emptyDiscovery) Region(context.Context) (string, error) { return "", nil }

func (emptyDiscovery) Run(ctx context.Context, _ regions.Node, _ func() error, _ func(regions.View)) error {
	<-ctx.Done()
	return nil
}
