package peers

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// changes records what OnChange says.
type changes struct {
	mu  sync.Mutex
	all []bool
}

func (c *changes) hook(config *Config) {
	if config.ID == "client" {
		config.OnChange = func(p *Peer) {
			up := p.Up()
			c.mu.Lock()
			defer c.mu.Unlock()
			c.all = append(c.all, up)
		}
	}
}

func (c *changes) seen() []bool {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]bool{}, c.all...)
}

func fetchOnce(t *testing.T, p *Peer) error {
	t.Helper()
	begin := time.Now()
	_, err := p.Fetch(t.Context(), Request{Group: "g", Key: "k"})
	require.Zero(t, time.Since(begin), "a fetch waited")
	return err
}

// TestSilence: a peer that is cut off is down after a lease, not before; its
// callers are told then and nobody waits after that; it comes back by itself.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changed changes
		network, client, server := memoryPair(t, changed.hook)
		peer := client.Peer("server")
		synctest.Wait()
		time.Sleep(time.Hour)
		require.Equal(t, []bool{true}, changed.seen())
		require.EqualValues(t, 1, client.Stats().Peers[0].Connects)

		network.setCut(true)
		begin := time.Now()
		_, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
		require.ErrorIs(t, err, CodeUnavailable)
		require.True(t, err.(*Error).Inferred)
		require.ErrorIs(t, err, errSilent)
		require.LessOrEqual(t, time.Since(begin), time.Second)
		require.Greater(t, time.Since(begin), 700*time.Millisecond)
		require.Equal(t, []bool{true, false}, changed.seen())
		require.False(t, peer.Up())
		require.ErrorIs(t, fetchOnce(t, peer), CodeUnavailable)

		time.Sleep(time.Hour)
		require.Equal(t, []bool{true, false}, changed.seen())
		network.setCut(false)
		time.Sleep(lastBackoff + client.config.Limits.handshakeTimeout)
		require.Equal(t, []bool{true, false, true}, changed.seen())
		require.NoError(t, fetchOnce(t, peer))
		require.NoError(t, peer.downErr())
		require.Equal(t, 1, server.Stats().Connections, "the server kept the half-open connection")
		require.EqualValues(t, 1, server.Stats().Refused[ReasonIdle])
	})
}

// TestBreak: a connection that breaks is made anew at once, and nobody is told
// that the peer was down, because it was not.
func TestBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changed changes
		network, client, server := memoryPair(t, changed.hook)
		peer := client.Peer("server")
		started := make(chan struct{})
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			close(started)
			<-ctx.Done() // the load of a client that is gone is cancelled
			return Answer{}
		}
		time.Sleep(time.Minute)
		failed := make(chan error)
		go func() {
			_, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
			failed <- err
		}()
		<-started
		network.breakAll()
		require.ErrorIs(t, <-failed, CodeUnavailable)
		server.handler.load = nil
		synctest.Wait()
		require.NoError(t, fetchOnce(t, peer))
		require.Equal(t, []bool{true}, changed.seen())
		require.EqualValues(t, 2, client.Stats().Peers[0].Connects)
		require.Zero(t, server.Stats().Loading)
	})
}

// TestCrashAndRestart: a crashed peer is down at once, dialled at a bearable
// rate, and up within the longest pause after it is back.
func TestCrashAndRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changed changes
		network, client, server := memoryPair(t, changed.hook)
		peer := client.Peer("server")
		time.Sleep(time.Minute)
		server.stop()
		require.Equal(t, []bool{true, false}, changed.seen())
		require.ErrorIs(t, fetchOnce(t, peer), CodeUnavailable)
		require.Error(t, peer.downErr())

		dials := network.dialled()
		time.Sleep(time.Hour)
		require.InDelta(t, 3600/1.5, network.dialled()-dials, 100)

		again := newNode(t, "server", nil)
		again.Serve(network.listen("server:1"))
		time.Sleep(lastBackoff)
		require.Equal(t, []bool{true, false, true}, changed.seen())
		require.NoError(t, fetchOnce(t, peer))
	})
}

// TestFlapping: a server that accepts and hangs up is not dialled in a loop.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, _, _ := memoryPair(t, nil)
		begin := network.dialled()
		for range 1000 {
			network.breakAll()
			time.Sleep(10 * time.Millisecond)
		}
		require.Less(t, network.dialled()-begin, 40)
	})
}

// TestRTT is measured by pings; the least of the last sixteen counts.
func TestRTT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, _ := memoryPair(t, nil)
		peer := client.Peer("server")
		rtt := func(after time.Duration) time.Duration {
			time.Sleep(after)
			synctest.Wait()
			d, ok := peer.RTT()
			require.True(t, ok)
			return d
		}
		require.LessOrEqual(t, rtt(0), time.Microsecond)
		network.setLatency(90 * time.Millisecond)
		require.LessOrEqual(t, rtt(3*time.Second), time.Microsecond, "a short delay counted")
		require.Equal(t, 180*time.Millisecond, rtt(2*time.Second))
		network.setLatency(450 * time.Millisecond) // several pings are on their way
		require.Equal(t, 900*time.Millisecond, rtt(7*time.Second))
		require.True(t, peer.Up())
		network.setLatency(20 * time.Millisecond)
		require.Equal(t, 40*time.Millisecond, rtt(2*time.Second))
		require.Equal(t, 40*time.Millisecond, client.Stats().Peers[0].RTT)
	})
}

// TestGoodbye: a node that closes finishes what it was asked before, is out for
// its clients at once, and costs nobody an error.
func TestGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changed changes
		network, client, server := memoryPair(t, changed.hook)
		network.setLatency(10 * time.Millisecond)
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			time.Sleep(3 * time.Second)
			return Answer{Value: []byte("late"), Code: map[bool]Code{true: CodeFailed}[ctx.Err() != nil]}
		}
		peer := client.Peer("server")
		type outcome struct {
			ans Answer
			err error
		}
		out := make(chan outcome)
		go func() {
			ans, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
			out <- outcome{ans, err}
		}()
		time.Sleep(5 * time.Millisecond) // it is still on its way
		closed := make(chan error)
		go func() { closed <- server.Close(t.Context()) }()
		time.Sleep(15 * time.Millisecond)
		require.Equal(t, []bool{true, false}, changed.seen())
		require.ErrorIs(t, fetchOnce(t, peer), errGoodbye)

		o := <-out
		require.NoError(t, o.err)
		require.Equal(t, "late", string(o.ans.Value))
		require.NoError(t, <-closed)
		require.NoError(t, server.Close(t.Context()))
		require.Zero(t, server.Stats().Connections)
		require.Equal(t, []bool{true, false}, changed.seen())
	})
}

// TestCloseIsBounded: what does not end within Close's context is cut off.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := memoryPair(t, nil)
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			<-ctx.Done()
			return Answer{}
		}
		failed := make(chan error)
		go func() {
			_, err := client.Peer("server").Fetch(t.Context(), Request{Group: "g", Key: "k"})
			failed <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin := time.Now()
		require.ErrorIs(t, server.Close(ctx), context.DeadlineExceeded)
		require.Equal(t, 2*time.Second, time.Since(begin))
		require.ErrorIs(t, <-failed, CodeUnavailable)
	})
}

// TestCloseDoesNotWaitForTheSilent: a client that has gone without a word does not hold Close up
// for as long as it would be listened for otherwise.
func TestCloseDoesNotWaitForTheSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, server := memoryPair(t, nil)
		_, err := client.Peer("server").Fetch(t.Context(), Request{Group: "g", Key: "k"})
		require.NoError(t, err)
		network.setCut(true)
		begun := time.Now()
		require.NoError(t, server.Close(t.Context()))
		require.LessOrEqual(t, time.Since(begun), server.config.Lease)
	})
}

// TestCloseOfClient waits for its own requests too, and takes no others.
func TestCloseOfClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := memoryPair(t, nil)
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			time.Sleep(time.Second)
			return Answer{}
		}
		peer := client.Peer("server")
		answered := make(chan error, 1)
		go func() {
			_, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
			answered <- err
		}()
		synctest.Wait()
		require.NoError(t, client.Close(t.Context()))
		require.NoError(t, <-answered)
		require.ErrorIs(t, fetchOnce(t, peer), errClosed)
		client.SetPeers([]Endpoint{{ID: "other", Region: "here", Address: "other:1"}})
		require.Nil(t, client.Peer("other"))
		synctest.Wait()
		require.Zero(t, server.Stats().Connections)
		require.Empty(t, server.Stats().Refused)
	})
}

// TestSetPeers keeps what is listed as before, drops what is not, and lets
// requests in flight be answered.
func TestSetPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changed changes
		network, client, server := memoryPair(t, changed.hook)
		third := newNode(t, "third", nil)
		third.Serve(network.listen("third:1"))
		third.address = "third:1"
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			time.Sleep(time.Second)
			return Answer{}
		}
		peer := client.Peer("server")
		client.SetPeers([]Endpoint{third.endpoint(), server.endpoint(), client.endpoint()})
		require.NoError(t, client.Tried(t.Context()))
		require.Same(t, peer, client.Peer("server"))
		require.Nil(t, client.Peer("client"))
		require.Len(t, client.Peers(), 2)
		require.Equal(t, "server", client.Peers()[0].ID())

		answered := make(chan error)
		go func() {
			_, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
			answered <- err
		}()
		synctest.Wait()
		client.SetPeers([]Endpoint{third.endpoint()})
		require.Nil(t, client.Peer("server"))
		require.False(t, peer.Up())
		require.ErrorIs(t, fetchOnce(t, peer), errDropped)
		require.NoError(t, <-answered)
		synctest.Wait()
		require.Zero(t, server.Stats().Connections)
		require.Equal(t, []bool{true, true}, changed.seen(), "a dropped peer was told of")

		moved := third.endpoint()
		moved.Address = "elsewhere:1"
		client.SetPeers([]Endpoint{moved})
		require.NoError(t, client.Tried(t.Context()))
		require.False(t, client.Peer("third").Up())
	})
}

// TestTried waits for the slowest, but not for a success.
func TestTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, server := memoryPair(t, nil)
		network.setCut(true)
		client.SetPeers([]Endpoint{{ID: "x", Region: "here", Address: "x:1"}, server.endpoint()})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, client.Tried(ctx), context.DeadlineExceeded)
		begin := time.Now()
		require.NoError(t, client.Tried(t.Context()))
		require.Equal(t, 4*time.Second, time.Since(begin))
	})
}

// TestClocksMerge: a request and its answer carry what a node knows of time. A
// heartbeat carries its own clock alone.
func TestClocksMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := memoryPair(t, nil)
		synctest.Wait() // the first ping is over
		ahead := server.config.Clock.Now().Add(300 * time.Millisecond)
		require.NoError(t, server.config.Clock.Merge(ahead))
		require.Less(t, client.config.Clock.Read(), ahead)
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		require.Less(t, client.config.Clock.Read(), ahead)
		_, err := client.Peer("server").Fetch(t.Context(), Request{Group: "g", Key: "k", Hop: HopOwner})
		require.NoError(t, err)
		require.GreaterOrEqual(t, client.config.Clock.Read(), ahead)
	})
}

// TestClockGoesWrong: a clock that jumps while the connection stands ends it,
// whichever side has it.
func TestClockGoesWrong(t *testing.T) {
	for _, wrong := range []string{"client", "server"} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			var jumped time.Duration
			_, client, server := memoryPair(t, func(c *Config) {
				if c.ID == wrong {
					c.Clock = expiry.NewClock(func() time.Time {
						mu.Lock()
						defer mu.Unlock()
						return time.Now().Add(jumped)
					}, 0)
				}
			})
			time.Sleep(time.Minute)
			require.True(t, client.Peer("server").Up())
			mu.Lock()
			jumped = 10 * time.Second
			mu.Unlock()
			time.Sleep(time.Second)
			synctest.Wait()
			peer := client.Peer("server")
			require.False(t, peer.Up())
			var refused *refusal
			require.ErrorAs(t, peer.downErr(), &refused)
			require.Equal(t, ReasonClock, refused.Reason)
			require.Equal(t, wrong == "client", refused.Remote)
			require.Contains(t, refused.Text, "10s ahead")
			right := map[string]*node{"client": server, "server": client}[wrong]
			require.NotZero(t, right.Stats().Refused[ReasonClock])
			require.Contains(t, right.log.String(), "node="+wrong)
			require.Less(t, right.config.Clock.Read().Sub(expiry.At(time.Now())), 500*time.Millisecond)
		})
	}
}
