package peers

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLatency: fetches and calls apart, what ends by an error in neither.
func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, server := memoryPair(t, nil)
		peer := client.Peer("server")
		exchanges := func() Exchanges { return client.Stats().Peers[0].Exchanges }
		require.Zero(t, exchanges())
		network.setLatency(20 * time.Millisecond)
		server.handler.load = func(ctx context.Context, req *Request) Answer {
			switch req.Key {
			case "slow":
				time.Sleep(2 * time.Second)
			case "failing":
				time.Sleep(time.Minute)
				return Answer{Code: CodeFailed}
			}
			return Answer{}
		}
		for range 98 {
			_, err := peer.Fetch(background, Request{Key: "quick"})
			require.NoError(t, err)
		}
		for range 2 {
			_, err := peer.Fetch(background, Request{Key: "slow"})
			require.NoError(t, err)
		}
		_, err := peer.Fetch(background, Request{Key: "failing"})
		require.ErrorIs(t, err, CodeFailed)
		_, err = peer.Call(background, 1, []byte("call"))
		require.NoError(t, err)

		s := exchanges()
		require.EqualValues(t, 102, s.Requests)
		require.EqualValues(t, 1, s.Errors)
		require.EqualValues(t, 100, s.FetchLatency.Count)
		require.Equal(t, 98*40*time.Millisecond+2*2040*time.Millisecond, s.FetchLatency.Sum)
		require.Equal(t, 40960*time.Microsecond, s.FetchLatency.P50) // the upper edge of 40 ms's bucket
		require.Equal(t, 2040*time.Millisecond, s.FetchLatency.P99)
		require.Equal(t, 2040*time.Millisecond, s.FetchLatency.Max)
		require.EqualValues(t, 1, s.CallLatency.Count)
		require.Equal(t, 40*time.Millisecond, s.CallLatency.P50)
	})
}

// TestLatencyOfMany: each key of a FetchMany counts, a miss is an answer, and a
// caller whose time is up has none.
func TestLatencyOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, _ := memoryPair(t, nil)
		peer := client.Peer("server")
		network.setLatency(5 * time.Millisecond)
		keys := []Key{{Key: "a"}, {Key: "b"}, {Key: "hold"}}
		ctx, cancel := context.WithTimeout(background, time.Second)
		defer cancel()
		peer.FetchMany(ctx, Batch{Keys: keys}, func(int, Answer, error) {})
		_, err := peer.Fetch(background, Request{Key: "c", Peek: true})
		require.NoError(t, err)

		s := client.Stats().Peers[0]
		require.EqualValues(t, 4, s.Requests)
		require.EqualValues(t, 1, s.Errors)
		require.EqualValues(t, 3, s.FetchLatency.Count)
		require.Equal(t, 10*time.Millisecond, s.FetchLatency.Max)
	})
}

// TestLatencyOfPostedCalls: a call that is posted after a slow one is not taken for a slow one.
func TestLatencyOfPostedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, client, server := memoryPair(t, nil)
		peer := client.Peer("server")
		network.setLatency(5 * time.Millisecond)
		server.handler.call = func(_ context.Context, call *Call) Answer {
			if string(call.Payload) == "slow" {
				time.Sleep(time.Second)
			}
			return Answer{}
		}
		var posted sync.WaitGroup
		for _, payload := range []string{"slow", "quick", "quick"} {
			posted.Add(1)
			require.NoError(t, peer.Post(time.Minute, 1, []byte(payload), func(_ []byte, err error) {
				require.NoError(t, err)
				posted.Done()
			}))
		}
		posted.Wait()
		calls := client.Stats().Peers[0].CallLatency
		require.Equal(t, 1010*time.Millisecond+2*10*time.Millisecond, calls.Sum)
		require.Equal(t, 10240*time.Microsecond, calls.P50)
	})
}

// TestExchangesOfARegion outlive the peers.
func TestExchangesOfARegion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, server := memoryPair(t, nil)
		peer := client.Peer("server")
		ask := func() {
			_, err := client.Peer("server").Fetch(background, Request{Key: "k"})
			require.NoError(t, err)
		}
		ask()
		_, err := peer.Call(background, 1, nil)
		require.NoError(t, err)
		before := client.Stats()
		require.Equal(t, map[string]Exchanges{"here": before.Peers[0].Exchanges}, before.Regions)
		require.EqualValues(t, 2, before.Regions["here"].Requests)

		client.SetPeers(nil)
		synctest.Wait()
		_, err = peer.Fetch(background, Request{Key: "k"})
		require.ErrorIs(t, err, CodeUnavailable)
		require.Equal(t, before.Regions, client.Stats().Regions)

		client.SetPeers([]Endpoint{server.endpoint()})
		require.NoError(t, client.Tried(t.Context()))
		ask()
		after := client.Stats()
		require.EqualValues(t, 1, after.Peers[0].Requests)
		require.EqualValues(t, 3, after.Regions["here"].Requests)
		require.EqualValues(t, 2, after.Regions["here"].FetchLatency.Count)
	})
}

// TestExchangesAreConsistent at any moment: no more ends than beginnings, no peer
// with more than its region, and nothing that falls.
func TestExchangesAreConsistent(t *testing.T) {
	client, _, peer := pair(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() {
			for ctx.Err() == nil {
				if i%2 == 0 {
					_, _ = peer.Fetch(background, Request{Key: "k"})
				} else {
					_, _ = peer.Call(ctx, 1, nil)
				}
			}
		})
	}
	ends := func(e Exchanges) uint64 { return e.Errors + e.FetchLatency.Count + e.CallLatency.Count }
	var last Exchanges
	for ends(last) < 20_000 {
		s := client.Stats()
		of, region := s.Peers[0].Exchanges, s.Regions["here"]
		require.LessOrEqual(t, ends(of), of.Requests)
		require.LessOrEqual(t, ends(region), region.Requests)
		require.LessOrEqual(t, of.Requests, region.Requests)
		require.LessOrEqual(t, ends(of), ends(region))
		require.LessOrEqual(t, last.Requests, of.Requests)
		require.LessOrEqual(t, ends(last), ends(of))
		last = of
	}
	cancel()
	asking.Wait()
	s := client.Stats().Peers[0]
	require.Equal(t, s.Requests, ends(s.Exchanges))
}
