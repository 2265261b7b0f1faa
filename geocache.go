package geocache

import (
	"cmp"
	"context"
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
	"github.com/geocache/geocache/internal/outbox"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// A Cache is one process's seat in the cluster. Groups are added to it with
// NewGroup. Its methods are safe for concurrent use.
type Cache struct {
	config    config
	node      regions.Node
	log       *slog.Logger
	guard     guard // of what the user has given to Open
	clock     *expiry.Clock
	members   *regions.Members
	transport *peers.Transport // nil without a listener

	epoch     expiry.Generation // when this process started
	self      uint64            // stands for this process, see senderOf
	standing  standing
	following sync.Mutex                  // held from reading the topology to having followed it
	reowns    atomic.Int64                // calls of reown that wait for the end of the pass under way, and that one
	outboxes  *xsync.Map[string, *remote] // by region
	inbox     outbox.Inbox
	found     atomic.Bool  // the discovery has said something
	nextAsk   atomic.Int64 // see otherView
	stepping  atomic.Bool  // stepAside is under way

	established establishment
	waiting     waiting

	// coarse is an instant a moment ago, or noCoarse. See before.
	coarse atomic.Int64

	// groups is replaced as a whole under mu and read without it.
	groups atomic.Pointer[map[string]*group]

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

	// setting is held from reading the members to telling the transport, so that
	// of two who do so the later reading is told last.
	setting sync.Mutex

	mu     sync.RWMutex // guards the following; never held across I/O
	closed bool
	wg     sync.WaitGroup // every goroutine; Add only with mu held and !closed, or from one of them
}

// Open makes this process a node of the cluster: it listens for peers, announces
// itself and looks for the others. Without a listener it is alone, and everything
// works. The error reports every mistake in the options at once.
//
// Open waits a while (WithJoinWait) to have found and reached the others. If it
// has not by then it goes on without, logs that, and they come in later: a
// discovery that is down does not keep a service from starting, provided that
// WithRegion says where it is. If ctx ends during that wait, Open returns its error. ctx is
// not used afterwards.
func Open(ctx context.Context, opts ...Option) (*Cache, error) {
	config := defaultConfig()
	var errs []error
	if ctx == nil {
		errs = append(errs, errNoContext)
	}
	for i, o := range opts {
		if o == nil {
			errs = append(errs, errNilOption(i))
			continue
		}
		o.applyCache(&config)
	}
	if err := errors.Join(append(errs, config.check())...); err != nil {
		return nil, fmt.Errorf("geocache: %w", err)
	}
	c, err := newCache(ctx, config)
	if err != nil {
		if config.listener != nil {
			config.listener.Close()
		}
		return nil, fmt.Errorf("geocache: %w", err)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("geocache: %w", err), c.Close())
	}
	return c, nil
}

// newCache makes a Cache that nothing runs in yet.
func newCache(ctx context.Context, config config) (*Cache, error) {
	c := &Cache{
		config:   config,
		outboxes: xsync.NewMap[string, *remote](),
	}
	c.standing.journals = make(map[string]*takenJournal)
	c.groups.Store(&map[string]*group{})
	if c.config.logger == nil {
		c.config.logger = slog.Default()
	}
	c.coarse.Store(noCoarse)
	c.clock = expiry.NewClock(config.clock, config.maxDrift)
	c.guard.cache = c
	c.config.logger = guardLogger(&c.guard, c.config.logger)
	c.log = c.config.logger.With("cluster", config.cluster)

	region, err := c.findRegion(ctx)
	if err != nil {
		return nil, err
	}
	listener := config.listener
	address := config.advertise
	if config.listen != "" {
		if listener, err = net.Listen("tcp", config.listen); err != nil {
			return nil, err
		}
	} else if listener != nil {
		listener = guardedListener{listener, c}
	}
	if listener != nil {
		address = dialable(cmp.Or(address, config.listen, listener.Addr().String()), listener.Addr(), address == "")
	}
	c.node = regions.Node{ID: cmp.Or(config.id, address, "alone"), Region: region, Address: address, Weight: config.weight}
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

// fits reports what the discovery has against this node.
func (c *Cache) fits() error {
	if d, ok := c.config.discovery.(interface{ Fits(regions.Node) error }); ok {
		_, err := call(&c.guard, "discovery", "", returning(func() error { return d.Fits(c.node) }))
		if err != nil {
			return fmt.Errorf("WithDiscovery: %w", err)
		}
	}
	return nil
}

// findRegion returns the region that the user named, else that the discovery
// names, else "local".
func (c *Cache) findRegion(ctx context.Context) (string, error) {
	if c.config.region != "" {
		return c.config.region, nil
	}
	if c.config.discovery != nil {
		region, err := within(ctx, &c.guard, c.spawn, "discovery", func() (string, error) { return c.config.discovery.Region(ctx) })
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
	if c.members, err = regions.NewMembers(c.node, c.config.seed, c.config.grace, c.clock.Instant()); err != nil || listener == nil {
		return err
	}
	c.transport, err = peers.New(peers.Config{
		Cluster:   c.config.cluster,
		ID:        c.node.ID,
		Region:    c.node.Region,
		Epoch:     c.epoch,
		SeedCheck: xxh3.HashStringSeed("geocache ring seed", c.config.seed),
		Clock:     c.clock,
		Handler:   handler{c},
		Dial:      c.dialer(),
		TLS:       c.config.tls,
		PeerNames: c.config.peerNames,
		Lease:     c.config.lease,
		Limits:    c.config.limits,
		Logger:    c.config.logger.With("self", c.node.ID), // it adds the cluster itself
		OnChange:  c.health,
		OnPong:    c.ponged,

		Counts:      c.members.Counts,
		Grace:       c.config.grace,
		OnOtherView: c.otherView,
		OnRestart:   c.restarted,
	})
	return err
}

// start starts what runs in the background, and waits for the cluster to be
// found.
func (c *Cache) start(ctx context.Context) error {
	if c.config.clock == nil {
		c.spawn(c.tick)
	}
	c.spawn(c.housekeep)
	if c.transport != nil {
		c.spawn(c.compare)
	}
	if c.config.discovery == nil {
		return nil
	}
	if c.config.joinWait == 0 {
		c.spawn(func() { c.discover(nil) })
		return nil
	}
	found := make(chan struct{})
	c.spawn(func() { c.discover(found) })

	ctx, cancel := context.WithTimeoutCause(ctx, c.config.joinWait, errJoinWait)
	defer cancel()
	select {
	case <-found:
		c.transport.Tried(ctx)
		c.apply(c.members.Tick(c.clock.Instant(), c.how)) // what health reports is on its way
	case <-ctx.Done():
	}
	switch err := context.Cause(ctx); {
	case err == nil:
		top := c.topology()
		c.log.Info("joined", "region", c.node.Region, "address", c.node.Address, "nodes", len(top.Home.Nodes), "regions", 1+len(top.Remote))
	case errors.Is(err, errJoinWait):
		c.log.Warn("not all of the cluster found or reached yet, starting without", "waited", c.config.joinWait)
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
	swept := map[*group]expiry.Instant{}
	ticks := 0
	for {
		select {
		case <-ticker.C:
		case <-c.ctx.Done():
			return
		}
		now := c.clock.Instant()
		if c.transport != nil {
			c.apply(c.members.Tick(now, c.how))
			for _, id := range c.members.Vouchers() {
				c.spawn(func() { c.askMembers(c.ctx, id) })
			}
		}
		next := make(map[*group]expiry.Instant)
		for _, g := range *c.groups.Load() {
			g.expire()
			g.warnOfUntold()
			next[g] = swept[g]
			if now.Sub(swept[g]) >= g.sweepEvery() {
				g.sweep()
				next[g] = now
			}
			for _, o := range c.outboxes.All() {
				o.Forget(g.name, g.dead())
			}
		}
		swept = next
		c.inbox.Forget(now.Add(-inboxMemory))
		if ticks++; ticks%reownEvery == 0 {
			c.spawn(c.reown)
		}
	}
}

// reownEvery is how many seconds pass before queued writes are given to their keys'
// owners without a change of the ring: one may have lacked the group when the ring did change.
const reownEvery = 5

// inboxMemory is for how long the stream of a node that is not heard of is
// remembered.
const inboxMemory = time.Hour

// Node returns this process as the others see it.
func (c *Cache) Node() regions.Node { return c.node }

// topology returns the cluster as this node sees it now.
func (c *Cache) topology() *regions.Topology { return c.members.Topology() }

// group returns the named group, or nil. It takes no lock.
func (c *Cache) group(name string) *group { return (*c.groups.Load())[name] }

// add adds a group.
func (c *Cache) add(g *group) error {
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

// closeTimeout bounds how long Close waits for the requests of peers, and then
// for getters that ignore that their context has ended.
const closeTimeout = 5 * time.Second

// Close takes this process out of the cluster: what it has still to write to the
// origin is written, the entries that it owns go to their next owners, peers are
// told, the discovery's registration is withdrawn, requests that peers are waiting for are finished,
// and every goroutine of the cache ends. From then on reads that memory does not
// answer return ErrClosed; those that it does answer may give what has been overwritten
// since, so stop reading before Close. Close takes up to about ten seconds.
//
// The error says what could not be waited for. Calling Close again waits for the
// first call and returns nil.
func (c *Cache) Close() error {
	var errs []error
	c.closing.Do(func() {
		// Leaving comes first: whoever looks for nodes, and whoever would
		// ask this one, must go elsewhere while requests are still answered.
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		flushing, stop := share(ctx, 1, 2) // what the origin does not take is handed over
		for name, g := range *c.groups.Load() {
			if q := g.backing.behind; q != nil {
				if err := q.Flush(flushing); err != nil {
					errs = append(errs, fmt.Errorf("geocache: closing: group %q: %w", name, err))
				}
			}
		}
		stop()
		c.leave()
		defer time.AfterFunc(closeTimeout/2, c.endAwaiting).Stop()
		if c.transport != nil {
			c.handoff(ctx)
			c.shutting.Store(true)
			c.forgoCopies()
			if err := c.transport.Close(ctx); err != nil {
				errs = append(errs, fmt.Errorf("geocache: closing: requests of peers were cut off: %w", err))
			}
		}
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		c.cancel(ErrClosed)

		ended := make(chan struct{})
		go func() { c.wg.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(closeTimeout):
			errs = append(errs, errors.New("geocache: closing: a getter, a function of WithOnEvict or the discovery still runs although its context has ended"))
		}
		c.log.Info("closed")
	})
	return errors.Join(errs...)
}
