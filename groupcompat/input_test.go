package groupcompat

import (
	"math"
	"testing"

	"github.com/golang/groupcache"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
)

// What is nil, empty or twice is told when it is given, and harms nothing else.
func TestOddInput(t *testing.T) {
	_, err := NewPeers("", &groupcache.HTTPPoolOptions{Replicas: -1}, nil, WithMaxValueBytes(math.MinInt), WithPeerTimeout(-1), WithTransport(nil), nil)
	for _, mistake := range []string{"option 0 is nil", "option 4 is nil", "WithMaxValueBytes(-", "WithPeerTimeout(-1ns)", "the transport is nil", "Replicas is -1"} {
		require.ErrorContains(t, err, mistake)
	}
	peers, err := NewPeers("", nil, WithPeerTimeout(math.MaxInt64), WithMaxValueBytes(1<<30), WithNotFound(nil))
	require.NoError(t, err)
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	for name, urls := range map[string][]string{"nobody": nil, "this one": {"", ""}, "no URL": {"\x7f", "\x7f"}, "nowhere": {"http://127.0.0.1:99999"}} {
		peers.Set(urls...)
		g, err := geocache.NewGroup(cache, name, peers.Getter(name, nil))
		require.NoError(t, err)
		_, err = g.Get(t.Context(), "k")
		require.Error(t, err, name)
		require.NotErrorAs(t, err, new(*geocache.PanicError), name)
	}

	g, err := geocache.NewGroup[[]byte](cache, "g", nil)
	require.NoError(t, err)
	handler := NewHandler(nil, nil)
	require.Panics(t, func() { Serve(nil, g, Bytes()) })
	require.Panics(t, func() { Serve[[]byte](handler, nil, Bytes()) })
	require.Panics(t, func() { Serve(handler, g, nil) })
	Serve(handler, g, Bytes())
	Serve(handler, g, Bytes())

	for _, getter := range []geocache.Getter[[]byte]{Getter(nil), Decoded(nil, Bytes()), Decoded[[]byte](Getter(nil), nil)} {
		_, err = geocache.NewGroup(cache, "nil", getter)
		require.ErrorContains(t, err, "the getter is a nil")
	}
}
