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

// A guestbook is three nodes of one region that find each other through the real Consul. The third has an
// agent of its own.
type guestbook struct {
	*testing.T
	nodes  []*geocache.Cache
	groups []*geocache.Group[string]
	counts []*geocache.Group[int]
}

func openGuestbook(t *testing.T, agents ...*consul.Agent) *guestbook {
	b := &guestbook{T: t}
	for i, agent := range agents {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		cache, err := geocache.Open(t.Context(), geocache.WithListener(l), geocache.WithNodeID(fmt.Sprint("n", i+1)),
			geocache.WithRegion("eu"), geocache.WithGrace(time.Second),
			geocache.WithDiscovery(New("guest-api", WithConfig(config(agent)), WithCheckTTL(2*time.Second))))
		require.NoError(t, err)
		t.Cleanup(func() { cache.Close() })
		group, err := geocache.NewGroup(cache, "values", geocache.GetterFunc[string](
			func(context.Context, string) (string, error) { return "loaded", nil }))
		require.NoError(t, err)
		counts, err := geocache.NewGroup[int](cache, "counts", nil)
		require.NoError(t, err)
		b.nodes, b.groups, b.counts = append(b.nodes, cache), append(b.groups, group), append(b.counts, counts)
	}
	b.await("all together", func() bool {
		for _, n := range b.nodes {
			if s := n.Stats(); s.Guest || s.Regions[0].Nodes != len(b.nodes) || !s.ServesCopies {
				return false
			}
		}
		return true
	})
	return b
}

func (b *guestbook) await(what string, is func() bool) {
	b.Helper()
	require.Eventually(b, is, 40*time.Second, 20*time.Millisecond, what)
}

// away waits until the third node is a guest, and back until it is none any more and the others are as before.
func (b *guestbook) away() {
	b.await("it is a guest, and the others serve copies", func() bool {
		return b.nodes[2].Stats().Guest && b.nodes[0].Stats().ServesCopies && b.nodes[1].Stats().ServesCopies &&
			b.nodes[0].Stats().Regions[0].Nodes == 2 && b.nodes[1].Stats().Regions[0].Nodes == 2
	})
}

func (b *guestbook) back() {
	b.await("it is back, and all serve copies", func() bool {
		for _, n := range b.nodes {
			if s := n.Stats(); s.Guest || s.Regions[0].Nodes != 3 || !s.ServesCopies {
				return false
			}
		}
		return true
	})
}

// busy has all nodes write, read what was written, and count, until the function is called that it returns.
func (b *guestbook) busy() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var counted, possible atomic.Int64
	for i := range 12 {
		key := fmt.Sprint("key-", i)
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				value := fmt.Sprint(n)
				if err := b.groups[n%3].Set(context.Background(), key, value); err != nil {
					b.Error(err)
				}
				if v, err := b.groups[(n+i)%3].Get(context.Background(), key); err != nil || v != value {
					b.Errorf("node %d: %q (%v) after %q was written at node %d", (n+i)%3, v, err, value, n%3)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for _, counts := range b.counts {
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
		for i, counts := range b.counts {
			v, err := counts.Get(context.Background(), "visits")
			if err != nil || int64(v) < counted.Load() || int64(v) > possible.Load() {
				b.Errorf("node %d: %d (%v) visits, of which %d were acknowledged, of %d", i, v, err, counted.Load(), possible.Load())
			}
		}
	}
}

// A node that the real Consul does not list any more while it lives is a guest of its region, whatever the
// reason, and comes back when it is listed again. The others notice no more than that it has left.
func TestRealConsulDropsALivingNode(t *testing.T) {
	c := cluster(t)
	own, err := c.AddClient(t.Context(), "eu", "eu-client")
	require.NoError(t, err)
	t.Cleanup(own.Kill)
	b := openGuestbook(t, c.Agent("eu"), c.Agent("eu"), own)
	defer b.busy()()
	client, err := api.NewClient(config(own))
	require.NoError(t, err)
	services, err := client.Agent().Services()
	require.NoError(t, err)
	require.Len(t, services, 1)
	var id string
	for id = range services {
	}

	require.NoError(t, client.Agent().EnableServiceMaintenance(id, "drained by hand"))
	b.away()
	require.NoError(t, client.Agent().DisableServiceMaintenance(id))
	b.back()

	require.NoError(t, client.Agent().CheckRegister(&api.AgentCheckRegistration{
		ID: "disk", Name: "disk is full", ServiceID: id,
		AgentServiceCheck: api.AgentServiceCheck{TTL: "1h", Status: api.HealthCritical},
	}))
	b.away()
	require.NoError(t, client.Agent().CheckDeregister("disk"))
	b.back()

	own.Kill()
	b.away()
	require.NoError(t, own.Restart(t.Context())) // empty: it knows of no service
	b.back()
}
