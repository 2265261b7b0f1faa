package main

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"time"

	"github.com/Yiling-J/theine-go"
	"github.com/coocood/freecache"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/golang/groupcache"
	groupcachego "github.com/groupcache/groupcache-go/v3"
	"github.com/groupcache/groupcache-go/v3/transport"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/maypok86/otter/v2"
	"github.com/puzpuzpuz/xsync/v4"

	"github.com/geocache/geocache"
)

// A localKind is a kind of cache that can be compared. All have room for more than
// the keys, and where they can, a time to live.
type localKind struct {
	name     string
	readOnly bool // there is no way to write
	floor    bool // a map: no bound, no eviction, no time to live
	open     func(keys []string) (local, error)
}

// localKinds returns the kinds that can have values of this type.
func localKinds[V any](of kindOf[V]) []localKind {
	kinds := []localKind{
		{name: "geocache", open: func(keys []string) (local, error) { return newLocalGroup(keys, of) }},
		{name: "otter", open: func(keys []string) (local, error) { return newOtter(keys, of), nil }},
		{name: "ristretto", open: func(keys []string) (local, error) { return newRistretto(keys, of) }},
		{name: "theine", open: func(keys []string) (local, error) { return newTheine(keys, of) }},
		{name: "golang-lru", open: func(keys []string) (local, error) { return newLRU(keys, of), nil }},
		{name: "groupcache", readOnly: true, open: func(keys []string) (local, error) { return newLocalGroupcache(keys, of) }},
		{name: "groupcache-go", open: func(keys []string) (local, error) { return newLocalGroupcacheGo(keys, of) }},
		{name: "sync.Map", open: func(keys []string) (local, error) { return newSyncMap(keys, of), nil }},
		{name: "xsync.Map", floor: true, open: func(keys []string) (local, error) { return newXsync(keys, of), nil }},
	}
	if bytes, ok := any(of).(kindOf[[]byte]); ok {
		kinds = append(kinds, localKind{name: "freecache", open: func(keys []string) (local, error) { return newFreecache(keys, bytes), nil }})
	}
	return kinds
}

// A user is a value that is no bytes.
type user struct {
	ID, Karma   int64
	Name, Email string
}

// A kindOf is a type of values.
type kindOf[V any] struct {
	value  func(i, size int) V
	size   func(V) int
	encode func(V) []byte
	decode func([]byte) V
	codec  geocache.GroupOption // nil: the default
	view   bool                 // a view of the bytes will do: reading them takes no copy
}

var bytesOf = kindOf[[]byte]{
	value:  makeValue,
	size:   func(v []byte) int { return len(v) },
	encode: func(v []byte) []byte { return v },
	decode: func(b []byte) []byte { return b },
	view:   true,
}

var userOf = kindOf[user]{
	value: func(i, size int) user {
		text := string(makeValue(i, size-32))
		return user{ID: int64(i), Karma: int64(7 * i), Name: text[:len(text)/2], Email: text[len(text)/2:]}
	},
	size:   func(u user) int { return 32 + len(u.Name) + len(u.Email) },
	encode: encodeUser,
	decode: decodeUser,
	codec:  geocache.WithCodec[user](userCodec{}),
}

// encodeUser and decodeUser are what a cache of bytes needs to be one of users. They are
// as quick as can be: JSON would be most of what is measured.
func encodeUser(u user) []byte {
	b := make([]byte, 0, 32+len(u.Name)+len(u.Email))
	b = binary.LittleEndian.AppendUint64(b, uint64(u.ID))
	b = binary.LittleEndian.AppendUint64(b, uint64(u.Karma))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(u.Name)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(u.Email)))
	return append(append(b, u.Name...), u.Email...)
}

func decodeUser(b []byte) user {
	n := binary.LittleEndian.Uint64(b[16:])
	return user{
		ID:    int64(binary.LittleEndian.Uint64(b)),
		Karma: int64(binary.LittleEndian.Uint64(b[8:])),
		Name:  string(b[32 : 32+n]),
		Email: string(b[32+n:]),
	}
}

type userCodec struct{}

func (userCodec) Encode(u user) ([]byte, error) { return encodeUser(u), nil }
func (userCodec) Decode(b []byte) (user, error) { return decodeUser(b), nil }

// values returns the value of each key.
func values[V any](keys []string, of kindOf[V]) []V {
	all := make([]V, len(keys))
	for i := range all {
		all[i] = of.value(i, localValue)
	}
	return all
}

// fill sets all keys.
func fill[L local](keys []string, c L) L {
	for i, key := range keys {
		c.set(uint32(i), key)
	}
	return c
}

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
)

// roomy is as many bytes as any of the caches needs for all keys, and more.
const roomy = 512 << 20

type localGroup[V any] struct {
	of     kindOf[V]
	values []V
	*geocache.Group[V]
}

func newLocalGroup[V any](keys []string, of kindOf[V]) (local, error) {
	cache, err := geocache.Open(ctx, geocache.WithLogger(quiet))
	if err != nil {
		return nil, err
	}
	opts := []geocache.GroupOption{geocache.WithTTL(ttl), geocache.WithMaxBytes(roomy)}
	if of.codec != nil {
		opts = append(opts, of.codec)
	}
	c := &localGroup[V]{of: of, values: values(keys, of)}
	c.Group, err = geocache.NewGroup(cache, "local", geocache.GetterFunc[V](func(context.Context, string) (v V, err error) {
		return v, geocache.ErrNotFound
	}), opts...)
	if err != nil {
		return nil, err
	}
	return fill(keys, c), nil
}

func (c *localGroup[V]) get(_ uint32, key string) (int, bool) {
	v, err := c.Group.Get(ctx, key)
	if err != nil {
		return 0, false
	}
	return c.of.size(v), true
}

func (c *localGroup[V]) set(i uint32, key string) { _ = c.Group.Set(ctx, key, c.values[i]) }

type otterCache[V any] struct {
	of     kindOf[V]
	values []V
	*otter.Cache[string, V]
}

func newOtter[V any](keys []string, of kindOf[V]) local {
	c := otter.Must(&otter.Options[string, V]{MaximumSize: 4 * len(keys), ExpiryCalculator: otter.ExpiryWriting[string, V](ttl)})
	return fill(keys, &otterCache[V]{of, values(keys, of), c})
}

func (c *otterCache[V]) get(_ uint32, key string) (int, bool) {
	v, ok := c.GetIfPresent(key)
	return c.of.size(v), ok
}

func (c *otterCache[V]) set(i uint32, key string) { c.Set(key, c.values[i]) }

type ristrettoCache[V any] struct {
	of     kindOf[V]
	values []V
	*ristretto.Cache[string, V]
}

func newRistretto[V any](keys []string, of kindOf[V]) (local, error) {
	r, err := ristretto.NewCache(&ristretto.Config[string, V]{NumCounters: int64(40 * len(keys)), MaxCost: int64(4 * len(keys)), BufferItems: 64, IgnoreInternalCost: true})
	if err != nil {
		return nil, err
	}
	c := &ristrettoCache[V]{of, values(keys, of), r}
	for i, key := range keys { // it drops what comes too fast
		c.set(uint32(i), key)
		r.Wait()
	}
	return c, nil
}

func (c *ristrettoCache[V]) get(_ uint32, key string) (int, bool) {
	v, ok := c.Get(key)
	return c.of.size(v), ok
}

func (c *ristrettoCache[V]) set(i uint32, key string) { c.SetWithTTL(key, c.values[i], 1, ttl) }

type theineCache[V any] struct {
	of     kindOf[V]
	values []V
	*theine.Cache[string, V]
}

func newTheine[V any](keys []string, of kindOf[V]) (local, error) {
	t, err := theine.NewBuilder[string, V](int64(4 * len(keys))).Build()
	if err != nil {
		return nil, err
	}
	return fill(keys, &theineCache[V]{of, values(keys, of), t}), nil
}

func (c *theineCache[V]) get(_ uint32, key string) (int, bool) {
	v, ok := c.Get(key)
	return c.of.size(v), ok
}

func (c *theineCache[V]) set(i uint32, key string) { c.SetWithTTL(key, c.values[i], 1, ttl) }

type lruCache[V any] struct {
	of     kindOf[V]
	values []V
	*expirable.LRU[string, V]
}

func newLRU[V any](keys []string, of kindOf[V]) local {
	return fill(keys, &lruCache[V]{of, values(keys, of), expirable.NewLRU[string, V](4*len(keys), nil, ttl)})
}

func (c *lruCache[V]) get(_ uint32, key string) (int, bool) {
	v, ok := c.Get(key)
	return c.of.size(v), ok
}

func (c *lruCache[V]) set(i uint32, key string) { c.Add(key, c.values[i]) }

type freecacheCache struct {
	of     kindOf[[]byte]
	values [][]byte
	*freecache.Cache
}

func newFreecache(keys []string, of kindOf[[]byte]) local {
	return fill(keys, &freecacheCache{of, values(keys, of), freecache.NewCache(roomy)})
}

func (c *freecacheCache) get(_ uint32, key string) (int, bool) {
	v, err := c.Get([]byte(key))
	return c.of.size(v), err == nil
}

func (c *freecacheCache) set(i uint32, key string) {
	_ = c.Set([]byte(key), c.values[i], int(ttl/time.Second))
}

type localGroupcache[V any] struct {
	of kindOf[V]
	*groupcache.Group
}

// newLocalGroupcache must be called, and read from, before there is a pool of peers:
// it has one for the whole process.
func newLocalGroupcache[V any](keys []string, of kindOf[V]) (local, error) {
	loads := indexes(keys)
	all := values(keys, of)
	g := groupcache.NewGroup(uniqueName("local"), roomy, groupcache.GetterFunc(func(_ context.Context, key string, dest groupcache.Sink) error {
		return dest.SetBytes(of.encode(all[loads[key]]))
	}))
	c := &localGroupcache[V]{of, g}
	for _, key := range keys {
		c.get(0, key)
	}
	return c, nil
}

func (c *localGroupcache[V]) get(_ uint32, key string) (int, bool) {
	var v groupcache.ByteView
	if err := c.Get(ctx, key, groupcache.ByteViewSink(&v)); err != nil {
		return 0, false
	}
	if c.of.view {
		return v.Len(), true
	}
	return c.of.size(c.of.decode(v.ByteSlice())), true
}

func (c *localGroupcache[V]) set(uint32, string) { panic("groupcache cannot be written to") }

type localGroupcacheGo[V any] struct {
	of     kindOf[V]
	values []V
	groupcachego.Group
}

func newLocalGroupcacheGo[V any](keys []string, of kindOf[V]) (local, error) {
	instance := groupcachego.New(groupcachego.Options{Logger: quiet})
	g, err := instance.NewGroup("local", roomy, groupcachego.GetterFunc(func(_ context.Context, _ string, _ transport.Sink) error {
		return geocache.ErrNotFound
	}))
	if err != nil {
		return nil, err
	}
	return fill(keys, &localGroupcacheGo[V]{of, values(keys, of), g}), nil
}

func (c *localGroupcacheGo[V]) get(_ uint32, key string) (int, bool) {
	var v transport.ByteView
	if err := c.Get(ctx, key, transport.ByteViewSink(&v)); err != nil {
		return 0, false
	}
	if c.of.view {
		return v.Len(), true
	}
	return c.of.size(c.of.decode(v.ByteSlice())), true
}

func (c *localGroupcacheGo[V]) set(i uint32, key string) {
	_ = c.Set(ctx, key, c.of.encode(c.values[i]), time.Now().Add(ttl), false)
}

type xsyncMap[V any] struct {
	of     kindOf[V]
	values []V
	*xsync.Map[string, V]
}

func newXsync[V any](keys []string, of kindOf[V]) local {
	return fill(keys, &xsyncMap[V]{of, values(keys, of), xsync.NewMap[string, V]()})
}

func (c *xsyncMap[V]) get(_ uint32, key string) (int, bool) {
	v, ok := c.Load(key)
	return c.of.size(v), ok
}

func (c *xsyncMap[V]) set(i uint32, key string) { c.Store(key, c.values[i]) }

type syncMap[V any] struct {
	of     kindOf[V]
	values []V
	*sync.Map
}

func newSyncMap[V any](keys []string, of kindOf[V]) local {
	return fill(keys, &syncMap[V]{of, values(keys, of), new(sync.Map)})
}

func (c *syncMap[V]) get(_ uint32, key string) (int, bool) {
	v, ok := c.Load(key)
	if !ok {
		return 0, false
	}
	return c.of.size(v.(V)), true
}

func (c *syncMap[V]) set(i uint32, key string) { c.Store(key, c.values[i]) }

// indexes returns where each key is.
func indexes(keys []string) map[string]int {
	at := make(map[string]int, len(keys))
	for i, key := range keys {
		at[key] = i
	}
	return at
}
