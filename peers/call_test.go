package peers

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

// TestCall: all of a call gets there, to Take and then to Call, which may keep
// what it is given; and the reply comes back.
func TestCall(t *testing.T) {
	client, server, peer := pair(t, func(c *Config) {
		if c.ID == "client" {
			c.Region = "there"
		}
	})
	same := func(call *Call) bool {
		return call.Method == 3 && call.From == "client" && call.Region == "there" && call.Transit >= 0
	}
	var kept []*Call
	var last context.Context
	server.handler.take = func(call *Call) (Answer, bool) {
		require.True(t, same(call), "%v", call)
		return Answer{Value: []byte("taken")}, string(call.Payload) == "take"
	}
	server.handler.call = func(ctx context.Context, call *Call) Answer {
		_, limited := ctx.Deadline()
		require.False(t, limited)
		require.True(t, same(call), "%v", call)
		kept, last = append(kept, call), ctx
		return Answer{Value: []byte("re: " + string(call.Payload))}
	}
	for _, payload := range []string{"one", "two", "take", "six"} {
		want := "re: " + payload
		if payload == "take" {
			want = "taken"
		}
		reply, err := peer.Call(background, 3, []byte(payload))
		require.NoError(t, err)
		require.Equal(t, want, string(reply))
	}
	require.Len(t, kept, 3)
	require.Error(t, last.Err(), "the context of an answered call")
	for i, payload := range []string{"one", "two", "six"} {
		require.Equal(t, payload, string(kept[i].Payload), "it was overwritten")
	}
	require.EqualValues(t, 4, client.Stats().Peers[0].Requests)
	require.Zero(t, client.Stats().Peers[0].Errors)
	require.EqualValues(t, 4, server.Stats().Requests)
	require.EqualValues(t, 1, server.Stats().Hits)
	eventually(t, func() bool { return server.Stats().Loading == 0 }) // the answer comes first
}

// TestCallCodes: everything but ok is an error that says who said it.
func TestCallCodes(t *testing.T) {
	client, server, peer := pair(t, nil)
	server.handler.take = func(call *Call) (Answer, bool) {
		return Answer{Code: Code(call.Method), Text: "because"}, true
	}
	for code := CodeNotFound; code <= CodeUnsettled+1; code++ {
		_, err := peer.Call(background, uint8(code), nil)
		require.ErrorIs(t, err, code)
		require.False(t, err.(*Error).Inferred)
		require.EqualValues(t, code, client.Stats().Peers[0].Errors)
	}
}

// TestCallSizes: payloads and replies go both ways of reading and writing, up to
// what the other side takes.
func TestCallSizes(t *testing.T) {
	const most = 3<<20 + 1<<20
	const calm = time.Hour // no pings while frames are counted
	client := newNode(t, "client", func(c *Config) { c.Limits.MaxValue, c.Lease = 8<<20, calm })
	server := newNode(t, "server", func(c *Config) { c.Limits.MaxValue, c.Lease = 3<<20, calm }).listen(t)
	server.handler.take = func(call *Call) (Answer, bool) {
		return Answer{Value: make([]byte, 9<<20+1)}, call.Method == 2
	}
	peer := client.connect(t, server)
	for _, size := range []int{0, 1, largeValue - 1, largeValue, bufferSize, 1<<20 - callSize, 1 << 20, most} {
		payload := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		reply, err := peer.Call(background, 1, payload)
		require.NoError(t, err)
		require.True(t, bytes.Equal(payload, reply), "%d bytes", size)
	}
	before := framesOut(client)
	_, err := peer.Call(background, 1, make([]byte, most+1))
	require.ErrorIs(t, err, CodeTooLarge)
	require.True(t, err.(*Error).Inferred)
	require.Equal(t, before, framesOut(client))

	_, err = peer.Call(background, 2, nil)
	require.ErrorIs(t, err, CodeTooLarge)
	require.False(t, err.(*Error).Inferred)
	require.Empty(t, server.Stats().Refused)
}

// TestCallBusy: calls count as loads do, and what Take answers does not.
func TestCallBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := memoryPair(t, func(c *Config) { c.Limits.maxInFlight = 2 })
		server.handler.take = func(call *Call) (Answer, bool) { return Answer{}, string(call.Payload) == "take" }
		peer := client.Peer("server")
		ctx, cancel := context.WithCancel(t.Context())
		var held sync.WaitGroup
		for range 2 {
			held.Go(func() { _, _ = peer.Call(ctx, 1, []byte("hold")) })
		}
		synctest.Wait()
		require.Equal(t, 2, server.Stats().Loading)
		_, err := peer.Call(t.Context(), 1, nil)
		require.ErrorIs(t, err, CodeBusy)
		_, err = peer.Fetch(t.Context(), Request{Group: "g", Key: "k"})
		require.ErrorIs(t, err, CodeBusy)
		_, err = peer.Call(t.Context(), 1, []byte("take"))
		require.NoError(t, err)
		require.EqualValues(t, 2, server.Stats().Busy)
		cancel()
		held.Wait()
		synctest.Wait()
		_, err = peer.Call(t.Context(), 1, nil)
		require.NoError(t, err)
	})
}

// TestCallDuplicate: a second one with the same number is not carried out, and
// nobody minds it.
func TestCallDuplicate(t *testing.T) {
	release := make(chan struct{})
	server, r := hostile(t, func(c *Config) {
		c.Handler.(*handler).call = func(context.Context, *Call) Answer { <-release; return Answer{} }
	})
	r.join()
	r.send(someCallFrame(1, "x"), someCallFrame(1, "x"), someCallFrame(2, "x"))
	eventually(t, func() bool { return server.calling("rogue") == 2 })
	close(release)
	var ids []uint64
	for range 2 {
		h, _ := r.read()
		require.Equal(t, kindAnswer, h.kind)
		ids = append(ids, h.id)
	}
	require.ElementsMatch(t, []uint64{1, 2}, ids)
	r.send(someCallFrame(1, "x"), someCallFrame(3, "x")) // it is no longer in flight, but has come
	h, _ := r.read()
	require.EqualValues(t, 3, h.id)
}

func TestRepeatedNumbers(t *testing.T) {
	var n numbers
	came := func(number uint64) string {
		again, late := n.repeated(number)
		return map[[2]bool]string{{false, false}: "new", {true, false}: "again", {false, true}: "late"}[[2]bool{again, late}]
	}
	for i := uint64(1); i < 20_000; i += 3 {
		require.Equal(t, "new", came(i))
		require.Equal(t, "again", came(i))
		if i > 5000 {
			require.Equal(t, "new", came(i-2))
			require.Equal(t, "again", came(i-2))
			require.Equal(t, "late", came(i-4500))
		}
	}
	require.Equal(t, "new", came(1<<40))
	require.Equal(t, "new", came(1<<40-19_000%4096), "what came before the jump is forgotten")
}

// calling returns how many requests of a client are in flight.
func (n *node) calling(client string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.accepted {
		if s.client.id == client {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.loads)
		}
	}
	return 0
}

// TestCallDeadlineAndCancel travel.
func TestCallDeadlineAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := memoryPair(t, nil)
		peer := client.Peer("server")
		left, ended := make(chan time.Duration, 2), make(chan error, 2)
		server.handler.call = func(ctx context.Context, _ *Call) Answer {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			<-ctx.Done()
			ended <- ctx.Err()
			return Answer{Code: CodeTimeout}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		go func() {
			time.Sleep(10 * time.Millisecond)
			cancel()
		}()
		_, err := peer.Call(ctx, 1, nil)
		require.Equal(t, context.Canceled, err)
		require.Equal(t, time.Minute, <-left)
		require.Equal(t, context.Canceled, <-ended)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = peer.Call(ctx, 1, nil)
		require.Equal(t, context.DeadlineExceeded, err)
		require.Equal(t, time.Second, <-left)
		<-ended
		synctest.Wait()
		require.Zero(t, client.Stats().Peers[0].InFlight)
		require.EqualValues(t, 2, client.Stats().Peers[0].Errors)
	})
}

// TestCallBreak: when the connection breaks nobody knows what became of a call.
func TestCallBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, server := memoryPair(t, nil)
		peer := client.Peer("server")
		failed := make(chan error)
		go func() {
			_, err := peer.Call(t.Context(), 1, []byte("hold"))
			failed <- err
		}()
		synctest.Wait()
		network.breakAll()
		err := <-failed
		require.ErrorIs(t, err, CodeUnavailable)
		require.True(t, err.(*Error).Inferred)
		server.stop()
		synctest.Wait()
		_, err = peer.Call(t.Context(), 1, nil)
		require.ErrorIs(t, err, CodeUnavailable)
	})
}

// TestTransit: never less than how long a call was under way, and more by the
// way back only, whatever the wall clocks say.
func TestTransit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var ahead time.Duration
		network, client, server := memoryPair(t, func(c *Config) {
			if c.ID == "client" {
				c.Clock = expiry.NewClock(func() time.Time {
					mu.Lock()
					defer mu.Unlock()
					return time.Now().Add(ahead)
				}, 0)
			}
		})
		var transit time.Duration
		server.handler.take = func(call *Call) (Answer, bool) {
			transit = call.Transit
			return Answer{}, true
		}
		under := func() time.Duration {
			_, err := client.Peer("server").Call(t.Context(), 1, nil)
			require.NoError(t, err)
			return transit
		}
		synctest.Wait()
		require.Zero(t, under())
		time.Sleep(100 * time.Millisecond)
		require.Zero(t, under(), "time that passes is not time under way")
		network.setLatency(30 * time.Millisecond)
		require.Equal(t, 30*time.Millisecond, under())
		time.Sleep(time.Minute)
		require.Equal(t, 60*time.Millisecond, under(), "the pongs take as long")
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		ahead = 200 * time.Millisecond
		mu.Unlock()
		network.setLatency(300 * time.Millisecond)
		require.Equal(t, 330*time.Millisecond, under())
	})
}

// TestSlowCall: while a large payload arrives, which its pings are behind, a
// client hears from the server, and only as long as there is progress.
func TestSlowCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, _, _ := memoryPair(t, nil)
		c, err := network.dial(t.Context(), "server:1")
		require.NoError(t, err)
		defer c.Close()
		r := &rogue{Conn: c, t: t}
		r.join()
		const size = 50 << 10
		frame := someCallFrame(1, strings.Repeat("x", size))
		for len(frame) > 5<<10 {
			r.send(frame[:5<<10])
			frame = frame[5<<10:]
			time.Sleep(260 * time.Millisecond)
		}
		time.Sleep(3 * time.Second)
		r.send(frame)
		pongs := 0
		for {
			h, _ := r.read()
			if h.kind == kindAnswer {
				break
			}
			require.Equal(t, kindPong, h.kind)
			require.Zero(t, h.id)
			pongs++
		}
		require.InDelta(t, 10, pongs, 2)
	})
}

// TestHostileCallMemory: the length of a call costs little until it comes.
func TestHostileCallMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, _, server := memoryPair(t, nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 20 {
			c, err := network.dial(t.Context(), "server:1")
			require.NoError(t, err)
			defer c.Close()
			r := &rogue{Conn: c, t: t}
			r.join()
			r.send(frameOf(kindCall, headerRest+64<<20, strings.Repeat("x", 100)))
		}
		synctest.Wait()
		require.Equal(t, 21, server.Stats().Connections)
		runtime.ReadMemStats(&after)
		require.Less(t, after.HeapInuse, before.HeapInuse+100<<20)
	})
}
