package groupcompat_test

import (
	"bufio"
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/groupcompat"
)

// names are strings of which some have what a URL treats in its own way, and some are
// not UTF-8.
func names() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.StringOfN(rapid.RuneFrom([]rune("a %+/.?#&=;:@\\\"é\x00")), 0, 12, -1),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) }),
	)
}

// Whatever a key is, an old process's request for it is read as that key.
func TestHandlerReadsWhatGroupcacheSends(t *testing.T) {
	cache, err := geocache.Open(t.Context(), quiet)
	require.NoError(t, err)
	defer cache.Close()
	h := groupcompat.NewHandler(nil, nil)
	var asked string
	echo := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
		asked = key
		return "", geocache.ErrNotFound // not to be cached
	})
	rapid.Check(t, func(t *rapid.T) {
		group := rapid.OneOf(rapid.Just("users"), names().Filter(func(s string) bool { return s != "" && len(s) <= 255 && utf8.ValidString(s) })).Draw(t, "group")
		key := names().Draw(t, "key")
		if g, err := geocache.NewGroup(cache, group, echo); err == nil { // else it has been drawn before
			groupcompat.Serve(h, g, groupcompat.String())
		}
		asked = "nothing"
		// As groupcache's client makes it, through what a server reads.
		path := "/_groupcache/" + url.QueryEscape(group) + "/" + url.QueryEscape(key)
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		require.NoError(t, err)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, http.StatusNotFound, w.Code, "%s", w.Body)
		require.Equal(t, key, asked)
	})
}

// Whatever a key is, the request for it is what groupcache's server reads as that key.
func TestGroupcacheReadsWhatPeersSend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A slash in a group's name would end it there.
		group := names().Filter(func(s string) bool { return s != "" && !strings.Contains(s, "/") }).Draw(t, "group")
		key := names().Draw(t, "key")
		asked := false
		p, err := groupcompat.NewPeers("", nil, groupcompat.WithTransport(transport(func(r *http.Request) (*http.Response, error) {
			asked = true
			var wire bytes.Buffer
			require.NoError(t, r.Write(&wire))
			read, err := http.ReadRequest(bufio.NewReader(&wire))
			require.NoError(t, err)
			// As groupcache's server takes it apart.
			parts := strings.SplitN(read.URL.Path[len("/_groupcache/"):], "/", 2)
			require.Equal(t, []string{group, key}, parts)
			return body(200, strings.NewReader("")), nil
		})))
		require.NoError(t, err)
		p.Set("http://old")
		_, err = p.Getter(group, nil).Get(context.Background(), key)
		require.NoError(t, err)
		require.True(t, asked)
	})
}
