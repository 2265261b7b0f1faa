package geocache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/sync/semaphore"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/internal/valid"
	"github.com/geocache/geocache/regions"
)

// A Group is a named key space with values of type V and at most one Getter. Groups of
// the same name on all nodes of a cluster are one group. Its methods are safe
// for concurrent use.
//
// Values are shared between their readers and must not be modified.
type Group[V any] struct {
	*group
	codec   Codec[V]
	form    form
	updates updates[V]
}

// group is what a Group is without the type of its values: it deals in encoded
// ones. It is a type of its own so that peers' requests can be answered without
// knowing V.
type group struct {
	cache  *Cache
	name   string
	config groupConfig
	get    func(ctx context.Context, key string) (loaded, error) // the user's getter; nil for a group without

	// getMany is the user's getter if it is a BatchGetter, else nil. Keys that it does
	// not know are missing.
	getMany func(ctx context.Context, keys []string) (map[string]encodedValue, error)

	store   *store.Store
	floors  *expiry.Floors
	loading *semaphore.Weighted // calls of the getter
	stats   groupStats

	guard     guard // of the user's functions
	decodeLog throttle
	untold    uint64 // see warnOfUntold

	backing    backing
	writing    locks
	refreshing refreshing

	// retries has the keys whose expired values are served without another load, since one
	// has just failed, and until when.
	retries *xsync.Map[string, expiry.Instant]

	// recalled has the keys whose last write other regions have been asked for. See recall.
	recalled *xsync.Map[string, struct{}]

	// synced is true once the floors of the region's other nodes have been
	// taken in.
	synced atomic.Bool

	// See the head of fill.go.
	asks  *flights
	owns  *flights
	loads *flights
}

// loaded is what the getter returned, encoded.
type loaded struct {
	value  []byte
	tagged bool          // tags come before the value
	ttl    time.Duration // the item's own, or 0
}

// floorLimit is how many keys of a group can have a floor of their own before the oldest is
// folded into the group's, and with it all that is as old turns into misses. So it is a
// million at least, and one for each 256 bytes where that is more: a group that is filled by
// Set alone has room for about as many values.
func floorLimit(maxBytes int64) int {
	return int(min(max(1<<20, maxBytes/256), math.MaxInt32))
}

// NewGroup adds a group to the cache. Its name must be free in this cache, UTF-8, and at
// most 255 bytes long. The error reports every mistake in the options at once.
//
// The getter may be nil: then nothing is loaded, a Get of a key that nobody has Set
// is ErrNotFound, and what is cached is what Set and Update have put there. A miss
// asks no other region, unless WithOriginRegion names one.
//
// All nodes should have the same groups, with the same options. While options differ, as
// during a deploy, each node keeps the promises of its own: a value that another node would
// let live longer expires here after this node's TTL. While the owner of a key lacks the group,
// reads and writes of the key do without it, but an Update is ErrHomeUnreachable.
func NewGroup[V any](c *Cache, name string, getter Getter[V], opts ...GroupOption) (*Group[V], error) {
	config := defaultGroupConfig()
	var errs []error
	for i, o := range opts {
		if o == nil {
			errs = append(errs, errNilOption(i))
			continue
		}
		o.applyGroup(&config)
	}
	errs = append(errs, config.check())
	if c == nil {
		errs = append(errs, errors.New("the cache is nil"))
	}
	errs = append(errs, valid.Name(name))
	errs = append(errs, checkGetter(getter, &config))
	batch, isBatch := getter.(BatchGetter[V])
	if _, isItem := getter.(ItemGetter[V]); isBatch && isItem {
		errs = append(errs, fmt.Errorf("%T is both an ItemGetter and a BatchGetter: what GetBatch returns has no TTLs", getter))
	}
	codec, err := codecOf[V](&config)
	errs = append(errs, err)
	onEvict, err := onEvict[V](config.onEvict)
	errs = append(errs, err)
	var setter func(context.Context, string, V) error
	if config.setter != nil {
		var ok bool
		if setter, ok = config.setter.(func(context.Context, string, V) error); !ok {
			errs = append(errs, fmt.Errorf("WithSetter: %T does not take a %v", config.setter, reflect.TypeFor[V]()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("geocache: group %q: %w", name, err)
	}

	g := &Group[V]{
		codec: codec,
		form:  formOf(codec),
		group: &group{
			cache:  c,
			name:   name,
			guard:  guard{cache: c, group: name},
			config: config,
			store: store.New(store.Config{
				MaxBytes:    config.maxBytes,
				MaxEntries:  config.maxEntries,
				Policy:      store.Policy(config.policy),
				CopyShare:   config.copyShare,
				DecodedSize: decodedSize[V](codec),
			}),
			floors:     expiry.NewFloors(cmp.Or(c.config.floors, floorLimit(config.maxBytes))),
			loading:    semaphore.NewWeighted(int64(config.maxLoads)),
			refreshing: newRefreshing(),
			retries:    xsync.NewMap[string, expiry.Instant](),
			recalled:   xsync.NewMap[string, struct{}](),
			owns:       newFlights(c.ctx, config.loadTimeout, c.spawn),
			loads:      newFlights(c.ctx, config.loadTimeout, c.spawn),
			// Longer than the owner may take, so that what the owner falls
			// back to is here before this node gives up on it.
			asks: newFlights(c.ctx, config.loadTimeout+config.loadTimeout/4, c.spawn),
		},
	}
	if getter != nil {
		g.get = encoded(getter, codec, c.config.limits.MaxValue)
	}
	if isBatch {
		g.getMany = encodedMany(batch, codec, c.config.limits.MaxValue)
		g.refreshing.together = g.gather(1)
	}
	back(g.group, setter, codec)
	var evicted func() // tells onEvict
	if onEvict != nil {
		evicted = g.evictions(onEvict)
	}
	if err := c.add(g.group); err != nil {
		return nil, fmt.Errorf("geocache: group %q: %w", name, err)
	}
	if evicted != nil {
		c.spawn(evicted)
	}
	c.join(g.group)
	return g, nil
}

// codecOf returns the codec of WithCodec, else the default one.
func codecOf[V any](config *groupConfig) (Codec[V], error) {
	t := reflect.TypeFor[V]()
	if config.codec != nil {
		codec, ok := config.codec.(Codec[V])
		if !ok {
			return nil, fmt.Errorf("WithCodec: %T is not a Codec[%v]", config.codec, t)
		}
		return codec, nil
	}
	codec, err := defaultCodec[V]()
	if err != nil {
		err = fmt.Errorf("not every %v comes back from the default codec: %w\n"+
			"WithCodec takes a codec of your own, or JSON[%v] if that is as it should be", t, err, t)
	}
	return codec, err
}

// decodedSize returns what a decoded value takes beside its encoded bytes and as
// many again, or 0 if it shares them.
func decodedSize[V any](codec Codec[V]) int64 {
	if formOf(codec) != coded {
		return 0
	}
	return max(int64(reflect.TypeFor[V]().Size()), 1) // struct{} is decoded too
}

// encodeLoaded encodes what a getter has returned. One that no other node would take is an error on
// its owner too, or it would depend on where a key is read whether it can be.
func encodeLoaded[V any](codec Codec[V], v V, most int) ([]byte, error) {
	value, err := codec.Encode(v)
	if err != nil {
		return nil, fmt.Errorf("the getter's value cannot be encoded: %w", err)
	}
	if len(value) > most {
		return nil, fmt.Errorf("%w: the getter's value has %d bytes, at most %d are allowed", ErrTooLarge, len(value), most)
	}
	return value, nil
}

// encoded returns a getter of encoded values of so many bytes at most.
func encoded[V any](getter Getter[V], codec Codec[V], most int) func(context.Context, string) (loaded, error) {
	load := func(ctx context.Context, key string) (Loaded[V], error) {
		v, err := getter.Get(ctx, key)
		return Loaded[V]{Value: v}, err
	}
	if ig, ok := getter.(ItemGetter[V]); ok {
		load = ig.GetItem
	}
	return func(ctx context.Context, key string) (loaded, error) {
		l, err := load(ctx, key)
		if err != nil {
			return loaded{}, err
		}
		if l.TTL < 0 {
			return loaded{}, fmt.Errorf("the getter returned a negative TTL, %v", l.TTL)
		}
		value, err := encodeLoaded(codec, l.Value, most)
		if err != nil {
			return loaded{}, err
		}
		if err := checkTags(l.Tags); err != nil {
			return loaded{}, fmt.Errorf("the getter's value: %w", err)
		}
		return loaded{withTags(l.Tags, value), len(l.Tags) > 0, l.TTL}, nil
	}
}

// Name returns the group's name.
func (g *group) Name() string { return g.name }

// Get returns the value of key: from this process's memory, else from the owner
// in this region, else from the getter, else from another region. If the origin
// has no such key the error is ErrNotFound.
//
// ctx bounds the wait of this call. A load goes on for others that wait for it,
// and ends when nobody does. Errors are of type *Error; ErrNotFound and ctx's own
// error are found in it by errors.Is.
func (g *Group[V]) Get(ctx context.Context, key string) (V, error) {
	if e, ok := g.store.Get(key); ok && g.valid(e) && g.cache.before(e.Expires) {
		if v, ok := g.decoded(e); ok && (!g.stats.hits.add() || g.cache.exactlyBefore(e.Expires)) {
			if g.config.refreshAhead > 0 && g.cache.reached(e.Expires.Add(-g.config.refreshAhead)) {
				g.ahead(e)
			}
			return v, nil
		}
	}
	v, _, _, err := g.read(ctx, "Get", key)
	return v, err
}

// GetItem is Get, and tells where the value came from and how old it is.
func (g *Group[V]) GetItem(ctx context.Context, key string) (Item[V], error) {
	v, a, at, err := g.read(ctx, "GetItem", key)
	if err != nil {
		return Item[V]{}, err
	}
	return Item[V]{
		Value:      v,
		Generation: a.entry.Generation,
		Age:        at.Sub(a.entry.Born()),
		Expires:    g.cache.clock.Wall().Add(a.entry.Expires.Sub(at)),
		Source:     a.source,
	}, nil
}

// GetMany returns the values of many keys with one request to each owner, all
// at the same time. A key that the origin does not have is missing from the map.
// If keys could not be read, the map has the others, and the error joins theirs,
// or of many some.
//
// A value that expires while others are waited for is asked for again, unless it was loaded
// for this call: then it is in the map, if it lives shorter than the others take.
func (g *Group[V]) GetMany(ctx context.Context, keys []string) (map[string]V, error) {
	type found struct {
		key string
		answer
	}
	begun := g.cache.clock.Instant()
	values := make(map[string]V, len(keys))
	seen := make(map[string]bool, len(keys))
	missed := keys[:0:0]
	all := make([]found, 0, len(keys))
	for _, key := range keys {
		if seen[key] {
			continue
		}
		seen[key] = true
		if a, ok := g.atHand(key); ok {
			all = append(all, found{key, a})
		} else {
			missed = append(missed, key)
		}
	}
	var at expiry.Instant
	for decoded := 0; ; {
		if len(missed) > 0 {
			g.fillMany(ctx, missed, func(key string, a answer) { all = append(all, found{key, a}) })
		}
		until := expiry.Instant(math.MaxInt64)
		for i := range all {
			f := &all[i]
			if i >= decoded {
				var v V
				if v, f.answer = g.decodeOrLoad(ctx, f.answer); f.err == nil && !f.entry.Absent() {
					values[f.key] = v
				}
			}
			until = min(until, g.until(f.answer, begun))
		}
		if at = g.cache.clock.Instant(); at < until { // the last look, at all of them
			break
		}
		missed = missed[:0]
		all = slices.DeleteFunc(all, func(f found) bool {
			late := at >= g.until(f.answer, begun)
			if late {
				delete(values, f.key)
				missed = append(missed, f.key)
			}
			return late
		})
		decoded = len(all)
	}
	var errs []error
	more := 0
	for _, f := range all {
		err := g.counted(ctx, "GetMany", f.key, g.marked(f.answer, at))
		switch {
		case err == nil || errors.Is(err, ErrNotFound):
		case len(errs) < maxErrors:
			errs = append(errs, err)
		default:
			more++
		}
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("geocache: getmany %s: %d more keys could not be read", g.name, more))
	}
	return values, errors.Join(errs...)
}

// maxErrors is how many errors GetMany joins: enough to see what is wrong.
const maxErrors = 20

// Peek returns the value of key if this process has it in memory and it has not
// expired. It asks nobody, is not counted, and leaves the order of eviction as it
// is.
func (g *Group[V]) Peek(key string) (V, bool) {
	e, ok := g.store.Peek(key)
	if !ok {
		var none V
		return none, false
	}
	return g.living(e)
}

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
func (g *group) Locate(key string) []Location {
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
