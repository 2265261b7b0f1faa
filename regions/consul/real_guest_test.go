package consul

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/consul"
)

// A trio is three nodes of one region that find each other through a real Consul. The third has its own
// agent.
type trio struct {
	*testing.T
	nodes  []*geocache.Cache
	groups []*geocache.Group[string]
	counts []*geocache.Group[int]
}

func openTrio(t *testing.T, agents ...*consul.Agent) *trio {
	tr := &trio{T: t}
	for i, agent := range agents {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		cache, err := geocache.Open(t.Context(),
			geocache.WithListener(l), geocache.WithNodeID(fmt.Sprint("n", i+1)),
			geocache.WithRegion("eu"), geocache.WithGrace(time.Second),
			geocache.WithDiscovery(New("guest-api", WithConfig(config(agent)), WithCheckTTL(2*time.Second))))
		require.NoError(t, err)
		t.Cleanup(func() { cache.Close() })
		group, err := geocache.NewGroup(cache, "values", geocache.GetterFunc[string](
			func(context.Context, string) (string, error) { return "loaded", nil }))
		require.NoError(t, err)
		counts, err := geocache.NewGroup[int](cache, "counts", nil)
		require.NoError(t, err)
		tr.nodes = append(tr.nodes, cache)
		tr.groups = append(tr.groups, group)
		tr.counts = append(tr.counts, counts)
	}
	tr.await("all together", func() bool {
		for _, n := range tr.nodes {
			if s := n.Stats(); s.Guest || s.Regions[0].Nodes != len(tr.nodes) || !s.ServesCopies {
				return false
			}
		}
		return true
	})
	return tr
}

func (tr *trio) await(what string, is func() bool) {
	tr.Helper()
	require.Eventually(tr, is, 40*time.Second, 20*time.Millisecond, what)
}

// awaitGuest waits until the third node is a guest and the others serve copies without it.
func (tr *trio) awaitGuest() {
	tr.await("the third is a guest and the others serve copies", func() bool {
		return tr.nodes[2].Stats().Guest && tr.nodes[0].Stats().ServesCopies && tr.nodes[1].Stats().ServesCopies &&
			tr.nodes[0].Stats().Regions[0].Nodes == 2 && tr.nodes[1].Stats().Regions[0].Nodes == 2
	})
}

// awaitBack waits until the third node is a regular node again and all three serve copies.
func (tr *trio) awaitBack() {
	tr.await("the third is back and all serve copies", func() bool {
		for _, n := range tr.nodes {
			if s := n.Stats(); s.Guest || s.Regions[0].Nodes != 3 || !s.ServesCopies {
				return false
			}
		}
		return true
	})
}

// startLoad makes all nodes write, read back and count until stop is called, and checks what they read.
func (tr *trio) startLoad() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var counted, possible atomic.Int64
	for i := range 12 {
		key := fmt.Sprint("key-", i)
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				value := fmt.Sprint(n)
				if err := tr.groups[n%3].Set(context.Background(), key, value); err != nil {
					tr.Error(err)
				}
				if v, err := tr.groups[(n+i)%3].Get(context.Background(), key); err != nil || v != value {
					tr.Errorf("node %d: %q (%v) after %q was written at node %d", (n+i)%3, v, err, value, n%3)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for _, counts := range tr.counts {
		all.Go(func() {
			for ctx.Err() == nil {
				possible.Add(1)
				limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				if _, err := geocache.Increment(limit, counts, "visits", 1); err == nil {
					counted.Add(1)
				}
				cancel()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
		for i, counts := range tr.counts {
			v, err := counts.Get(context.Background(), "visits")
			if err != nil || int64(v) < counted.Load() || int64(v) > possible.Load() {
				tr.Errorf("node %d: %d visits (%v), want from %d acknowledged to %d attempted",
					i, v, err, counted.Load(), possible.Load())
			}
		}
	}
}

// A live node that the real Consul no longer lists becomes a guest of its region, whatever the reason, and a
// regular node again once it is listed. To the others it is a node that leaves and joins.
func TestRealConsulDropsALiveNode(t *testing.T) {
	c := cluster(t)
	own, err := c.AddClient(t.Context(), "eu", "eu-client")
	require.NoError(t, err)
	t.Cleanup(own.Kill)
	tr := openTrio(t, c.Agent("eu"), c.Agent("eu"), own)
	defer tr.startLoad()()
	client, err := api.NewClient(config(own))
	require.NoError(t, err)
	services, err := client.Agent().Services()
	require.NoError(t, err)
	require.Len(t, services, 1)
	var id string
	for id = range services {
	}

	require.NoError(t, client.Agent().EnableServiceMaintenance(id, "drained by hand"))
	tr.awaitGuest()
	require.NoError(t, client.Agent().DisableServiceMaintenance(id))
	tr.awaitBack()

	require.NoError(t, client.Agent().CheckRegister(&api.AgentCheckRegistration{
		ID: "disk", Name: "disk is full", ServiceID: id,
		AgentServiceCheck: api.AgentServiceCheck{TTL: "1h", Status: api.HealthCritical},
	}))
	tr.awaitGuest()
	require.NoError(t, client.Agent().CheckDeregister("disk"))
	tr.awaitBack()

	own.Kill()
	tr.awaitGuest()
	require.NoError(t, own.Restart(t.Context())) // without data: it knows of no service
	tr.awaitBack()
}
