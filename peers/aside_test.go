package peers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// reads returns how many callers have read their answers themselves over the peer's
// connection.
func (p *Peer) reads() uint {
	c := p.conn.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turns.count
}

// alone returns a client's peer whose goroutine has stepped aside. Until a ping it takes
// some time.
func alone(t *testing.T, change func(*Config)) (network *memory, server *node, peer *Peer) {
	t.Helper()
	network, client, server := memoryPair(t, change)
	peer = client.Peer("server")
	synctest.Wait()
	time.Sleep(time.Second + time.Millisecond) // between two pings
	askAlone(t, peer)
	require.NotZero(t, peer.reads())
	return network, server, peer
}

// askAlone makes as many calls without company as it takes for the goroutine to step aside.
func askAlone(t *testing.T, peer *Peer) {
	t.Helper()
	for range asideAfter + 1 {
		_, err := peer.Call(t.Context(), 1, nil)
		require.NoError(t, err)
		synctest.Wait()
	}
}

// TestLoneCallersRead: who is alone reads the answer, and pings get through all the while.
func TestLoneCallersRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server, peer := alone(t, nil)
		was := peer.reads()
		for range 10 {
			_, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
			require.NoError(t, err)
			reply, err := peer.Call(context.Background(), 1, []byte("payload"))
			require.NoError(t, err)
			require.Equal(t, "payload", string(reply))
		}
		require.EqualValues(t, 20, peer.reads()-was)

		// Some milliseconds between the reads, which the goroutine waits for in vain.
		server.SetView(7)
		peer.transport.SetView(7)
		time.Sleep(time.Minute)
		for range 10_000 {
			_, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
			require.NoError(t, err)
			time.Sleep(time.Millisecond)
			require.Greater(t, peer.LeaseEnd().Sub(peer.transport.config.Clock.Instant()), 700*time.Millisecond)
		}
		require.Greater(t, peer.reads(), uint(9_000))
		rtt, ok := peer.RTT()
		require.True(t, ok)
		require.Less(t, rtt, time.Millisecond, "pongs are read at once")
	})
}

// TestCompanyBringsTheReaderBack: of two callers the second is answered at once, whether the
// first reads or has its answer already.
func TestCompanyBringsTheReaderBack(t *testing.T) {
	const ms = time.Millisecond // less than asideFor
	for _, took := range []map[string]time.Duration{{"first": ms}, {"second": ms}, {"first": ms, "second": 2 * ms}, {"first": 2 * ms, "second": ms}} {
		synctest.Test(t, func(t *testing.T) {
			_, server, peer := alone(t, nil)
			server.handler.load = func(_ context.Context, req *Request) Answer {
				time.Sleep(took[req.Key])
				return Answer{}
			}
			var both sync.WaitGroup
			for i, key := range []string{"first", "second"} {
				both.Go(func() {
					time.Sleep(time.Duration(i) * 50 * time.Microsecond)
					begun := time.Now()
					_, err := peer.Fetch(context.Background(), Request{Group: "g", Key: key})
					require.NoError(t, err)
					require.Equal(t, took[key], time.Since(begun), key)
				})
			}
			both.Wait()
		})
	}
	// Both have asked before either waits: neither is the only one.
	synctest.Test(t, func(t *testing.T) {
		_, _, peer := alone(t, nil)
		begun := time.Now()
		var both [2]PendingFetch
		for i := range both {
			f, err := peer.BeginFetch(time.Minute, Request{Group: "g", Key: "k"})
			require.NoError(t, err)
			both[i] = f
		}
		for _, f := range both {
			_, err := f.Wait(t.Context())
			require.NoError(t, err)
		}
		require.Zero(t, time.Since(begun))
	})
}

// TestPongsAreReadAside: a pong is taken when it comes, whoever reads then.
func TestPongsAreReadAside(t *testing.T) {
	for _, trip := range []time.Duration{0, time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			network, _, peer := alone(t, nil)
			network.setLatency(trip)
			c := peer.conn.Load()
			time.Sleep(100 * time.Millisecond)
			was := peer.reads()
			for range 2000 {
				_, err := peer.Fetch(context.Background(), Request{Group: "g", Key: "k"})
				require.NoError(t, err)
				time.Sleep(2900 * time.Microsecond) // pings come at all moments of the cycle
				synctest.Wait()
				c.mu.Lock()
				if sent := c.pings[c.pinged%8]; c.ponged == c.pinged {
					require.LessOrEqual(t, c.told.Sub(sent.At), 2*trip)
				} else {
					require.Less(t, time.Since(sent.At), 2*trip)
				}
				c.mu.Unlock()
			}
			require.Greater(t, peer.reads()-was, uint(1900))
		})
	}
}

// TestStrayInterrupts: an interruption that comes when its reader has gone harms nobody.
func TestStrayInterrupts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, peer := alone(t, nil)
		c := peer.conn.Load()
		c.reader.interrupt() // nobody reads
		_, err := peer.Fetch(context.Background(), Request{Group: "g", Key: "k"})
		require.NoError(t, err)
		time.Sleep(10 * asideFor)
		c.reader.interrupt() // the goroutine does
		time.Sleep(time.Minute)
		require.Same(t, c, peer.conn.Load())
	})
}

// TestSilenceWhileCallersRead: a caller that reads and gives up does not make the peer seem to have
// been heard.
func TestSilenceWhileCallersRead(t *testing.T) {
	for _, limit := range []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 950 * time.Millisecond, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			network, _, peer := alone(t, nil)
			network.setCut(true)
			begun := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := peer.Fetch(ctx, Request{Group: "g", Key: "k"})
			require.Error(t, err)
			for peer.Up() {
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
			require.LessOrEqual(t, time.Since(begun), peer.transport.config.Lease+2*asideFor)
		})
	}
}

// TestAReaderThatPanics ends the connection and nothing else.
func TestAReaderThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var armed atomic.Bool
		_, server, peer := alone(t, func(c *Config) {
			c.OnPong = func(*Peer) {
				if armed.Swap(false) {
					panic("in a hook")
				}
			}
		})
		server.handler.load = func(context.Context, *Request) Answer {
			time.Sleep(300 * time.Millisecond) // a pong comes meanwhile
			return Answer{}
		}
		armed.Store(true)
		require.Panics(t, func() { _, _ = peer.Fetch(context.Background(), Request{Group: "g", Key: "k"}) })
		time.Sleep(time.Second)
		_, err := peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
		require.NoError(t, err)
		require.EqualValues(t, 2, peer.transport.Stats().Peers[0].Connects)
	})
}

// TestPostedCallsAreRead: the answer to a call that nobody waits for is read when it comes.
func TestPostedCallsAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, peer := alone(t, nil)
		answered := false
		require.NoError(t, peer.Post(time.Second, 1, []byte("payload"), func(_ []byte, err error) {
			require.NoError(t, err)
			answered = true
		}))
		synctest.Wait()
		require.True(t, answered)
		require.Zero(t, peer.conn.Load().inFlight())
	})
}

// TestReadersGiveUp: the end of a context, and of Await's limit, ends the reading and nothing
// else, also in the middle of a large answer.
func TestReadersGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, server, peer := alone(t, nil)
		large := make([]byte, 4<<20)
		server.handler.load = func(context.Context, *Request) Answer {
			time.Sleep(100 * time.Millisecond)
			return Answer{Value: large}
		}
		was := peer.reads()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		begun := time.Now()
		_, err := peer.Fetch(ctx, Request{Group: "g", Key: "k"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 30*time.Millisecond, time.Since(begun))
		require.EqualValues(t, 1, peer.reads()-was)

		time.Sleep(time.Second)
		askAlone(t, peer)
		was = peer.reads()
		begun = time.Now()
		f, err := peer.BeginFetch(time.Minute, Request{Group: "g", Key: "k"})
		require.NoError(t, err)
		require.False(t, f.Await(t.Context(), 40*time.Millisecond))
		require.Equal(t, 40*time.Millisecond, time.Since(begun))
		require.EqualValues(t, 1, peer.reads()-was)
		ans, err := f.Wait(t.Context())
		require.NoError(t, err)
		require.Len(t, ans.Value, len(large))
		require.Equal(t, 100*time.Millisecond, time.Since(begun))

		// The first piece of an answer is there, and the rest is late.
		network.setLatency(0)
		askAlone(t, peer)
		was = peer.reads()
		server.handler.load = func(context.Context, *Request) Answer {
			network.setLatency(50 * time.Millisecond) // of what is written from now on
			return Answer{Value: large}
		}
		ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_, err = peer.Fetch(ctx, Request{Group: "g", Key: "k"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualValues(t, 1, peer.reads()-was)
		network.setLatency(0)
		time.Sleep(time.Second)
		server.handler.load = nil
		ans, err = peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
		require.NoError(t, err)
		require.Equal(t, "k from server", string(ans.Value))
		require.EqualValues(t, 1, peer.transport.Stats().Peers[0].Connects)
	})
}

// TestEndIsNoticedAside: that the connection ends, or that the peer leaves, is noticed by a
// caller at once and without one within a moment.
func TestEndIsNoticedAside(t *testing.T) {
	for _, asking := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			network, server, peer := alone(t, nil)
			server.handler.load = func(ctx context.Context, _ *Request) Answer {
				<-ctx.Done()
				return Answer{}
			}
			was := peer.transport.Stats().Peers[0].Connects
			begun := time.Now()
			var waiting sync.WaitGroup
			if asking {
				waiting.Go(func() {
					_, err := peer.Fetch(context.Background(), Request{Group: "g", Key: "k"})
					require.ErrorIs(t, err, CodeUnavailable)
					require.Zero(t, time.Since(begun))
				})
				synctest.Wait()
			}
			network.breakAll()
			waiting.Wait()
			time.Sleep(2 * asideFor)
			synctest.Wait()
			require.Equal(t, was+1, peer.transport.Stats().Peers[0].Connects)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, server, peer := alone(t, nil)
		server.stop()
		time.Sleep(2 * asideFor)
		synctest.Wait()
		require.False(t, peer.Up())
	})
}

// TestReadersTorture has few callers, so that the reading changes hands all the time, over
// real TCP, with contexts that end at any moment.
func TestReadersTorture(t *testing.T) {
	client := newNode(t, "client", nil)
	server := newNode(t, "server", nil).listen(t)
	large := make([]byte, 100<<10)
	server.handler.load = func(_ context.Context, req *Request) Answer {
		if len(req.Key)%3 == 0 {
			return Answer{Value: append([]byte(req.Key), large...)}
		}
		return Answer{Value: []byte(req.Key)}
	}
	client.connect(t, server)
	peer := client.Peer("server")
	var answers, ends atomic.Int64
	var callers sync.WaitGroup
	for caller := range 3 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 1))
			for i := range 1500 {
				if random.IntN(50) == 0 {
					time.Sleep(time.Duration(random.IntN(4)) * asideFor) // others are alone meanwhile
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				if random.IntN(4) == 0 {
					go func() {
						time.Sleep(time.Duration(i%200) * time.Microsecond)
						cancel()
					}()
				}
				key := fmt.Sprintf("%d-%d", caller, i)
				ans, err := peer.Fetch(ctx, Request{Group: "g", Key: key})
				if err == nil {
					answers.Add(1)
					require.Equal(t, key, string(ans.Value[:len(key)]))
				} else {
					ends.Add(1)
					require.ErrorIs(t, err, context.Canceled)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	require.NotZero(t, ends.Load())
	require.Greater(t, answers.Load(), ends.Load())
	require.EqualValues(t, 1, client.Stats().Peers[0].Connects, "the connection lasts")
	t.Log(answers.Load(), "answers,", ends.Load(), "ended before,", peer.reads(), "times a caller has read")
}
