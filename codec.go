package geocache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unsafe"

	"google.golang.org/protobuf/proto"

	"github.com/geocache/geocache/internal/lossless"
)

// A Codec turns values into bytes and back. The bytes travel between nodes and are what the cache keeps. All nodes
// must use the same Codec for a group; a value that does not decode is loaded again. Its methods are called from
// many goroutines, including those that read and write, and must not block: a call that does not return blocks
// its caller.
type Codec[V any] interface {
	// Encode returns the bytes of v. They must not share memory with v.
	Encode(v V) ([]byte, error)

	// Decode returns the value of data. It must not modify data, and the value may share memory with it.
	Decode(data []byte) (V, error)
}

// JSON is a Codec that uses encoding/json as it is. The default codec encodes the same way, but refuses types and
// values that encoding/json alters. Use JSON for types where that is intended: those with fields that are not to
// be kept, or with interfaces, which come back as encoding/json decodes them.
type JSON[V any] struct{}

// Encode calls json.Marshal.
func (JSON[V]) Encode(v V) ([]byte, error) {
	return json.Marshal(&v) // methods with pointer receivers are called for what can be addressed only
}

// Decode calls json.Unmarshal.
func (JSON[V]) Decode(data []byte) (v V, err error) {
	err = json.Unmarshal(data, &v)
	return v, err
}

// defaultCodec chooses by the type of the values: kinds of string and []byte are kept as they are, whatever
// methods they have, protobuf messages as protobuf, everything else as JSON. The error reports everything in V
// that does not come back as it was.
func defaultCodec[V any]() (Codec[V], error) {
	t := reflect.TypeFor[V]()
	var zero V
	switch _, isProto := any(zero).(proto.Message); {
	case t.Kind() == reflect.String:
		return stringCodec[V]{}, nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8:
		return bytesCodec[V]{}, nil
	case isProto:
		return protoCodec[V]{}, checkProto[V]()
	}
	return jsonCodec[V]{}, lossless.CheckType(t)
}

// bytesCodec is for a V of kind []byte.
type bytesCodec[V any] struct{}

func (bytesCodec[V]) Encode(v V) ([]byte, error) {
	return bytes.Clone(*(*[]byte)(unsafe.Pointer(&v))), nil
}

func (bytesCodec[V]) Decode(data []byte) (V, error) { return asBytes[V](data), nil }

// asBytes returns data as a V of kind []byte. It is never nil, since nil and empty are the same to those that
// pass values on.
func asBytes[V any](data []byte) V {
	if data == nil {
		data = []byte{}
	}
	return *(*V)(unsafe.Pointer(&data))
}

// stringCodec is for a V of kind string.
type stringCodec[V any] struct{}

func (stringCodec[V]) Encode(v V) ([]byte, error) { return []byte(*(*string)(unsafe.Pointer(&v))), nil }

func (stringCodec[V]) Decode(data []byte) (V, error) {
	s := string(data)
	return *(*V)(unsafe.Pointer(&s)), nil
}

// asString returns data, which never changes, as a V of kind string.
func asString[V any](data []byte) V {
	s := unsafe.String(unsafe.SliceData(data), len(data))
	return *(*V)(unsafe.Pointer(&s))
}

// A form is how a group's values are held in their encoded bytes.
type form uint8

const (
	coded       form = iota // they have to be decoded
	plainBytes              // they are of kind []byte, and the bytes are the value
	plainString             // the same of kind string
)

// formOf returns how the codec's values are held in their bytes.
func formOf[V any](codec Codec[V]) form {
	switch any(codec).(type) {
	case bytesCodec[V]:
		return plainBytes
	case stringCodec[V]:
		return plainString
	}
	return coded
}

// jsonCodec is JSON for types that have been checked.
type jsonCodec[V any] struct{ JSON[V] }

// Encode refuses what a check of the type cannot find: strings that are not UTF-8, which encoding/json replaces. It
// writes an escape for each of those, and for almost nothing else.
func (c jsonCodec[V]) Encode(v V) ([]byte, error) {
	data, err := c.JSON.Encode(v)
	if err == nil && bytes.Contains(data, []byte(`\ufffd`)) {
		err = lossless.CheckValue(reflect.ValueOf(&v).Elem(), reflect.TypeFor[V]().String())
		if err != nil {
			err = fmt.Errorf("%w; WithCodec takes a codec that does not", err)
		}
	}
	return data, err
}

// protoCodec is for a V that is a pointer to a generated message.
type protoCodec[V any] struct{}

// errNilMessage is why a nil message is refused: it would come back as an empty one.
var errNilMessage = errors.New("the message is nil")

func (protoCodec[V]) Encode(v V) ([]byte, error) {
	if reflect.ValueOf(v).IsNil() {
		return nil, errNilMessage
	}
	return proto.Marshal(any(v).(proto.Message))
}

func (protoCodec[V]) Decode(data []byte) (v V, err error) {
	m := newMessage(v)
	if err := proto.Unmarshal(data, m); err != nil {
		return v, err
	}
	return m.(V), nil
}

// newMessage returns an empty message of v's type. Generated messages provide that even on a nil pointer.
func newMessage[V any](v V) proto.Message {
	return any(v).(proto.Message).ProtoReflect().New().Interface()
}

// checkProto returns why a V cannot be made from its bytes.
func checkProto[V any]() (err error) {
	t := reflect.TypeFor[V]()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v: an empty message cannot be made of its type alone (%v)", t, p)
		}
	}()
	var zero V
	if t.Kind() != reflect.Pointer {
		return fmt.Errorf("%v: a message that is no pointer", t)
	}
	if m, ok := newMessage(zero).(V); !ok {
		return fmt.Errorf("%v: its messages are %T, so what it has beside them would be lost", t, m)
	}
	return nil
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

// decodedSize returns what a decoded value takes in addition to twice its encoded bytes, or 0 if it shares
// them.
func decodedSize[V any](codec Codec[V]) int64 {
	if formOf(codec) != coded {
		return 0
	}
	return max(int64(reflect.TypeFor[V]().Size()), 1) // struct{} is decoded too
}
