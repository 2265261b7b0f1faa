package geocache

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/engine"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/internal/valid"
	"github.com/geocache/geocache/regions"
)

// A Group is a named key space with values of type V and at most one Getter. Groups of the same name on all
// nodes of a cluster are one group. Its methods are safe for concurrent use.
//
// Readers share values, and must not modify them.
type Group[V any] struct {
	core  *engine.Group
	codec Codec[V]
	form  form
}

// NewGroupFunc is NewGroup with a function in place of a Getter.
func NewGroupFunc[V any](c *Cache, name string, load func(ctx context.Context, key string) (V, error), opts ...GroupOption) (*Group[V], error) {
	if load == nil {
		return nil, fmt.Errorf("geocache: group %q: the function is nil; NewGroup takes no getter", name)
	}
	return NewGroup(c, name, GetterFunc[V](load), opts...)
}

// NewGroup adds a group to the cache. Its name must not be in use in this cache; it is UTF-8 of at most 255
// bytes. The error reports every mistake in the options at once.
//
// The getter may be nil. Then nothing is loaded, a Get of a key that nobody has Set returns ErrNotFound, and the
// group caches what Set and Update put there. A miss asks no other region unless WithOriginRegion names one.
//
// All nodes should have the same groups with the same options. While options differ, as during a deploy, each
// node keeps its own promises: a value that another node would let live longer expires here after this node's
// TTL. While the owner of a key lacks the group, reads and writes of the key do without the owner, but an Update
// returns ErrHomeUnreachable.
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

	most := c.core.MaxValueBytes()
	g := &Group[V]{codec: codec, form: formOf(codec)}
	core := config.GroupConfig
	core.Policy = store.Policy(config.policy)
	core.DecodedSize = decodedSize[V](codec)
	core.Codec = engine.Codec{
		Encode: func(v any) ([]byte, error) { return codec.Encode(valueOf[V](v)) },
		Decode: func(e *store.Entry) (any, error) { return g.decode(e) },
	}
	if getter != nil {
		core.Get = encoded(getter, codec, most)
	}
	if isBatch {
		core.GetMany = encodedMany(batch, codec, most)
	}
	if setter != nil {
		core.Set = func(ctx context.Context, key string, value []byte) error {
			v, err := codec.Decode(value)
			if err != nil {
				return fmt.Errorf("the value does not decode: %w", err)
			}
			return setter(ctx, key, v)
		}
	}
	if onEvict != nil {
		core.OnEvict = func(e *store.Entry, reason store.Reason) {
			if v, err := g.decode(e); err == nil {
				onEvict(strings.Clone(e.Key()), v, EvictReason(reason))
			}
		}
	}
	if g.core, err = c.core.NewGroup(name, core); err != nil {
		return nil, fmt.Errorf("geocache: group %q: %w", name, err)
	}
	return g, nil
}

// Name returns the group's name.
func (g *Group[V]) Name() string { return g.core.Name() }

// Get returns the value of key: from this process's memory, else from the owner in this region, else from the
// getter, else from another region. If the origin has no such key the error is ErrNotFound.
//
// ctx bounds this call's wait. A load goes on for others that wait for it, and ends when nobody does. Errors are
// of type *Error; errors.Is finds ErrNotFound and ctx's own error in it.
func (g *Group[V]) Get(ctx context.Context, key string, opts ...ReadOption) (V, error) {
	if e, ok := g.core.Hit(key); ok && len(opts) == 0 {
		if v, ok := g.decoded(e); ok && g.core.CountHit(e) {
			return v, nil
		}
	}
	v, _, err := g.read(ctx, key, opts)
	return v, inCall("Get", g.Name(), key, err)
}

// read answers a read that is not a plain hit.
func (g *Group[V]) read(ctx context.Context, key string, opts []ReadOption) (v V, r engine.Read, err error) {
	decode := func(e *store.Entry) (err error) {
		v, err = g.decode(e)
		return err
	}
	if len(opts) == 0 {
		r, err = g.core.Read(ctx, key, decode)
		return v, r, err
	}
	o, err := readOptions(opts)
	if err == nil {
		r, err = g.core.ReadAfter(ctx, key, o.after, decode)
	}
	return v, r, err
}

// GetItem is Get, and also tells where the value came from and how old it is. If the error is ErrNotFound, the
// Item tells the same about the absence, which may be out of date just as a value may.
func (g *Group[V]) GetItem(ctx context.Context, key string, opts ...ReadOption) (Item[V], error) {
	v, r, err := g.read(ctx, key, opts)
	if err != nil && (r.Entry == nil || !errors.Is(err, ErrNotFound)) {
		return Item[V]{}, inCall("GetItem", g.Name(), key, err)
	}
	return g.itemOf(v, r), inCall("GetItem", g.Name(), key, err)
}

func (g *Group[V]) itemOf(v V, r engine.Read) Item[V] {
	return Item[V]{
		Value:      v,
		Generation: Generation(r.Entry.Generation),
		Age:        r.Age(),
		Expires:    g.core.Expires(r),
		Source:     Source(r.Source),

		Unconfirmed: r.Unconfirmed,
	}
}

// GetMany returns the values of many keys, with one request to each owner, all at the same time. Keys that the
// origin does not have are missing from the map. If some keys could not be read, the map has the others, and
// the error joins their errors, or of many the first ones.
//
// A value that expires while the call waits for others is read again, unless it was loaded for this call: then
// the map has it even if it lives shorter than the others take.
func (g *Group[V]) GetMany(ctx context.Context, keys []string, opts ...ReadOption) (map[string]V, error) {
	o, err := readOptions(opts)
	if err != nil {
		return nil, inCall("GetMany", g.Name(), "", err)
	}
	values := make(map[string]V, len(keys))
	decode := func(key string) engine.Decode {
		return func(e *store.Entry) error {
			v, err := g.decode(e)
			if err == nil {
				values[key] = v
			}
			return err
		}
	}
	keys, bound := engine.Split(g.core, keys, o.after)
	failed := g.core.ReadMany(ctx, keys, decode, func(key string) { delete(values, key) })
	var mu sync.Mutex // guards values and failed
	reading := make(chan struct{}, boundAtOnce)
	var reads sync.WaitGroup
	for _, key := range bound {
		reading <- struct{}{}
		reads.Go(func() {
			defer func() { <-reading }()
			v, _, err := g.read(ctx, key, opts)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				values[key] = v
			} else if !errors.Is(err, ErrNotFound) {
				failed.Add(key, err)
			}
		})
	}
	reads.Wait()
	return values, joined("GetMany", g.Name(), failed, "%d more keys could not be read")
}

// boundAtOnce bounds the keys of a GetMany that are read at the same time one by one, because After concerns
// them.
const boundAtOnce = 64

// Peek returns the value of key if this process has it in memory and it has not expired. It asks nobody, is
// not counted, and leaves the order of eviction alone.
func (g *Group[V]) Peek(key string) (v V, ok bool) {
	e, ok := g.core.Peek(key)
	if !ok {
		return v, false
	}
	return g.living(e)
}

// living returns the value of an entry that was alive a moment ago. What has expired while it was decoded must
// not be served.
func (g *Group[V]) living(e *store.Entry) (v V, ok bool) {
	decoded, err := g.decode(e)
	if err != nil || !g.core.Alive(e) {
		return v, false
	}
	return decoded, true
}

// decode returns the entry's decoded value, and leaves it in the entry for the next reader.
func (g *Group[V]) decode(e *store.Entry) (V, error) {
	if v, ok := g.decoded(e); ok {
		return v, nil
	}
	v, err := origin.Call(g.core.Guard(), "codec", e.Key(), func() (V, error) { return g.codec.Decode(e.Payload()) })
	if err != nil {
		return v, err
	}
	return *store.SetDecoded(e, &v), nil
}

// decoded returns the entry's decoded value if it is there. It does not allocate.
func (g *Group[V]) decoded(e *store.Entry) (v V, ok bool) {
	if e.Absent() {
		return v, false
	}
	switch g.form {
	case plainBytes:
		return asBytes[V](e.Payload()), true
	case plainString:
		return asString[V](e.Payload()), true
	}
	if kept := store.Decoded[V](e); kept != nil {
		return *kept, true
	}
	return v, false
}

// A Location says where a key lives in one region.
type Location struct {
	Region   string
	Distance time.Duration // the round trip from here; 0 in this node's region, or not known

	// Owner is the node that keeps the key, and Successor the one that takes over when it is gone. In another
	// region than this node's, they are the nodes to ask, of those that this node connects to: they know the
	// owner. Successor has no ID if there is no other.
	Owner, Successor regions.Node
}

// Locate returns where key lives: in this node's region first, then in the others, nearest first, as this
// node sees them now.
func (g *Group[V]) Locate(key string) (locations []Location) {
	for _, l := range g.core.Locate(key) {
		locations = append(locations, Location(l))
	}
	return locations
}
