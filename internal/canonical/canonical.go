// Package canonical encodes the arguments of memoized functions as keys.
//
// Two values of one type have the same key exactly if reflect.DeepEqual says that they are equal, and a key
// decodes to a value equal to the one it was made from. There are three exceptions:
//
//   - a time.Time is its instant, without location or monotonic reading, and decodes in UTC;
//   - all NaNs are one, and -0 is 0;
//   - a struct with unexported fields is what its MarshalText returns, and must have UnmarshalText.
//
// [New] refuses types that cannot be restored from bytes: interfaces, functions, channels, unsafe pointers,
// and structs with unexported fields but without text methods. Values of different types may have the same
// key; [Encoding.Hash] tells types apart.
package canonical

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/internal/message"
)

// An Encoding encodes the values of one type. Each part is self-delimiting: its type or its first bytes tell
// its length. So parts follow each other without separators.
//
//	bool             0 or 1
//	int…, uint…      zigzag varint, uvarint
//	float…           the bits of the float64, big endian; one NaN, no -0
//	complex…         two floats
//	string           uvarint length, bytes
//	time.Time        varint seconds since 1970, uvarint nanoseconds
//	array, struct    the elements, the fields
//	slice            0 if nil, else uvarint of the length plus one, the elements
//	map              the same, with the pairs sorted by their bytes
//	pointer          0 if nil, else 1, what it points to
//	struct as text   the text that its methods return, as a string
//
// A type of kind string is plain: a value is its own key.
//
// An Encoding does not change. Its methods are safe for concurrent use.
type Encoding struct {
	hash  uint32 // of the type's description; 0 if plain
	plain bool
}

// IsPlain reports whether the type is of kind string, so that each value is its own key.
func (c *Encoding) IsPlain() bool { return c.plain }

// Hash returns a hash of the type's structure: its kinds, and the names of its fields in order. Types whose
// keys must not be mixed up have different hashes, as far as 32 bits allow. The names of types do not count,
// but for those that have text methods. A plain type has hash 0.
func (c *Encoding) Hash() uint32 { return c.hash }

var (
	timeType        = reflect.TypeFor[time.Time]()
	marshalerType   = reflect.TypeFor[encoding.TextMarshaler]()
	unmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// New returns the encoding of t. The error joins one error for everything in t that cannot be encoded.
func New(t reflect.Type) (*Encoding, error) {
	if t.Kind() == reflect.String {
		return &Encoding{plain: true}, nil
	}
	d := description{seen: map[reflect.Type]int{}}
	d.add(t, t.String())
	return &Encoding{hash: uint32(xxh3.HashString(d.text.String()))}, errors.Join(d.errs...)
}

// A description has the same text for all types with the same structure and field names.
type description struct {
	text strings.Builder
	seen map[reflect.Type]int // numbers the types described so far, which recursive types refer to
	errs []error
}

// add describes t, which is at path in the argument.
func (d *description) add(t reflect.Type, path string) {
	if n, ok := d.seen[t]; ok {
		fmt.Fprintf(&d.text, "#%d ", n)
		return
	}
	d.seen[t] = len(d.seen)
	fmt.Fprintf(&d.text, "%v ", t.Kind())
	switch {
	case t == timeType:
		d.text.WriteString("time ")
	case isText(t):
		fmt.Fprintf(&d.text, "text of %v ", t)
	default:
		d.addParts(t, path)
	}
}

func (d *description) addParts(t reflect.Type, path string) {
	switch t.Kind() {
	case reflect.Array:
		fmt.Fprintf(&d.text, "%d ", t.Len())
		d.add(t.Elem(), path+"[]")
	case reflect.Slice:
		d.add(t.Elem(), path+"[]")
	case reflect.Map:
		d.add(t.Key(), path+"'s keys")
		d.add(t.Elem(), path+"[]")
	case reflect.Pointer:
		d.add(t.Elem(), "*"+path)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			fmt.Fprintf(&d.text, "%q ", f.Name)
			if !f.IsExported() {
				d.errs = append(d.errs, fmt.Errorf(
					"the argument's %s.%s is not exported, so that it could not be restored from a key", path, f.Name))
				continue
			}
			d.add(f.Type, path+"."+f.Name)
		}
		d.text.WriteString("end ")
	case reflect.Func, reflect.Chan, reflect.Interface, reflect.UnsafePointer, reflect.Invalid:
		d.errs = append(d.errs, fmt.Errorf(
			"the argument's %s is of kind %v, which could not be restored from a key", path, t.Kind()))
	}
}

// isText reports whether values of t are encoded by their text methods: t is a struct that has them and has
// unexported fields.
func isText(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	if t.Kind() != reflect.Struct || !p.Implements(marshalerType) || !p.Implements(unmarshalerType) {
		return false
	}
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			return true
		}
	}
	return false
}

// ErrLong is the error for a value whose key would be longer than message.MaxKey bytes.
var ErrLong = fmt.Errorf("the argument needs a key of more than %d bytes", message.MaxKey)

// Encode returns the key of v, a value of the encoding's type. The error is ErrLong, or wraps that of a
// MarshalText. Encode panics if a method of v does. A plain value is not checked for its length.
func (c *Encoding) Encode(v reflect.Value) (string, error) {
	if c.plain {
		return v.String(), nil
	}
	b, err := appendValue(nil, v)
	if err == nil && len(b) > message.MaxKey {
		err = ErrLong
	}
	return string(b), err
}

// appendValue appends v to b. It checks the length of b first, since encoding a value that contains itself
// would never end.
func appendValue(b []byte, v reflect.Value) ([]byte, error) {
	if len(b) > message.MaxKey {
		return nil, ErrLong
	}
	switch t := v.Type(); {
	case t == timeType:
		at := v.Interface().(time.Time)
		b = binary.AppendVarint(b, at.Unix())
		return binary.AppendUvarint(b, uint64(at.Nanosecond())), nil
	case isText(t):
		p := reflect.New(t)
		p.Elem().Set(v)
		text, err := p.Interface().(encoding.TextMarshaler).MarshalText()
		if err != nil {
			return nil, fmt.Errorf("the argument has no key: %w", err)
		}
		return append(binary.AppendUvarint(b, uint64(len(text))), text...), nil
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1), nil
		}
		return append(b, 0), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return binary.AppendVarint(b, v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return binary.AppendUvarint(b, v.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return appendFloat(b, v.Float()), nil
	case reflect.Complex64, reflect.Complex128:
		return appendFloat(appendFloat(b, real(v.Complex())), imag(v.Complex())), nil
	case reflect.String:
		return append(binary.AppendUvarint(b, uint64(v.Len())), v.String()...), nil
	case reflect.Array:
		return appendElements(b, v)
	case reflect.Slice:
		if b = appendLength(b, v); v.Len() > message.MaxKey { // elements may take no bytes
			return nil, ErrLong
		}
		return appendElements(b, v)
	case reflect.Map:
		return appendMap(appendLength(b, v), v)
	case reflect.Struct:
		var err error
		for i := 0; i < v.NumField() && err == nil; i++ {
			b, err = appendValue(b, v.Field(i))
		}
		return b, err
	case reflect.Pointer:
		if v.IsNil() {
			return append(b, 0), nil
		}
		return appendValue(append(b, 1), v.Elem())
	}
	panic(fmt.Sprintf("geocache: no canonical form of %v", v.Type())) // unreachable: New refuses such types
}

// appendLength appends the length of a slice or a map plus one, or 0 if it is nil.
func appendLength(b []byte, v reflect.Value) []byte {
	if v.IsNil() {
		return append(b, 0)
	}
	return binary.AppendUvarint(b, uint64(v.Len())+1)
}

func appendElements(b []byte, v reflect.Value) ([]byte, error) {
	var err error
	for i := 0; i < v.Len() && err == nil; i++ {
		b, err = appendValue(b, v.Index(i))
	}
	return b, err
}

func appendMap(b []byte, v reflect.Value) ([]byte, error) {
	var pairs []string
	size := len(b)
	for it := v.MapRange(); it.Next(); {
		// The pair is appended to b, not to nil, so that the length check sees a map that contains itself.
		pair, err := appendValue(b, it.Key())
		if err == nil {
			pair, err = appendValue(pair, it.Value())
		}
		if err == nil {
			pair = pair[len(b):]
		}
		if size += len(pair); err == nil && size > message.MaxKey {
			err = ErrLong
		}
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, string(pair))
	}
	slices.Sort(pairs)
	return append(b, strings.Join(pairs, "")...), nil
}

func appendFloat(b []byte, f float64) []byte {
	switch {
	case f != f:
		f = math.NaN()
	case f == 0:
		f = 0 // not -0
	}
	return binary.BigEndian.AppendUint64(b, math.Float64bits(f))
}

// errForeignKey is the error for a key that does not decode.
var errForeignKey = errors.New("the key is not that of an argument of this function")

// Decode sets v, which must be settable and of the encoding's type, to the value with the given key. A key
// may come from another node, so it may be anything: Decode returns an error if it is not a value's, and
// then v is undefined. It may also accept a key that Encode would not return. It panics if a method of v
// does.
func (c *Encoding) Decode(key string, v reflect.Value) error {
	if c.plain {
		v.SetString(key)
		return nil
	}
	r := &reader{rest: key}
	if r.value(v); r.bad || r.rest != "" {
		return errForeignKey
	}
	return nil
}

// A reader reads a key. It remembers the first failure: then bad is set, and all that is read is zero.
type reader struct {
	rest string // what has not been read yet
	bad  bool
}

// value reads what appendValue appends.
func (r *reader) value(v reflect.Value) {
	switch t := v.Type(); {
	case r.bad:
		return
	case t == timeType:
		s := r.varint()
		v.Set(reflect.ValueOf(time.Unix(s, int64(r.uvarint()%1e9)).UTC()))
		return
	case isText(t):
		text := []byte(r.string(r.uvarint()))
		if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(text); err != nil {
			r.bad = true
		}
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.string(1) == "\x01")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i := r.varint()
		r.bad = r.bad || v.OverflowInt(i)
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		u := r.uvarint()
		r.bad = r.bad || v.OverflowUint(u)
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(r.float())
	case reflect.Complex64, reflect.Complex128:
		re := r.float()
		v.SetComplex(complex(re, r.float()))
	case reflect.String:
		v.SetString(r.string(r.uvarint()))
	case reflect.Array:
		for i := range v.Len() {
			r.value(v.Index(i))
		}
	case reflect.Slice:
		if n, ok := r.length(); ok {
			v.Set(reflect.MakeSlice(v.Type(), 0, min(n, 64))) // n may be a lie
			for i := 0; i < n && !r.bad; i++ {
				v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
				r.value(v.Index(i))
			}
		}
	case reflect.Map:
		if n, ok := r.length(); ok {
			v.Set(reflect.MakeMap(v.Type()))
			for i := 0; i < n && !r.bad; i++ {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				r.value(key)
				r.value(value)
				v.SetMapIndex(key, value)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			r.value(v.Field(i))
		}
	case reflect.Pointer:
		if r.string(1) == "\x01" {
			v.Set(reflect.New(v.Type().Elem()))
			r.value(v.Elem())
		}
	}
}

// length reads what appendLength appends. ok is false for nil.
func (r *reader) length() (n int, ok bool) {
	u := r.uvarint()
	if u > message.MaxKey+1 {
		r.bad = true
	}
	if r.bad || u == 0 {
		return 0, false
	}
	return int(u - 1), true
}

// string reads n bytes.
func (r *reader) string(n uint64) string {
	if n > uint64(len(r.rest)) {
		r.bad = true
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

func (r *reader) uvarint() uint64 {
	u, n := binary.Uvarint([]byte(r.rest[:min(len(r.rest), binary.MaxVarintLen64)]))
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return u
}

func (r *reader) varint() int64 {
	i, n := binary.Varint([]byte(r.rest[:min(len(r.rest), binary.MaxVarintLen64)]))
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return i
}

func (r *reader) float() float64 {
	s := r.string(8)
	if r.bad {
		return 0
	}
	return math.Float64frombits(binary.BigEndian.Uint64([]byte(s)))
}
