package engine

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"cmp"

	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/sync/semaphore"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/regions"
)

// GroupConfig is what a Group is made of. The face has checked it.
type GroupConfig struct {
	TTL          time.Duration
	NegativeTTL  time.Duration
	StaleIfError time.Duration
	RefreshAhead time.Duration
	Revalidate   time.Duration
	LoadTimeout  time.Duration
	MaxBytes     int64
	MaxEntries   int
	Policy       store.Policy
	CopyShare    float64
	MaxLoads     int
	OriginRegion string
	HomeRegion   string
	OriginLag    time.Duration
	WriteBehind  int64 // bytes that may wait; 0 writes through

	// The user's code. It deals in encoded values, and all but Codec may be nil.
	Get     func(ctx context.Context, key string) (Loaded, error)
	GetMany func(ctx context.Context, keys []string) (map[string]LoadedOrErr, error) // keys that it does not know are missing
	Set     func(ctx context.Context, key string, value []byte) error
	Remove  func(ctx context.Context, key string) error
	OnEvict func(e *store.Entry, reason store.Reason)
	Codec   Codec

	DecodedSize int64 // see store.Config
}

// A Codec turns the user's values into bytes and back.
type Codec struct {
	Encode func(v any) ([]byte, error)
	Decode func(e *store.Entry) (any, error) // leaves the decoded value in the entry
}

// Loaded is what the getter returned, encoded.
type Loaded struct {
	Value  []byte
	Tagged bool          // tags come before the value
	TTL    time.Duration // the item's own, or 0
}

// LoadedOrErr is a value of GetMany, or why it cannot be encoded.
type LoadedOrErr struct {
	Loaded
	Err error
}

// A Group is a named key space of encoded values: what a geocache.Group is without the type of
// its values, so that peers' requests can be answered without knowing that. Its methods are safe for
// concurrent use.
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

	guard           origin.Guard // of the user's functions
	decodeLog       throttle
	reportedDropped uint64 // see warnOfUntold

	origin     originWrites
	updates    updates
	committer  committer
	router     router
	refreshing refresher
	journal    journal
	home       homes

	// retries has the keys whose expired values are served without another load, since one
	// has just failed, and until when.
	retries *xsync.Map[string, expiry.Instant]

	// The flights of the three levels of a fill.
	viaOwner *flight.Table[answer]
	asOwner  *flight.Table[answer]
	local    *flight.Table[answer]
}

// floorLimit is how many keys of a group can have a floor of their own before the oldest is
// folded into the group's, and with it all that is as old turns into misses. So it is a
// million at least, and one for each 256 bytes where that is more: a group that is filled by
// Set alone has room for about as many values.
func floorLimit(maxBytes int64) int {
	return int(min(max(1<<20, maxBytes/256), math.MaxInt32))
}

// NewGroup adds a group to the cache. The name must be free.
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
		// Longer than the owner may take, so that what the owner falls
		// back to is here before this node gives up on it.
		viaOwner: flight.NewTable(c.ctx, config.LoadTimeout+config.LoadTimeout/4, c.spawn, answer{err: ErrClosed}),
	}
	c.initGuard(&g.guard, name)
	g.loader = loader{g, semaphore.NewWeighted(int64(config.MaxLoads))}
	f := &g.fresh
	f.floors, f.clock, f.maxDrift, f.leases = g.floors, c.clock, c.config.MaxDrift, c.leases
	f.staleness, f.revalidate = max(config.StaleIfError, config.Revalidate), config.Revalidate
	g.lag = originLag{cmp.Or(config.HomeRegion, config.OriginRegion), config.OriginLag, c.node.Region, f}
	g.refreshing = refresher{g, xsync.NewMap[string, expiry.Instant](), g.loader.batch(1)}
	g.origin.init(g)
	g.updates.g, g.committer.g, g.router.g, g.journal.g = g, g, g, g
	g.home = homes{g, xsync.NewMap[string, struct{}]()}
	evicted := g.evictions()
	if err := c.add(g); err != nil {
		return nil, err
	}
	if evicted != nil {
		c.spawn(evicted)
	}
	c.join(g)
	return g, nil
}

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

// Guard returns the guard for calls of the user's code that the group stands for.
func (g *Group) Guard() *origin.Guard { return &g.guard }

// A Location is where a key is at home in one region.
type Location struct {
	Region   string
	Distance time.Duration // the round trip from here; 0 in this node's region, or not known

	// Owner is the node that keeps the key, and Successor the one that takes
	// its place when it is gone. Successor has no ID if Owner is the only
	// node in the region that answers.
	Owner, Successor regions.Node
}

// Locate returns where key is at home: this node's region first, then the
// others, nearest first, as this node sees them now.
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

// A throttle lets one in a second through: of a thousand equal warnings one is
// read. The zero value is ready.
type throttle struct{ next atomic.Int64 }

func (t *throttle) ok(now expiry.Instant) bool {
	next := t.next.Load()
	return int64(now) >= next && t.next.CompareAndSwap(next, int64(now.Add(time.Second)))
}

// HasGetter reports whether the group loads what it does not have.
func (g *Group) HasGetter() bool { return g.config.Get != nil }
