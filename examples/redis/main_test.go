package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/regions"
)

func TestMain(m *testing.M) {
	// The client's pause before it connects again ends by itself, within a second.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// An instance is one process of the service, as far as it can be in one process.
type instance struct {
	*service
	url string
}

// open starts two instances that share Redis, a source and the cache.
func open(t testing.TB, s *server, source source) [2]*instance {
	var listeners [2]net.Listener
	var nodes []regions.Node
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners[i] = l
		nodes = append(nodes, regions.Node{ID: l.Addr().String(), Region: "local", Address: l.Addr().String()})
	}
	var instances [2]*instance
	var opening sync.WaitGroup
	for i, l := range listeners {
		client, err := rueidis.NewClient(rueidis.MustParseURL(s.url()))
		require.NoError(t, err)
		t.Cleanup(client.Close)
		opening.Go(func() {
			cache, err := geocache.Open(t.Context(), geocache.WithListener(l), geocache.WithDiscovery(regions.Static(nodes...)))
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { cache.Close() })
			service, err := newService(cache, &levels{redis: client, source: source})
			if err != nil {
				t.Error(err)
				return
			}
			web := httptest.NewServer(service.handler())
			t.Cleanup(web.Close)
			instances[i] = &instance{service, web.URL}
		})
	}
	opening.Wait()
	require.False(t, t.Failed())
	return instances
}

func newFiles(t testing.TB) files {
	f, err := openSource(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// do makes a request, and returns the status, what the cache said, and the body.
func (i *instance) do(t testing.TB, method, path, body string) (status int, source, reply string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, i.url+path, strings.NewReader(body))
	require.NoError(t, err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header.Get("X-Cache"), string(text)
}

func (i *instance) write(t testing.TB, method, id, body string, status int) {
	t.Helper()
	got, _, text := i.do(t, method, "/docs/"+id, body)
	require.Equal(t, status, got, text)
}

func (i *instance) requireDoc(t testing.TB, id, doc string) {
	t.Helper()
	status, _, text := i.do(t, http.MethodGet, "/docs/"+id, "")
	if doc == "" {
		require.Equal(t, http.StatusNotFound, status, text)
		return
	}
	require.Equal(t, http.StatusOK, status, text)
	require.Equal(t, doc, text)
}

var gets = regexp.MustCompile(`cmdstat_get:calls=(\d+)`)

// redisGets returns how many GETs Redis has answered, as it counts them.
func (i *instance) redisGets(t testing.TB) int {
	t.Helper()
	redis := i.levels.redis
	info, err := redis.Do(t.Context(), redis.B().Info().Section("commandstats").Build()).ToString()
	require.NoError(t, err)
	found := gets.FindStringSubmatch(info)
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(found[1])
	require.NoError(t, err)
	return n
}

// TestLocalHits: of a thousand reads at two instances Redis answers one, and the source one.
func TestLocalHits(t *testing.T) {
	source := newFiles(t)
	require.NoError(t, source.put(t.Context(), "tea", []byte("two spoons")))
	nodes := open(t, newServer(t), source)
	for range 500 {
		for _, n := range nodes {
			n.requireDoc(t, "tea", "two spoons")
		}
	}
	require.Equal(t, 1, nodes[0].redisGets(t))
	require.EqualValues(t, 1, nodes[0].levels.misses.Load()+nodes[1].levels.misses.Load())
	for _, n := range nodes {
		// One that has just come asks the owner for the first second.
		require.Eventually(t, func() bool {
			_, source, _ := n.do(t, http.MethodGet, "/docs/tea", "")
			return source == "store"
		}, 10*time.Second, 20*time.Millisecond)
	}
	var stats map[string]uint64
	_, _, text := nodes[0].do(t, http.MethodGet, "/stats", "")
	require.NoError(t, json.Unmarshal([]byte(text), &stats))
	require.Equal(t, stats["reads"], stats["store"]+stats["owner"]+1, "all but the first from a memory")
}

// TestRedisIsTheSecondLevel: what one cluster has loaded, another finds in Redis, with
// the time to live that is left of it.
func TestRedisIsTheSecondLevel(t *testing.T) {
	s, source := newServer(t), newFiles(t)
	require.NoError(t, source.put(t.Context(), "tea", []byte("two spoons")))
	first := open(t, s, source)[0]
	first.requireDoc(t, "tea", "two spoons")
	first.requireDoc(t, "coffee", "")
	redis := first.levels.redis
	require.NoError(t, redis.Do(t.Context(), redis.B().Pexpire().Key("docs:tea").Milliseconds(30_000).Build()).Error())

	var hits uint64
	second := open(t, s, source)
	for _, n := range second {
		item, err := n.docs.GetItem(t.Context(), "tea")
		require.NoError(t, err)
		require.Less(t, time.Until(item.Expires), 31*time.Second)
		n.requireDoc(t, "coffee", "")
		require.Zero(t, n.levels.misses.Load())
		hits += n.levels.hits.Load()
	}
	require.EqualValues(t, 2, hits)
}

func TestAWriteAtOneIsReadAtTheOther(t *testing.T) {
	source := newFiles(t)
	nodes := open(t, newServer(t), source)
	a, b := nodes[0], nodes[1]
	for i := range 5 { // some are owned by a and some by b
		id := fmt.Sprint("doc ", i)
		path := fmt.Sprint("doc%20", i)
		a.requireDoc(t, path, "")
		b.requireDoc(t, path, "")
		a.write(t, http.MethodPut, path, "one", http.StatusNoContent)
		b.requireDoc(t, path, "one")
		b.write(t, http.MethodPut, path, "two", http.StatusNoContent)
		a.requireDoc(t, path, "two")
		inRedis, _, err := a.levels.fromRedis(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, "two", string(inRedis))
		doc, err := source.get(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, "two", string(doc))

		a.write(t, http.MethodDelete, path, "", http.StatusNoContent)
		b.requireDoc(t, path, "")
		_, err = source.get(t.Context(), id)
		require.ErrorIs(t, err, geocache.ErrNotFound)
	}
	a.write(t, http.MethodPut, "empty", "", http.StatusBadRequest)
	a.write(t, http.MethodPut, "large", strings.Repeat("x", 1<<20+1), http.StatusBadRequest)
}

// A held source answers a get with what it had when it was asked, but not yet.
type held struct {
	files
	asked, answer chan struct{}
}

func (h *held) get(ctx context.Context, id string) ([]byte, error) {
	doc, err := h.files.get(ctx, id)
	select {
	case h.asked <- struct{}{}:
		<-h.answer
	default:
	}
	return doc, err
}

// TestAGetterThatIsLateBringsNothingBack: a document is changed, or removed, between the
// source's being read and Redis's being filled.
func TestAGetterThatIsLateBringsNothingBack(t *testing.T) {
	for _, write := range []string{http.MethodPut, http.MethodDelete} {
		source := &held{newFiles(t), make(chan struct{}), make(chan struct{})}
		require.NoError(t, source.put(t.Context(), "tea", []byte("old")))
		a := open(t, newServer(t), source)[0]
		var reading sync.WaitGroup
		reading.Go(func() { a.docs.Get(context.Background(), "tea") }) // either is right
		<-source.asked

		want := ""
		if write == http.MethodPut {
			want = "new"
		}
		a.write(t, write, "tea", want, http.StatusNoContent)
		source.answer <- struct{}{}
		reading.Wait()
		a.requireDoc(t, "tea", want)
		inRedis, _, err := a.levels.fromRedis(t.Context(), "tea")
		require.NoError(t, err)
		require.Equal(t, want, string(inRedis))
	}
}

// TestWithoutRedis: while it is away documents are read from the source, and not written.
func TestWithoutRedis(t *testing.T) {
	s, source := newServer(t), newFiles(t)
	nodes := open(t, s, source)
	nodes[0].write(t, http.MethodPut, "tea", "two spoons", http.StatusNoContent)
	require.NoError(t, source.put(t.Context(), "coffee", []byte("one spoon")))
	s.stop()
	for _, n := range nodes {
		n.requireDoc(t, "tea", "two spoons")
		n.requireDoc(t, "coffee", "one spoon")
		n.write(t, http.MethodPut, "tea", "three spoons", http.StatusBadGateway)
		n.requireDoc(t, "tea", "two spoons")
	}
	s.start(t)
	require.Eventually(t, func() bool {
		status, _, _ := nodes[1].do(t, http.MethodPut, "/docs/tea", "three spoons")
		return status == http.StatusNoContent
	}, 10*time.Second, 50*time.Millisecond)
	nodes[0].requireDoc(t, "tea", "three spoons")
}

// TestRun is main without its flags.
func TestRun(t *testing.T) {
	s, address := newServer(t), free(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, address, s.url(), t.TempDir(), free(t), nil) }()

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	require.Eventually(t, func() bool {
		resp, err := client.Get("http://" + address + "/docs/tea")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusNotFound
	}, 20*time.Second, 20*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	require.ErrorContains(t, run(t.Context(), address, "no redis", t.TempDir(), free(t), nil), "scheme")
	require.Error(t, run(t.Context(), address, s.url(), "/no such directory", free(t), nil))
}

// free returns an address that nobody listened on a moment ago.
func free(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// BenchmarkStore is a hit in the memory of the process.
func BenchmarkStore(b *testing.B) {
	benchmark(b, func(ctx context.Context, n *instance) error {
		_, err := n.docs.Get(ctx, "tea")
		return err
	})
}

// BenchmarkRedis is a hit in Redis, over a socket of the same machine.
func BenchmarkRedis(b *testing.B) {
	benchmark(b, func(ctx context.Context, n *instance) error {
		_, _, err := n.levels.fromRedis(ctx, "tea")
		return err
	})
}

func benchmark(b *testing.B, get func(context.Context, *instance) error) {
	source := newFiles(b)
	require.NoError(b, source.put(b.Context(), "tea", []byte("two spoons")))
	a := open(b, newServer(b), source)[0]
	ctx := context.Background()
	if _, err := a.docs.Get(ctx, "tea"); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := get(ctx, a); err != nil {
			b.Fatal(err)
		}
	}
}
