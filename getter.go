package geocache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/geocache/geocache/internal/engine"
)

// A Getter loads the value of a key from the origin when the cache does not have it. It returns
// ErrNotFound, or an error that wraps it, if the origin has no such key. Any other error makes the cache try
// elsewhere.
//
// Get is called from many goroutines, but while the cluster is steady only once at a time in a region for
// each key. Its context ends after the group's load timeout, or when nobody waits for the value any more. The
// context carries nothing of the callers' contexts, since one load serves all of them. A Getter that panics, or
// calls runtime.Goexit, fails its callers and nothing else. A Getter that reads other keys should use its
// context for that: then a key that waits for itself is an error at once, if the whole cycle is in this
// process. The cache keeps the encoded value only, so the getter may keep and change its own.
type Getter[V any] interface {
	Get(ctx context.Context, key string) (V, error)
}

// GetterFunc is a function that is a Getter. NewGroupFunc takes a function without it.
type GetterFunc[V any] func(ctx context.Context, key string) (V, error)

// Get calls f.
func (f GetterFunc[V]) Get(ctx context.Context, key string) (V, error) { return f(ctx, key) }

// An ItemGetter is a Getter that knows more about a key than its value. The cache calls its GetItem, and
// never Get.
type ItemGetter[V any] interface {
	Getter[V]
	GetItem(ctx context.Context, key string) (Loaded[V], error)
}

// Loaded is what an ItemGetter returns.
type Loaded[V any] struct {
	Value V

	// TTL is this item's time to live. Zero means the group's, and a longer one is cut to it: the group's
	// TTL is a promise to its readers.
	TTL time.Duration

	// Tags are the names by which RemoveTag removes the value: at most 255 of 1 to 255 bytes each.
	Tags []string
}

// ItemGetterFunc is a function that is an ItemGetter.
type ItemGetterFunc[V any] func(ctx context.Context, key string) (Loaded[V], error)

// GetItem calls f.
func (f ItemGetterFunc[V]) GetItem(ctx context.Context, key string) (Loaded[V], error) {
	return f(ctx, key)
}

// Get calls f and returns the value alone.
func (f ItemGetterFunc[V]) Get(ctx context.Context, key string) (V, error) {
	l, err := f(ctx, key)
	return l.Value, err
}

// checkGetter returns what is wrong with the getter, and with the options that
// need one if there is none.
func checkGetter(getter any, c *groupConfig) error {
	if isNil(getter) { // which would show at the first miss
		return fmt.Errorf("the getter is a nil %T; for a group without one say nil", getter)
	}
	if getter != nil {
		return nil
	}
	var errs []error
	for option, given := range map[string]bool{
		"WithOriginLag": c.OriginLag > 0, "WithRefreshAhead": c.RefreshAhead > 0, "WithStaleWhileRevalidate": c.Revalidate > 0,
	} {
		if given {
			errs = append(errs, fmt.Errorf("%s needs a getter", option))
		}
	}
	return errors.Join(errs...)
}

// A BatchGetter is a Getter that can load many keys at once. The keys of one GetMany that an owner has to
// load, it loads by one call of GetBatch. A single Get does not wait for others and calls Get. Keys that are
// refreshed in the background are loaded by GetBatch, too.
//
// A key that the origin does not have is missing from the map; keys that were not asked for are ignored.
// ErrNotFound says that all are missing. Any other error, or a panic, fails all the keys. What is said of
// Get holds for GetBatch. One call loads at most 1,024 keys; more keys take several calls at the same time. For
// WithMaxLoads a call is one load. GetBatch must not modify keys.
type BatchGetter[V any] interface {
	Getter[V]
	GetBatch(ctx context.Context, keys []string) (map[string]V, error)
}

// BatchGetterFunc is a function that is a BatchGetter.
type BatchGetterFunc[V any] func(ctx context.Context, keys []string) (map[string]V, error)

// GetBatch calls f.
func (f BatchGetterFunc[V]) GetBatch(ctx context.Context, keys []string) (map[string]V, error) {
	return f(ctx, keys)
}

// Get calls f for one key.
func (f BatchGetterFunc[V]) Get(ctx context.Context, key string) (V, error) {
	m, err := f(ctx, []string{key})
	v, ok := m[key]
	if err == nil && !ok {
		err = ErrNotFound
	}
	return v, err
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
func encoded[V any](getter Getter[V], codec Codec[V], most int) func(context.Context, string) (engine.Loaded, error) {
	load := func(ctx context.Context, key string) (Loaded[V], error) {
		v, err := getter.Get(ctx, key)
		return Loaded[V]{Value: v}, err
	}
	if ig, ok := getter.(ItemGetter[V]); ok {
		load = ig.GetItem
	}
	return func(ctx context.Context, key string) (engine.Loaded, error) {
		l, err := load(ctx, key)
		if err != nil {
			return engine.Loaded{}, err
		}
		if l.TTL < 0 {
			return engine.Loaded{}, fmt.Errorf("the getter returned a negative TTL, %v", l.TTL)
		}
		value, err := encodeLoaded(codec, l.Value, most)
		if err != nil {
			return engine.Loaded{}, err
		}
		if err := checkTags(l.Tags); err != nil {
			return engine.Loaded{}, fmt.Errorf("the getter's value: %w", err)
		}
		return engine.Loaded{Value: engine.WithTags(l.Tags, value), Tagged: len(l.Tags) > 0, TTL: l.TTL}, nil
	}
}

// encodedMany returns a batch getter of encoded values of so many bytes at most.
func encodedMany[V any](getter BatchGetter[V], codec Codec[V], most int) func(context.Context, []string) (map[string]engine.LoadedOrErr, error) {
	return func(ctx context.Context, keys []string) (map[string]engine.LoadedOrErr, error) {
		values, err := getter.GetBatch(ctx, keys)
		if err != nil {
			return nil, err
		}
		m := make(map[string]engine.LoadedOrErr, len(keys))
		for _, key := range keys {
			v, ok := values[key]
			if !ok {
				continue
			}
			value, err := encodeLoaded(codec, v, most)
			m[key] = engine.LoadedOrErr{Loaded: engine.Loaded{Value: value}, Err: err}
		}
		return m, nil
	}
}
