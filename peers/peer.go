package peers

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
)

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

var (
	errConnecting = errors.New("not connected yet")
	errGoodbye    = errors.New("the node is leaving")
	errDropped    = errors.New("the node is no longer a peer")
	errClosed     = errors.New("the transport is closed")

	// errRenewed says that there is another connection for new requests.
	errRenewed = errors.New("the connection has been made anew")
)

// A Peer is another node as this node's requests reach it: a connection that is remade whenever it is lost. Its methods are
// safe for concurrent use, and none but Fetch, FetchMany and Call ever waits. A Peer that SetPeers has dropped stays down.
type Peer struct {
	transport *Transport
	endpoint  Endpoint

	ctx    context.Context // ends when the peer is dropped: no more connections
	cancel context.CancelFunc
	made   time.Time     // when this peer was listed
	tried  chan struct{} // closed when the first attempt to connect is over
	seen   chan struct{} // holds one while the peer has connected to this node since the last attempt
	renew  chan renewal  // holds one while a connection should be made anew

	conn    atomic.Pointer[clientConn] // for new requests; nil while there is none
	up      atomic.Bool
	refused atomic.Bool  // the last attempt to connect found nobody listening
	rtt     atomic.Int64 // zero until measured
	lease   *lease.Peer  // what it has granted
	epoch   atomic.Uint64
	says    atomic.Uint32 // what the last pong said of both nodes, see pong.flags
	traffic traffic

	connects atomic.Uint64
	retired  sync.WaitGroup // of those in retiring
	exchanges

	changes sync.Mutex // see change

	pongs  sync.Mutex  // guards the following, and is held while pongs are taken in
	latest *clientConn // whose pongs count
	trips  window

	mu       sync.Mutex  // guards the following
	current  *clientConn // the one that run uses, also when it takes no new requests
	retiring map[*clientConn]struct{}
	again    time.Time // not before then is another connection tried while there is one
	dropped  bool
	err      error // why there is no connection
}

// newPeer returns a peer whose run is still to be started.
func newPeer(t *Transport, endpoint Endpoint) *Peer {
	p := &Peer{
		transport: t, endpoint: endpoint, made: time.Now(), err: errConnecting,
		tried: make(chan struct{}), seen: make(chan struct{}, 1),
		renew: make(chan renewal, 1), retiring: make(map[*clientConn]struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	if p.lease = new(lease.Peer); p.home() { // others have nothing to grant
		p.lease = t.leases.Register(endpoint.ID)
	}
	return p
}

// ID returns the peer's id.
func (p *Peer) ID() string { return p.endpoint.ID }

// Region returns the peer's region.
func (p *Peer) Region() string { return p.endpoint.Region }

// Address returns the address at which the peer is dialled.
func (p *Peer) Address() string { return p.endpoint.Address }

// Up reports whether the peer is up. It comes up with a completed handshake. It goes down when it says goodbye, when nothing
// has been heard from it for nine tenths of Config.Lease, or when the connection breaks and cannot be remade at once.
// Between a break and the end of that one attempt it counts as up although requests to it fail.
func (p *Peer) Up() bool { return p.up.Load() }

// Tried reports whether the first attempt to connect is over, or has taken longer than a Config.Lease.
func (p *Peer) Tried() bool {
	select {
	case <-p.tried:
		return true
	default:
		return time.Since(p.made) > p.transport.config.Lease
	}
}

// RTT returns the round-trip time to the peer: the shortest of the last sixteen pings, which with the default Lease cover the
// last four seconds. It is the shortest and not a mean, because queues, collections and busy processors only ever add to a
// round trip. It covers a window only, so that it follows a route that changes. It returns false before the first
// ping.
func (p *Peer) RTT() (time.Duration, bool) {
	rtt := time.Duration(p.rtt.Load())
	return rtt, rtt > 0
}

// Epoch returns when the process behind the peer started, by its clock: that of the last connection. It is zero before the
// first.
func (p *Peer) Epoch() expiry.Generation { return expiry.Generation(p.epoch.Load()) }

// downErr returns why there is no connection to the peer, or nil if there is one.
// It is or wraps a *refusal if one side has refused the other.
func (p *Peer) downErr() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *Peer) setErr(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// drop ends the peer when the requests in flight are answered.
func (p *Peer) drop(why error) {
	p.mu.Lock()
	p.dropped = true
	p.err = why
	p.conn.Store(nil)
	current := p.current
	p.mu.Unlock()
	p.up.Store(false)
	p.transport.leases.Forget(p.endpoint.ID, p.lease)
	p.cancel()
	if current != nil {
		current.drain(why)
	}
}

// abort ends a dropped peer at once.
func (p *Peer) abort() {
	for _, c := range p.conns() {
		c.close(errClosed)
	}
}

// conns returns the connection that is used, and those that only end.
func (p *Peer) conns() []*clientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.Collect(maps.Keys(p.retiring))
	if p.current != nil {
		all = append(all, p.current)
	}
	return all
}

// run keeps a connection to the peer until it is dropped.
func (p *Peer) run() {
	defer p.retired.Wait()
	defer p.cancel()
	failures := 0
	for {
		limit := p.transport.config.Limits.handshakeTimeout
		if p.up.Load() {
			limit = min(limit, p.transport.config.Lease)
		}
		c, err := p.connect(limit)
		if errors.Is(err, syscall.ECONNREFUSED) { // on Windows it has another number, and nobody is taken for dead
			p.refused.Store(true)
			p.transport.checkEnded(p.endpoint.ID)
		}
		if err == nil {
			began := time.Now()
			err = p.use(c)
			if time.Since(began) >= p.transport.config.Lease {
				failures = 0
			}
			// A connection that has lasted and breaks is made anew at once.
			// (One that has not might break again, and again.)
			broken := failures == 0 && !errors.Is(err, errGoodbye) && !isRefusal(err)
			if broken && p.ctx.Err() == nil {
				p.setErr(err)
				if err == errSilent || err == errStalled {
					p.change(false, err)
				} else {
					p.log(slog.LevelDebug, "connection to peer lost", slog.Any("error", err))
				}
				failures++
				continue
			}
		}
		if p.ctx.Err() != nil {
			p.tryOver()
			return
		}
		p.failed(err)
		failures++
		if isRefusal(err) {
			failures = max(failures, 10) // it will take somebody to change it
		}
		if !p.pause(failures) {
			return
		}
	}
}

// connect makes a connection within the limit.
func (p *Peer) connect(limit time.Duration) (*clientConn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, limit)
	defer cancel()
	raw, err := p.transport.config.Dial(ctx, p.endpoint.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	nc, m, err := p.transport.greet(ctx, raw, p.endpoint, &p.traffic)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = raw.Close()
		if nc != nil {
			nc.close(err)
			nc.tasks.Wait()
		}
		if refused := (*refusal)(nil); errors.As(err, &refused) && refused.Reason == ReasonSlow {
			err = errors.New(refused.Text) // it may be busy or cut off, which is nothing to refuse it for
		}
		return nil, err
	}
	return newClientConn(p, nc, m), nil
}

// use sends requests over c, and over the connections that replace it, until the last of them ends. It returns why that
// ended.
func (p *Peer) use(c *clientConn) error {
	ended := p.start(c)
	for {
		select {
		case err := <-ended:
			err = c.close(err)
			p.lease.Reset() // what is behind the next one may know nothing of it
			p.conn.Store(nil)
			c.fail(err)
			c.tasks.Wait()
			return err
		case r := <-p.renew:
			if r.conn != c {
				continue // it is over by now
			}
			next, err := p.connect(min(p.transport.config.Limits.handshakeTimeout, p.transport.config.Lease))
			switch {
			case err == nil:
				old, oldEnded := c, ended
				c, ended = next, p.start(next)
				p.retire(old, oldEnded)
				p.log(slog.LevelDebug, "connection to peer made anew")
			case r.why != nil:
				c.close(r.why)
			default:
				p.putOff(c, err)
			}
		}
	}
}

// start sends new requests over c, and returns where it will say why c has ended.
func (p *Peer) start(c *clientConn) (ended <-chan error) {
	p.refused.Store(false)
	was := p.epoch.Swap(uint64(c.server.epoch))
	p.pongs.Lock()
	p.latest = c
	if was != uint64(c.server.epoch) {
		p.lease.Reset()
	}
	p.pongs.Unlock()
	p.mu.Lock()
	p.current = c
	p.again = time.Time{}
	dropped := p.dropped
	if !dropped {
		p.err = nil
		p.conn.Store(c)
	}
	p.mu.Unlock()
	if dropped {
		c.drain(errDropped)
	}

	p.connects.Add(1)
	c.tasks.Go(c.heartbeat)
	p.change(true, nil)
	if hook := p.transport.config.OnRestart; hook != nil && was != 0 && was != uint64(c.server.epoch) {
		hook(p)
	}
	p.tryOver()
	reads := make(chan error, 1)
	go func() { reads <- c.run() }()
	return reads
}

// failed notes an attempt that came to nothing, or a connection that ended and
// is not made anew at once.
func (p *Peer) failed(err error) {
	again := sameRefusal(err, p.downErr())
	p.setErr(err)
	p.change(false, err)
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		level := slog.LevelDebug
		if !again {
			level = refused.level()
		}
		if !refused.Remote {
			p.transport.refusals.count(refused.Reason)
		}
		p.log(level, "no connection to peer", slog.String("reason", refused.Reason.String()), slog.Any("error", err))
	} else {
		p.log(slog.LevelDebug, "no connection to peer", slog.Any("error", err))
	}
	p.tryOver()
}

// tryOver notes that the first attempt to connect is over, if it was that. Only run's goroutine calls it.
func (p *Peer) tryOver() {
	select {
	case <-p.tried:
	default:
		close(p.tried)
	}
}

// pause waits before the next attempt to connect: longer after each failure, and never as long as other peers, so that
// not all come back at the same moment. It returns false if there is to be no other attempt.
func (p *Peer) pause(failures int) bool {
	delay := lastBackoff
	if shift := failures - 1; shift < 6 {
		delay = min(firstBackoff<<shift, lastBackoff)
	}
	timer := time.NewTimer(delay/2 + rand.N(delay/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.seen: // it is there, so there is nothing to wait for
		return true
	case <-p.ctx.Done():
		return false
	}
}

// change sets whether the peer is up, and reports it if that is new.
func (p *Peer) change(up bool, why error) {
	p.changes.Lock() // also while it tells: hence in order
	defer p.changes.Unlock()
	p.mu.Lock()
	told := !p.dropped && p.up.Swap(up) != up
	p.mu.Unlock()
	if !told {
		return
	}
	if up {
		p.log(slog.LevelInfo, "peer is up")
	} else {
		p.log(slog.LevelInfo, "peer is down", slog.Any("error", why))
	}
	p.tell()
}

// tell reports that something about the peer has changed.
func (p *Peer) tell() {
	if hook := p.transport.config.OnChange; hook != nil {
		hook(p)
	}
}

// Guest reports whether the peer is a guest of its region, as its last pong said.
func (p *Peer) Guest() bool { return p.says.Load()&pongGuest != 0 }

// Minority reports whether the peer sees no majority of its region, as its last pong said.
func (p *Peer) Minority() bool { return p.says.Load()&pongMinority != 0 }

// Standing returns what the peer takes this node for, as its last pong said. It is Unknown for a peer in another region.
func (p *Peer) Standing() lease.Standing { return lease.Standing(p.says.Load() & pongStanding) }

// pingSoon pings the peer at once. A connection that is not there yet begins with a ping.
func (p *Peer) pingSoon() {
	if c := p.conn.Load(); c != nil {
		select {
		case c.pingSoon <- struct{}{}:
		default:
		}
	}
}

// leaving is called when the peer has said goodbye over c.
func (p *Peer) leaving(c *clientConn) {
	p.mu.Lock()
	current := p.current == c
	if current {
		p.err = errGoodbye
		p.conn.Store(nil)
	}
	p.mu.Unlock()
	if current {
		p.change(false, errGoodbye)
	}
	c.drain(errGoodbye)
}

func (p *Peer) log(level slog.Level, message string, attrs ...slog.Attr) {
	attrs = append([]slog.Attr{
		slog.String("node", p.endpoint.ID),
		slog.String("region", p.endpoint.Region),
		slog.String("address", p.endpoint.Address),
	}, attrs...)
	p.transport.config.Logger.LogAttrs(p.ctx, level, message, attrs...)
}

func (p *Peer) stats() PeerStats {
	p.mu.Lock()
	current := p.current
	p.mu.Unlock()
	rtt, _ := p.RTT()
	s := PeerStats{
		ID:        p.endpoint.ID,
		Region:    p.endpoint.Region,
		Address:   p.endpoint.Address,
		Up:        p.Up(),
		RTT:       rtt,
		Connects:  p.connects.Load(),
		Exchanges: p.exchanges.read(),
		Traffic:   p.traffic.read(),
	}
	if current != nil {
		s.InFlight = current.inFlight()
	}
	return s
}

func isRefusal(err error) bool { return errors.As(err, new(*refusal)) }

// sameRefusal reports whether a and b are refusals by the same node for the
// same reason.
func sameRefusal(a, b error) bool {
	var x, y *refusal
	return errors.As(a, &x) && errors.As(b, &y) && x.Reason == y.Reason && x.Remote == y.Remote
}

// A window is the last round trips.
type window struct {
	trips [16]time.Duration
	n     int // how many there have been
}

// add adds a round trip and returns the shortest in the window.
func (w *window) add(trip time.Duration) time.Duration {
	w.trips[w.n%len(w.trips)] = trip
	w.n++
	return slices.Min(w.trips[:min(w.n, len(w.trips))])
}
