package groupcompat

import (
	"context"
	"errors"
	"fmt"

	"github.com/golang/groupcache"
	"google.golang.org/protobuf/proto"

	"github.com/geocache/geocache"
)

// Getter makes of a groupcache Getter one for a geocache group. The value is what g
// sets in its Sink, by whichever method: the bytes of the string or of the encoded
// message. See Decoded for groups of other types.
//
// groupcache has no error for a key that the origin does not have. Name those that g
// returns for it as notFound: an error that is one of them, by errors.Is, is
// geocache.ErrNotFound too. All other errors are passed on as they are. A g that
// returns nil without having set a value has failed.
//
// A groupcache.Group is a Getter as well. With it, the group's processes go on as
// they are, and geocache is one more cache before it.
//
// If g is nil, so is the function that it returns, which NewGroup refuses.
func Getter(g groupcache.Getter, notFound ...error) geocache.Getter[[]byte] {
	if g == nil {
		return geocache.GetterFunc[[]byte](nil)
	}
	return geocache.GetterFunc[[]byte](func(ctx context.Context, key string) ([]byte, error) {
		var value []byte
		err := g.Get(ctx, key, groupcache.AllocatingByteSliceSink(&value))
		if err == nil && value == nil { // what a Sink sets is never nil
			return nil, errors.New("groupcompat: the groupcache getter returned without setting a value")
		}
		for _, nf := range notFound {
			if errors.Is(err, nf) && !errors.Is(err, geocache.ErrNotFound) {
				return nil, fmt.Errorf("%w: %w", geocache.ErrNotFound, err)
			}
		}
		return value, err
	})
}

// Decoded makes a getter of encoded values one of values of type V, for a
// geocache.Group[V]. codec is Bytes, String, Proto, or one that fits what the groupcache
// getters set. It need not be the group's own. If g is an ItemGetter, so is what
// Decoded returns. If g or codec is nil, so is the function that it returns, which NewGroup refuses.
func Decoded[V any](g geocache.Getter[[]byte], codec geocache.Codec[V]) geocache.Getter[V] {
	if g == nil || codec == nil {
		return geocache.ItemGetterFunc[V](nil)
	}
	return geocache.ItemGetterFunc[V](func(ctx context.Context, key string) (geocache.Loaded[V], error) {
		l, err := item(ctx, g, key)
		if err != nil {
			return geocache.Loaded[V]{}, err
		}
		v, err := codec.Decode(l.Value)
		if err != nil {
			return geocache.Loaded[V]{}, fmt.Errorf("groupcompat: the value does not decode: %w", err)
		}
		return geocache.Loaded[V]{Value: v, TTL: l.TTL}, nil
	})
}

// item calls g with what it can do.
func item(ctx context.Context, g geocache.Getter[[]byte], key string) (geocache.Loaded[[]byte], error) {
	if ig, ok := g.(geocache.ItemGetter[[]byte]); ok {
		return ig.GetItem(ctx, key)
	}
	v, err := g.Get(ctx, key)
	return geocache.Loaded[[]byte]{Value: v}, err
}

// Bytes returns the codec of what groupcache getters set by SetBytes.
func Bytes() geocache.Codec[[]byte] { return codec[[]byte]{same, same} }

// String returns the codec of what groupcache getters set by SetString.
func String() geocache.Codec[string] {
	return codec[string]{
		func(v string) ([]byte, error) { return []byte(v), nil },
		func(data []byte) (string, error) { return string(data), nil },
	}
}

// Proto returns the codec of what groupcache getters set by SetProto. M is a pointer to a
// generated message.
func Proto[M proto.Message]() geocache.Codec[M] {
	return codec[M]{
		func(m M) ([]byte, error) { return proto.Marshal(m) },
		func(data []byte) (M, error) {
			var none M
			m := none.ProtoReflect().New().Interface() // generated messages answer this on nil
			return m.(M), proto.Unmarshal(data, m)
		},
	}
}

// same is not a copy: what is decoded and encoded here is only read.
func same(v []byte) ([]byte, error) { return v, nil }

type codec[V any] struct {
	encode func(V) ([]byte, error)
	decode func([]byte) (V, error)
}

func (c codec[V]) Encode(v V) ([]byte, error)    { return c.encode(v) }
func (c codec[V]) Decode(data []byte) (V, error) { return c.decode(data) }
