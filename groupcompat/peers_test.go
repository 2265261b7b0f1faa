package groupcompat_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/groupcache"
	"github.com/golang/groupcache/consistenthash"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/groupcompat"
)

// A group fills from an unmodified groupcache.
func TestNewAsksOld(t *testing.T) {
	old := startOld(t)
	p := peers(t, "", []string{old.url})
	origin := &newOrigin{}
	g := alone(t, p.Getter(groupName, origin))
	keys := append(oddKeys, ".", "..", "ada")
	for _, key := range keys {
		value, err := g.Get(t.Context(), key)
		require.NoError(t, err, "%q", key)
		require.Equal(t, "old:"+key, string(value))
	}
	value, err := g.Get(t.Context(), "large one")
	require.NoError(t, err)
	require.Equal(t, "old"+largeValue, string(value))
	all := uint64(len(keys) + 1)
	require.Equal(t, groupcompat.PeersStats{Answered: all}, p.Stats())
	require.EqualValues(t, all, old.stats().ServerRequests)
	require.Zero(t, origin.loads.Load())

	// What the old process fails to load, the origin is asked for.
	_, err = g.Get(t.Context(), "missing bob")
	require.ErrorIs(t, err, geocache.ErrNotFound)
	_, err = g.Get(t.Context(), "broken one")
	require.EqualError(t, err, `geocache: get users&more/"broken one" at alone in local: the database is down (and before, groupcompat: peer `+
		old.url+`: the database is down)`)
	require.Equal(t, groupcompat.PeersStats{Answered: all, Failed: 2}, p.Stats())
	require.EqualValues(t, 2, origin.loads.Load())

	// So it is when there is none.
	old.stop()
	value, err = g.Get(t.Context(), "grace")
	require.NoError(t, err)
	require.Equal(t, "new:grace", string(value))
	_, err = g.Get(t.Context(), "missing carl")
	require.ErrorIs(t, err, geocache.ErrNotFound)
	require.Equal(t, groupcompat.PeersStats{Answered: all, Failed: 2, Unreachable: 2}, p.Stats())
}

// Where the cluster is all there is, its errors are the callers', and can be told apart.
func TestPeersWithoutOrigin(t *testing.T) {
	old := startOld(t)
	p := peers(t, "http://self", []string{old.url}, groupcompat.WithMaxValueBytes(1<<20),
		groupcompat.WithNotFound(func(text string) bool { return strings.HasSuffix(text, "no such user") }))
	g := alone(t, p.Getter(groupName, nil))
	get := func(key string) (*groupcompat.PeerError, error) {
		_, err := g.Get(t.Context(), key)
		require.Error(t, err)
		var pe *groupcompat.PeerError
		require.Equal(t, !errors.Is(err, geocache.ErrNotFound) && !errors.Is(err, groupcompat.ErrOwn), errors.As(err, &pe), "%v", err)
		return pe, err
	}

	_, err := get("missing bob")
	require.ErrorIs(t, err, geocache.ErrNotFound)

	pe, _ := get("broken one")
	require.Equal(t, &groupcompat.PeerError{URL: old.url, Status: 500, Text: "the database is down"}, pe)

	pe, err = get("large one")
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	require.Equal(t, 200, pe.Status)

	_, err = p.Getter("others", nil).Get(t.Context(), "ada")
	require.Equal(t, &groupcompat.PeerError{URL: old.url, Status: 404, Text: "no such group: others"}, err)

	old.stop()
	pe, err = get("ada")
	require.Zero(t, pe.Status)
	var op *net.OpError
	require.ErrorAs(t, err, &op)

	p.Set("http://self")
	_, err = get("ada")
	require.ErrorIs(t, err, groupcompat.ErrOwn)
	p.Set()
	_, err = get("ada")
	require.ErrorIs(t, err, groupcompat.ErrOwn)
	require.Equal(t, groupcompat.PeersStats{NotFound: 1, Failed: 3, Unreachable: 1, Own: 2}, p.Stats())
}

// With WithNotFound the origin is not asked again for what it does not have.
func TestNotFoundSparesTheOrigin(t *testing.T) {
	old := startOld(t)
	p := peers(t, "", []string{old.url}, groupcompat.WithNotFound(func(text string) bool { return strings.Contains(text, "no such user") }))
	origin := &newOrigin{}
	_, err := p.Getter(groupName, origin).Get(t.Context(), "missing bob")
	require.ErrorIs(t, err, geocache.ErrNotFound)
	require.Zero(t, origin.loads.Load())
}

// A caller that gives up takes its request to the old process along.
func TestPeersEndWithTheCaller(t *testing.T) {
	old := startOld(t)
	p := peers(t, "", []string{old.url})
	origin := &newOrigin{}
	g := alone(t, p.Getter(groupName, origin))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		old.call("/hanging", nil)
		cancel()
	}()
	_, err := g.Get(ctx, "hanging")
	require.ErrorIs(t, err, context.Canceled)
	old.call("/hung", nil) // its getter has seen the end
	require.Zero(t, origin.loads.Load())
	require.Zero(t, p.Stats())
}

// A process with a Handler for the group is not filled from.
func TestNewDoesNotAskNew(t *testing.T) {
	theirs, ours := &newOrigin{}, &newOrigin{}
	h := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(h, alone(t, theirs), groupcompat.Bytes())
	p := peers(t, "", []string{serve(t, nil, h)})
	value, err := p.Getter(groupName, ours).Get(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, "new:ada", string(value))
	require.EqualValues(t, 1, ours.loads.Load())
	require.Zero(t, theirs.loads.Load())
	require.Equal(t, groupcompat.PeersStats{Moved: 1}, p.Stats())

	_, err = p.Getter(groupName, nil).Get(t.Context(), "ada")
	require.ErrorIs(t, err, groupcompat.ErrOwn)

	_, err = p.Getter(groupName, ours).Get(t.Context(), "broken one") // of the peer there is nothing to say
	require.EqualError(t, err, "the database is down")
}

// A transport is a peer without a network.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func body(status int, r io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(r), ContentLength: -1}
}

// endless counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	e.read += len(b)
	return len(b), nil
}

func TestAnswersThatCannotBeUsed(t *testing.T) {
	const limit = 1 << 10
	value := func(n int) []byte { return append([]byte{0x0a, byte(n) | 0x80, byte(n >> 7)}, make([]byte, n)...) }
	var answer func() *http.Response
	p := peers(t, "", []string{"http://old"}, groupcompat.WithMaxValueBytes(limit),
		groupcompat.WithTransport(transport(func(*http.Request) (*http.Response, error) { return answer(), nil })))
	get := func() error {
		_, err := p.Getter("users", nil).Get(t.Context(), "ada")
		return err
	}

	answer = func() *http.Response { return body(200, bytes.NewReader(value(limit))) }
	require.NoError(t, get())
	answer = func() *http.Response { return body(200, bytes.NewReader(value(limit+1))) }
	require.ErrorIs(t, get(), geocache.ErrTooLarge)

	e := &endless{}
	answer = func() *http.Response { return body(200, e) }
	require.ErrorIs(t, get(), geocache.ErrTooLarge)
	require.Less(t, e.read, 2*limit)

	e = &endless{}
	answer = func() *http.Response {
		r := body(200, e)
		r.ContentLength = 1 << 40
		return r
	}
	require.ErrorIs(t, get(), geocache.ErrTooLarge)
	require.Zero(t, e.read)

	e = &endless{}
	answer = func() *http.Response { return body(500, e) }
	var pe *groupcompat.PeerError
	require.ErrorAs(t, get(), &pe)
	require.Len(t, pe.Text, 1<<10)

	answer = func() *http.Response { return body(200, strings.NewReader("\x0a\x05four")) }
	require.ErrorAs(t, get(), &pe)
	require.Equal(t, 200, pe.Status)
	require.Error(t, pe.Err)

	answer = func() *http.Response { return body(307, strings.NewReader("")) }
	require.EqualError(t, get(), "groupcompat: peer http://old: status 307")

	answer = func() *http.Response { return body(200, strings.NewReader("")) } // an empty value, encoded
	require.NoError(t, get())
}

// The bound holds for memory, with a real connection and a peer that does not say how much
// it sends.
func TestAnEndlessAnswerIsNotRead(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for chunk := make([]byte, 1<<20); ; {
			if _, err := w.Write(chunk); err != nil {
				return // the asker has had enough
			}
		}
	}))
	defer s.Close()
	p := peers(t, "", []string{s.URL}, groupcompat.WithMaxValueBytes(1<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := p.Getter("users", nil).Get(t.Context(), "ada")
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20))
}

// A peer that hangs leaves time for the origin.
func TestPeerTimeout(t *testing.T) {
	hang := groupcompat.WithTransport(transport(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}))
	for _, test := range []struct {
		name  string
		opts  []groupcompat.PeersOption
		after time.Duration // with a deadline 10 s away
		alone time.Duration // without an origin
	}{
		{"half of the time", nil, 5 * time.Second, 10 * time.Second},
		{"as set", []groupcompat.PeersOption{groupcompat.WithPeerTimeout(time.Second)}, time.Second, time.Second},
		{"half at most", []groupcompat.PeersOption{groupcompat.WithPeerTimeout(8 * time.Second)}, 5 * time.Second, 8 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := groupcompat.NewPeers("", nil, append(test.opts, hang)...)
				require.NoError(t, err)
				p.Set("http://old")
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				begun := time.Now()
				value, err := p.Getter("users", &newOrigin{}).Get(ctx, "ada")
				require.NoError(t, err)
				require.Equal(t, "new:ada", string(value))
				require.Equal(t, test.after, time.Since(begun))
				require.Equal(t, groupcompat.PeersStats{Unreachable: 1}, p.Stats())

				ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				begun = time.Now()
				_, err = p.Getter("users", nil).Get(ctx, "ada")
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, test.alone, time.Since(begun))
			})
		})
	}
}

// An origin that knows how long its values live goes on telling.
func TestOriginThatIsAnItemGetter(t *testing.T) {
	p := peers(t, "", nil)
	origin := geocache.ItemGetterFunc[[]byte](func(_ context.Context, key string) (geocache.Loaded[[]byte], error) {
		return geocache.Loaded[[]byte]{Value: []byte(key), TTL: time.Second}, nil
	})
	getter := groupcompat.Decoded(p.Getter("users", origin), groupcompat.String())
	l, err := getter.(geocache.ItemGetter[string]).GetItem(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, geocache.Loaded[string]{Value: "ada", TTL: time.Second}, l)
}

// The options of the old processes are followed: the ring's, and the path.
func TestPoolOptions(t *testing.T) {
	pool := &groupcache.HTTPPoolOptions{BasePath: "/caches/", Replicas: 3, HashFn: func(data []byte) uint32 {
		return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	}}
	var asked string
	p, err := groupcompat.NewPeers("", pool, groupcompat.WithTransport(transport(func(r *http.Request) (*http.Response, error) {
		asked = r.URL.String()
		return body(200, strings.NewReader("")), nil
	})))
	require.NoError(t, err)
	urls := []string{"http://a:1", "http://b:2", "http://c:3"}
	p.Set(urls...)
	theirs := consistenthash.New(pool.Replicas, pool.HashFn)
	theirs.Add(urls...)
	for i := range 100 {
		key := fmt.Sprint("user-", i)
		_, err := p.Getter("users", nil).Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, theirs.Get(key)+"/caches/users/"+key, asked)
	}
}

func TestNewPeersMistakes(t *testing.T) {
	_, err := groupcompat.NewPeers("", &groupcache.HTTPPoolOptions{Replicas: -1},
		groupcompat.WithMaxValueBytes(0), groupcompat.WithPeerTimeout(-1), groupcompat.WithTransport(nil))
	require.EqualError(t, err, "groupcompat: WithMaxValueBytes(0): must be from 1 to 1 GiB\n"+
		"WithPeerTimeout(-1ns): must not be negative\n"+
		"WithTransport: the transport is nil\n"+
		"HTTPPoolOptions.Replicas is -1, must be positive")
}
