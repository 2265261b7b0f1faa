package canonical

import (
	"reflect"
	"testing"

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
		M: rapid.SampledFrom([]map[string][]int{nil, {}, {"": nil}, {"": {}}, {"a": {1}, "b": nil}, {"a": nil, "b": {1}}}).Draw(t, "m"),
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
		1, uint(1), int64(1), 1.0, true, []int{}, []uint{}, [1]int{}, [2]int{}, map[int]int{}, map[int]bool{}, new(int), new(uint),
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
