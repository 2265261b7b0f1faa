package groupcompat_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/groupcompat"
	"github.com/geocache/geocache/regions"
)

var quiet = geocache.WithLogger(slog.New(slog.DiscardHandler))

// newOrigin is the origin of processes of the new kind. It counts.
type newOrigin struct{ loads atomic.Int64 }

func (o *newOrigin) Get(_ context.Context, key string) ([]byte, error) {
	o.loads.Add(1)
	value, err := originOf("new", key)
	if err != nil && strings.HasPrefix(key, "missing") {
		return nil, fmt.Errorf("%s: %w", key, geocache.ErrNotFound)
	}
	return []byte(value), err
}

// alone is a group of the cache of a process that is alone.
func alone(t *testing.T, getter geocache.Getter[[]byte], opts ...geocache.GroupOption) *geocache.Group[[]byte] {
	cache, err := geocache.Open(t.Context(), quiet)
	require.NoError(t, err)
	t.Cleanup(func() { cache.Close() })
	g, err := geocache.NewGroup(cache, groupName, getter, opts...)
	require.NoError(t, err)
	return g
}

// serve serves h as a service does, beside other things, on l or on a port of its own. It
// returns the base URL.
func serve(t *testing.T, l net.Listener, h http.Handler) string {
	if l == nil {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	mux := http.NewServeMux()
	mux.Handle("/_groupcache/", h)
	s := &http.Server{Handler: mux}
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

// peers returns Peers of those processes.
func peers(t *testing.T, self string, urls []string, opts ...groupcompat.PeersOption) *groupcompat.Peers {
	opts = append([]groupcompat.PeersOption{groupcompat.WithTransport(client(t).Transport)}, opts...)
	p, err := groupcompat.NewPeers(self, nil, opts...)
	require.NoError(t, err)
	p.Set(urls...)
	return p
}

// A newProcess is a node of the geocache cluster, with all that a process of the new
// kind has while old ones are about.
type newProcess struct {
	group   *geocache.Group[[]byte]
	peers   *groupcompat.Peers
	handler *groupcompat.Handler
}

// startNew opens a node that serves groupcache's peers at address, "" for none, and fills
// from those in urls.
func startNew(t *testing.T, d regions.Discovery, id, address string, origin *newOrigin, urls ...string) *newProcess {
	self := ""
	if address != "" {
		self = "http://" + address
	}
	cache, err := geocache.Open(t.Context(), quiet, geocache.WithRegion("here"), geocache.WithNodeID(id),
		geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(d),
		geocache.WithLease(10*time.Second)) // a busy machine is no node that has vanished
	require.NoError(t, err)
	t.Cleanup(func() { cache.Close() })
	p := peers(t, self, urls)
	g, err := geocache.NewGroup(cache, groupName, p.Getter(groupName, origin), geocache.WithTTL(time.Hour))
	require.NoError(t, err)
	h := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(h, g, groupcompat.Bytes())
	if address != "" {
		l, err := net.Listen("tcp", address)
		require.NoError(t, err)
		serve(t, l, h)
	}
	return &newProcess{g, p, h}
}

func (n *newProcess) get(key string) (string, error) {
	v, err := n.group.Get(context.Background(), key)
	return string(v), err
}

// A board is a discovery on which nodes in this process find each other.
type board struct {
	mu     sync.Mutex // guards the following, and is held while found is called
	listed map[string]regions.Node
	found  map[string]func(regions.View)
}

func newBoard() *board {
	return &board{listed: map[string]regions.Node{}, found: map[string]func(regions.View){}}
}

func (b *board) Region(context.Context) (string, error) { return "", nil }

func (b *board) Run(ctx context.Context, self regions.Node, _ func() error, found func(regions.View)) error {
	b.change(func() { b.listed[self.ID], b.found[self.ID] = self, found })
	<-ctx.Done()
	b.change(func() {
		delete(b.listed, self.ID)
		delete(b.found, self.ID)
	})
	return nil
}

func (b *board) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	for _, found := range b.found {
		found(regions.View{Nodes: slices.Collect(maps.Values(b.listed))})
	}
}
