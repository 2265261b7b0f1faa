package groupcompat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang/groupcache"
	"github.com/golang/groupcache/consistenthash"
	"github.com/golang/groupcache/groupcachepb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/geocache/geocache"
)

// Peers is an existing groupcache cluster, asked from outside. It finds a key's process
// by groupcache's ring. It is used in place of groupcache.HTTPPool, of which a process can
// have only one: it bounds what it reads, keeps errors apart, and gets keys with spaces
// across as they are. Its methods are safe for concurrent use.
type Peers struct {
	self     string
	basePath string
	replicas int
	hash     consistenthash.Hash
	config   peersConfig

	ring atomic.Pointer[consistenthash.Map]

	own, moved, answered, notFound, failed, unreachable atomic.Uint64
}

// PeersStats is what Peers has done since it was made: the keys to load, each
// counted once, by what became of them. The counters never fall.
type PeersStats struct {
	Answered    uint64 // a peer had it or loaded it; when this has stopped rising, Peers is of no more use
	Own         uint64 // not asked for: the key's process in the list is this one, or the list is empty
	Moved       uint64 // the key's process in the list runs geocache too
	NotFound    uint64 // see WithNotFound
	Failed      uint64 // the peer answered by an error, by too much, or not to the end
	Unreachable uint64 // the peer did not answer
}

// A PeersOption configures Peers in NewPeers. If one is given twice, the last wins.
// NewPeers checks all of them together and reports every mistake at once.
type PeersOption interface{ applyPeers(*peersConfig) }

type peersOption func(*peersConfig)

func (o peersOption) applyPeers(c *peersConfig) { o(c) }

type peersConfig struct {
	maxValue  int
	timeout   time.Duration
	transport http.RoundTripper
	notFound  func(text string) bool
}

// WithMaxValueBytes limits a value that a peer sends. A longer one is not read to its end
// and counts as failed. Default 64 MiB, as geocache's own.
func WithMaxValueBytes(n int) PeersOption {
	return peersOption(func(c *peersConfig) { c.maxValue = n })
}

// WithPeerTimeout sets how long a peer may take, loading included, before the origin is
// asked instead. Default, and at most: half of the time that is left for the load, which is
// 5 s of geocache's default load timeout. Without an origin it may take all of it.
func WithPeerTimeout(d time.Duration) PeersOption {
	return peersOption(func(c *peersConfig) { c.timeout = d })
}

// WithTransport sets how peers are reached. Default http.DefaultTransport, as
// groupcache's; it keeps two idle connections to a peer.
func WithTransport(t http.RoundTripper) PeersOption {
	return peersOption(func(c *peersConfig) { c.transport = t })
}

// WithNotFound says how to tell, by the text of the error that an old process's
// getter has returned, that the origin has no such key. The answer is then
// geocache.ErrNotFound and the origin is not asked a second time. groupcache
// has no other sign for it. Default: every error has the origin asked.
func WithNotFound(is func(text string) bool) PeersOption {
	return peersOption(func(c *peersConfig) { c.notFound = is })
}

// NewPeers returns Peers without any, to which Set gives the list.
//
// self is this process in that list: its keys are not asked for. It is "" for a process
// that is not in it. pool are the options that the old processes give to
// groupcache.NewHTTPPoolOpts; nil are the defaults.
func NewPeers(self string, pool *groupcache.HTTPPoolOptions, opts ...PeersOption) (*Peers, error) {
	p := &Peers{self: self, basePath: basePath(pool)}
	if pool != nil {
		p.replicas, p.hash = pool.Replicas, pool.HashFn
	}
	p.replicas = cmp.Or(p.replicas, 50) // groupcache's default
	p.config = peersConfig{maxValue: 64 << 20, transport: http.DefaultTransport}
	var errs []error
	for i, o := range opts {
		if o == nil {
			errs = append(errs, fmt.Errorf("option %d is nil", i))
			continue
		}
		o.applyPeers(&p.config)
	}
	if p.config.maxValue < 1 || p.config.maxValue > 1<<30 {
		errs = append(errs, fmt.Errorf("WithMaxValueBytes(%d): must be from 1 to 1 GiB", p.config.maxValue))
	}
	if p.config.timeout < 0 {
		errs = append(errs, fmt.Errorf("WithPeerTimeout(%v): must not be negative", p.config.timeout))
	}
	if p.config.transport == nil {
		errs = append(errs, errors.New("WithTransport: the transport is nil"))
	}
	if p.replicas < 0 {
		errs = append(errs, fmt.Errorf("HTTPPoolOptions.Replicas is %d, must be positive", p.replicas))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("groupcompat: %w", err)
	}
	p.Set()
	return p, nil
}

// Set replaces the list of peers: base URLs such as "http://10.0.0.2:8008", written as the
// old processes write them, since they hash them. The list must be theirs too, new
// processes included. When it changes, tell new processes first: an old one that is
// asked for a key it takes to be the asker's waits until the asker gives up.
func (p *Peers) Set(urls ...string) {
	ring := consistenthash.New(p.replicas, p.hash)
	ring.Add(urls...)
	p.ring.Store(ring)
}

// Getter returns a getter for the group of that name in the groupcache cluster. It asks the
// process which has the key there, and origin if
//
//   - that is this process, or has been replaced by one with a Handler for the group,
//   - it fails, as groupcache does, or
//   - it does not answer in time.
//
// If both fail, errors.Is and errors.As find both errors; that the origin has no such key
// is no failure. If origin is an ItemGetter, it is used as one. It may be nil for a service
// that has none: the error is then ErrOwn or a *PeerError.
//
// The values that come from groupcache are of any age, since it does not know theirs: the
// geocache group's time to live counts from when it got them. And no write reaches
// groupcache's caches. So as long as a group fills from old processes, or is served to
// them, its values must be what groupcache's must: the same for a key for ever. A Set,
// Remove or Clear could be undone by the next load from an old process.
func (p *Peers) Getter(group string, origin geocache.Getter[[]byte]) geocache.Getter[[]byte] {
	return &filler{peers: p, group: group, origin: origin}
}

// ErrOwn says that a key has no process in the groupcache cluster but this one and those
// like it, and that there is no origin to load it from.
var ErrOwn = errors.New("groupcompat: the key is not with an old process")

// A PeerError is why a groupcache process did not give a value.
type PeerError struct {
	URL string // its base URL

	// Status is that of its answer, 0 if none has come. groupcache answers 500 for
	// every error of a getter, and 404 if it does not have the group.
	Status int

	// Text is what came with an error, at most 1 KiB: for status 500, the
	// getter's error.
	Text string

	// Err is why there is no answer, or none that could be used: the transport's error, the
	// context's, or geocache.ErrTooLarge. It is nil if the peer itself reported the
	// error.
	Err error
}

func (e *PeerError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("groupcompat: peer %s: %v", e.URL, e.Err)
	case e.Text == "":
		return fmt.Sprintf("groupcompat: peer %s: status %d", e.URL, e.Status)
	}
	return fmt.Sprintf("groupcompat: peer %s: %s", e.URL, e.Text)
}

// Unwrap returns Err.
func (e *PeerError) Unwrap() error { return e.Err }

// Stats returns what p has done.
func (p *Peers) Stats() PeersStats {
	return PeersStats{
		Answered:    p.answered.Load(),
		Own:         p.own.Load(),
		Moved:       p.moved.Load(),
		NotFound:    p.notFound.Load(),
		Failed:      p.failed.Load(),
		Unreachable: p.unreachable.Load(),
	}
}

// A filler is the getter of one group.
type filler struct {
	peers  *Peers
	group  string
	origin geocache.Getter[[]byte] // or nil
}

// Get implements geocache.Getter.
func (f *filler) Get(ctx context.Context, key string) ([]byte, error) {
	l, err := f.GetItem(ctx, key)
	return l.Value, err
}

// GetItem implements geocache.ItemGetter.
func (f *filler) GetItem(ctx context.Context, key string) (geocache.Loaded[[]byte], error) {
	value, err := f.fromPeer(ctx, key)
	switch {
	case err == nil:
		return geocache.Loaded[[]byte]{Value: value}, nil
	case ctx.Err() != nil, errors.Is(err, geocache.ErrNotFound), f.origin == nil:
		return geocache.Loaded[[]byte]{}, err
	}
	l, oerr := item(ctx, f.origin, key)
	if oerr != nil && !errors.Is(oerr, geocache.ErrNotFound) && !errors.Is(err, ErrOwn) {
		oerr = fmt.Errorf("%w (and before, %w)", oerr, err)
	}
	return l, oerr
}

// fromPeer asks the key's process, and counts.
func (f *filler) fromPeer(ctx context.Context, key string) ([]byte, error) {
	p := f.peers
	ring := p.ring.Load()
	if ring.IsEmpty() {
		p.own.Add(1)
		return nil, ErrOwn
	}
	peer := ring.Get(key)
	if peer == p.self {
		p.own.Add(1)
		return nil, ErrOwn
	}
	value, pe := f.ask(ctx, peer, key)
	switch {
	case pe == nil:
		p.answered.Add(1)
		return value, nil
	case ctx.Err() != nil: // the caller's end, not the peer's
	case pe.Status == moved:
		p.moved.Add(1)
		return nil, fmt.Errorf("%w: %w", ErrOwn, pe)
	case pe.Status == 0:
		p.unreachable.Add(1)
	case pe.Status == http.StatusInternalServerError && p.config.notFound != nil && p.config.notFound(pe.Text):
		p.notFound.Add(1)
		return nil, fmt.Errorf("%w: %w", geocache.ErrNotFound, pe)
	default:
		p.failed.Add(1)
	}
	return nil, pe
}

// ask asks peer for key.
func (f *filler) ask(ctx context.Context, peer, key string) ([]byte, *PeerError) {
	config := f.peers.config
	if timeout, ok := f.timeout(ctx); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, peer+f.peers.basePath+escape(f.group)+"/"+escape(key), nil)
	if err != nil {
		return nil, &PeerError{URL: peer, Err: err}
	}
	req.Header.Set(fillHeader, "1")
	res, err := config.transport.RoundTrip(req) // redirects are errors, as in groupcache
	if err != nil {
		return nil, &PeerError{URL: peer, Err: err}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // what there is of it
		return nil, &PeerError{URL: peer, Status: res.StatusCode, Text: strings.TrimSpace(string(text))}
	}
	value, err := read(res, config.maxValue)
	if err != nil {
		return nil, &PeerError{URL: peer, Status: res.StatusCode, Err: err}
	}
	return value, nil
}

// timeout returns how long a peer may take. Some time must be left for the origin.
func (f *filler) timeout(ctx context.Context) (time.Duration, bool) {
	timeout := f.peers.config.timeout
	if deadline, ok := ctx.Deadline(); ok && f.origin != nil {
		half := time.Until(deadline) / 2
		return min(cmp.Or(timeout, half), half), true
	}
	return timeout, timeout > 0
}

// overhead is more than a GetResponse has around its value: tags, the length, minute_qps.
const overhead = 64

// read reads the value of an answer.
func read(res *http.Response, maxValue int) ([]byte, error) {
	if res.ContentLength > int64(maxValue)+overhead {
		return nil, tooLarge(maxValue)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(maxValue)+overhead+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxValue+overhead {
		return nil, tooLarge(maxValue)
	}
	var answer groupcachepb.GetResponse
	if err := proto.Unmarshal(body, protoadapt.MessageV2Of(&answer)); err != nil {
		return nil, err
	}
	if len(answer.Value) > maxValue {
		return nil, tooLarge(maxValue)
	}
	return answer.Value, nil
}

func tooLarge(maxValue int) error {
	return fmt.Errorf("%w: the value has more than %d bytes", geocache.ErrTooLarge, maxValue)
}

// escape escapes a name so that groupcache's server and ServeMux leave it as it was.
// groupcache's own client makes plus signs of spaces, which its server does not
// undo; and a key that is one or two dots is a path to be cleaned.
func escape(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}
