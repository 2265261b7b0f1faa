package engine

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// A Cache is one process's membership in the cluster. NewGroup adds groups to it. Its methods are safe for
// concurrent use.
type Cache struct {
	config    Config
	node      regions.Node
	log       *slog.Logger
	guard     origin.Guard // for the user code passed to Open
	logGuard  origin.Guard // for the logger; reports nothing, see guardLogger
	clock     *expiry.Clock
	members   *regions.Members
	transport *peers.Transport // nil without a listener

	epoch      expiry.Generation // when this process started
	self       uint64            // identifies this process, see senderOf
	view       atomic.Pointer[view]
	leases     *lease.Table
	journals   fetchedJournals
	changed    signal       // raised when something changes that a writer may be waiting for
	resumed    signal       // raised when the lease is back
	renewing   *time.Timer  // calls renewLease
	following  sync.Mutex   // held from reading the topology until this node has followed it
	reowns     atomic.Int64 // calls of reown waiting for the current pass to end, plus the one that makes it
	dispatcher dispatcher
	replicator replicator
	membership membership
	redundancy redundancy

	waits origin.Waits

	coarse coarseClock

	// groups is copied on write, with mu held, and read without a lock.
	groups atomic.Pointer[map[string]*Group]

	// ctx ends everything that Close need not end in a particular order.
	ctx    context.Context
	cancel context.CancelCauseFunc

	// leaving ends the discovery, which then withdraws this node's announcement.
	leaving context.Context
	leave   context.CancelFunc
	closing sync.Once

	// remoteWaits ends the waits for other regions, half-way through Close: a region that is down may never
	// answer.
	remoteWaits    context.Context
	endRemoteWaits context.CancelFunc

	// shuttingDown is set when this node starts to disconnect from its peers. From then on it carries out
	// no writes.
	shuttingDown atomic.Bool

	mu     sync.RWMutex // guards the following; never held across I/O
	closed bool
	wg     sync.WaitGroup // every goroutine; Add only with mu held and !closed, or from a goroutine it counts
}

// Config configures a Cache. The face has validated it; a field's zero value means a default only where the
// field says so.
type Config struct {
	Cluster string
	ID      string // default: the address that others connect to
	Region  string // default: what the discovery reports
	Weight  float64
	Seed    uint64

	Listen    string // the address to listen on, unless Listener is set
	Listener  net.Listener
	Advertise string // the address that others connect to; default: Listen
	Dial      func(ctx context.Context, address string) (net.Conn, error)
	TLS       func() *tls.Config // nil: no TLS
	PeerNames []string           // see peers.Config

	Discovery regions.Discovery // nil: this node is alone
	Limits    peers.Limits
	Lease     time.Duration
	Grace     time.Duration
	JoinWait  time.Duration
	MaxDrift  time.Duration
	Clock     func() time.Time // default: time.Now, with hits served from a coarse clock
	Logger    *slog.Logger     // default: slog.Default()

	// NewPanicError makes the error for a call of user code that panicked.
	NewPanicError func(value any, stack []byte) error

	// Limits that tests can lower: floors remembered for each group, bytes queued for each other region, and
	// nodes there that this one is connected to. 0 means the default.
	Floors  int
	Outbox  int64
	Watched int
}

// Open makes this process a node of the cluster. It waits for the rest of the cluster for at most
// Config.JoinWait. If ctx ends first, Open fails.
func Open(ctx context.Context, config Config) (*Cache, error) {
	c, err := newCache(ctx, config)
	if err != nil {
		if config.Listener != nil {
			config.Listener.Close()
		}
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), CloseTimeout)
		defer cancel()
		return nil, errors.Join(err, c.Close(closing))
	}
	return c, nil
}

// newCache returns a Cache that runs nothing in the background yet.
func newCache(ctx context.Context, config Config) (*Cache, error) {
	c := &Cache{config: config}
	c.replicator.c, c.replicator.outboxes = c, xsync.NewMap[string, *remote]()
	c.membership.c = c
	c.redundancy.c, c.redundancy.wake = c, make(chan struct{}, 1)
	c.journals.of = make(map[string]*fetchedJournal)
	c.journals.giving = make(chan struct{}, givenAtOnce)
	c.groups.Store(&map[string]*Group{})
	if c.config.Logger == nil {
		c.config.Logger = slog.Default()
	}
	c.clock = expiry.NewClock(config.Clock, config.MaxDrift)
	c.coarse.exact = c.clock
	leases := peers.LeaseConfig(config.Lease, config.Grace, c.clock)
	leases.Discovers = config.Discovery != nil
	c.leases = lease.New(leases)
	c.coarse.now.Store(noCoarse)
	c.renewing = time.AfterFunc(time.Hour, c.renewLease)
	c.renewing.Stop()
	c.logGuard.NewPanicError = config.NewPanicError
	c.config.Logger = guardLogger(&c.logGuard, c.config.Logger)
	c.log = c.config.Logger.With("cluster", config.Cluster)

	c.initGuard(&c.guard, "")

	region, err := c.findRegion(ctx)
	if err != nil {
		return nil, err
	}
	listener := config.Listener
	address := config.Advertise
	if config.Listen != "" {
		if listener, err = net.Listen("tcp", config.Listen); err != nil {
			return nil, err
		}
	} else if listener != nil {
		listener = guardedListener{listener, c}
	}
	if listener != nil {
		named := cmp.Or(address, config.Listen, listener.Addr().String())
		address = dialable(named, listener.Addr(), address == "")
	}
	c.node = regions.Node{
		ID:      cmp.Or(config.ID, address, "alone"),
		Region:  region,
		Address: address,
		Weight:  config.Weight,
	}
	c.epoch = c.clock.Now()
	c.self = senderOf(c.node.ID, c.epoch)
	c.dispatcher.self, c.dispatcher.lease = c.self, c.config.Lease
	c.dispatcher.spawn, c.dispatcher.post = c.spawn, c.postBroadcast
	c.log = c.log.With("self", c.node.ID)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.leaving, c.leave = context.WithCancel(c.ctx)
	c.remoteWaits, c.endRemoteWaits = context.WithCancel(c.ctx)

	err = c.checkFits()
	if err == nil {
		err = c.connect(listener)
	}
	if err != nil {
		if listener != nil {
			listener.Close()
		}
		return nil, err
	}
	c.follow()
	if c.transport != nil { // only now: whoever asks this node needs it to have a view
		c.transport.Serve(listener)
	}
	return c, nil
}

// initGuard makes g log its reports, at most one a second.
func (c *Cache) initGuard(g *origin.Guard, group string) {
	var log throttle
	g.NewPanicError = c.config.NewPanicError
	g.Report = func(what, did, key string, failed uint64, args ...any) {
		if !log.ok(c.clock.Instant()) {
			return
		}
		var about []any
		if group != "" {
			about = append(about, "group", group, "key", key)
		}
		c.log.Error(what+" "+did, append(append(about, "so far", failed), args...)...)
	}
}

// checkFits reports why the discovery rejects this node, if it does.
func (c *Cache) checkFits() error {
	if d, ok := c.config.Discovery.(interface{ Fits(regions.Node) error }); ok {
		fits := origin.NoValue(func() error { return d.Fits(c.node) })
		if _, err := origin.Call(&c.guard, "discovery", "", fits); err != nil {
			return fmt.Errorf("WithDiscovery: %w", err)
		}
	}
	return nil
}

// findRegion returns the region that the user configured, else the one that the discovery reports, else
// "local".
func (c *Cache) findRegion(ctx context.Context) (string, error) {
	if c.config.Region != "" {
		return c.config.Region, nil
	}
	if c.config.Discovery != nil {
		region, err := callWithin(ctx, &c.guard, c.spawn, "discovery", func() (string, error) {
			return c.config.Discovery.Region(ctx)
		})
		if err != nil {
			const format = "the discovery cannot tell this process's region (WithRegion sets it): %w"
			return "", fmt.Errorf(format, err)
		}
		if region != "" {
			return region, nil
		}
	}
	return "local", nil
}

// connect creates the members and, if there is a listener, the transport.
func (c *Cache) connect(listener net.Listener) (err error) {
	c.members, err = regions.NewMembers(c.node, c.config.Seed, c.config.Grace, c.clock.Instant())
	if err != nil || listener == nil {
		return err
	}
	c.members.WatchAtMost(c.config.Watched)
	c.transport, err = peers.New(peers.Config{
		Cluster:   c.config.Cluster,
		ID:        c.node.ID,
		Region:    c.node.Region,
		Epoch:     c.epoch,
		SeedCheck: xxh3.HashStringSeed("geocache ring seed", c.config.Seed),
		Clock:     c.clock,
		Handler:   handler{c},
		Dial:      c.dialer(),
		TLS:       c.config.TLS,
		PeerNames: c.config.PeerNames,
		Lease:     c.config.Lease,
		Leases:    c.leases,
		Limits:    c.config.Limits,
		Logger:    c.config.Logger.With("self", c.node.ID), // the transport adds the cluster
		OnChange:  c.membership.onHealth,
		OnPong:    c.onPong,

		Counts:      c.members.Counts,
		Grace:       c.config.Grace,
		OnOtherView: c.membership.onOtherView,
		OnRestart:   c.onRestart,
	})
	return err
}

var errStillRunning = errors.New("geocache: closing: a getter, a function of WithOnEvict or the discovery " +
	"is still running although its context has ended")

// housekeep does periodic work once a second, until the cache is closed.
func (c *Cache) housekeep() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	swept := map[*Group]expiry.Instant{}
	ticks := 0
	for {
		select {
		case <-ticker.C:
		case <-c.ctx.Done():
			return
		}
		now := c.clock.Instant()
		if c.transport != nil {
			c.membership.apply(c.members.Tick(now, c.membership.state))
			for _, id := range c.members.Vouchers() {
				c.spawn(func() { c.membership.ask(c.ctx, id) })
			}
		}
		next := make(map[*Group]expiry.Instant)
		for _, g := range *c.groups.Load() {
			g.expire()
			g.warnOfDropped()
			next[g] = swept[g]
			if now.Sub(swept[g]) >= g.sweepEvery() {
				g.sweep()
				next[g] = now
			}
			for _, o := range c.replicator.outboxes.All() {
				o.Forget(g.name, g.journal.deadBefore())
			}
		}
		swept = next
		c.replicator.inbox.Forget(now.Add(-inboxRetention))
		if ticks++; ticks%reownEvery == 0 {
			c.spawn(c.reown)
		}
	}
}

// reownEvery is how many seconds pass before queued writes are handed to their keys' owners even if the
// ring has not changed: an owner may not have had the group yet when it did.
const reownEvery = 5

// CloseTimeout is how long Close may take if the caller sets no deadline.
const CloseTimeout = 10 * time.Second

// inboxRetention is how long the inbox remembers the stream of a node that has gone silent.
const inboxRetention = time.Hour

// Node returns this process as the other nodes see it.
func (c *Cache) Node() regions.Node { return c.node }

// topology returns the cluster as this node currently sees it.
func (c *Cache) topology() *regions.Topology { return c.members.Topology() }

// group returns the named group, or nil. It takes no lock.
func (c *Cache) group(name string) *Group { return (*c.groups.Load())[name] }

// add adds a group, unless the cache is closed or has a group of that name.
func (c *Cache) add(g *Group) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if c.group(g.name) != nil {
		return errors.New("a group of that name already exists")
	}
	groups := maps.Clone(*c.groups.Load())
	groups[g.name] = g
	c.groups.Store(&groups)
	return nil
}

// spawn runs f on a goroutine that Close waits for. It returns false, without running f, once Close has
// begun to wait.
func (c *Cache) spawn(f func()) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

// Close takes this node out of the cluster and stops everything that it runs. Half of ctx's time is for
// writes still queued, the handoff and requests under way; the rest is for user code that ignores that its
// context has ended. The error says what Close could not wait for. Later calls wait for the first and
// return nil.
func (c *Cache) Close(ctx context.Context) error {
	var errs []error
	c.closing.Do(func() {
		errs = c.leaveCluster(ctx)
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.cancel(ErrClosed)

		ended := make(chan struct{})
		go func() { c.wg.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-ctx.Done():
			errs = append(errs, errStillRunning)
		}
		c.log.Info("closed")
	})
	return errors.Join(errs...)
}

// leaveCluster leaves in order: it withdraws the announcement first, so that discovering nodes and peers
// with requests go elsewhere while this node still answers.
func (c *Cache) leaveCluster(ctx context.Context) (errs []error) {
	ctx, cancel := share(ctx, 1, 2)
	defer cancel()
	flushing, stop := share(ctx, 1, 2) // what the origin does not accept in time is handed over
	for name, g := range *c.groups.Load() {
		if q := g.origin.queue; q != nil {
			if err := q.Flush(flushing); err != nil {
				errs = append(errs, fmt.Errorf("geocache: closing: group %q: %w", name, err))
			}
		}
	}
	stop()
	c.leave()
	awaiting, stop := share(ctx, 1, 2)
	if _, ok := ctx.Deadline(); !ok { // a region that is down may never answer
		awaiting, stop = context.WithTimeout(ctx, CloseTimeout/4)
	}
	defer stop()
	defer context.AfterFunc(awaiting, c.endRemoteWaits)()
	if c.transport != nil {
		c.handoff(ctx)
		c.shuttingDown.Store(true)
		c.endLease()
		if err := c.transport.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("geocache: closing: requests of peers were cut off: %w", err))
		}
	}
	return errs
}

// MaxValueBytes returns the largest size of an encoded value, in bytes.
func (c *Cache) MaxValueBytes() int { return c.config.Limits.MaxValue }
