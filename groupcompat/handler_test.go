package groupcompat_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/golang/groupcache"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/groupcompat"
)

// oddKeys are keys that need care on their way through a URL.
var oddKeys = []string{
	"", "a b", " ", "a/b", "/", "//", "a//b", "/a/../b/", "a+b", "100%", "%2F", "%zz", "?q=1&x", "#f", ";", ":", "@", "é 日本 🙂",
	"\x00\xff\xfe", "\n", "a=b", "\"quoted\"", "{}|\\^`", "http://example.net:80/x?y=z#f",
}

// An unmodified groupcache reads through a Handler.
func TestOldAsksNew(t *testing.T) {
	old := startOld(t)
	origin := &newOrigin{}
	h := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(h, alone(t, origin), groupcompat.Bytes())
	old.setPeers(serve(t, nil, h)) // so all keys are the new process's

	for _, key := range append(oddKeys, "ada") {
		value, err := old.get(key)
		require.NoError(t, err, "%q", key)
		require.Equal(t, "new:"+key, value)
	}
	value, err := old.get("large one")
	require.NoError(t, err)
	require.Equal(t, "new"+largeValue, value)
	all := uint64(len(oddKeys) + 2)
	require.Equal(t, groupcompat.HandlerStats{Requests: all}, h.Stats())
	s := old.stats()
	require.Empty(t, s.Loads, "the old process has loaded itself")
	require.EqualValues(t, all, s.PeerLoads)
	require.Zero(t, s.PeerErrors)

	// After an error an old process tries by itself, and that is what its callers get.
	_, err = old.get("missing bob")
	require.EqualError(t, err, "missing bob: no such user")
	_, err = old.get("broken one")
	require.EqualError(t, err, "the database is down")
	require.Equal(t, groupcompat.HandlerStats{Requests: all + 2, NotFound: 1, Errors: 1}, h.Stats())
	require.EqualValues(t, 2, old.stats().PeerErrors)

	// ServeMux takes these for a path to be cleaned, as it does with groupcache's
	// own pool. It costs a load.
	for _, key := range []string{".", ".."} {
		value, err := old.get(key)
		require.NoError(t, err)
		require.Equal(t, "old:"+key, value)
	}
}

// What goes over the wire is what groupcache's own server sends.
func TestHandlerAnswersAsGroupcache(t *testing.T) {
	old := startOld(t)
	h := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(h, alone(t, geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) {
		value, err := originOf("old", key)
		return []byte(value), err
	})), groupcompat.Bytes())
	ours := serve(t, nil, h)

	group := "/_groupcache/" + url.QueryEscape(groupName) + "/"
	for _, test := range []struct {
		path string
		text bool // is the same too
	}{
		{group + "ada", true},
		{group + "large", true},
		{group, true},
		{group + "a%2Fb%2Fc", true},
		{group + "broken", false},
		{"/_groupcache/others/ada", true},
		{"/_groupcache/others", false},
	} {
		get := func(base string) (status int, contentType, text string) {
			res, err := client(t).Get(base + test.path)
			require.NoError(t, err)
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			return res.StatusCode, res.Header.Get("Content-Type"), string(body)
		}
		status, contentType, text := get(old.url)
		ourStatus, ourContentType, ourText := get(ours)
		require.Equal(t, status, ourStatus, test.path)
		require.Equal(t, contentType, ourContentType, test.path)
		if test.text {
			require.True(t, text == ourText, test.path) // not for require to print
		}
	}
}

// An old process that goes away takes its request with it.
func TestHandlerEndsWithItsRequest(t *testing.T) {
	loading, ended := make(chan struct{}), make(chan error, 1)
	g := alone(t, geocache.GetterFunc[[]byte](func(ctx context.Context, _ string) ([]byte, error) {
		close(loading)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}))
	h := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(h, g, groupcompat.Bytes())
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-loading
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, serve(t, nil, h)+"/_groupcache/"+url.QueryEscape(groupName)+"/x", nil)
	require.NoError(t, err)
	_, err = client(t).Do(req)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestHandlerStatus(t *testing.T) {
	answers := map[string]error{
		"absent":    geocache.ErrNotFound,
		"failed":    errors.New("the database is down"),
		"overload":  geocache.ErrOverloaded,
		"too slow":  geocache.ErrTimeout,
		"deadline":  context.DeadlineExceeded,
		"fine":      nil,
		"the empty": nil,
	}
	cache, err := geocache.Open(t.Context(), quiet)
	require.NoError(t, err)
	g, err := geocache.NewGroup(cache, "users", geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
		if key == "the empty" {
			return "", nil
		}
		return "value", answers[key]
	}))
	require.NoError(t, err)
	h := groupcompat.NewHandler(&groupcache.HTTPPoolOptions{BasePath: "/caches/"}, nil)
	groupcompat.Serve(h, g, groupcompat.String())

	get := func(method, path, header string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, nil)
		if header != "" {
			r.Header.Set(header, "1")
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	for _, test := range []struct {
		method, path, header string
		status               int
		text                 string
	}{
		{"GET", "/caches/users/fine", "", 200, "\x0a\x05value"},
		{"GET", "/caches/users/the+empty", "", 200, "\x0a\x00"},
		{"GET", "/caches/users/absent", "", 404, "geocache: get users/\"absent\": key not found\n"},
		{"GET", "/caches/users/failed", "", 500, "geocache: get users/\"failed\" at alone in local: the database is down\n"},
		{"GET", "/caches/users/overload", "", 503, "geocache: get users/\"overload\" at alone in local: overloaded\n"},
		{"GET", "/caches/users/too+slow", "", 504, "geocache: get users/\"too slow\" at alone in local: load timed out\n"},
		{"GET", "/caches/users/deadline", "", 504, "geocache: get users/\"deadline\" at alone in local: context deadline exceeded\n"},
		{"GET", "/caches/others/x", "", 404, "no such group: others\n"},
		{"GET", "/caches/users", "", 400, "bad request: the path is /caches/<group>/<key>\n"},
		{"GET", "/_groupcache/users/x", "", 400, "bad request: the path is /caches/<group>/<key>\n"},
		{"PUT", "/caches/users/x", "", 405, "a groupcache peer only gets\n"},
		{"DELETE", "/caches/users/x", "", 405, "a groupcache peer only gets\n"},
		{"GET", "/caches/users/fine", "Geocache-Fill", 421, "the group has moved to geocache\n"},
		{"GET", "/caches/others/x", "Geocache-Fill", 404, "no such group: others\n"},
	} {
		w := get(test.method, test.path, test.header)
		require.Equal(t, test.status, w.Code, "%v", test)
		require.Equal(t, test.text, w.Body.String(), "%v", test)
	}
	require.Equal(t, groupcompat.HandlerStats{Requests: 7, NotFound: 1, Errors: 4}, h.Stats())

	require.NoError(t, cache.Close())
	require.Equal(t, http.StatusServiceUnavailable, get("GET", "/caches/users/not+cached", "").Code)
}

// A process that moves group by group answers for the others by its old pool.
func TestHandlerNext(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("old pool: " + r.URL.Path)) })
	h := groupcompat.NewHandler(nil, next)
	get := func(path string) string {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Body.String()
	}
	require.Equal(t, "old pool: /_groupcache/messages/a b", get("/_groupcache/messages/a%20b"))

	cache, err := geocache.Open(t.Context(), quiet)
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup(cache, "messages", geocache.GetterFunc[*wrapperspb.StringValue](
		func(_ context.Context, key string) (*wrapperspb.StringValue, error) {
			return wrapperspb.String(key), nil
		}))
	require.NoError(t, err)
	groupcompat.Serve(h, g, groupcompat.Proto[*wrapperspb.StringValue]())
	// A StringValue has its text in field 1, as a GetResponse has the value.
	require.Equal(t, "\x0a\x05\x0a\x03a b", get("/_groupcache/messages/a%20b"))
	require.Equal(t, uint64(1), h.Stats().Requests)
}

// A codec that fails is an error of this key alone.
func TestHandlerThatCannotEncode(t *testing.T) {
	cache, err := geocache.Open(t.Context(), quiet)
	require.NoError(t, err)
	defer cache.Close()
	g, err := geocache.NewGroup(cache, "times", geocache.GetterFunc[time.Time](
		func(context.Context, string) (time.Time, error) { return time.Time{}, nil }))
	require.NoError(t, err)
	h := groupcompat.NewHandler(nil, nil)
	groupcompat.Serve(h, g, unable{})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/_groupcache/times/x", nil))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "unable\n", w.Body.String())
}

type unable struct{}

func (unable) Encode(time.Time) ([]byte, error)      { return nil, errors.New("unable") }
func (unable) Decode(data []byte) (time.Time, error) { return time.Time{}, errors.New("unable") }
