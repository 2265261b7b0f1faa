package peers

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// memoryRegion returns nodes of one region on a network in memory, for use in a
// synctest bubble: all of them listen, and each connects to all others.
func memoryRegion(t *testing.T, change func(*Config), ids ...string) (*memory, map[string]*node) {
	t.Helper()
	network, nodes := newMemory(), make(map[string]*node)
	var endpoints []Endpoint
	for _, id := range ids {
		n := newNode(t, id, func(c *Config) {
			c.Dial = network.dial
			if change != nil {
				change(c)
			}
		})
		n.address = id + ":1"
		n.Serve(network.listen(n.address))
		nodes[id] = n
		endpoints = append(endpoints, n.endpoint())
	}
	for _, n := range nodes {
		n.SetPeers(endpoints)
		require.NoError(t, n.Tried(t.Context()))
	}
	synctest.Wait()
	return network, nodes
}

// leased is for how long the lease still runs that a node has from another.
func (n *node) leased(from string) time.Duration {
	synctest.Wait()
	return max(n.Peer(from).LeaseEnd().Sub(n.config.Clock.Instant()), 0)
}

// TestLease: it is counted from when the ping was sent, is a little shorter than
// what was granted, and is not extended by a peer that is silent.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, server := memoryPair(t, nil)
		peer := client.Peer("server")
		server.SetView(7)
		client.SetView(7)
		network.setLatency(100 * time.Millisecond)
		time.Sleep(time.Minute + time.Millisecond)
		// The last ping that was answered was sent at the last quarter second
		// that is a round trip ago.
		require.Equal(t, 739*time.Millisecond, client.leased("server"))
		network.setCut(true)
		end := peer.LeaseEnd()
		time.Sleep(time.Minute)
		require.Equal(t, end, peer.LeaseEnd())
	})
}

// TestLeaseInAgreement: only nodes that all have the same view lease each other
// anything. A grant of nothing does not shorten a lease.
func TestLeaseInAgreement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := memoryRegion(t, nil, "a", "b", "c")
		all := func(view uint64) {
			for _, n := range nodes {
				n.SetView(view)
			}
			synctest.Wait()
		}
		every := func(check func(left time.Duration) bool) {
			t.Helper()
			for _, n := range nodes {
				for _, p := range n.Peers() {
					left := n.leased(p.ID())
					require.True(t, check(left), "%s has %v from %s", n.config.ID, left, p.ID())
				}
			}
		}
		none := func(left time.Duration) bool { return left == 0 }
		some := func(left time.Duration) bool { return left >= 740*time.Millisecond }
		time.Sleep(time.Minute)
		every(none)
		require.Zero(t, nodes["a"].Peer("b").LeaseEnd())
		all(7)
		time.Sleep(250 * time.Millisecond)
		every(some)

		time.Sleep(100 * time.Millisecond)
		before := nodes["a"].leased("b")
		nodes["c"].SetView(8)
		require.Equal(t, before, nodes["a"].leased("b"))
		time.Sleep(time.Second)
		every(none)
		time.Sleep(time.Minute)
		every(none)

		all(8)
		time.Sleep(250 * time.Millisecond)
		every(some)
		all(0)
		time.Sleep(time.Minute)
		every(none)
	})
}

// TestOtherViewOutlivesConnection: whoever was heard with another view stands
// in the way for a lease and a quarter, though nobody has it for a peer and it is gone.
func TestOtherViewOutlivesConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := memoryRegion(t, nil, "a", "b", "c")
		a, b, c := nodes["a"], nodes["b"], nodes["c"]
		a.SetPeers([]Endpoint{b.endpoint()})
		b.SetPeers([]Endpoint{a.endpoint()})
		a.SetView(7)
		b.SetView(7)
		time.Sleep(time.Minute)
		require.Zero(t, a.leased("b"))

		time.Sleep(10 * time.Millisecond) // between two pings
		c.SetView(8)
		synctest.Wait()
		network.setCut(true) // it crashes: nobody hears its farewell
		c.stop()
		synctest.Wait()
		network.setCut(false)
		network.breakAll()
		for range 125 {
			require.Zero(t, a.leased("b"))
			time.Sleep(10 * time.Millisecond)
		}
		require.Equal(t, 1, b.Stats().Connections)
		time.Sleep(250 * time.Millisecond)
		require.NotZero(t, a.leased("b"))
		require.True(t, b.leases.Hears("a"), "it is not forgotten")
		require.False(t, b.leases.Hears("c"))
	})
}

// TestSettled: a node that has answered a view says until when leases run that
// it granted under another, and so does this one.
func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := memoryRegion(t, nil, "a", "b", "c")
		network.setLatency(20 * time.Millisecond)
		a, b, c := nodes["a"], nodes["b"], nodes["c"]
		ab := a.Peer("b")
		for _, n := range nodes {
			n.SetView(7)
		}
		time.Sleep(time.Minute + 100*time.Millisecond)
		_, ok := ab.Settled(7)
		require.True(t, ok)
		require.Zero(t, a.OwnLeasesEnd(7))

		// Now c is out, and knows nothing of it. The last ping of c that has
		// come was sent 100 ms ago.
		granted := time.Now().Add(-80 * time.Millisecond)
		a.SetView(8)
		b.SetView(8)
		_, ok = ab.Settled(7)
		require.False(t, ok, "of a view that this node no longer has")
		_, ok = ab.Settled(8)
		require.False(t, ok, "before the answer")
		require.Equal(t, granted.Add(time.Second), a.OwnLeasesEnd(8))
		time.Sleep(40 * time.Millisecond)
		synctest.Wait()
		at, ok := ab.Settled(8)
		require.True(t, ok)
		require.Equal(t, granted.Add(time.Second+20*time.Millisecond), at, "later by the way of the pong")
		require.LessOrEqual(t, c.leased("b"), time.Until(at))
		require.NotZero(t, c.leased("b"))

		for range 100 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			later, ok := ab.Settled(8)
			require.True(t, ok)
			require.False(t, later.After(at), "it has grown")
			require.False(t, a.OwnLeasesEnd(8).After(at))
		}
		require.Zero(t, c.leased("b"))
	})
}

// TestSettledShrinks when a node is granted a lease under the new view: then it
// is in that view itself.
func TestSettledShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := memoryRegion(t, nil, "a", "b")
		a, b := nodes["a"], nodes["b"]
		for _, n := range nodes {
			n.SetView(7)
		}
		time.Sleep(time.Minute + 100*time.Millisecond)
		a.SetView(8)
		synctest.Wait()
		first, ok := a.Peer("b").Settled(8)
		require.True(t, ok)
		require.Equal(t, 900*time.Millisecond, time.Until(first))
		b.SetView(8)
		time.Sleep(150 * time.Millisecond)
		synctest.Wait()
		second, ok := a.Peer("b").Settled(8)
		require.True(t, ok)
		require.Zero(t, time.Until(second))
		require.Zero(t, a.OwnLeasesEnd(8).Compare(time.Time{}))
	})
}

// TestSettledEnds: with another view, even one that was there for a moment only;
// with the connection; and when the peer may have forgotten.
func TestSettledEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var ahead time.Duration
		network, nodes := memoryRegion(t, func(c *Config) {
			c.Clock = expiry.NewClock(func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return time.Now().Add(ahead)
			}, time.Hour)
		}, "a", "b")
		network.setLatency(20 * time.Millisecond)
		a := nodes["a"]
		settled := func() bool {
			synctest.Wait()
			_, ok := a.Peer("b").Settled(7)
			return ok
		}
		a.SetView(7)
		require.False(t, settled())
		time.Sleep(time.Second)
		require.True(t, settled())
		a.SetView(8)
		a.SetView(7)
		require.False(t, settled())
		time.Sleep(40 * time.Millisecond)
		require.True(t, settled())

		network.breakAll()
		require.False(t, settled())
		time.Sleep(time.Second)
		require.True(t, settled())

		mu.Lock()
		ahead = time.Second
		mu.Unlock()
		require.True(t, settled())
		mu.Lock()
		ahead += 500 * time.Millisecond // as if this machine had slept meanwhile
		mu.Unlock()
		require.False(t, settled())
	})
}

// TestSetViewPingsAtOnce: the peers of the region know in no time but the trip,
// and OnPong tells. Nobody else learns of it.
func TestSetViewPingsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		pongs := make(map[string]int)
		network := newMemory()
		client := newNode(t, "client", func(c *Config) {
			c.Dial = network.dial
			c.OnPong = func(p *Peer) {
				mu.Lock()
				defer mu.Unlock()
				pongs[p.ID()]++
				if p.Region() == "here" && pongs[p.ID()] > 1 {
					_, ok := p.Settled(7)
					require.True(t, ok)
					require.NotZero(t, p.LeaseEnd())
				}
			}
		})
		near := newNode(t, "near", nil)
		far := newNode(t, "far", func(c *Config) { c.Region = "there" })
		var endpoints []Endpoint
		for _, n := range []*node{near, far} {
			n.SetView(7)
			n.address = n.config.ID + ":1"
			n.Serve(network.listen(n.address))
			endpoints = append(endpoints, n.endpoint())
		}
		client.SetPeers(endpoints)
		require.NoError(t, client.Tried(t.Context()))
		told := func() map[string]int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return map[string]int{"near": pongs["near"], "far": pongs["far"]}
		}
		require.Equal(t, map[string]int{"near": 1, "far": 1}, told())
		client.SetView(7)
		require.Equal(t, map[string]int{"near": 2, "far": 1}, told())
		client.SetView(7)
		require.Equal(t, map[string]int{"near": 2, "far": 1}, told())
		time.Sleep(250 * time.Millisecond)
		require.Equal(t, map[string]int{"near": 3, "far": 2}, told())
		require.NotZero(t, client.leased("near"))
		require.Zero(t, client.leased("far"))
		_, ok := client.Peer("far").Settled(7)
		require.False(t, ok)
		require.False(t, far.leases.Hears("client"))
	})
}

// TestViewStaysAtHome: what a node of another region is told is no view.
func TestViewStaysAtHome(t *testing.T) {
	for region, want := range map[string]uint64{"here": 7, "there": 0} {
		synctest.Test(t, func(t *testing.T) {
			network := newMemory()
			l := network.listen("server:1")
			defer l.Close()
			client := newNode(t, "client", func(c *Config) { c.Dial = network.dial })
			client.SetView(7)
			client.SetPeers([]Endpoint{{ID: "server", Region: region, Address: "server:1"}})
			c, err := l.Accept()
			require.NoError(t, err)
			defer c.Close()
			server := &rogue{Conn: c, t: t}
			server.read()
			server.send(appendWelcome(nil, now(), welcome{version: 1, id: "server", region: region}))
			h, body := server.read()
			require.Equal(t, kindPing, h.kind)
			view, err := decodePing(body)
			require.NoError(t, err)
			require.Equal(t, want, view)
		})
	}
}

// TestSettledLaw: whatever happens, from the moment that Settled tells, nobody
// who is not in that view has a lease of that peer. A view is a bit for each node.
func TestSettledLaw(t *testing.T) {
	type step struct {
		node    int
		view    int // of that node, which is always in it
		latency int // in ms
		broken  bool
		pause   int // in ms
	}
	ids := []string{"a", "b", "c"}
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				node: rapid.IntRange(0, 2).Draw(rt, "node"), view: rapid.SampledFrom([]int{7, 7, 3, 3, 6, 5}).Draw(rt, "view"),
				latency: rapid.SampledFrom([]int{0, 5, 60}).Draw(rt, "latency"), broken: rapid.IntRange(0, 9).Draw(rt, "broken") == 0,
				pause: rapid.IntRange(0, 900).Draw(rt, "pause"),
			}
		}), 1, 12).Draw(rt, "steps")
		wrong := ""
		synctest.Test(t, func(t *testing.T) {
			network, nodes := memoryRegion(t, nil, ids...)
			check := func() {
				for _, writer := range ids {
					view := nodes[writer].leases.Hash()
					for _, granter := range ids {
						at, ok := nodes[writer].OwnLeasesEnd(view), true
						if granter != writer {
							at, ok = nodes[writer].Peer(granter).Settled(view)
						}
						for i, holder := range ids {
							if ok && !time.Now().Before(at) && view&(1<<i) == 0 && holder != granter && nodes[holder].leased(granter) > 0 {
								wrong = fmt.Sprintf("%s has a lease of %s, and to %s view %03b is settled", holder, granter, writer, view)
							}
						}
					}
				}
			}
			for _, n := range nodes {
				n.SetView(7)
			}
			time.Sleep(time.Second)
			for _, s := range steps {
				network.setLatency(time.Duration(s.latency) * time.Millisecond)
				if s.broken {
					network.breakAll()
				}
				nodes[ids[s.node]].SetView(uint64(s.view | 1<<s.node))
				for left := s.pause; left > 0; left -= 20 {
					time.Sleep(20 * time.Millisecond)
					check()
				}
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

// TestStrangers: whoever pings and is not known counts for a lease after its last ping.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, nodes := memoryRegion(t, nil, "a", "b", "c")
		a := nodes["a"]
		nobody := func(string) bool { return false }
		time.Sleep(10*time.Second + time.Millisecond)
		require.Equal(t, 999*time.Millisecond, time.Until(a.StrangersEnd(nobody)))
		require.Equal(t, 999*time.Millisecond, time.Until(a.StrangersEnd(func(id string) bool { return id == "b" })))
		require.Zero(t, a.StrangersEnd(func(id string) bool { return id != "a" }))
		require.NoError(t, nodes["b"].Close(t.Context()))
		require.Zero(t, a.StrangersEnd(func(id string) bool { return id == "c" }), "whoever leaves is forgotten at once")
		network.setCut(true)
		time.Sleep(900 * time.Millisecond)
		require.NotZero(t, a.StrangersEnd(nobody))
		time.Sleep(100 * time.Millisecond)
		require.Zero(t, a.StrangersEnd(nobody))
	})
}
