package geocache

import (
	"bytes"
	"encoding/json"

	"google.golang.org/protobuf/proto"
)

// A Codec turns values into bytes, which travel between nodes and are what the
// cache keeps, and back. All nodes must use the same one for a group; a value
// that does not decode is loaded anew. Its methods are called from many
// goroutines.
type Codec[V any] interface {
	// Encode returns the bytes of v. They must not share memory with v.
	Encode(v V) ([]byte, error)

	// Decode returns the value of data, which it must not modify and may
	// share memory with.
	Decode(data []byte) (V, error)
}

// defaultCodec chooses by the type of the values: []byte and string as they
// are, protobuf messages as protobuf, everything else as JSON.
func defaultCodec[V any]() Codec[V] {
	var codec any
	var zero V
	switch any(zero).(type) {
	case []byte:
		codec = bytesCodec{}
	case string:
		codec = stringCodec{}
	case proto.Message:
		return protoCodec[V]{}
	default:
		return jsonCodec[V]{}
	}
	return codec.(Codec[V])
}

type bytesCodec struct{}

func (bytesCodec) Encode(v []byte) ([]byte, error)    { return bytes.Clone(v), nil }
func (bytesCodec) Decode(data []byte) ([]byte, error) { return data, nil }

type stringCodec struct{}

func (stringCodec) Encode(v string) ([]byte, error)    { return []byte(v), nil }
func (stringCodec) Decode(data []byte) (string, error) { return string(data), nil }

type jsonCodec[V any] struct{}

func (jsonCodec[V]) Encode(v V) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec[V]) Decode(data []byte) (v V, err error) {
	err = json.Unmarshal(data, &v)
	return v, err
}

// protoCodec is for a V that is a pointer to a generated message.
type protoCodec[V any] struct{}

func (protoCodec[V]) Encode(v V) ([]byte, error) { return proto.Marshal(any(v).(proto.Message)) }

func (protoCodec[V]) Decode(data []byte) (v V, err error) {
	// Generated messages answer this on a nil pointer too.
	m := any(v).(proto.Message).ProtoReflect().New().Interface()
	if err := proto.Unmarshal(data, m); err != nil {
		return v, err
	}
	return m.(V), nil
}
