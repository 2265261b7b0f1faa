package geocache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// reversed is a codec of strings with a wire format of its own.
type reversed[V any] struct{}

func (reversed[V]) Encode(v V) ([]byte, error) {
	b := []byte(any(v).(string))
	slices.Reverse(b)
	return b, nil
}

func (reversed[V]) Decode(data []byte) (v V, err error) {
	data = slices.Clone(data)
	slices.Reverse(data)
	return any(string(data)).(V), nil
}

// token is a string type. Strings are encoded as they are, whatever methods their type has.
type token string

func (token) MarshalJSON() ([]byte, error) { return []byte(`"hidden"`), nil }

// roundTrip reads a key on all nodes: as it was loaded, as it came over the network, and as it was
// decoded before; then as it was set, updated, and restored from a snapshot.
func roundTrip[V any](t *testing.T, want V, same func(a, b V) bool, opts ...geocache.GroupOption) {
	t.Helper()
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		groups := onAll(c, "typed", geocache.GetterFunc[V](func(context.Context, string) (V, error) {
			return want, nil
		}), opts...)
		requireSame := func(v V, ok bool) {
			t.Helper()
			require.True(t, ok)
			require.True(t, same(want, v), "%#v", v)
		}
		read := func(key string) {
			t.Helper()
			for range 2 {
				for _, g := range groups {
					v, err := g.Get(c.T.Context(), key)
					requireSame(v, err == nil)
					m, err := g.GetMany(c.T.Context(), []string{key})
					requireSame(m[key], err == nil)
					requireSame(g.Peek(key))
				}
			}
		}
		read("ada")
		require.NoError(t, groups["eu-1"].Set(c.T.Context(), "bob", want))
		read("bob")
		_, err := groups["eu-2"].Update(c.T.Context(), "bob", func(old V, ok bool) (V, error) {
			requireSame(old, ok)
			return old, nil
		})
		require.NoError(t, err)
		read("bob")

		owner := c.Owner("eu", "ada")
		var snapshot bytes.Buffer
		require.NoError(t, groups[owner.Name].Snapshot(&snapshot))
		owner.Crash()
		owner.Restart(0)
		g, err := geocache.NewGroup[V](owner.Cache, "typed", nil, opts...)
		require.NoError(t, err)
		n, err := g.Restore(&snapshot)
		require.NoError(t, err)
		require.Positive(t, n)
		time.Sleep(untilLeased)
		requireSame(g.Peek("ada"))
	})
}

func TestCodecs(t *testing.T) {
	type profile struct {
		Name  string
		Tags  []string
		Since time.Time
	}
	t.Run("bytes", func(t *testing.T) { roundTrip(t, []byte("\x00\xffada"), slices.Equal[[]byte]) })
	for _, none := range [][]byte{nil, {}} {
		same := func(_, b []byte) bool { return b != nil && len(b) == 0 }
		t.Run("no bytes", func(t *testing.T) { roundTrip(t, none, same) })
	}
	t.Run("kind of bytes", func(t *testing.T) { roundTrip(t, json.RawMessage("no JSON"), slices.Equal) })
	t.Run("kind of bytes with methods", func(t *testing.T) { roundTrip(t, net.IP{1, 2, 3, 4}, slices.Equal) })
	t.Run("kind of string", func(t *testing.T) {
		roundTrip(t, token("a\xff\x00"), func(a, b token) bool { return a == b })
	})
	t.Run("methods with pointer receivers", func(t *testing.T) {
		type nested struct {
			Sum  big.Int
			Sums map[string][]big.Int
		}
		want := nested{*big.NewInt(7), map[string][]big.Int{"a": {*big.NewInt(1 << 62)}}}
		roundTrip(t, want, func(a, b nested) bool { return reflect.DeepEqual(a, b) })
		roundTrip(t, want.Sum, func(a, b big.Int) bool { return a.Cmp(&b) == 0 })
	})
	t.Run("string", func(t *testing.T) { roundTrip(t, "ada", func(a, b string) bool { return a == b }) })
	t.Run("number", func(t *testing.T) { roundTrip(t, 1.5, func(a, b float64) bool { return a == b }) })
	t.Run("struct", func(t *testing.T) {
		want := profile{"Ada", []string{"x", "y"}, time.Date(1815, 12, 10, 0, 0, 0, 0, time.UTC)}
		roundTrip(t, want, func(a, b profile) bool {
			return a.Name == b.Name && slices.Equal(a.Tags, b.Tags) && a.Since.Equal(b.Since)
		})
	})
	t.Run("pointer", func(t *testing.T) {
		roundTrip(t, &profile{Name: "Ada"}, func(a, b *profile) bool { return a.Name == b.Name })
	})
	t.Run("interface", func(t *testing.T) {
		roundTrip(t, any("Ada"), func(a, b any) bool { return a == b }, geocache.WithCodec(geocache.JSON[any]{}))
	})
	t.Run("protobuf", func(t *testing.T) {
		roundTrip(t, wrapperspb.String("ada"), func(a, b *wrapperspb.StringValue) bool { return proto.Equal(a, b) })
	})
	t.Run("larger protobuf", func(t *testing.T) {
		s, err := structpb.NewStruct(map[string]any{"name": "Ada", "born": 1815.0, "tags": []any{"x", true, nil}})
		require.NoError(t, err)
		roundTrip(t, s, func(a, b *structpb.Struct) bool { return proto.Equal(a, b) })
	})
	t.Run("own", func(t *testing.T) {
		roundTrip(t, "ada", func(a, b string) bool { return a == b }, geocache.WithCodec(reversed[string]{}))
	})
}

func TestGetterMayReuseItsBytes(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		var mu sync.Mutex
		buf := make([]byte, 0, 64)
		getter := geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			buf = append(buf[:0], "value of "+key...)
			return buf, nil
		})
		groups := onAll(c, "bytes", getter)
		for range 2 {
			for _, g := range groups {
				for _, key := range keys(20) {
					v, err := g.Get(c.T.Context(), key)
					require.NoError(t, err)
					require.Equal(t, "value of "+key, string(v))
				}
			}
		}
	})
}

// During a deploy that changes a group's type or codec, each node works as if the other version did
// not exist.
func TestUndecodableValueIsLoadedByTheReader(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		texts, err := geocache.NewGroup(c.Node("eu-1").Cache, "mixed", ada)
		require.NoError(t, err)
		loads := 0
		getter := geocache.GetterFunc[int](func(context.Context, string) (int, error) {
			loads++
			return loads, nil
		})
		numbers, err := geocache.NewGroup(c.Node("eu-2").Cache, "mixed", getter)
		require.NoError(t, err)

		item, err := numbers.GetItem(c.T.Context(), key)
		require.NoError(t, err)
		require.Equal(t, 1, item.Value)
		require.Equal(t, geocache.SourceGetter, item.Source)
		item, err = numbers.GetItem(c.T.Context(), key)
		require.NoError(t, err)
		require.Equal(t, 1, item.Value)
		require.Equal(t, geocache.SourceStore, item.Source, "and it is cached")
		require.EqualValues(t, 1, numbers.Stats().DecodeErrors)
		require.EqualValues(t, 1, numbers.Stats().Loads)
		require.Contains(t, c.Log(), "value does not decode, loading it here")

		v, err := texts.Get(c.T.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "value of "+key, v)

		others := []string{c.KeyOf("eu-1", key), c.KeyOf("eu-2")}
		m, err := numbers.GetMany(c.T.Context(), append(others, key))
		require.NoError(t, err)
		require.Len(t, m, 3)
		require.EqualValues(t, 2, numbers.Stats().DecodeErrors)
		require.EqualValues(t, 5, numbers.Stats().Reads(), "each is counted once")
	})
}

// fallible is a codec that fails on command.
type fallible struct{ encode, decode func(string) error }

func (c fallible) Encode(v string) ([]byte, error) { return []byte(v), c.encode(v) }

func (c fallible) Decode(data []byte) (string, error) { return string(data), c.decode(string(data)) }

func TestUnencodableValueIsAnError(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		value, loads := "bad", 0
		bad := errors.New("not in this alphabet")
		codec := fallible{func(v string) error {
			if v == "bad" {
				return bad
			}
			return nil
		}, func(string) error { return nil }}
		groups := onAll(c, "choosy", geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			loads++
			return value, nil
		}), geocache.WithCodec[string](codec))

		_, err := groups["eu-1"].Get(c.T.Context(), key)
		require.ErrorIs(t, err, bad)
		require.ErrorContains(t, err, "the getter's value cannot be encoded: not in this alphabet")
		_, err = groups["eu-2"].Get(c.T.Context(), key)
		require.ErrorContains(t, err, "the getter's value cannot be encoded: not in this alphabet")
		require.Equal(t, 2, loads, "the owner loads each time")

		value = "good"
		for _, g := range groups {
			v, err := g.Get(c.T.Context(), key)
			require.NoError(t, err, "the key works again")
			require.Equal(t, "good", v)
		}
		require.Equal(t, 3, loads)
	})
}

func TestUndecodableValueIsAnError(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		bad := errors.New("garbage")
		codec := fallible{func(string) error { return nil }, func(v string) error {
			if strings.HasPrefix(v, "bad") {
				return bad
			}
			return nil
		}}
		getter := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
			return key, nil
		})
		groups := onAll(c, "choosy", getter, geocache.WithCodec[string](codec))
		for _, g := range groups {
			_, err := g.Get(c.T.Context(), "bad")
			require.ErrorIs(t, err, bad)
			require.ErrorContains(t, err, "the value does not decode: garbage")
			_, ok := g.Peek("bad")
			require.False(t, ok)
			m, err := g.GetMany(c.T.Context(), []string{"bad", "good"})
			require.ErrorIs(t, err, bad)
			require.Equal(t, map[string]string{"good": "good"}, m)
		}
	})
}
