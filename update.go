package geocache

import (
	"context"
	"errors"
	"fmt"

	"github.com/geocache/geocache/internal/engine"
	"github.com/geocache/geocache/internal/store"
)

// Update replaces the value of key by what f makes of it, atomically: no other Update of the key, from any region,
// comes in between. old comes from memory or from the getter; ok is false if there is no value. Update returns
// the new value.
//
// Updates of a key take place in its home region: the one that WithHomeRegion names, else one of those known,
// chosen by the key. If that region cannot be reached the error is ErrHomeUnreachable: a second home would
// be a second truth. A region that joins becomes the home of some keys and takes over their values. For one
// time to live after that, the first Update of each such key needs the other regions too. Set and Remove take place
// everywhere and may come in between. As with Set, the value may be evicted, or lost with both nodes that keep it
// in the home region, unless an origin has it.
//
// f may be called several times, on any goroutine, and its last result counts. It must be quick and must not use the
// group. It is not called any more once Update has returned; if ctx ends while f runs, Update waits for f. Other
// Updates of the key go on without an f that does not return within the load timeout. If f returns an error,
// nothing is written, and Update returns that error in an *Error; if f panics, it returns a *PanicError.
//
// The value's life begins again: the group's or WithItemTTL's, whatever that of the old value was.
//
// With WithSetter, an Update whose key gets another owner while the setter runs returns ErrUncertain.
func (g *Group[V]) Update(ctx context.Context, key string, f func(old V, ok bool) (V, error), opts ...WriteOption) (V, error) {
	var update engine.UpdateFunc
	if f != nil {
		update = func(old any, ok bool, _ *store.Entry) (any, error) { return f(valueOf[V](old), ok) }
	}
	v, err := g.update(ctx, key, update, opts)
	return v, inCall("Update", g.Name(), key, err)
}

func (g *Group[V]) update(ctx context.Context, key string, f engine.UpdateFunc, opts []WriteOption) (V, error) {
	o := updateOptions(opts)
	v, err := g.core.Update(ctx, key, f, &o.WriteOptions)
	o.doneWith(g.core, engine.AfterSet, key)
	return valueOf[V](v), err
}

// updateOptions is writeOptions for an Update.
func updateOptions(opts []WriteOption) *writeConfig {
	o := writeOptions(opts)
	if o.After != 0 {
		o.Invalid = errors.Join(o.Invalid, errors.New("After: an Update reads in its key's home region"))
	}
	return o
}

// valueOf returns v, which is a V or nil.
func valueOf[V any](v any) V {
	value, _ := v.(V)
	return value
}

// SetIfAbsent makes v the value of key if there is none, and reports whether it did. A value that the getter finds
// counts. It is an Update: it takes place in the key's home region, and its errors are Update's.
func (g *Group[V]) SetIfAbsent(ctx context.Context, key string, v V, opts ...WriteOption) (stored bool, err error) {
	_, err = g.update(ctx, key, func(_ any, ok bool, e *store.Entry) (any, error) {
		switch {
		case ok && e == nil: // another call of the same round has made it, and may fail to write it
			return nil, engine.ErrNextRound
		case ok:
			return nil, engine.ErrUnchanged
		}
		return v, nil
	}, opts)
	if errors.Is(err, engine.ErrUnchanged) {
		return false, nil
	}
	return err == nil, inCall("SetIfAbsent", g.Name(), key, err)
}

// ErrChanged says that a CompareAndSet found another value than the one it was to replace.
var ErrChanged = errors.New("geocache: the value has changed")

// CompareAndSet makes v the value of key if the present one has the generation old, which GetItem or a
// Receipt told. It returns the value that key has afterwards, and its generation: v if the error is nil;
// with ErrChanged the value that is there instead, or zeros if there is none. It is an Update: it takes
// place in the key's home region, and its other errors are Update's.
//
// Each region that loads a value with its getter gives it a generation of its own. So a first attempt
// may fail although nobody has written. Try again with what it returned.
func (g *Group[V]) CompareAndSet(ctx context.Context, key string, old Generation, v V, opts ...WriteOption) (current V, generation Generation, err error) {
	var receipt Receipt
	o := updateOptions(append([]WriteOption{WithReceipt(&receipt)}, opts...))
	_, err = g.core.Update(ctx, key, func(there any, ok bool, e *store.Entry) (any, error) {
		switch {
		case ok && e == nil: // another call of the same round has made it: its generation is not known yet
			return nil, engine.ErrNextRound
		case ok && Generation(e.Generation) == old:
			return v, nil
		case ok:
			current, generation = valueOf[V](there), Generation(e.Generation)
		}
		return nil, engine.ErrUnchanged
	}, &o.WriteOptions)
	o.doneWith(g.core, engine.AfterSet, key)
	switch {
	case errors.Is(err, engine.ErrUnchanged):
		return current, generation, inCall("CompareAndSet", g.Name(), key, ErrChanged)
	case o.Receipt.Generation != 0:
		current, generation = v, Generation(o.Receipt.Generation)
	}
	return current, generation, inCall("CompareAndSet", g.Name(), key, err)
}

// Integer is any type that Increment can count in.
type Integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

// Increment adds delta to the value of key, starting from 0 if there is none, and returns the sum. It is an Update:
// no Increment is lost, however many there are and from whichever region, and its errors are Update's. Like
// every write it begins the value's life again: a counter that is incremented within its time to live does not
// expire. A sum that N cannot hold is an error and changes nothing.
func Increment[N Integer](ctx context.Context, g *Group[N], key string, delta N, opts ...WriteOption) (N, error) {
	return g.Update(ctx, key, func(old N, ok bool) (N, error) {
		if !ok {
			old = 0
		}
		sum := old + delta
		if (sum < old) != (delta < 0) {
			return old, fmt.Errorf("%d and %d are more than a %T holds", old, delta, old)
		}
		return sum, nil
	}, opts...)
}
