package geocache

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Getter loads the value of a key from the origin when the cache does not
// have it. It returns ErrNotFound, or an error that wraps it, if the origin has
// no such key; any other error makes the cache try elsewhere.
//
// Get is called from many goroutines, though while the cluster is steady for
// each key only once at a time in a region. Its context ends after the group's
// load timeout, or when nobody waits for the value any more; it carries
// nothing of the callers' contexts, since a load serves all of them. A Getter
// that panics, or calls runtime.Goexit, fails its callers and nothing else. One that reads other keys should
// do so with its context: then a key that waits for itself is an error at once, if all of it is in this process. The value belongs to the
// cache once returned only in encoded form: the getter may keep and change its
// own.
type Getter[V any] interface {
	Get(ctx context.Context, key string) (V, error)
}

// GetterFunc makes a function a Getter.
type GetterFunc[V any] func(ctx context.Context, key string) (V, error)

// Get calls f.
func (f GetterFunc[V]) Get(ctx context.Context, key string) (V, error) { return f(ctx, key) }

// An ItemGetter is a Getter that knows more about a key than its value. A group
// whose Getter is one calls GetItem and never Get.
type ItemGetter[V any] interface {
	Getter[V]
	GetItem(ctx context.Context, key string) (Loaded[V], error)
}

// Loaded is what an ItemGetter loads.
type Loaded[V any] struct {
	Value V

	// TTL is this item's time to live. Zero is the group's, and a longer one
	// is cut down to it: the group's TTL is a promise to its readers.
	TTL time.Duration

	// Tags are what RemoveTag can remove the value by. Each has 1 to 255 bytes, and there
	// are at most 255.
	Tags []string
}

// ItemGetterFunc makes a function an ItemGetter.
type ItemGetterFunc[V any] func(ctx context.Context, key string) (Loaded[V], error)

// GetItem calls f.
func (f ItemGetterFunc[V]) GetItem(ctx context.Context, key string) (Loaded[V], error) {
	return f(ctx, key)
}

// Get calls f for the value alone.
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
		"WithOriginLag": c.originLag > 0, "WithRefreshAhead": c.refreshAhead > 0, "WithStaleWhileRevalidate": c.revalidate > 0,
	} {
		if given {
			errs = append(errs, fmt.Errorf("%s needs a getter", option))
		}
	}
	return errors.Join(errs...)
}
