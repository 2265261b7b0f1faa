package groupcompat

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/golang/groupcache"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/geocache/geocache"
)

const (
	// defaultBasePath is groupcache's, which does not export it.
	defaultBasePath = "/_groupcache/"

	// fillHeader marks the requests of Peers. A Handler does not answer them: it would
	// fill from the asker's own cluster, which is waiting for the answer.
	fillHeader = "Geocache-Fill"

	// moved is the Handler's status for them.
	moved = http.StatusMisdirectedRequest
)

// A Handler answers the peers of a golang/groupcache cluster from geocache groups: their
// requests are GET /_groupcache/<group>/<key>. It takes the place of the HTTPPool
// that a process has had, at the same address, so that the processes which still run
// groupcache notice nothing. Its methods are safe for concurrent use.
//
// A peer that gets an error loads the key itself, whatever the error is; the status
// is for people and proxies. It is 404 if the origin has no such key or if there is no
// such group, 503 if the cache is closed or overloaded, 504 if the load took too long,
// and 500 otherwise.
//
// Like groupcache it answers whoever can reach it.
type Handler struct {
	basePath string
	next     http.Handler

	mu     sync.RWMutex // guards groups
	groups map[string]func(ctx context.Context, key string) ([]byte, error)

	requests, notFound, errors atomic.Uint64
}

// HandlerStats is what a Handler has done since it was made. The counters never
// fall.
type HandlerStats struct {
	// Requests of old processes. When it has stopped rising, none of them asks any
	// more.
	Requests uint64

	NotFound uint64 // of these, for keys that the origin does not have
	Errors   uint64 // of these, answered by another error
}

// NewHandler returns a Handler of no groups, to which Serve adds some.
//
// pool are the options that the old processes give to groupcache.NewHTTPPoolOpts, of
// which the BasePath is used; nil are the defaults.
//
// next answers the requests for other groups. In a process that moves group by group it
// is groupcache's HTTPPool. nil answers as groupcache does when there is no such
// group.
func NewHandler(pool *groupcache.HTTPPoolOptions, next http.Handler) *Handler {
	return &Handler{
		basePath: basePath(pool),
		next:     next,
		groups:   make(map[string]func(context.Context, string) ([]byte, error)),
	}
}

func basePath(pool *groupcache.HTTPPoolOptions) string {
	if pool == nil {
		return defaultBasePath
	}
	return cmp.Or(pool.BasePath, defaultBasePath)
}

// Serve has h answer for g, under g's name. codec is Bytes, String, Proto, or one that
// makes of a value what the getters of old processes would set in a Sink: old processes
// decode it. It replaces what h has served under that name. It panics if an argument is nil, as every
// request would.
func Serve[V any](h *Handler, g *geocache.Group[V], codec geocache.Codec[V]) {
	if h == nil || g == nil || codec == nil {
		panic("groupcompat: Serve of a nil handler, group or codec")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.groups[g.Name()] = func(ctx context.Context, key string) ([]byte, error) {
		v, err := g.Get(ctx, key)
		if err != nil {
			return nil, err
		}
		return codec.Encode(v)
	}
}

// ServeHTTP answers a peer.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, key, err := h.parse(r.URL)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.mu.RLock()
	get := h.groups[name]
	h.mu.RUnlock()
	switch {
	case get == nil && h.next != nil:
		h.next.ServeHTTP(w, r)
	case get == nil:
		http.Error(w, "no such group: "+name, http.StatusNotFound)
	case r.Method != http.MethodGet:
		http.Error(w, "a groupcache peer only gets", http.StatusMethodNotAllowed)
	case r.Header.Get(fillHeader) != "":
		http.Error(w, "the group has moved to geocache", moved)
	default:
		h.answer(w, r, get, key)
	}
}

// parse returns what a peer asks for. groupcache sends both names through
// url.QueryEscape, so a plus sign in them is a space. (Its own server reads them as a
// path and takes it for a plus sign.)
func (h *Handler) parse(u *url.URL) (group, key string, err error) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), h.basePath)
	group, key, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 {
		return "", "", errors.New("bad request: the path is " + h.basePath + "<group>/<key>")
	}
	if group, err = url.QueryUnescape(group); err == nil {
		key, err = url.QueryUnescape(key)
	}
	return group, key, err
}

// answer answers with the value of key, as groupcache does.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, get func(context.Context, string) ([]byte, error), key string) {
	h.requests.Add(1)
	value, err := get(r.Context(), key)
	if err != nil {
		status := statusOf(err)
		if status == http.StatusNotFound {
			h.notFound.Add(1)
		} else {
			h.errors.Add(1)
		}
		http.Error(w, err.Error(), status)
		return
	}
	// A groupcachepb.GetResponse with the value alone, which is all that groupcache
	// sets. Encoded here, a large value is not copied.
	head := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.BytesType), uint64(len(value)))
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Content-Length", strconv.Itoa(len(head)+len(value)))
	w.Write(head) // an error is the peer's: it is gone
	w.Write(value)
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, geocache.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, geocache.ErrClosed), errors.Is(err, geocache.ErrOverloaded):
		return http.StatusServiceUnavailable
	case errors.Is(err, geocache.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// Stats returns what h has done.
func (h *Handler) Stats() HandlerStats {
	return HandlerStats{Requests: h.requests.Load(), NotFound: h.notFound.Load(), Errors: h.errors.Load()}
}
