package peers

import (
	"context"
	"crypto/tls"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	ca "github.com/geocache/geocache/internal/testcluster/authority"
)

// A changing is a configuration that changes, and a clock for certificates that can be moved on.
type changing struct {
	config  atomic.Pointer[tls.Config]
	forward *atomic.Int64
}

func (c *changing) set(config *tls.Config) {
	config.ServerName = service
	config.Time = func() time.Time { return time.Now().Add(time.Duration(c.forward.Load())) }
	c.config.Store(config)
}

// changingPair returns a client and a server that are connected, whose configurations can be changed.
func changingPair(t *testing.T, a *ca.Authority, change func(*Config)) (client, server *node, peer *Peer, configs [2]*changing) {
	forward := new(atomic.Int64)
	var nodes [2]*node
	for i, id := range []string{"client", "server"} {
		configs[i] = &changing{forward: forward}
		configs[i].set(a.Config(a.Issue(ca.DNS(service))))
		nodes[i] = newNode(t, id, func(c *Config) {
			c.TLS = configs[i].config.Load
			if change != nil {
				change(c)
			}
		})
	}
	nodes[1].listen(t)
	peer = nodes[0].connect(t, nodes[1])
	require.True(t, peer.Up(), "%v", peer.downErr())
	return nodes[0], nodes[1], peer, configs
}

// busy keeps requests of all kinds under way until the returned function is called, which requires that
// none has failed.
func busy(t *testing.T, peer *Peer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	check := func(err error) {
		if err != nil {
			t.Errorf("%v", err)
			cancel()
		}
	}
	for range 3 {
		running.Go(func() {
			for ctx.Err() == nil {
				_, err := peer.Fetch(background, Request{Group: "g", Key: "k"})
				check(err)
			}
		})
		running.Go(func() {
			for ctx.Err() == nil {
				_, err := peer.Call(background, 1, []byte("payload"))
				check(err)
			}
		})
		running.Go(func() {
			for ctx.Err() == nil {
				peer.FetchMany(background, Batch{Group: "g", Keys: make([]Key, 1100)}, func(_ int, _ Answer, err error) { check(err) })
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// TestConnectionsAreMadeAnew: for another configuration, without a request that fails, without a moment
// in which the peer is down, and without losing what it has granted.
func TestConnectionsAreMadeAnew(t *testing.T) {
	t.Parallel()
	a := ca.New(t)
	var downs atomic.Int32
	_, server, peer, configs := changingPair(t, a, func(c *Config) {
		c.Lease = 5 * time.Second // so that a busy machine costs none
		c.OnChange = func(p *Peer) {
			if !p.Up() {
				downs.Add(1)
			}
		}
	})
	server.SetView(7)
	peer.transport.SetView(7)
	settled := func() bool {
		_, ok := peer.Settled(7)
		return ok && peer.LeaseEnd() > peer.transport.config.Clock.Instant() && peer.Agreed(7) > 0
	}
	eventually(t, settled)
	release := make(chan struct{})
	server.handler.load = func(_ context.Context, req *Request) Answer {
		if req.Key == "slow" {
			<-release
		}
		return Answer{}
	}
	slow := make(chan error, 1)
	go func() {
		_, err := peer.Fetch(background, Request{Group: "g", Key: "slow"})
		slow <- err
	}()
	eventually(t, func() bool { return server.Stats().Loading == 1 })
	stop := busy(t, peer)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for peer.connects.Load() < 4 && downs.Load() == 0 {
			if !settled() {
				t.Errorf("not settled any more")
				return
			}
			runtime.Gosched()
		}
	}()
	for n := range uint64(3) {
		configs[n%2].set(a.Config(a.Issue(ca.DNS(service))))
		if n%2 == 1 { // the server's certificate is no reason to the client, which does not know
			configs[0].set(a.Config(a.Issue(ca.DNS(service))))
		}
		eventually(t, func() bool { return peer.connects.Load() == n+2 })
		eventually(t, func() bool { return server.Stats().Connections == 2 })
	}
	stop()
	<-watched
	require.Zero(t, downs.Load())
	require.Equal(t, 2, server.Stats().Connections, "one still has a request in flight")
	close(release)
	require.NoError(t, <-slow)
	eventually(t, func() bool { return server.Stats().Connections == 1 }, "the old ones end")
	require.Empty(t, server.Stats().Refused)
}

// TestCertificatesEnd: connections are made anew before a certificate ends, whosever it is, and none
// lives longer.
func TestCertificatesEnd(t *testing.T) {
	t.Parallel()
	a := ca.New(t)
	client, server, peer, configs := changingPair(t, a, nil)
	stop := busy(t, peer)
	configs[0].forward.Store(int64(50 * time.Minute)) // of 60
	eventually(t, func() bool { return peer.connects.Load() >= 2 })
	stop()

	held := make(chan error, 1)
	go func() {
		_, err := peer.Fetch(background, Request{Group: "g", Key: "hold"})
		held <- err
	}()
	eventually(t, func() bool { return server.Stats().Loading == 1 })
	configs[0].forward.Store(int64(2 * time.Hour))
	require.Error(t, <-held)
	eventually(t, func() bool { return !peer.Up() })
	eventually(t, func() bool { return server.Stats().Connections == 0 })
	eventually(t, func() bool { return client.Stats().Refused[ReasonExpired]+server.Stats().Refused[ReasonExpired] > 0 })

	configs[1].set(a.Config(a.Issue(ca.DNS(service), ca.Until(time.Now().Add(4*time.Hour)))))
	configs[0].set(a.Config(a.Issue(ca.DNS(service), ca.Until(time.Now().Add(4*time.Hour)))))
	eventually(t, peer.Up)
}

// TestWhoseCertificateEndsFirst: it makes no difference to when a connection is made anew.
func TestWhoseCertificateEndsFirst(t *testing.T) {
	t.Parallel()
	for role, name := range []string{"the client's", "the server's"} {
		t.Run(name, func(t *testing.T) {
			a := ca.New(t)
			_, _, peer, configs := changingPair(t, a, nil)
			configs[role].set(a.Config(a.Issue(ca.DNS(service), ca.Until(time.Now().Add(20*time.Minute)))))
			if role == 1 { // which the client does not know
				configs[0].set(a.Config(a.Issue(ca.DNS(service))))
			}
			eventually(t, func() bool { return peer.connects.Load() >= 2 })
			before := peer.connects.Load()
			configs[0].forward.Store(int64(18 * time.Minute))
			eventually(t, func() bool { return peer.connects.Load() > before })
		})
	}
}

// TestAClientCannotOutliveItsCertificate: one that does not make its connection anew loses it.
func TestAClientCannotOutliveItsCertificate(t *testing.T) {
	t.Parallel()
	a := ca.New(t)
	_, server, _, configs := changingPair(t, a, nil)
	c, err := tls.Dial("tcp", server.address, configs[0].config.Load())
	require.NoError(t, err)
	defer c.Close() // not before: without any use left it would be collected, and close itself
	r := &rogue{c, t}
	r.join()
	eventually(t, func() bool { return server.Stats().Connections == 2 })
	configs[1].forward.Store(int64(2 * time.Hour))
	eventually(t, func() bool { return server.Stats().Connections == 0 })
	eventually(t, func() bool { return server.Stats().Refused[ReasonExpired] > 0 })
}

// TestAnAuthorityIsRemoved: connections that it has vouched for end, in both directions, and there are
// no others.
func TestAnAuthorityIsRemoved(t *testing.T) {
	t.Parallel()
	for role, name := range []string{"as a client", "as a server"} {
		t.Run(name, func(t *testing.T) {
			old, young := ca.New(t), ca.New(t)
			client, server, peer, configs := changingPair(t, old, nil)
			for _, c := range configs {
				c.set(old.Config(old.Issue(ca.DNS(service)), old, young))
			}
			eventually(t, func() bool { return peer.connects.Load() >= 2 })
			configs[role].set(young.Config(young.Issue(ca.DNS(service)), young))
			eventually(t, func() bool { return !peer.Up() })
			eventually(t, func() bool { return server.Stats().Connections == 0 })
			eventually(t, func() bool { return []*node{client, server}[role].Stats().Refused[ReasonTLS] > 0 })
			configs[1-role].set(young.Config(young.Issue(ca.DNS(service)), old, young))
			eventually(t, peer.Up)
		})
	}
}

// TestARotationThatCannotBe: what cannot be made anew goes on for now, and is told.
func TestARotationThatCannotBe(t *testing.T) {
	t.Parallel()
	a, other := ca.New(t), ca.New(t)
	client, _, peer, configs := changingPair(t, a, nil)
	stop := busy(t, peer)
	configs[0].set(a.Config(other.Issue(ca.DNS(service)))) // of an authority that the server does not trust
	eventually(t, func() bool { return client.Stats().Refused[ReasonTLS] > 0 || logged(client, "cannot be made anew") })
	stop()
	require.True(t, peer.Up())
	require.EqualValues(t, 1, peer.connects.Load())
}

// TestPongsOfAnOlderConnectionDoNotCount: what they say may be older than what is known.
func TestPongsOfAnOlderConnectionDoNotCount(t *testing.T) {
	_, _, peer := pair(t, nil)
	eventually(t, func() bool { _, ok := peer.Settled(0); return ok })
	before := peer.LeaseEnd()
	taken, _ := peer.takePong(new(clientConn), ping{Ping: peer.transport.leases.Ping()}, pong{lease: time.Hour})
	require.False(t, taken)
	require.Less(t, peer.LeaseEnd(), before.Add(time.Minute))
}
