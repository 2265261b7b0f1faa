package canonical

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// everything has a part of each kind.
type everything struct {
	B   bool
	I   int
	I8  int8
	U   uint64
	U16 uint16
	F   float64
	F32 float32
	S   string
	A   [2]int8
	L   []string
	By  []byte
	M   map[string][]int
	N   map[int8]map[bool]string
	P   *int
	Q   *[]string
	In  struct{ X, Y string }
}

// few draws values that are often equal.
var few = rapid.Custom(func(t *rapid.T) everything {
	small := rapid.IntRange(-1, 1)
	text := rapid.SampledFrom([]string{"", "a", "b", "ab", "\x00", "\x01a"})
	e := everything{
		B: rapid.Bool().Draw(t, "b"), I: small.Draw(t, "i"), S: text.Draw(t, "s"),
		L: rapid.SampledFrom([][]string{nil, {}, {""}, {"a"}, {"a", "b"}, {"ab"}}).Draw(t, "l"),
		M: rapid.SampledFrom([]map[string][]int{
			nil, {}, {"": nil}, {"": {}}, {"a": {1}, "b": nil}, {"a": nil, "b": {1}},
		}).Draw(t, "m"),
	}
	if rapid.Bool().Draw(t, "pointer") {
		i := small.Draw(t, "p")
		e.P = &i
	}
	e.In.X, e.In.Y = text.Draw(t, "x"), text.Draw(t, "y")
	return e
})

// finite makes DeepEqual what it should be for a cache's keys.
var finite = rapid.MakeConfig{Types: map[reflect.Type]*rapid.Generator[any]{
	reflect.TypeFor[float64](): rapid.Map(rapid.Float64Range(1, 1e300), func(f float64) any { return f }),
	reflect.TypeFor[float32](): rapid.Map(rapid.Float32Range(1, 1e30), func(f float32) any { return f }),
}}

func TestCanonical(t *testing.T) {
	c, err := New(reflect.TypeFor[everything]())
	require.NoError(t, err)
	whole := rapid.MakeCustom[everything](finite)
	rapid.Check(t, func(t *rapid.T) {
		draw := whole
		if rapid.Bool().Draw(t, "few") {
			draw = few
		}
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		key := func(e everything) (string, bool) {
			k, err := c.Encode(reflect.ValueOf(e))
			if err != nil {
				require.ErrorIs(t, err, ErrLong)
			}
			return k, err == nil
		}
		of, ok := key(a)
		if !ok {
			return
		}
		var back everything
		require.NoError(t, c.Decode(of, reflect.ValueOf(&back).Elem()))
		require.Equal(t, a, back)
		again, _ := key(back)
		require.Equal(t, of, again)
		if other, ok := key(b); ok {
			require.Equal(t, reflect.DeepEqual(a, b), of == other)
		}
	})
}

// Whatever comes as a key is refused or is the key of some value.
func TestCanonicalOfAnyKey(t *testing.T) {
	c, err := New(reflect.TypeFor[everything]())
	require.NoError(t, err)
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "key")
		if rapid.Bool().Draw(t, "damaged") {
			good, err := c.Encode(reflect.ValueOf(few.Draw(t, "a")))
			require.NoError(t, err)
			key = []byte(good)
			key[rapid.IntRange(0, len(key)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
		}
		var e everything
		if err := c.Decode(string(key), reflect.ValueOf(&e).Elem()); err != nil {
			require.ErrorIs(t, err, errForeignKey)
			return
		}
		_, err := c.Encode(reflect.ValueOf(e))
		require.NoError(t, err)
	})
}

// Types with other fields, or the same ones under other names, are others.
func TestCanonicalKnowsTypes(t *testing.T) {
	seen := map[uint32]reflect.Type{}
	for _, v := range []any{
		1, uint(1), int64(1), 1.0, true, []int{}, []uint{}, [1]int{}, [2]int{}, map[int]int{}, map[int]bool{},
		new(int), new(uint), time.Time{}, netip.Addr{},
		struct{}{}, struct{ A int }{}, struct{ B int }{}, struct{ A, B int }{},
		struct{ A struct{ B int } }{}, struct {
			A struct{}
			B int
		}{},
	} {
		typ := reflect.TypeOf(v)
		c, err := New(typ)
		require.NoError(t, err)
		require.Nil(t, seen[c.hash], "%v", typ)
		seen[c.hash] = typ
	}
	type renamed struct{ A int }
	c, err := New(reflect.TypeFor[renamed]())
	require.NoError(t, err)
	require.NotNil(t, seen[c.hash], "the type's own name is not part of it")
}

type color string

type query struct {
	Name  string
	Min   int
	Tags  []string
	Exact bool
	Dims  [2]uint8
	Sizes map[string]float64
}

// keys encodes values of one type, and checks that what a key decodes to has the same key.
func keys[A any](t *testing.T, values ...A) (keys []string) {
	t.Helper()
	c, err := New(reflect.TypeFor[A]())
	require.NoError(t, err)
	for _, v := range values {
		key, err := c.Encode(reflect.ValueOf(&v).Elem())
		require.NoError(t, err)
		var back A
		require.NoError(t, c.Decode(key, reflect.ValueOf(&back).Elem()))
		again, err := c.Encode(reflect.ValueOf(&back).Elem())
		require.NoError(t, err)
		require.Equal(t, key, again)
		keys = append(keys, key)
	}
	return keys
}

// requireDifferent checks that the values have different keys, which decode to them.
func requireDifferent[A any](t *testing.T, values ...A) {
	t.Helper()
	c, err := New(reflect.TypeFor[A]())
	require.NoError(t, err)
	seen := map[string]A{}
	for i, key := range keys(t, values...) {
		require.NotContains(t, seen, key, "%#v", values[i])
		seen[key] = values[i]
		var back A
		require.NoError(t, c.Decode(key, reflect.ValueOf(&back).Elem()))
		require.Equal(t, fmt.Sprintf("%#v", values[i]), fmt.Sprintf("%#v", back))
	}
}

// requireSame checks that the values have the same key, and returns how it decodes.
func requireSame[A any](t *testing.T, values ...A) (back A) {
	t.Helper()
	all := keys(t, values...)
	for _, key := range all {
		require.Equal(t, all[0], key)
	}
	c, err := New(reflect.TypeFor[A]())
	require.NoError(t, err)
	require.NoError(t, c.Decode(all[0], reflect.ValueOf(&back).Elem()))
	return back
}

func TestDifferentValuesHaveDifferentKeys(t *testing.T) {
	requireDifferent(t, "", "a", "b", strings.Repeat("x", 4096))
	requireDifferent(t, color("red"), "blue")
	requireDifferent(t, 0, 1, -1, math.MaxInt, math.MinInt)
	requireDifferent(t, uint8(0), 1, 255)
	requireDifferent(t, true, false)
	requireDifferent(t, 0, 1.5, -1.5, math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64)
	requireDifferent(t, float32(0.1), 0.2)
	requireDifferent(t, complex(1, 2), complex(2, 1))
	requireDifferent(t, struct{}{})
	requireDifferent(t, nil, []string{}, []string{""}, []string{"", ""}, []string{"a", "b"}, []string{"ab"},
		[]string{"b", "a"})
	requireDifferent(t, nil, map[string]int{}, map[string]int{"a": 1}, map[string]int{"a": 1, "b": 2},
		map[string]int{"a": 2, "b": 1})
	requireDifferent(t, [2]string{"a", "bc"}, [2]string{"ab", "c"})
	requireDifferent(t, query{}, query{Name: "a"}, query{Tags: []string{"a"}}, query{Tags: []string{}},
		query{Dims: [2]uint8{1, 0}}, query{Sizes: map[string]float64{"x": 1, "y": 2, "z": 3, "w": 4, "v": 5}})
	requireDifferent(t, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.Addr{},
		netip.MustParseAddr("::1%eth0"))
}

func TestEqualValuesHaveOneKey(t *testing.T) {
	requireSame(t, math.NaN(), math.Float64frombits(math.Float64bits(math.NaN())^1))
	require.Equal(t, "0", fmt.Sprint(requireSame(t, math.Copysign(0, -1), 0)))
	requireDifferent(t, 0, math.NaN())

	var maps []map[float64]int
	for range 20 { // ranging over a map has no fixed order
		maps = append(maps, map[float64]int{math.NaN(): 1, 1: 2, math.NaN(): 3})
	}
	requireSame(t, maps...)

	at := time.Now()
	back := requireSame(t, at, at.Round(0), at.In(time.FixedZone("CET", 3600)))
	require.Equal(t, at.UTC().Round(0), back, "an instant")
	requireDifferent(t, at.UTC().Round(0), at.UTC().Round(0).Add(1), time.Time{})

	requireSame(t, big.NewInt(1), big.NewInt(1))
	numbers := keys(t, big.NewInt(1), nil, big.NewInt(2))
	require.NotEqual(t, numbers[0], numbers[1])
	require.NotEqual(t, numbers[0], numbers[2])
	require.NotEqual(t, numbers[1], numbers[2])
}

func TestValuesWithoutAKey(t *testing.T) {
	type list struct{ Next *list }
	type slice []slice
	type dict map[string]dict
	circle, s, m := &list{}, slice{nil}, dict{}
	circle.Next, s[0], m["m"] = circle, s, m
	for name, v := range map[string]any{
		"pointer in itself": circle, "slice in itself": s, "map in itself": m,
		"string": []string{strings.Repeat("x", 4097)}, "elements": make([]struct{}, 5000),
	} {
		c, err := New(reflect.TypeOf(v))
		require.NoError(t, err, name)
		_, err = c.Encode(reflect.ValueOf(v))
		require.Equal(t, ErrLong, err, name)
	}
	c, err := New(reflect.TypeFor[broken]())
	require.NoError(t, err)
	_, err = c.Encode(reflect.ValueOf(broken{}))
	require.ErrorIs(t, err, errBroken)
	require.ErrorContains(t, err, "the argument has no key")
}

// broken has text methods that fail.
type broken struct{ hidden int }

var errBroken = errors.New("broken")

func (b broken) MarshalText() ([]byte, error) { return make([]byte, b.hidden), errBroken }
func (*broken) UnmarshalText([]byte) error    { return errBroken }

func TestTypesThatAreRefused(t *testing.T) {
	type hidden struct {
		Open   string
		secret string
		Inner  []struct{ other int }
	}
	_ = hidden{secret: "", Inner: []struct{ other int }{{other: 1}}}
	_, err := New(reflect.TypeFor[hidden]())
	const why = " is not exported, so that it could not be restored from a key"
	require.EqualError(t, err,
		"the argument's canonical.hidden.secret"+why+"\nthe argument's canonical.hidden.Inner[].other"+why)
	for _, v := range []any{new(func()), new(chan int), new(map[string]any), new(error)} {
		_, err := New(reflect.TypeOf(v).Elem())
		require.ErrorContains(t, err, "which could not be restored from a key", "%T", v)
	}
}
