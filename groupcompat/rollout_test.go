package groupcompat_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/groupcompat"
)

// A service of three processes moves to geocache one by one, on the addresses it has,
// and no key is loaded a second time on the way.
func TestRollout(t *testing.T) {
	origin := &newOrigin{}
	var keys []string
	for i := range 60 {
		keys = append(keys, fmt.Sprint("user-", i)) // no spaces: old processes would not find them at each other
	}

	// All old.
	olds := []*oldProcess{startOld(t), startOld(t), startOld(t)}
	var urls []string
	for _, o := range olds {
		urls = append(urls, o.url)
	}
	for _, o := range olds {
		o.setPeers(urls...)
	}
	oldLoads := func() (n int) {
		for _, o := range olds {
			n += o.loads()
		}
		return n
	}
	readOld := func(want string, keys []string, olds ...*oldProcess) {
		t.Helper()
		for _, o := range olds {
			for _, key := range keys {
				value, err := o.get(key)
				require.NoError(t, err)
				require.Contains(t, []string{"old:" + key, want + ":" + key}, value)
			}
		}
	}
	readNew := func(keys []string, news ...*newProcess) {
		t.Helper()
		for _, n := range news {
			for _, key := range keys {
				value, err := n.get(key)
				require.NoError(t, err)
				require.Contains(t, []string{"old:" + key, "new:" + key}, value)
			}
		}
	}
	readOld("old", keys, olds...)
	require.Equal(t, len(keys), oldLoads())

	// A first new process, in nobody's list: the cluster's traffic comes to it by
	// whatever spreads requests over processes.
	d := newBoard()
	first := startNew(t, d, "first", "", origin, urls...)
	readNew(keys, first)
	require.Equal(t, len(keys), oldLoads())
	require.Zero(t, origin.loads.Load())
	require.EqualValues(t, len(keys), first.peers.Stats().Answered)

	// One old process is replaced at its address. To the others nothing has changed.
	address := olds[0].addr
	olds[0].stop()
	olds = olds[1:]
	before := oldLoads()
	second := startNew(t, d, "second", address, origin, urls...)
	readOld("old", keys, olds...) // all values are the old ones'
	readNew(keys, first, second)
	require.Equal(t, before, oldLoads())
	require.Zero(t, origin.loads.Load())
	require.Positive(t, second.handler.Stats().Requests)
	for _, o := range olds {
		require.Zero(t, o.stats().PeerErrors)
	}

	// What is new in a mixed cluster is loaded once in all of it, wherever it is asked
	// for first.
	var fresh []string
	for i := range 60 {
		fresh = append(fresh, fmt.Sprint("fresh-", i))
	}
	for i, key := range fresh {
		switch i % 4 {
		case 0, 1:
			readOld("new", []string{key}, olds[i%4])
		case 2:
			readNew([]string{key}, first)
		case 3:
			readNew([]string{key}, second)
		}
	}
	readOld("new", fresh, olds...)
	readNew(fresh, first, second)
	require.Equal(t, before+len(fresh), oldLoads()+int(origin.loads.Load()))
	require.Positive(t, origin.loads.Load(), "no key was the new process's")
	require.NotEqual(t, before, oldLoads(), "no key was an old process's")

	// The other two, one after the other. What each owns from then on it takes over when it is
	// asked for it.
	loaded := origin.loads.Load()
	all := []*newProcess{first, second}
	for i, o := range olds {
		o.stop()
		all = append(all, startNew(t, d, fmt.Sprint("after-", i), o.addr, origin, urls...))
		readNew(keys, all...)
		readNew(fresh, all...)
	}
	require.Equal(t, loaded, origin.loads.Load())

	// Nobody asks old processes any more, and none asks: this package can go.
	count := func() (answered, requests uint64) {
		for _, n := range all {
			answered += n.peers.Stats().Answered
			requests += n.handler.Stats().Requests
		}
		return
	}
	answered, requests := count()
	for i := range 40 {
		readNew([]string{fmt.Sprint("last-", i)}, all[i%4])
	}
	a, r := count()
	require.Equal(t, answered, a)
	require.Equal(t, requests, r)
	require.Equal(t, loaded+40, origin.loads.Load())
}

// The other way: every process runs both for a while, geocache before the groupcache that is as
// it was.
func TestBothInOneProcess(t *testing.T) {
	both := bothEnv + "=1"
	processes := []*oldProcess{startOld(t, both), startOld(t, both), startOld(t)}
	for _, p := range processes {
		p.setPeers(processes[0].url, processes[1].url, processes[2].url)
	}
	loads := func() (n int) {
		for _, p := range processes {
			n += p.loads()
		}
		return n
	}
	for round := range 2 {
		for i := range 60 {
			key := fmt.Sprint("user-", i)
			value, err := processes[(i+round)%3].get(key)
			require.NoError(t, err)
			require.Equal(t, "old:"+key, value)
		}
		require.Equal(t, 60, loads())
	}
	_, err := processes[0].get("broken")
	require.ErrorContains(t, err, "the database is down")

	// Then one has no groupcache any more. The others load what it would have.
	processes[2].stop()
	for i := range 60 {
		key := fmt.Sprint("fresh-", i)
		value, err := processes[i%2].get(key)
		require.NoError(t, err)
		require.Equal(t, "old:"+key, value)
	}
}

// While lists differ, an old process may ask a new one for a key that the new one asks it
// for. That ends with the time a peer may take.
func TestListsThatDisagree(t *testing.T) {
	old := startOld(t)
	p := peers(t, "", []string{old.url}, groupcompat.WithPeerTimeout(500*time.Millisecond))
	origin := &newOrigin{}
	g := alone(t, p.Getter(groupName, origin))
	h := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(h, g, groupcompat.Bytes())
	url := serve(t, nil, h)
	old.setPeers(url)
	value, err := g.Get(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, "new:ada", string(value))
	require.Equal(t, groupcompat.PeersStats{Unreachable: 1}, p.Stats())
	require.EqualValues(t, 1, h.Stats().Requests)

	// In the right order, the new list first, it does not come to that.
	both, err := groupcompat.NewPeers(url, nil, groupcompat.WithTransport(client(t).Transport))
	require.NoError(t, err)
	both.Set(old.url, url)
	getter := both.Getter(groupName, origin)
	old.setPeers(old.url) // has not heard yet
	for i := range 60 {
		_, err := getter.Get(t.Context(), fmt.Sprint("user-", i))
		require.NoError(t, err)
	}
	old.setPeers(old.url, url)
	for i := range 60 {
		_, err := getter.Get(t.Context(), fmt.Sprint("user-", i))
		require.NoError(t, err)
	}
	s := both.Stats()
	require.Zero(t, s.Unreachable+s.Failed)
	require.Positive(t, s.Answered)
	require.EqualValues(t, 120, s.Answered+s.Own)
	require.EqualValues(t, 1, h.Stats().Requests, "an old process has asked on")
}
