package engine

import (
	"cmp"
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/sync/semaphore"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/regions"
)

// GroupConfig configures a Group. The face has validated it.
type GroupConfig struct {
	TTL          time.Duration
	NegativeTTL  time.Duration
	StaleIfError time.Duration
	RefreshAhead time.Duration
	Revalidate   time.Duration
	Strict       bool // serve nothing from memory that is not confirmed
	LoadTimeout  time.Duration
	MaxBytes     int64
	MaxEntries   int
	Policy       store.Policy
	CopyShare    float64
	MaxLoads     int
	OriginRegion string
	HomeRegion   string
	OriginLag    time.Duration
	WriteBehind  int64 // bytes that may be queued; 0 writes through

	// User code. It deals in encoded values. Everything but Codec may be nil. Keys missing from GetMany's
	// result do not exist.
	Get     func(ctx context.Context, key string) (Loaded, error)
	GetMany func(ctx context.Context, keys []string) (map[string]LoadedOrErr, error)
	Set     func(ctx context.Context, key string, value []byte) error
	Remove  func(ctx context.Context, key string) error
	OnEvict func(e *store.Entry, reason store.Reason)
	Codec   Codec

	DecodedSize int64 // see store.Config
}

// A Codec encodes and decodes the user's values.
type Codec struct {
	Encode func(v any) ([]byte, error)
	Decode func(e *store.Entry) (any, error) // stores the decoded value in the entry
}

// Loaded is what a getter returned, encoded.
type Loaded struct {
	Value  []byte
	Tagged bool          // tags precede the value
	TTL    time.Duration // the item's own time to live, or 0
}

// LoadedOrErr is a value that GetMany returned, or the error of encoding it.
type LoadedOrErr struct {
	Loaded
	Err error
}

// A Group is a named key space of encoded values: a geocache.Group without its value type, so that peers'
// requests can be answered without knowing the type. Its methods are safe for concurrent use.
type Group struct {
	cache  *Cache
	name   string
	config GroupConfig

	store  *store.Store
	floors *expiry.Floors
	fresh  freshness
	lag    originLag
	loader loader
	stats  groupStats

	guard           origin.Guard // for the group's user code
	decodeLog       throttle
	reportedDropped uint64 // used by warnOfDropped alone

	origin     originWrites
	updates    updates
	committer  committer
	router     router
	refreshing refresher
	journal    journal
	home       homes

	// retries says until when a key's expired value is served without trying another load, because one has
	// just failed.
	retries *xsync.Map[string, expiry.Instant]

	// The flights of a fill's three levels, see fill.
	viaOwner *flight.Table[answer]
	asOwner  *flight.Table[answer]
	local    *flight.Table[answer]

	unleased unleased

	single   atomic.Int64 // see redundancy.singleHolder
	clearing atomic.Int32 // calls of applyClear under way
}

// floorLimit is how many keys of a group can have a floor of their own. Beyond that, the oldest floor is
// folded into the group's, and everything as old becomes a miss. So the limit is at least a million, and
// one for each 256 bytes of capacity if that is more: a group filled by Set alone has room for about that
// many values.
func floorLimit(maxBytes int64) int {
	return int(min(max(1<<20, maxBytes/256), math.MaxInt32))
}

// NewGroup adds a group to the cache. It fails if the name is taken.
func (c *Cache) NewGroup(name string, config GroupConfig) (*Group, error) {
	g := &Group{
		cache:  c,
		name:   name,
		config: config,
		store: store.New(store.Config{
			MaxBytes:    config.MaxBytes,
			MaxEntries:  config.MaxEntries,
			Policy:      config.Policy,
			CopyShare:   config.CopyShare,
			DecodedSize: config.DecodedSize,
		}),
		floors:  expiry.NewFloors(cmp.Or(c.config.Floors, floorLimit(config.MaxBytes))),
		retries: xsync.NewMap[string, expiry.Instant](),
		asOwner: flight.NewTable(c.ctx, config.LoadTimeout, c.spawn, answer{err: ErrClosed}),
		local:   flight.NewTable(c.ctx, config.LoadTimeout, c.spawn, answer{err: ErrClosed}),
		// Longer than the owner may take, so that the owner's fallback answer arrives before this node
		// gives up on it.
		viaOwner: flight.NewTable(
			c.ctx, config.LoadTimeout+config.LoadTimeout/4, c.spawn, answer{err: ErrClosed}),
	}
	c.initGuard(&g.guard, name)
	g.loader = loader{g, semaphore.NewWeighted(int64(config.MaxLoads))}
	f := &g.fresh
	f.floors, f.clock, f.coarse, f.maxDrift = g.floors, c.clock, &c.coarse, c.config.MaxDrift
	f.leases, f.strict = c.leases, config.Strict
	f.staleness, f.revalidate = max(config.StaleIfError, config.Revalidate), config.Revalidate
	g.lag = originLag{cmp.Or(config.HomeRegion, config.OriginRegion), config.OriginLag, c.node.Region, f}
	g.refreshing = refresher{g, xsync.NewMap[string, expiry.Instant](), g.loader.batch(1)}
	g.origin.init(g)
	g.updates.g, g.committer.g, g.router.g, g.journal = g, g, g, newJournal(g)
	g.home = homes{g, xsync.NewMap[string, struct{}]()}
	u := &g.unleased
	u.g, u.created = g, c.clock.Instant()
	// Twice as long, since a load may have to wait for the one before it.
	u.flights = flight.NewTable(c.ctx, 2*config.LoadTimeout, c.spawn, answer{err: ErrClosed})
	evictionLoop := g.evictionLoop()
	if err := c.add(g); err != nil {
		return nil, err
	}
	if evictionLoop != nil {
		c.spawn(evictionLoop)
	}
	c.join(g)
	return g, nil
}

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

// Guard returns the guard for calls of the group's user code.
func (g *Group) Guard() *origin.Guard { return &g.guard }

// A Location says which nodes own a key in one region.
type Location struct {
	Region   string
	Distance time.Duration // the round-trip time from here; 0 in this node's region, or if unknown

	// Owner is the node that keeps the key. Successor takes over when Owner is gone; its ID is empty if
	// Owner is the only node of the region that answers.
	Owner, Successor regions.Node
}

// Locate returns the owners of key in every region as this node currently sees them: this node's region
// first, then the others, nearest first.
func (g *Group) Locate(key string) []Location {
	top := g.cache.topology()
	var locations []Location
	for _, r := range top.Regions() {
		l := Location{Region: r.Name, Distance: r.Distance}
		owners := r.Owners(key, 2)
		l.Owner = owners[0]
		if len(owners) > 1 {
			l.Successor = owners[1]
		}
		locations = append(locations, l)
	}
	return locations
}

// A throttle lets one event a second through, to keep repeated warnings readable. The zero value is ready.
type throttle struct{ next atomic.Int64 }

// ok reports whether the event at now gets through.
func (t *throttle) ok(now expiry.Instant) bool {
	next := t.next.Load()
	return int64(now) >= next && t.next.CompareAndSwap(next, int64(now.Add(time.Second)))
}

// HasGetter reports whether the group has a getter to load missing keys with.
func (g *Group) HasGetter() bool { return g.config.Get != nil }
