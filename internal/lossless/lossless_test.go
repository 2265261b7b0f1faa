package lossless

//lint:file-ignore SA5008 tags that are no good are what is tested

import (
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type (
	byPointer struct{ n int } // with a pair of methods that have pointer receivers
	byValue   struct{ n int } // MarshalJSON has not
	text      struct{ s string }
	onlyTo    int
	onlyFrom  int
	mixed     int
	color     uint8
	textKey   string

	list  struct{ Next *list }
	tree  map[string]tree
	base  struct{ ID int }
	Base  struct{ ID int }
	Maybe struct {
		ID int `json:",omitempty"`
	}
	Self struct {
		*Self
		X int
	}
	stamped struct {
		time.Time
		Name string
	}
	stampedOnly struct{ time.Time }
	ownStamped  struct {
		Base
		time.Time
	}
)

func (p *byPointer) MarshalJSON() ([]byte, error)  { return json.Marshal(p.n) }
func (p *byPointer) UnmarshalJSON(b []byte) error  { return json.Unmarshal(b, &p.n) }
func (p byValue) MarshalJSON() ([]byte, error)     { return json.Marshal(p.n) }
func (p *byValue) UnmarshalJSON(b []byte) error    { return json.Unmarshal(b, &p.n) }
func (p text) MarshalText() ([]byte, error)        { return []byte(p.s), nil }
func (p *text) UnmarshalText(b []byte) error       { p.s = string(b); return nil }
func (onlyTo) MarshalJSON() ([]byte, error)        { return []byte("1"), nil }
func (*onlyFrom) UnmarshalText([]byte) error       { return nil }
func (mixed) MarshalText() ([]byte, error)         { return nil, nil }
func (*mixed) UnmarshalJSON([]byte) error          { return nil }
func (k textKey) MarshalText() ([]byte, error)     { return []byte(strings.ToUpper(string(k))), nil }
func (k *textKey) UnmarshalText(b []byte) error    { *k = textKey(strings.ToLower(string(b))); return nil }
func (s ownStamped) MarshalJSON() ([]byte, error)  { return json.Marshal([]any{s.ID, s.Time}) }
func (s *ownStamped) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &[]any{&s.ID, &s.Time}) }

func TestTypesThatAreRefused(t *testing.T) {
	type profile struct {
		Tags []struct{ secret string }
	}
	_ = profile{Tags: []struct{ secret string }{{secret: ""}}}
	for name, test := range map[string]struct {
		of   any // a pointer to the type
		want string
	}{
		"unexported":        {new(profile), "lossless.profile.Tags[].secret: an unexported field, which JSON leaves out"},
		"any":               {new(any), "interface {}: an interface"},
		"error":             {new(error), "error: an interface"},
		"in a map":          {new(map[string]any), "map[string]interface {}[]: an interface"},
		"reader":            {new(struct{ R io.Reader }), ".R: an interface"},
		"chan":              {new(struct{ C chan int }), ".C: of kind chan"},
		"func":              {new([]func()), "[]: of kind func"},
		"complex":           {new(complex128), "of kind complex128"},
		"half of a pair":    {new(struct{ X onlyTo }), ".X: lossless.onlyTo has no pair of methods for JSON, but MarshalJSON alone"},
		"the other half":    {new([]onlyFrom), "[]: lossless.onlyFrom has no pair of methods for JSON, but UnmarshalText alone"},
		"two halves":        {new(mixed), "UnmarshalJSON and MarshalText alone"},
		"pointers in a map": {new(map[string]byPointer), "[]: an element of a map"},
		"deeper in a map":   {new(map[string]struct{ A [2]byPointer }), "[].A[]: an element of a map"},
		"a number in a map": {new(map[string]big.Int), "[]: an element of a map"},
		"left out": {new(struct {
			X int `json:"-"`
		}), ".X: left out by its tag"},
		"hidden": {new(struct {
			A int
			B int `json:"A"`
		}), `.B: "A" in JSON, as is struct`},
		"hidden by embedding": {new(struct {
			Base
			ID int
		}), `.ID: "ID" in JSON`},
		"embedded in itself": {new(Self), "embedded in itself"},
		"embedded pointer": {new(struct {
			*base
			X int
		}), ".base: an unexported field"},
		"embedded and gone": {new(struct{ *Maybe }), ".Maybe: an embedded pointer that would come back as nil"},
		"promoted methods":  {new(stamped), "lossless.stamped: its JSON is that of the embedded Time alone"},
		"promoted in a key": {new(map[struct {
			netip.Addr
			Port int
		}]int), "keys: their text is that of the embedded Addr alone"},
		"pointer to pointer": {new(**int), "a pointer to a ptr: one to nil"},
		"pointer to slice":   {new(struct{ X *[]int }), ".X: a pointer to a slice"},
		"key with text":      {new(map[textKey]int), "keys: lossless.textKey: JSON has strings as they are"},
		"key with JSON":      {new(map[time.Time]int), "keys: time.Time: JSON has their text"},
		"key of floats":      {new(map[float64]int), "keys: of kind float64"},
		"key of pointers":    {new(map[*text]int), "keys: of kind ptr"},
		"key by pointer":     {new(map[byPointer]int), "keys: lossless.byPointer: JSON has their text"},
		"number":             {new(struct{ N json.Number }), ".N: a json.Number"},
		"option string": {new(struct {
			X *text `json:",string"`
		}), ".X: *lossless.text has methods"},
		"url":                 {new(url.URL), "url.URL.User.username: an unexported field"},
		"message":             {new(proto.Message), "an interface"},
		"message in a struct": {new(struct{ M *wrapperspb.StringValue }), "unexported"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckType(reflect.TypeOf(test.of).Elem())
			require.ErrorContains(t, err, test.want)
		})
	}
}

// types are of values that all come back.
var types = []any{
	new(bool), new(int8), new(uint64), new(uintptr), new(float32), new(float64), new([3]int), new([]color), new([4]byte),
	new(struct{}), new(struct {
		_ int
		_ [0]func()
	}),
	new(struct {
		A string  `json:"a,omitempty"`
		B *int    `json:",string"`
		C float64 `json:",string,omitempty"`
		D string  `json:",string"`
	}),
	new(struct {
		B []int          `json:",omitzero"`
		M map[string]int `json:",omitzero"`
		A int            `json:"bad\"name"`
	}),
	new([][]byte), new(map[string][]byte), new([]map[int]*string), new(map[uint8]bool), new(*struct{ P *int }),
	new(list), new(tree), new([]list), new(struct {
		base
		X int
	}), new(struct {
		*Base
		X int
	}),
	new(time.Time), new(time.Duration), new([]time.Time), new(*time.Time), new(stampedOnly), new(ownStamped),
	new(big.Int), new(*big.Int), new(struct {
		N big.Int
		M []big.Int
		P map[string]*big.Int
		S map[string][]big.Int
	}),
	new(netip.Addr), new(map[netip.Addr]netip.Prefix), new(byPointer), new(byValue), new([2]byPointer), new(map[string]byValue),
	new(struct {
		X byPointer
		Y []struct{ Z byPointer }
		W *byPointer
		T text
		K map[text]text
	}),
	new(struct {
		T color
		S struct {
			T []struct {
				U map[string]struct{ V [2]bool }
			}
		}
	}),
	new(struct {
		A int
		B int `json:"a"`
	}),
	new(struct {
		Tag  Token
		Tags []Token
		By   map[Token]Token
	}),
}

// Token is a kind of string.
type Token string

// TestTypesThatAreAccepted encodes and decodes random values of types that CheckType accepts: listed ones,
// and random combinations of these and of some that it may refuse.
func TestTypesThatAreAccepted(t *testing.T) {
	for _, p := range types {
		typ := reflect.TypeOf(p).Elem()
		require.NoError(t, CheckType(typ), "%v", typ)
		for seed := range uint64(50) {
			requireBack(t, typ, rand.New(rand.NewPCG(seed, 0)))
		}
	}
	taken := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		typ := randomType(r, 3)
		if CheckType(typ) != nil {
			continue
		}
		taken++
		for range 5 {
			requireBack(t, typ, r)
		}
	}
	require.Greater(t, taken, 300)
}

func requireBack(t *testing.T, typ reflect.Type, r *rand.Rand) {
	t.Helper()
	v, back := reflect.New(typ), reflect.New(typ)
	randomValue(r, v.Elem(), 4)
	data, err := json.Marshal(v.Interface())
	require.NoError(t, err, "%v", typ)
	require.NoError(t, json.Unmarshal(data, back.Interface()), "%v: %s", typ, data)
	require.Equal(t, v.Interface(), back.Interface(), "%v: %s", typ, data)
}

// randomType returns a type that may be refused.
func randomType(r *rand.Rand, depth int) reflect.Type {
	leaves := append([]any{
		new(onlyTo), new(mixed), new(textKey), new(any), new(json.Number), new(stamped), new(url.URL), new(complex64), new(byPointer),
		new(string), new(int), new(string), new(int64),
	}, types...)
	if depth == 0 || r.IntN(4) == 0 {
		return reflect.TypeOf(leaves[r.IntN(len(leaves))]).Elem()
	}
	switch r.IntN(6) {
	case 0:
		return reflect.SliceOf(randomType(r, depth-1))
	case 1:
		return reflect.ArrayOf(r.IntN(3), randomType(r, depth-1))
	case 2:
		return reflect.PointerTo(randomType(r, depth-1))
	case 3:
		if key := randomType(r, depth-1); key.Comparable() {
			return reflect.MapOf(key, randomType(r, depth-1))
		}
	}
	tags := []reflect.StructTag{"", "", `json:",omitzero"`, `json:"F1"`, `json:",string"`, `json:"x,omitzero"`, `json:"-"`}
	var fields []reflect.StructField
	for i := range 1 + r.IntN(4) {
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("F%d", i), Type: randomType(r, depth-1), Tag: tags[r.IntN(len(tags))]})
	}
	return reflect.StructOf(fields)
}

// randomValue sets v to a random value.
func randomValue(r *rand.Rand, v reflect.Value, depth int) {
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = time.Unix(r.Int64N(1e11), r.Int64N(1e9)).UTC()
		return
	case *stampedOnly:
		randomValue(r, reflect.ValueOf(&p.Time).Elem(), depth)
		return
	case *big.Int:
		p.SetUint64(r.Uint64()).Mul(p, p).Neg(p)
		return
	case *netip.Addr:
		*p = netip.AddrFrom4([4]byte{1, 2, 3, byte(r.Uint32())})
		return
	case *netip.Prefix:
		*p = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(r.Uint32())}), r.IntN(33))
		return
	case *byPointer:
		p.n = r.Int()
		return
	case *byValue:
		p.n = r.Int()
		return
	case *text:
		p.s = fmt.Sprint(r.Int())
		return
	}
	some := depth > 0 && r.IntN(4) > 0
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Uint64()) >> r.IntN(64))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(r.Uint64() >> r.IntN(64))
	case reflect.Float32, reflect.Float64:
		v.SetFloat([]float64{0, -1.5, 1e300, 5e-324, r.NormFloat64(), 1 << 53}[r.IntN(6)])
		if v.Kind() == reflect.Float32 {
			v.SetFloat(float64(float32(r.NormFloat64())))
		}
	case reflect.String:
		v.SetString([]string{"", "a", "null", "\"", "\\ufffd", "\ufffd", "\x00<&>\u2028", "true", "ÿ😀"}[r.IntN(9)])
	case reflect.Pointer:
		if some {
			v.Set(reflect.New(v.Type().Elem()))
			randomValue(r, v.Elem(), depth-1)
		}
	case reflect.Slice:
		if some {
			v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		}
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			randomValue(r, v.Index(i), depth-1)
		}
	case reflect.Map:
		if !some {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) {
			key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			randomValue(r, key, depth-1)
			randomValue(r, elem, depth-1)
			v.SetMapIndex(key, elem)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch {
			case f.IsExported():
				randomValue(r, v.Field(i), depth-1)
			case f.Anonymous && f.Type == reflect.TypeFor[base]():
				v.Field(i).FieldByName("ID").SetInt(r.Int64())
			}
		}
	}
}

func TestStringsThatAreNotUTF8(t *testing.T) {
	bad := Token("\xff")
	type inner struct {
		T Token
		M map[string]map[Token]*Token
	}
	type quoted struct {
		S string `json:",string"`
	}
	good := []any{
		"\ufffd", "\\ufffd", inner{T: "\ufffd"}, json.RawMessage(`"\ufffd"`), text{"\ufffd"}, []byte("\xff"),
	}
	for _, v := range good {
		require.NoError(t, encodes(reflect.ValueOf(v)))
	}
	for _, test := range []struct {
		v    any
		path string
	}{
		{inner{T: bad}, "lossless.inner.T is not UTF-8"},
		{[]inner{{}, {M: map[string]map[Token]*Token{"a": {"b": &bad}}}}, `[]lossless.inner[1].M["a"]["b"] is not UTF-8`},
		{map[Token]int{bad: 1}, "'s key is not UTF-8"},
		{quoted{"\xff"}, "quoted.S is not UTF-8"},
		{&text{"\xff"}, "text is not UTF-8"},
		{map[text]int{{"\xff"}: 1}, "'s key is not UTF-8"},
		{struct{ A [1]*[1]string }{[1]*[1]string{{"\xff"}}}, ".A[0][0] is not UTF-8"},
	} {
		require.ErrorContains(t, encodes(reflect.ValueOf(test.v)), test.path)
	}
}

// encodes is what the default codec says of a value of any type.
func encodes(v reflect.Value) error {
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	data, err := json.Marshal(p.Interface())
	if err == nil && strings.Contains(string(data), `\ufffd`) {
		err = CheckValue(p.Elem(), v.Type().String())
	}
	return err
}
