package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

var background = context.Background()

// TestFetch: all of a request gets there, and all of an answer back.
func TestFetch(t *testing.T) {
	_, server, peer := pair(t, nil)
	want := Request{Group: "g", Key: "k", Floor: expiry.Loaded(77), Hop: HopRegion, Region: "here"}
	answer := Answer{Source: SourceGetter, Stale: true, Stamp: expiry.Loaded(78), Age: time.Minute, Life: time.Second, Value: []byte("v")}
	server.handler.lookup = func(req *Request) (Answer, bool) {
		require.Equal(t, want, *req)
		return Answer{}, false
	}
	server.handler.load = func(ctx context.Context, req *Request) Answer {
		require.Equal(t, want, *req)
		_, limited := ctx.Deadline()
		require.False(t, limited)
		return answer
	}
	ans, err := peer.Fetch(background, Request{Group: "g", Key: "k", Floor: expiry.Loaded(77), Hop: HopRegion})
	require.NoError(t, err)
	require.GreaterOrEqual(t, ans.Age, answer.Age)
	ans.Age = answer.Age
	require.Equal(t, answer, ans)
}

// TestCodes: what is an answer, and what an error that says who said it.
func TestCodes(t *testing.T) {
	_, server, peer := pair(t, nil)
	for code := CodeOK; code <= CodeUnsettled+1; code++ {
		server.handler.lookup = func(*Request) (Answer, bool) {
			return Answer{Code: code, Stamp: expiry.Loaded(5), Life: time.Second, Text: "because"}, true
		}
		ans, err := peer.Fetch(background, Request{Group: "g", Key: "k"})
		if code <= CodeMiss {
			require.NoError(t, err)
			require.Equal(t, code, ans.Code)
			require.Equal(t, expiry.Loaded(5), ans.Stamp)
			continue
		}
		require.ErrorIs(t, err, code)
		require.NotErrorIs(t, err, CodeUnavailable)
		require.Equal(t, &Error{Node: "server", Region: "here", Code: code, Text: "because"}, err)
		require.Equal(t, fmt.Sprintf("node server in region here answered %s: because", code.String()), err.Error())
	}
}

func TestPeek(t *testing.T) {
	_, server, peer := pair(t, nil)
	server.handler.load = func(context.Context, *Request) Answer { panic("a peek was loaded") }
	ans, err := peer.Fetch(background, Request{Group: "g", Key: "k", Peek: true})
	require.NoError(t, err)
	require.Equal(t, CodeMiss, ans.Code)
}

// TestFetchMany: one frame out, an answer for each key, in the order in which
// they become known.
func TestFetchMany(t *testing.T) {
	client, server, peer := quietPair(t, nil)
	release := make(chan struct{})
	server.handler.lookup = func(req *Request) (Answer, bool) {
		return Answer{Value: []byte(strings.Clone(req.Key))}, strings.HasPrefix(req.Key, "hit")
	}
	server.handler.load = func(_ context.Context, req *Request) Answer {
		if req.Key == "slow" {
			<-release
		}
		return Answer{Code: CodeFailed, Text: req.Key}
	}
	batch := Batch{Group: "g", Keys: []Key{{Key: "slow"}, {Key: "quick"}, {Key: "hit 1"}, {Key: "hit 2"}, {Key: strings.Repeat("x", 5000)}}}
	before := framesOut(client)
	var order []int
	peer.FetchMany(background, batch, func(i int, ans Answer, err error) {
		order = append(order, i)
		switch i {
		case 0, 1:
			require.ErrorIs(t, err, CodeFailed)
			require.ErrorContains(t, err, batch.Keys[i].Key)
		case 2, 3:
			require.NoError(t, err)
			require.Equal(t, batch.Keys[i].Key, string(ans.Value))
		case 4:
			require.ErrorIs(t, err, CodeTooLarge)
			require.True(t, err.(*Error).Inferred)
		}
		if len(order) == 4 {
			close(release)
		}
	})
	require.ElementsMatch(t, []int{0, 1, 2, 3, 4}, order)
	require.Equal(t, 0, order[4], "the slow one held up the others")
	require.EqualValues(t, 1, framesOut(client)-before)
	require.EqualValues(t, 4, server.Stats().Requests)

	peer.FetchMany(background, Batch{Group: "g"}, func(int, Answer, error) { panic("nothing was asked for") })
}

func framesOut(n *node) uint64 { return n.Stats().Peers[0].Traffic.FramesOut }

// quietPair is a pair that sends no pings after the first, so that frames can
// be counted.
func quietPair(t *testing.T, change func(*Config)) (client, server *node, peer *Peer) {
	client, server, peer = pair(t, func(c *Config) {
		c.Lease = time.Hour
		if change != nil {
			change(c)
		}
	})
	eventually(t, func() bool { _, ok := peer.RTT(); return ok })
	return client, server, peer
}

// TestFetchManySplits: a batch over the limits goes in several frames.
func TestFetchManySplits(t *testing.T) {
	client, _, peer := quietPair(t, func(c *Config) { c.Limits.maxKeys = 10 })
	for _, c := range []struct{ keys, size, frames int }{{10, 1, 1}, {11, 1, 2}, {25, 1, 3}, {9, 4096, 1}} {
		before := framesOut(client)
		batch := Batch{Group: "g"}
		for i := range c.keys {
			batch.Keys = append(batch.Keys, Key{Key: fmt.Sprintf("%*d", c.size, i)})
		}
		seen := make(map[int]bool)
		peer.FetchMany(background, batch, func(i int, ans Answer, err error) {
			require.NoError(t, err)
			require.Equal(t, batch.Keys[i].Key+" from server", string(ans.Value))
			require.False(t, seen[i])
			seen[i] = true
		})
		require.Len(t, seen, c.keys)
		require.EqualValues(t, c.frames, framesOut(client)-before)
	}
}

func TestFetchManySplitsBytes(t *testing.T) {
	_, server, peer := pair(t, nil)
	batch := Batch{Group: "g"}
	for i := range 600 { // 2.3 MiB of keys
		batch.Keys = append(batch.Keys, Key{Key: fmt.Sprintf("%4000d", i)})
	}
	n := 0
	peer.FetchMany(background, batch, func(i int, ans Answer, err error) {
		require.NoError(t, err)
		n++
	})
	require.Equal(t, 600, n)
	require.Empty(t, server.Stats().Refused)
}

// TestLargeValues go both ways of reading and writing, among small ones.
func TestLargeValues(t *testing.T) {
	for _, size := range []int{0, 1, largeValue - 1, largeValue, bufferSize, 1 << 20, 5 << 20} {
		_, server, peer := pair(t, func(c *Config) { c.Limits.MaxValue = 5 << 20 })
		value := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		server.handler.lookup = func(req *Request) (Answer, bool) {
			if req.Key == "small" {
				return Answer{Value: []byte("small")}, true
			}
			return Answer{Value: value}, true
		}
		peer.FetchMany(background, Batch{Group: "g", Keys: []Key{{Key: "small"}, {Key: "large"}, {Key: "large"}, {Key: "small"}}}, func(i int, ans Answer, err error) {
			require.NoError(t, err)
			want := value
			if i == 0 || i == 3 {
				want = []byte("small")
			}
			require.True(t, bytes.Equal(want, ans.Value))
			for j := range ans.Value {
				ans.Value[j] = 0 // it is the caller's
			}
		})
	}
}

// TestValueTooLarge: each side's own limit counts, and only the one value
// suffers.
func TestValueTooLarge(t *testing.T) {
	server := newNode(t, "server", nil).listen(t)
	client := newNode(t, "client", func(c *Config) { c.Limits.MaxValue = 1000 })
	peer := client.connect(t, server)
	server.handler.lookup = func(req *Request) (Answer, bool) {
		return Answer{Value: make([]byte, 1000+len(req.Key))}, true
	}
	_, err := peer.Fetch(background, Request{Group: "g", Key: "k"})
	require.ErrorIs(t, err, CodeTooLarge)
	require.False(t, err.(*Error).Inferred)
	ans, err := peer.Fetch(background, Request{Group: "g", Key: ""})
	require.NoError(t, err)
	require.Len(t, ans.Value, 1000)
}

// TestKeyTooLarge: the server's limits are known to the client.
func TestKeyTooLarge(t *testing.T) {
	server := newNode(t, "server", func(c *Config) { c.Limits.MaxKey = 10 }).listen(t)
	peer := newNode(t, "client", nil).connect(t, server)
	_, err := peer.Fetch(background, Request{Group: "g", Key: "0123456789+"})
	require.ErrorIs(t, err, CodeTooLarge)
	_, err = peer.Fetch(background, Request{Group: strings.Repeat("g", 256)})
	require.ErrorIs(t, err, CodeBadRequest)
	_, err = peer.Fetch(background, Request{Group: strings.Repeat("g", 255), Key: "0123456789"})
	require.NoError(t, err)
}

// TestDeadlineAndCancelTravel: the load's context has the caller's deadline and
// ends when the caller gives up.
func TestDeadlineAndCancelTravel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := memoryPair(t, nil)
		started, ended := make(chan time.Duration, 10), make(chan error, 10)
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			deadline, _ := ctx.Deadline()
			started <- time.Until(deadline)
			<-ctx.Done()
			ended <- ctx.Err()
			return Answer{Code: CodeTimeout}
		}
		peer := client.Peer("server")

		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := peer.Fetch(ctx, Request{Group: "g", Key: "k"})
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.InDelta(t, 300*time.Millisecond, <-started, float64(time.Millisecond))
		require.Error(t, <-ended)

		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		go func() {
			time.Sleep(10 * time.Millisecond)
			cancel()
		}()
		begin := time.Now()
		errs := 0
		peer.FetchMany(ctx, Batch{Group: "g", Keys: []Key{{Key: "a"}, {Key: "b"}}}, func(i int, _ Answer, err error) {
			require.ErrorIs(t, err, context.Canceled)
			errs++
		})
		require.Equal(t, 2, errs)
		require.Equal(t, context.Canceled, <-ended)
		require.Equal(t, context.Canceled, <-ended)
		require.Equal(t, 10*time.Millisecond, time.Since(begin))
		synctest.Wait()
		require.Zero(t, server.Stats().Loading)
		require.Zero(t, client.Stats().Peers[0].InFlight)

		_, err = peer.Fetch(ctx, Request{Group: "g", Key: "k"})
		require.Equal(t, context.Canceled, err)
	})
}

// TestAge: the time under way is added, overestimated by the way there; the
// time the load takes is not.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, server := memoryPair(t, nil)
		network.setLatency(40 * time.Millisecond)
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			time.Sleep(2 * time.Second)
			return Answer{Age: 2 * time.Second, Life: time.Minute}
		}
		ans, err := client.Peer("server").Fetch(t.Context(), Request{Group: "g", Key: "k"})
		require.NoError(t, err)
		require.Equal(t, 2*time.Second+80*time.Millisecond, ans.Age)
		require.Equal(t, time.Minute, ans.Life)
	})
}

// TestBusy: too many loads for one connection are turned away one by one, and
// hits are not.
func TestBusy(t *testing.T) {
	_, server, peer := pair(t, func(c *Config) { c.Limits.maxInFlight = 2 })
	release := make(chan struct{})
	server.handler.lookup = func(req *Request) (Answer, bool) { return Answer{}, req.Key == "hit" }
	server.handler.load = func(context.Context, *Request) Answer { <-release; return Answer{} }
	counts := make(map[bool]int)
	peer.FetchMany(background, Batch{Group: "g", Keys: []Key{{}, {}, {}, {}, {Key: "hit"}}}, func(i int, _ Answer, err error) {
		counts[errors.Is(err, CodeBusy)]++
		if counts[true] == 2 && counts[false] == 1 {
			close(release)
		}
	})
	require.Equal(t, map[bool]int{true: 2, false: 3}, counts)
	require.EqualValues(t, 2, server.Stats().Busy)
	_, err := peer.Fetch(background, Request{})
	require.NoError(t, err)
}

// TestManyCallers: everybody gets their own answer.
func TestManyCallers(t *testing.T) {
	_, server, peer := pair(t, nil)
	server.handler.lookup = func(req *Request) (Answer, bool) {
		return Answer{Value: []byte(req.Key)}, len(req.Key)%2 == 0
	}
	var failed atomic.Int64
	done := make(chan struct{})
	const callers = 64
	for caller := range callers {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 100 {
				key := fmt.Sprintf("%d/%d", caller, i)
				want := key
				if len(key)%2 != 0 {
					want += " from server"
				}
				ctx, cancel := context.WithCancel(background)
				if i%10 == 9 {
					go cancel() // now and then, some time on the way
				}
				ans, err := peer.Fetch(ctx, Request{Group: "g", Key: key})
				if i%10 != 9 && (err != nil || string(ans.Value) != want) {
					failed.Add(1)
				}
				cancel()
			}
		}()
	}
	for range callers {
		<-done
	}
	require.Zero(t, failed.Load())
	require.Zero(t, peer.conn.Load().inFlight())
}

func BenchmarkFetch(b *testing.B) {
	value := make([]byte, 1<<10)
	for _, callers := range []int{1, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			_, server, peer := pair(b, nil)
			server.handler.lookup = func(*Request) (Answer, bool) { return Answer{Value: value}, true }
			var waiting atomic.Int64
			waiting.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			done := make(chan struct{})
			for range callers {
				go func() {
					defer func() { done <- struct{}{} }()
					for waiting.Add(-1) >= 0 {
						if _, err := peer.Fetch(background, Request{Group: "g", Key: "key"}); err != nil {
							b.Error(err)
						}
					}
				}()
			}
			for range callers {
				<-done
			}
		})
	}
}
