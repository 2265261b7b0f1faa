package peers

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/internal/lease"
)

// A Transport is one node's connections to its peers: those it makes, to ask,
// and those it accepts, to answer. Its methods are safe for concurrent use.
type Transport struct {
	// waiters keeps those for one request. Only one whose result has been
	// received is put back: the result of any other may still come. It belongs
	// to the Transport, and not to the package, because testing/synctest does
	// not let a channel of one bubble be used in another.
	waiters sync.Pool

	config Config
	gate   *gate // nil without TLS
	bound  bindings

	// leaving ends when Close begins: no more connections are accepted.
	// ctx ends when the time for that is over: nothing goes on.
	leaving, ctx    context.Context
	leaveNow, abort context.CancelFunc

	servers sync.WaitGroup // goroutines of listeners and accepted connections
	clients sync.WaitGroup // goroutines of peers
	closed  chan struct{}  // closed when Close is done

	// byID holds the present peers, and listed all nodes that may connect. They are replaced, never changed.
	byID   atomic.Pointer[map[string]*Peer]
	listed atomic.Pointer[map[string]Endpoint]

	leases *lease.Table

	handshakes, loading  atomic.Int64
	numbered             atomic.Uint64 // connections accepted, see conn.number
	requests, hits, busy atomic.Uint64
	traffic              traffic
	refusals             refusals

	mu       sync.Mutex               // guards the following
	accepted map[*serverConn]struct{} // past their handshake
	running  map[*Peer]struct{}       // present, or dropped and not yet done
	done     map[string]Exchanges     // by region: of peers that were running
}

// An Endpoint is another node: a peer to keep a connection to, unless it is passive.
type Endpoint struct {
	ID      string // its node id
	Region  string // its region
	Address string // what Config.Dial is given
	Passive bool   // it may connect to this node, which does not connect to it
}

// New returns a transport that has neither peers nor listeners yet. The error
// names everything that is wrong with config.
func New(config Config) (*Transport, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	t := &Transport{
		config:   config,
		closed:   make(chan struct{}),
		accepted: make(map[*serverConn]struct{}),
		running:  make(map[*Peer]struct{}),
		done:     make(map[string]Exchanges),
	}
	t.leaving, t.leaveNow = context.WithCancel(context.Background())
	t.ctx, t.abort = context.WithCancel(context.Background())
	t.byID.Store(&map[string]*Peer{})
	t.listed.Store(&map[string]Endpoint{})
	if t.leases = config.Leases; t.leases == nil {
		t.leases = lease.New(LeaseConfig(config.Lease, config.Grace, config.Clock))
	}
	t.bound.nodes = make(map[string]*binding)
	if config.TLS != nil {
		t.gate = &gate{source: config.TLS, names: config.PeerNames}
		t.servers.Go(t.inspect)
	}
	return t, nil
}

// SetPeers replaces the peers. It keeps a connection to each from now on, without waiting for one; a peer that is listed as
// before keeps its connection. Peers no longer listed, or listed as passive, are dropped as soon as their requests in
// flight are answered. This node itself may be listed, and is left out. After Close it does nothing.
func (t *Transport) SetPeers(endpoints []Endpoint) {
	t.mu.Lock()
	var gone []*Peer
	if t.leaving.Err() == nil {
		gone = t.setPeersLocked(endpoints)
	}
	t.mu.Unlock()
	for _, p := range gone {
		p.drop(errDropped)
	}
}

func (t *Transport) setPeersLocked(endpoints []Endpoint) (gone []*Peer) {
	before, after := *t.byID.Load(), make(map[string]*Peer, len(endpoints))
	listed := make(map[string]Endpoint, len(endpoints))
	for _, e := range endpoints {
		if e.ID == t.config.ID {
			continue
		}
		if listed[e.ID] = e; e.Passive {
			continue
		}
		p := before[e.ID]
		if p == nil || p.endpoint != e {
			p = newPeer(t, e)
		}
		after[e.ID] = p
	}
	for id, p := range before {
		if after[id] != p {
			gone = append(gone, p)
		}
	}
	for id, p := range after {
		if before[id] != p {
			t.running[p] = struct{}{}
			t.clients.Go(func() {
				p.run()
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.running, p)
				t.done[p.Region()] = t.done[p.Region()].plus(p.exchanges.read())
			})
		}
	}
	t.byID.Store(&after)
	t.listed.Store(&listed)
	return gone
}

// Peer returns the peer with this id, or nil if there is none.
func (t *Transport) Peer(id string) *Peer { return (*t.byID.Load())[id] }

// mayConnect returns what is listed of the node with this id, and whether it is listed.
func (t *Transport) mayConnect(id string) (Endpoint, bool) {
	e, ok := (*t.listed.Load())[id]
	return e, ok
}

// Peers returns the peers in order of id.
func (t *Transport) Peers() []*Peer {
	return slices.SortedFunc(maps.Values(*t.byID.Load()), func(p, q *Peer) int {
		return strings.Compare(p.endpoint.ID, q.endpoint.ID)
	})
}

// Tried waits until the first attempt to connect is over for each of the present peers, successful or not. The error is
// ctx's.
func (t *Transport) Tried(ctx context.Context) error {
	for _, p := range t.Peers() {
		select {
		case <-p.tried:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Stats returns the counters and the state of every peer.
func (t *Transport) Stats() Stats {
	t.mu.Lock()
	connections := len(t.accepted)
	t.mu.Unlock()
	s := Stats{
		Connections: connections,
		Loading:     int(t.loading.Load()),
		Requests:    t.requests.Load(),
		Hits:        t.hits.Load(),
		Busy:        t.busy.Load(),
		Traffic:     t.traffic.read(),
		Refused:     t.refusals.read(),
		Certificate: t.gate.ownEnd(),
	}
	for _, p := range t.Peers() {
		s.Peers = append(s.Peers, p.stats())
	}
	s.Regions = t.byRegion() // after its peers, so that it is not below them
	return s
}

func (t *Transport) byRegion() map[string]Exchanges {
	t.mu.Lock()
	defer t.mu.Unlock()
	sums := maps.Clone(t.done)
	for p := range t.running {
		sums[p.Region()] = sums[p.Region()].plus(p.exchanges.read())
	}
	return sums
}

// Close takes this node out of the cluster. It
//
//  1. closes the listeners and tells every client goodbye; they send no more
//     requests, and close their connections when they have their answers;
//  2. when they have, refuses new requests to peers and waits for the answers
//     to those in flight: loads for others may have needed them until then;
//  3. closes what is left and waits for every goroutine.
//
// When ctx ends before, 1 and 2 are cut short and Close returns ctx.Err(): that
// bounds how long a client that ignores the goodbye can hold Close up. A
// Handler.Load must return when its context ends. Further calls wait for the
// first.
func (t *Transport) Close(ctx context.Context) error {
	t.mu.Lock()
	first := t.leaving.Err() == nil
	t.leaveNow()
	accepted := slices.Collect(maps.Keys(t.accepted))
	t.mu.Unlock()
	if !first {
		select {
		case <-t.closed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer close(t.closed)

	t.farewell(ctx)
	for _, s := range accepted {
		s.goodbye()
	}
	err := waitFor(ctx, &t.servers)
	for _, p := range t.Peers() {
		p.drop(errClosed)
	}
	if err == nil {
		err = waitFor(ctx, &t.clients)
	}
	t.abortAll()
	t.servers.Wait()
	t.clients.Wait()
	return err
}

// waitFor waits until all of group are done, or ctx is. In the second case it
// leaves a goroutine behind until they are.
func waitFor(ctx context.Context, group *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abortAll ends every connection and load.
func (t *Transport) abortAll() {
	t.abort()
	t.mu.Lock()
	accepted := slices.Collect(maps.Keys(t.accepted))
	running := slices.Collect(maps.Keys(t.running))
	t.mu.Unlock()
	for _, s := range accepted {
		s.close(errClosed)
	}
	for _, p := range running {
		p.abort()
	}
}

// refusals counts refusals by reason, and says which are worth a warning.
type refusals struct {
	mu     sync.Mutex
	counts map[Reason]uint64
	warned map[Reason]time.Time
}

// count counts a refusal. It returns true at most once a second for a reason,
// so that nobody can flood the log from outside.
func (r *refusals) count(reason Reason) (warn bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counts == nil {
		r.counts = make(map[Reason]uint64)
		r.warned = make(map[Reason]time.Time)
	}
	r.counts[reason]++
	now := time.Now()
	if last, ok := r.warned[reason]; ok && now.Sub(last) < time.Second {
		return false
	}
	r.warned[reason] = now
	return true
}

func (r *refusals) read() map[Reason]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}
