package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/groupcache/groupcache-go/v3/transport"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
)

// Each server's client gets the bytes that the key has, from that server.
func TestRemotesAnswer(t *testing.T) {
	var keys []string
	for _, s := range sizes {
		s.keys = 20
		keys = append(keys, s.sizedKeys()...)
	}
	dir, remove, err := certificates()
	require.NoError(t, err)
	defer remove()
	b := quickBench()
	all, err := openRemotes(b, remoteKinds, keys, dir, 20)
	defer func() {
		for _, o := range all {
			o.stop()
		}
	}()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), len(remoteKinds)-1)
	for _, o := range all {
		for _, key := range keys {
			want, err := valueOf(key)
			require.NoError(t, err)
			got, err := o.get(0, key)
			require.NoError(t, err, o.name)
			require.True(t, slices.Equal(want, got), "%s: %s", o.name, key)
		}
		if c, ok := o.remote.(*geocacheClient); ok {
			s := c.group.Stats()
			require.Zero(t, s.Entries, "a read was not answered by the server")
			require.Zero(t, s.Loads)
		}
		s, err := o.run(keys[:20], 100, 10)
		require.NoError(t, err)
		require.Equal(t, work{reads: 100, hits: 100, bytes: 6400}, s.did, o.name)
		require.Positive(t, s.quantities["p99"])
	}
}

// Both clusters load a key once and answer with what was loaded, through every node.
func TestClustersAnswer(t *testing.T) {
	var ours, others origin
	c, err := openCluster(here(3), ours.get, geocache.WithTTL(ttl))
	defer c.close()
	require.NoError(t, err)
	them, groups, err := openTheirs(3, others.get)
	defer them.close()
	require.NoError(t, err)
	want := makeValue(len("ada"), 1<<10)
	for node := range 3 {
		v, err := c[node].Get(ctx, "ada")
		require.NoError(t, err)
		require.Equal(t, want, v)
		var view transport.ByteView
		require.NoError(t, groups[node].Get(ctx, "ada", transport.ByteViewSink(&view)))
		require.Equal(t, want, view.ByteSlice())
	}
	require.EqualValues(t, 1, ours.loads.Load())
	require.EqualValues(t, 1, others.loads.Load())

	// And a write by one is read through the others.
	require.NoError(t, c[0].Set(ctx, "ada", []byte("new")))
	require.NoError(t, groups[0].Set(ctx, "ada", []byte("new"), time.Now().Add(ttl), false))
	for node := range 3 {
		v, err := c[node].Get(ctx, "ada")
		require.NoError(t, err)
		require.Equal(t, "new", string(v))
		var view transport.ByteView
		require.NoError(t, groups[node].Get(ctx, "ada", transport.ByteViewSink(&view)))
		require.Equal(t, "new", view.String())
	}
}

// A line delays both directions, and one message does not wait for another.
func TestLine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buffer := make([]byte, 64)
		for {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			if _, err := c.Write(buffer[:n]); err != nil {
				return
			}
		}
	}()
	line, err := newLine(l.Addr().String())
	require.NoError(t, err)
	defer line.Close()
	conn, err := net.Dial("tcp", line.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	begun := time.Now()
	_, err = conn.Write([]byte("ping"))
	require.NoError(t, err)
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	require.NoError(t, err)
	require.Equal(t, "ping", string(buffer[:n]))
	require.GreaterOrEqual(t, time.Since(begun), 2*oneWay)
}

// pace finds out when each write is seen.
func TestPace(t *testing.T) {
	const late = 5 * time.Millisecond
	var written sync.Map
	took, _, err := pace(200, 500*time.Millisecond, func(i int) (string, error) {
		key := fmt.Sprint(i)
		written.Store(key, time.Now())
		return key, nil
	}, func(key string) bool {
		at, ok := written.Load(key)
		return ok && time.Since(at.(time.Time)) > late
	})
	require.NoError(t, err)
	require.Len(t, took, 100)
	require.GreaterOrEqual(t, took[0], late)
	require.True(t, slices.IsSorted(took))

	_, _, err = pace(200, 100*time.Millisecond, func(int) (string, error) { return "", context.Canceled }, func(string) bool { return true })
	require.ErrorIs(t, err, context.Canceled)
}

// Each keeper keeps what it is given, and the child that fills it says so.
func TestKeepersKeep(t *testing.T) {
	for kind := range keepers {
		found, err := hoardIn(hoard{Kind: kind, Entries: 2000, KeyBytes: 16, Value: 64, Reading: 50 * time.Millisecond})
		require.NoError(t, err, kind)
		require.Equal(t, 2000, found.Held, kind)
		require.Positive(t, found.RSS)
	}
	found, err := hoardIn(hoard{Kind: "geocache", KeyBytes: 16, MaxBytes: 4 << 20, ChurnTo: 16 << 20})
	require.NoError(t, err)
	require.Positive(t, found.Held)
	require.Less(t, found.Held, 16<<20/64)
}

// Each policy hits what it has room for, and misses what is new.
func TestPolicies(t *testing.T) {
	for _, k := range policyKinds {
		access, done, err := k.make(1000)
		require.NoError(t, err)
		hits := 0
		for range 2 {
			for id := range 100 {
				if access(traceKey(id)) {
					hits++
				}
			}
		}
		done()
		require.Equal(t, 100, hits, k.name)
	}
}

// go test -bench Peer -count 6 | benchstat -col /cache -
func BenchmarkPeer(b *testing.B) {
	checkBytes = false
	defer func() { checkBytes = true }()
	size := sizes[1]
	keys := size.sizedKeys()
	dir, remove, err := certificates()
	require.NoError(b, err)
	defer remove()
	all, err := openRemotes(quickBench(), remoteKinds, keys, dir, 128)
	defer func() {
		for _, o := range all {
			o.stop()
		}
	}()
	require.NoError(b, err)
	for _, callers := range []int{1, 128} {
		for _, o := range all {
			b.Run(fmt.Sprintf("callers=%d/cache=%s", callers, o.name), func(b *testing.B) {
				s, err := o.run(keys, max(b.N/callers, 1)*callers, callers)
				require.NoError(b, err)
				for _, q := range peerQuantities {
					b.ReportMetric(s.quantities[q.name], strings.ReplaceAll(q.name+"-"+q.unit, " ", "-"))
				}
			})
		}
	}
}
