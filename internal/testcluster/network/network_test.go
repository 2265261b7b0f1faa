package network

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const oneWay = 40 * time.Millisecond

// world is two hosts an ocean apart, and a connection between them.
type world struct {
	*Network
	eu, us         *Host
	listener       net.Listener // at us
	client, server net.Conn     // client at eu, server at us
}

// inWorld runs a test in a bubble, in a world that it closes afterwards.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		n.SetLatency("eu", "us", oneWay)
		w := &world{Network: n, eu: n.Host("eu-1", "eu"), us: n.Host("us-1", "us")}
		var err error
		w.listener, err = w.us.Listen()
		require.NoError(t, err)
		w.client, w.server = connect(t, w.eu, w.us, w.listener)
		test(t, w)
		w.client.Close()
		w.server.Close()
		w.listener.Close()
	})
}

func connect(t *testing.T, from, to *Host, l net.Listener) (client, server net.Conn) {
	t.Helper()
	client, err := from.Dial(t.Context(), to.Addr())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	return client, server
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	n, err := io.WriteString(c, s)
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

// requireArrival requires that exactly s is what c reads next, and that it arrives after d.
func requireArrival(t *testing.T, c net.Conn, s string, d time.Duration) {
	t.Helper()
	start := time.Now()
	b := make([]byte, len(s))
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, s, string(b))
	require.Equal(t, d, time.Since(start))
}

// requireSilence requires that c reads nothing for d.
func requireSilence(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(d)))
	n, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Zero(t, n)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
}

func requireReadError(t *testing.T, c net.Conn, want error, d time.Duration) {
	t.Helper()
	start := time.Now()
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, want)
	require.Equal(t, d, time.Since(start))
}

// elapsed returns how long f takes.
func elapsed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func TestLatency(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		require.Equal(t, 2*oneWay, elapsed(func() {
			c, err := w.eu.Dial(t.Context(), w.us.Addr())
			require.NoError(t, err)
			defer c.Close()
		}), "a dial takes a round trip")
		require.Zero(t, elapsed(func() { send(t, w.client, "hello") }))
		requireArrival(t, w.server, "hello", oneWay)
		send(t, w.server, "hello to you")
		requireArrival(t, w.client, "hello to you", oneWay)
	})
}

func TestLatencyDefaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		target := n.Host("a", "eu")
		l, err := target.Listen()
		require.NoError(t, err)
		defer l.Close()
		for _, from := range []*Host{target, n.Host("b", "eu"), n.Host("c", "us")} {
			want := 2 * LatencyWithinZone
			if from.zone != target.zone {
				want = 2 * LatencyBetweenZones
			}
			require.Equal(t, want, elapsed(func() {
				c, err := from.Dial(t.Context(), "a:7946")
				require.NoError(t, err)
				c.Close()
			}))
		}
	})
}

func TestALowerLatencyDoesNotReorder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.client, "first")
		w.SetLatency("eu", "us", time.Millisecond)
		send(t, w.client, "second")
		requireArrival(t, w.server, "firstsecond", oneWay)
		send(t, w.client, "third")
		requireArrival(t, w.server, "third", time.Millisecond)
	})
}

func TestLossDelaysAndNeverLoses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.SetLoss("eu", "us", 0.5)
		delays := make(map[time.Duration]int)
		for i := range 200 {
			b := []byte{byte(i)}
			send(t, w.client, string(b))
			delays[elapsed(func() {
				_, err := io.ReadFull(w.server, b)
				require.NoError(t, err)
				require.Equal(t, byte(i), b[0])
			})]++
		}
		// Sent at once and again 200, 600, 1400, ... ms later.
		require.InDelta(t, 100, delays[oneWay], 25)
		require.InDelta(t, 50, delays[oneWay+200*time.Millisecond], 20)
		require.InDelta(t, 25, delays[oneWay+600*time.Millisecond], 15)
		require.NotZero(t, delays[oneWay+1400*time.Millisecond])
	})
}

func TestLossDelaysDials(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.SetLoss("eu", "us", 0.2)
		delays := make(map[time.Duration]int)
		for range 100 {
			delays[elapsed(func() {
				c, err := w.eu.Dial(t.Context(), w.us.Addr())
				require.NoError(t, err)
				c.Close()
			})]++
		}
		// SYN and answer get through together with a probability of 0.64.
		require.InDelta(t, 64, delays[2*oneWay], 15)
		require.InDelta(t, 23, delays[time.Second+2*oneWay], 12)
		require.InDelta(t, 8, delays[3*time.Second+2*oneWay], 7)
	})
}

func TestLossAfterHeal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.SetLoss("eu", "us", 0.5)
		w.Cut("eu", "us")
		send(t, w.client, string(make([]byte, 50*segmentSize)))
		time.Sleep(time.Minute)
		w.HealAll()
		_, err := io.ReadFull(w.server, make([]byte, segmentSize))
		require.NoError(t, err)
		require.NotZero(t, elapsed(func() {
			_, err := io.ReadFull(w.server, make([]byte, 49*segmentSize))
			require.NoError(t, err)
		}), "what is sent again can be lost again")
	})
}

func TestTheSeedDecidesWhatIsLost(t *testing.T) {
	arrivals := func(seed uint64) (all []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			n := New(seed)
			eu, us := n.Host("eu-1", "eu"), n.Host("us-1", "us")
			n.SetLoss("eu", "us", 0.3)
			l, err := us.Listen()
			require.NoError(t, err)
			defer l.Close()
			start := time.Now()
			client, server := connect(t, eu, us, l)
			defer client.Close()
			defer server.Close()
			for range 50 {
				send(t, client, "x")
				_, err := server.Read(make([]byte, 1))
				require.NoError(t, err)
				all = append(all, time.Since(start))
			}
		})
		return all
	}
	require.Equal(t, arrivals(7), arrivals(7))
	require.NotEqual(t, arrivals(7), arrivals(8))
}

func TestCutHoldsBackUntilHeal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.client, "on its way, ")
		time.Sleep(oneWay / 2)
		w.Cut("eu", "us")
		send(t, w.client, "sent meanwhile")
		send(t, w.server, "and back")
		start := time.Now()
		requireSilence(t, w.server, 10*time.Second)
		requireSilence(t, w.client, 10*time.Second)
		w.Heal("eu", "us")
		// First sent 20 ms before the cut, and again 0.2, 0.6, 1.4, 3, 6.2,
		// 12.6 and 25.4 s after that; the answer 20 ms later.
		again := 25400*time.Millisecond - oneWay/2 - time.Since(start) + oneWay
		requireArrival(t, w.server, "on its way, sent meanwhile", again)
		requireArrival(t, w.client, "and back", oneWay/2)
		send(t, w.client, "and so on")
		requireArrival(t, w.server, "and so on", oneWay)
	})
}

func TestAShortCutLosesWhatIsOnItsWay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		send(t, w.client, "hello")
		w.Cut("eu-1", "us-1")
		w.Heal("eu-1", "us-1")
		requireArrival(t, w.server, "hello", 200*time.Millisecond+oneWay)
	})
}

func TestTheLongestWaitAfterHealIsBounded(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Cut("eu", "us")
		send(t, w.client, "hello")
		time.Sleep(100 * time.Hour)
		w.Heal("eu", "us")
		require.LessOrEqual(t, elapsed(func() {
			_, err := io.ReadFull(w.server, make([]byte, 5))
			require.NoError(t, err)
		}), maxTimeout+oneWay)
	})
}

func TestCutOneWay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.CutOneWay("eu", "us-1")
		send(t, w.client, "lost")
		send(t, w.server, "not lost")
		requireArrival(t, w.client, "not lost", oneWay)
		requireSilence(t, w.server, time.Minute)
		for _, from := range []*Host{w.eu, w.us} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, err := from.Dial(ctx, map[*Host]*Host{w.eu: w.us, w.us: w.eu}[from].Addr())
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		w.HealAll()
		b := make([]byte, 4)
		_, err := io.ReadFull(w.server, b)
		require.NoError(t, err)
		require.Equal(t, "lost", string(b))
	})
}

func TestCutsOfDifferentNamesAddUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Cut("eu", "us")
		w.Cut("eu-1", "us")
		send(t, w.client, "hello")
		w.Heal("eu", "us")
		requireSilence(t, w.server, time.Minute)
		w.Heal("us", "eu-1")
		_, err := io.ReadFull(w.server, make([]byte, 5))
		require.NoError(t, err)
	})
}

func TestACutOfAZoneFromItself(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		other := w.Host("us-2", "us")
		w.Cut("us", "us")
		c, s := connect(t, w.us, w.us, w.listener) // to itself
		defer c.Close()
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := other.Dial(ctx, w.us.Addr())
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

func TestDialNobody(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, address := range []string{"nowhere:7946", "us-1", "us-1:80"} {
			_, err := w.eu.Dial(t.Context(), address)
			var dns *net.DNSError
			require.ErrorAs(t, err, &dns)
			require.True(t, dns.IsNotFound)
		}
	})
}

func TestDialRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		require.Equal(t, 2*oneWay, elapsed(func() {
			_, err := w.us.Dial(t.Context(), w.eu.Addr())
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.ErrorContains(t, err, "dial tcp eu-1:7946: connection refused")
		}))
	})
}

func TestDialInACut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.Cut("eu", "us")
		require.Equal(t, 127*time.Second, elapsed(func() {
			_, err := w.eu.Dial(t.Context(), w.us.Addr())
			require.ErrorIs(t, err, syscall.ETIMEDOUT)
			var netErr net.Error
			require.ErrorAs(t, err, &netErr)
			require.True(t, netErr.Timeout())
		}))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second/3, cancel)
		require.Equal(t, time.Second/3, elapsed(func() {
			_, err := w.eu.Dial(ctx, w.us.Addr())
			require.ErrorIs(t, err, context.Canceled)
		}))
		time.AfterFunc(5*time.Second, w.HealAll)
		require.Equal(t, 7*time.Second+2*oneWay, elapsed(func() { // SYNs at 0, 1, 3, 7 s
			c, err := w.eu.Dial(t.Context(), w.us.Addr())
			require.NoError(t, err)
			c.Close()
		}))
	})
}

func TestACutLosesAHandshakeOnItsWay(t *testing.T) {
	for _, at := range []time.Duration{oneWay / 2, 3 * oneWay / 2} { // the SYN, or its answer
		inWorld(t, func(t *testing.T, w *world) {
			time.AfterFunc(at, func() { w.Cut("eu", "us") })
			time.AfterFunc(at+oneWay, w.HealAll)
			require.Equal(t, time.Second+2*oneWay, elapsed(func() {
				c, err := w.eu.Dial(t.Context(), w.us.Addr())
				require.NoError(t, err)
				c.Close()
			}))
		})
	}
}

func TestMistakesPanic(t *testing.T) {
	n := New(1)
	n.Host("eu-1", "eu")
	for name, mistake := range map[string]func(){
		"host twice":      func() { n.Host("eu-1", "us") },
		"host like zone":  func() { n.Host("eu", "us") },
		"zone like host":  func() { n.Host("us-1", "eu-1") },
		"own zone":        func() { n.Host("us", "us") },
		"cut of nobody":   func() { n.Cut("eu", "mars") },
		"heal of nobody":  func() { n.Heal("mars", "eu") },
		"latency of host": func() { n.SetLatency("eu-1", "us", 0) },
		"latency below 0": func() { n.SetLatency("eu", "us", -1) },
		"all lost":        func() { n.SetLoss("eu", "us", 1) },
	} {
		require.Panics(t, mistake, name)
	}
}
