package geocache

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/geocache/geocache/internal/canonical"
	"github.com/geocache/geocache/internal/origin"
)

// Memoize returns a function with the results of fn, which are cached in the whole cluster: called with equal
// arguments, on whichever node, fn runs once in a region and lifetime, on the node that owns the argument's key.
// opts are those of NewGroup. What is said of a Getter holds for fn; what is said of Get holds for the function
// that Memoize returns.
//
// Everything that fn's result depends on must be in its argument, which travels in the key and is restored where
// fn runs. It may be made of booleans, numbers, strings, time.Time, arrays, slices, maps, pointers, and structs of
// exported fields. Two arguments have the same key exactly if reflect.DeepEqual says that they are equal, with
// these exceptions:
//
//   - a time.Time is its instant, without location or monotonic reading; fn gets it in UTC;
//   - all NaNs are equal, and -0 is 0;
//   - a struct with unexported fields is what its MarshalText says, and must have UnmarshalText; as netip.Addr
//     and big.Int do.
//
// Memoize refuses functions, channels and interfaces, since what they hold cannot be restored from bytes. An
// argument whose key would be longer than 4 KiB is refused when it comes, with ErrTooLarge. The key of a string is
// the string itself. For other arguments, and for keys of your own, see MemoizeBy.
//
// The results are in a group whose name is name and, unless the argument is a string, a hash of the argument's
// type, as in "routes#1c9e02ab". So while a deploy changes that type, the old version and the new one do not mistake
// each other's arguments. Use another name when fn's result for the same argument changes. In an *Error of the
// function, Key is the argument as fmt.Sprintf("%+v") shows it, or its type if it has no key: it may contain
// itself.
func Memoize[A, V any](c *Cache, name string, fn func(ctx context.Context, arg A) (V, error), opts ...GroupOption) (func(ctx context.Context, arg A) (V, error), error) {
	args, err := canonical.New(reflect.TypeFor[A]())
	if fn == nil {
		err = errors.Join(err, errors.New("the function is nil"))
	}
	if err != nil {
		return nil, fmt.Errorf("geocache: group %q: %w", name, err)
	}
	getter := func(ctx context.Context, key string) (v V, err error) {
		var arg A
		if err := args.Decode(key, reflect.ValueOf(&arg).Elem()); err != nil {
			return v, err
		}
		return fn(ctx, arg)
	}
	if !args.IsPlain() {
		name = fmt.Sprintf("%s#%08x", name, args.Hash())
	}
	g, err := NewGroup(c, name, GetterFunc[V](getter), opts...)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, arg A) (v V, err error) {
		key, err := origin.Call(g.core.Guard(), "method of an argument", "", func() (string, error) { return args.Encode(reflect.ValueOf(&arg).Elem()) })
		if errors.Is(err, canonical.ErrLong) {
			err = fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		if err != nil {
			// The argument may have no end, which fmt would not notice.
			return v, inCall("Get", name, fmt.Sprintf("a %T", arg), err)
		}
		v, err = g.Get(ctx, key)
		if e, ok := err.(*Error); ok {
			e.Key = fmt.Sprintf("%+v", arg)
		}
		return v, err
	}, nil
}

// MemoizeBy is Memoize with keys of the caller's making, by which other users of the cache can find the results,
// too. Arguments with the same key share a result. parse is the inverse of key: fn runs on the node that owns
// the key, which has nothing else. The group has the name as it is.
func MemoizeBy[A, V any](c *Cache, name string, key func(arg A) string, parse func(key string) (A, error), fn func(ctx context.Context, arg A) (V, error), opts ...GroupOption) (func(ctx context.Context, arg A) (V, error), error) {
	if key == nil || parse == nil || fn == nil {
		return nil, fmt.Errorf("geocache: group %q: key, parse or the function is nil", name)
	}
	g, err := NewGroup(c, name, GetterFunc[V](func(ctx context.Context, key string) (v V, err error) {
		arg, err := parse(key)
		if err != nil {
			return v, err
		}
		return fn(ctx, arg)
	}), opts...)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, arg A) (v V, err error) {
		k, err := origin.Call(g.core.Guard(), "key function", "", func() (string, error) { return key(arg), nil })
		if err != nil {
			return v, inCall("Get", name, "", err)
		}
		return g.Get(ctx, k)
	}, nil
}
