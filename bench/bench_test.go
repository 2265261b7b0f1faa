// Package bench measures geocache beside golang/groupcache, in one run, on the
// same keys and values. It is a module of its own so that what is compared with
// stays out of the library's go.mod.
//
//	go test -bench . -count 6 | benchstat -col /cache -
//
// A peer hit is between two processes: the benchmark starts itself once more to
// be the node that owns every key.
package bench

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/groupcache"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

const (
	keys      = 10_000
	valueSize = 1 << 10
	ttl       = time.Hour

	// serveEnv makes the process a peer; its value is what kind of.
	serveEnv = "GEOCACHE_BENCH_PEER"
)

var key [keys]string

func init() {
	for i := range key {
		key[i] = fmt.Sprintf("user:%08d", i)
	}
}

func load() []byte { return make([]byte, valueSize) }

func TestMain(m *testing.M) {
	switch os.Getenv(serveEnv) {
	case "geocache":
		servePeer(serveGeocache)
	case "groupcache":
		servePeer(serveGroupcache)
	default:
		os.Exit(m.Run())
	}
}

// servePeer is a node that owns all keys, until its standard input ends.
func servePeer(serve func(l net.Listener)) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	serve(l)
	fmt.Println(l.Addr())
	bufio.NewReader(os.Stdin).ReadByte()
}

// peer starts a peer and returns its address.
func peer(b testing.TB, kind string) string {
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), serveEnv+"="+kind)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// Each node's weight decides who owns the keys: next to all are the server's.
const serverID, clientID = "server", "client"

func openGeocache(b testing.TB, l net.Listener, id string, weight float64, others ...regions.Node) *geocache.Group[[]byte] {
	opts := []geocache.Option{geocache.WithRegion("here"), geocache.WithNodeID(id), geocache.WithWeight(weight), geocache.WithLogger(slog.New(slog.DiscardHandler))}
	if l != nil {
		opts = append(opts, geocache.WithListener(l), geocache.WithDiscovery(regions.Static(others...)))
	}
	cache, err := geocache.Open(context.Background(), opts...)
	if err != nil {
		panic(err)
	}
	if b != nil {
		b.Cleanup(func() { cache.Close() })
	}
	g, err := geocache.NewGroup(cache, "bench",
		geocache.GetterFunc[[]byte](func(context.Context, string) ([]byte, error) { return load(), nil }),
		geocache.WithTTL(ttl), geocache.WithMaxBytes(256<<20), geocache.WithCopyShare(0))
	if err != nil {
		panic(err)
	}
	return g
}

func serveGeocache(l net.Listener) { openGeocache(nil, l, serverID, 100) }

// groupcache keeps its groups and its one pool in package variables, hence the
// names and the Onces: benchmarks run many times in a process.

func newGroupcache(name string, bytes int64) *groupcache.Group {
	return groupcache.NewGroup(name, bytes, groupcache.GetterFunc(
		func(_ context.Context, _ string, dest groupcache.Sink) error { return dest.SetBytes(load()) }))
}

func serveGroupcache(l net.Listener) {
	self := "http://" + l.Addr().String()
	pool := groupcache.NewHTTPPoolOpts(self, nil)
	pool.Set(self)
	newGroupcache("bench", 256<<20)
	go http.Serve(l, pool)
}

// aloneGroupcache must have been read from before there is a pool.
var aloneGroupcache = sync.OnceValue(func() *groupcache.Group { return newGroupcache("alone", 256<<20) })

var groupcachePool = sync.OnceValue(func() *groupcache.HTTPPool { return groupcache.NewHTTPPoolOpts("http://self", nil) })

// peerGroupcache has no memory of its own, so that every read goes to the peer.
var peerGroupcache = sync.OnceValue(func() *groupcache.Group { return newGroupcache("bench", 0) })

// BenchmarkLocalHit is a read of a key that is in memory, from all cores.
func BenchmarkLocalHit(b *testing.B) {
	b.Run("cache=groupcache", func(b *testing.B) {
		read(b, key[:], 0, fromGroupcache(b, aloneGroupcache()))
	})
	b.Run("cache=geocache", func(b *testing.B) {
		read(b, key[:], 0, fromGeocache(b, openGeocache(b, nil, clientID, 1)))
	})
}

// BenchmarkPeerHit is a read of a key that another process has in memory.
func BenchmarkPeerHit(b *testing.B) {
	for _, callers := range []int{1, 128} {
		b.Run(fmt.Sprintf("cache=groupcache/callers=%d", callers), func(b *testing.B) {
			read(b, key[:], callers, groupcacheClient(b))
		})
		b.Run(fmt.Sprintf("cache=geocache/callers=%d", callers), func(b *testing.B) {
			get, owned := geocacheClient(b)
			read(b, owned, callers, get)
		})
	}
}

// TestPeersAnswer reads each key once, so that a benchmark that would fail does
// so in the tests already.
func TestPeersAnswer(t *testing.T) {
	get := groupcacheClient(t)
	for _, k := range key {
		get(k)
	}
	get, owned := geocacheClient(t)
	for _, k := range owned {
		get(k)
	}
}

// groupcacheClient returns a function that reads a key from a peer.
func groupcacheClient(b testing.TB) func(string) {
	groupcachePool().Set("http://" + peer(b, "groupcache"))
	return fromGroupcache(b, peerGroupcache())
}

// geocacheClient returns the same, and the keys that the peer owns.
func geocacheClient(b testing.TB) (get func(string), owned []string) {
	server := regions.Node{ID: serverID, Region: "here", Address: peer(b, "geocache"), Weight: 100}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := openGeocache(b, l, clientID, 1, server)
	for _, k := range key {
		if g.Locate(k)[0].Owner.ID == serverID {
			owned = append(owned, k)
		}
	}
	if len(owned) < keys*9/10 {
		b.Fatalf("the server owns %d of %d keys", len(owned), keys)
	}
	return fromGeocache(b, g), owned
}

func fromGeocache(b testing.TB, g *geocache.Group[[]byte]) func(string) {
	ctx := context.Background()
	return func(k string) {
		if v, err := g.Get(ctx, k); err != nil || len(v) != valueSize {
			b.Error(k, len(v), err)
		}
	}
}

func fromGroupcache(b testing.TB, g *groupcache.Group) func(string) {
	ctx := context.Background()
	return func(k string) {
		var v groupcache.ByteView
		if err := g.Get(ctx, k, groupcache.ByteViewSink(&v)); err != nil || v.Len() != valueSize {
			b.Error(k, v.Len(), err)
		}
	}
}

// read reads keys, all of which have been read before, from so many goroutines
// at once; 0 is one for each core.
func read(b *testing.B, keys []string, callers int, get func(key string)) {
	for _, k := range keys {
		get(k)
	}
	b.ReportAllocs()
	b.SetBytes(valueSize)
	b.ResetTimer()
	if callers == 1 {
		next := zipf(len(keys))
		for range b.N {
			get(keys[next()])
		}
		return
	}
	if callers > 0 {
		b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	}
	b.RunParallel(func(pb *testing.PB) {
		next := zipf(len(keys))
		for pb.Next() {
			get(keys[next()])
		}
	})
}

// zipf returns a source of indices below n, some much more frequent than others.
// Drawing them beforehand keeps that out of the measurement.
func zipf(n int) func() int {
	z := rand.NewZipf(rand.New(rand.NewPCG(rand.Uint64(), 1)), 1.1, 1, uint64(n-1))
	indices := make([]int, 1<<12)
	for i := range indices {
		indices[i] = int(z.Uint64())
	}
	i := 0
	return func() int { i++; return indices[i&(1<<12-1)] }
}
