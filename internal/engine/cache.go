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

// A Cache is one process's seat in the cluster. Groups are added to it with
// NewGroup. Its methods are safe for concurrent use.
type Cache struct {
	config    Config
	node      regions.Node
	log       *slog.Logger
	guard     origin.Guard // of what the user has given to Open
	logGuard  origin.Guard // of the logger; reports nothing, since what could tell is what failed
	clock     *expiry.Clock
	members   *regions.Members
	transport *peers.Transport // nil without a listener

	epoch      expiry.Generation // when this process started
	self       uint64            // stands for this process, see senderOf
	view       atomic.Pointer[view]
	leases     *lease.Table
	journals   fetchedJournals
	changed    signal       // something that a writer may wait for
	following  sync.Mutex   // held from reading the topology to having followed it
	reowns     atomic.Int64 // calls of reown that wait for the end of the pass under way, and that one
	replicator replicator
	membership membership

	waits origin.Waits

	coarse coarseClock

	// groups is replaced as a whole under mu and read without it.
	groups atomic.Pointer[map[string]*Group]

	// ctx ends everything that Close does not have to end in order.
	ctx    context.Context
	cancel context.CancelCauseFunc

	// leaving ends the discovery, which then withdraws the announcement.
	leaving context.Context
	leave   context.CancelFunc
	closing sync.Once

	// awaiting ends the waits for other regions, half-way through Close: one that is away
	// may be so for ever.
	awaiting    context.Context
	endAwaiting context.CancelFunc

	// shutting is set when this node begins to part from its peers: it carries
	// out no more writes.
	shutting atomic.Bool

	mu     sync.RWMutex // guards the following; never held across I/O
	closed bool
	wg     sync.WaitGroup // every goroutine; Add only with mu held and !closed, or from one of them
}

// Config is what a Cache is made of. The face has checked it; the zero value of a field is its default only where
// the field says so.
type Config struct {
	Cluster string
	ID      string // default: the address that others are told
	Region  string // default: what the discovery says
	Weight  float64
	Seed    uint64

	Listen    string // the address to listen on, unless Listener is given
	Listener  net.Listener
	Advertise string // the address that others are told; default: Listen
	Dial      func(ctx context.Context, address string) (net.Conn, error)
	TLS       func() *tls.Config // nil without TLS
	PeerNames []string           // see peers.Config

	Discovery regions.Discovery // nil: this node is alone
	Limits    peers.Limits
	Lease     time.Duration
	Grace     time.Duration
	JoinWait  time.Duration
	MaxDrift  time.Duration
	Clock     func() time.Time // default: time.Now, read through a clock that ticks
	Logger    *slog.Logger     // default: slog.Default()

	// NewPanicError makes the error of a call of the user's code that panicked.
	NewPanicError func(value any, stack []byte) error

	// What is remembered of writes, where a test wants it to be less than usual: how many
	// floors a group has, and how many bytes wait for a region.
	Floors int
	Outbox int64
}

// Open makes this process a node of the cluster. It waits for the others for as long as
// Config.JoinWait says, or until ctx ends, which is an error then.
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

// newCache makes a Cache that nothing runs in yet.
func newCache(ctx context.Context, config Config) (*Cache, error) {
	c := &Cache{config: config}
	c.replicator.c, c.replicator.outboxes = c, xsync.NewMap[string, *remote]()
	c.membership.c = c
	c.journals.of = make(map[string]*fetchedJournal)
	c.groups.Store(&map[string]*Group{})
	if c.config.Logger == nil {
		c.config.Logger = slog.Default()
	}
	c.clock = expiry.NewClock(config.Clock, config.MaxDrift)
	c.coarse.exact = c.clock
	c.leases = lease.New(peers.LeaseConfig(config.Lease, config.Grace, c.clock))
	c.coarse.now.Store(noCoarse)
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
		address = dialable(cmp.Or(address, config.Listen, listener.Addr().String()), listener.Addr(), address == "")
	}
	c.node = regions.Node{ID: cmp.Or(config.ID, address, "alone"), Region: region, Address: address, Weight: config.Weight}
	c.epoch = c.clock.Now()
	c.self = senderOf(c.node.ID, c.epoch)
	c.log = c.log.With("self", c.node.ID)
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.leaving, c.leave = context.WithCancel(c.ctx)
	c.awaiting, c.endAwaiting = context.WithCancel(c.ctx)

	err = c.fits()
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
	if c.transport != nil { // only now, so that a node that is asked has a view
		c.transport.Serve(listener)
	}
	return c, nil
}

// initGuard has g report to the log: of a thousand equal reports one in a second.
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

// fits reports what the discovery has against this node.
func (c *Cache) fits() error {
	if d, ok := c.config.Discovery.(interface{ Fits(regions.Node) error }); ok {
		_, err := origin.Call(&c.guard, "discovery", "", origin.NoValue(func() error { return d.Fits(c.node) }))
		if err != nil {
			return fmt.Errorf("WithDiscovery: %w", err)
		}
	}
	return nil
}

// findRegion returns the region that the user named, else that the discovery
// names, else "local".
func (c *Cache) findRegion(ctx context.Context) (string, error) {
	if c.config.Region != "" {
		return c.config.Region, nil
	}
	if c.config.Discovery != nil {
		region, err := within(ctx, &c.guard, c.spawn, "discovery", func() (string, error) { return c.config.Discovery.Region(ctx) })
		if err != nil {
			return "", fmt.Errorf("the discovery did not tell this process's region; name it by WithRegion to start without: %w", err)
		}
		if region != "" {
			return region, nil
		}
	}
	return "local", nil
}

// connect makes the members, and with a listener the transport.
func (c *Cache) connect(listener net.Listener) (err error) {
	if c.members, err = regions.NewMembers(c.node, c.config.Seed, c.config.Grace, c.clock.Instant()); err != nil || listener == nil {
		return err
	}
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
		Logger:    c.config.Logger.With("self", c.node.ID), // it adds the cluster itself
		OnChange:  c.membership.onHealth,
		OnPong:    c.onPong,

		Counts:      c.members.Counts,
		Grace:       c.config.Grace,
		OnOtherView: c.membership.onOtherView,
		OnRestart:   c.onRestart,
	})
	return err
}

// start starts what runs in the background, and waits for the cluster to be
// found.
func (c *Cache) start(ctx context.Context) error {
	if c.config.Clock == nil {
		c.spawn(func() { c.coarse.tick(c.ctx) })
	}
	c.spawn(c.housekeep)
	if c.transport != nil {
		c.spawn(c.compare)
	}
	if c.config.Discovery == nil {
		return nil
	}
	if c.config.JoinWait == 0 {
		c.spawn(func() { c.membership.discover(nil) })
		return nil
	}
	found := make(chan struct{})
	c.spawn(func() { c.membership.discover(found) })

	ctx, cancel := context.WithTimeoutCause(ctx, c.config.JoinWait, errJoinWait)
	defer cancel()
	select {
	case <-found:
		c.transport.Tried(ctx)
		c.membership.apply(c.members.Tick(c.clock.Instant(), c.membership.state)) // what health reports is on its way
	case <-ctx.Done():
	}
	switch err := context.Cause(ctx); {
	case err == nil:
		top := c.topology()
		c.log.Info("joined", "region", c.node.Region, "address", c.node.Address, "nodes", len(top.Home.Nodes), "regions", 1+len(top.Remote))
	case errors.Is(err, errJoinWait):
		c.log.Warn("not all of the cluster found or reached yet, starting without", "waited", c.config.JoinWait)
	default:
		return err
	}
	return nil
}

var errJoinWait = errors.New("join wait over")

// housekeep does once a second what has to be done from time to time.
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
		c.replicator.inbox.Forget(now.Add(-inboxMemory))
		if ticks++; ticks%reownEvery == 0 {
			c.spawn(c.reown)
		}
	}
}

// reownEvery is how many seconds pass before queued writes are given to their keys'
// owners without a change of the ring: one may have lacked the group when the ring did change.
const reownEvery = 5

// CloseTimeout is how long closing may take if the caller does not say.
const CloseTimeout = 10 * time.Second

// inboxMemory is for how long the stream of a node that is not heard of is
// remembered.
const inboxMemory = time.Hour

// Node returns this process as the others see it.
func (c *Cache) Node() regions.Node { return c.node }

// topology returns the cluster as this node sees it now.
func (c *Cache) topology() *regions.Topology { return c.members.Topology() }

// group returns the named group, or nil. It takes no lock.
func (c *Cache) group(name string) *Group { return (*c.groups.Load())[name] }

// add adds a group.
func (c *Cache) add(g *Group) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if c.group(g.name) != nil {
		return errors.New("there is one of that name already")
	}
	groups := maps.Clone(*c.groups.Load())
	groups[g.name] = g
	c.groups.Store(&groups)
	return nil
}

// spawn runs f on a goroutine that Close waits for. It reports false if Close
// has been called.
func (c *Cache) spawn(f func()) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

// Close takes this node out of the cluster, and ends everything that it runs. ctx bounds that: half of its
// time is for what is still to be written, handed over and answered, the rest for user code that ignores
// that its context has ended. The error says what could not be waited for. Another call waits for the
// first, and returns nil.
func (c *Cache) Close(ctx context.Context) error {
	var errs []error
	c.closing.Do(func() {
		errs = c.part(ctx)
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.cancel(ErrClosed)

		ended := make(chan struct{})
		go func() { c.wg.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-ctx.Done():
			errs = append(errs, errors.New("geocache: closing: a getter, a function of WithOnEvict or the discovery still runs although its context has ended"))
		}
		c.log.Info("closed")
	})
	return errors.Join(errs...)
}

// part leaves the cluster in order. Leaving comes first: whoever looks for nodes, and whoever would ask this one,
// must go elsewhere while requests are still answered.
func (c *Cache) part(ctx context.Context) (errs []error) {
	ctx, cancel := share(ctx, 1, 2)
	defer cancel()
	flushing, stop := share(ctx, 1, 2) // what the origin does not take is handed over
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
	if _, ok := ctx.Deadline(); !ok { // a region that is away may be so for ever
		awaiting, stop = context.WithTimeout(ctx, CloseTimeout/4)
	}
	defer stop()
	defer context.AfterFunc(awaiting, c.endAwaiting)()
	if c.transport != nil {
		c.handoff(ctx)
		c.shutting.Store(true)
		c.endLease()
		if err := c.transport.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("geocache: closing: requests of peers were cut off: %w", err))
		}
	}
	return errs
}

// MaxValueBytes returns the size of the largest encoded value.
func (c *Cache) MaxValueBytes() int { return c.config.Limits.MaxValue }
