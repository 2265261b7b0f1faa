package geocache_test

import (
	"context"
	"errors"
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

// upsideDown is a codec of strings, in a wire format that nobody else has.
type upsideDown[V any] struct{}

func (upsideDown[V]) Encode(v V) ([]byte, error) {
	b := []byte(any(v).(string))
	slices.Reverse(b)
	return b, nil
}

func (upsideDown[V]) Decode(data []byte) (v V, err error) {
	data = slices.Clone(data)
	slices.Reverse(data)
	return any(string(data)).(V), nil
}

// everywhere makes a group on all nodes of the cluster.
func everywhere[V any](c *testcluster.Cluster, name string, getter geocache.Getter[V], opts ...geocache.GroupOption) map[string]*geocache.Group[V] {
	groups := map[string]*geocache.Group[V]{}
	for _, n := range c.Nodes() {
		g, err := geocache.NewGroup(n.Cache, name, getter, opts...)
		require.NoError(c.T, err)
		groups[n.Name] = g
	}
	return groups
}

// roundTrip reads a key on all nodes: as it was loaded, as it came over the
// network, and as it was decoded before.
func roundTrip[V any](t *testing.T, want V, same func(a, b V) bool, opts ...geocache.GroupOption) {
	t.Helper()
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		groups := everywhere(c, "typed", geocache.GetterFunc[V](func(context.Context, string) (V, error) { return want, nil }), opts...)
		for range 2 {
			for name, g := range groups {
				v, err := g.Get(c.T.Context(), "ada")
				require.NoError(t, err)
				require.True(t, same(want, v), "%s: %v", name, v)
				m, err := g.GetMany(c.T.Context(), []string{"ada"})
				require.NoError(t, err)
				require.True(t, same(want, m["ada"]))
				v, ok := g.Peek("ada")
				require.True(t, ok)
				require.True(t, same(want, v))
			}
		}
	})
}

func TestCodecs(t *testing.T) {
	type profile struct {
		Name  string
		Tags  []string
		Since time.Time
	}
	t.Run("bytes", func(t *testing.T) { roundTrip(t, []byte("\x00\xffada"), slices.Equal[[]byte]) })
	t.Run("no bytes", func(t *testing.T) { roundTrip(t, nil, slices.Equal[[]byte]) })
	t.Run("string", func(t *testing.T) { roundTrip(t, "ada", func(a, b string) bool { return a == b }) })
	t.Run("number", func(t *testing.T) { roundTrip(t, 1.5, func(a, b float64) bool { return a == b }) })
	t.Run("struct", func(t *testing.T) {
		roundTrip(t, profile{"Ada", []string{"x", "y"}, time.Date(1815, 12, 10, 0, 0, 0, 0, time.UTC)}, func(a, b profile) bool {
			return a.Name == b.Name && slices.Equal(a.Tags, b.Tags) && a.Since.Equal(b.Since)
		})
	})
	t.Run("pointer", func(t *testing.T) {
		roundTrip(t, &profile{Name: "Ada"}, func(a, b *profile) bool { return a.Name == b.Name })
	})
	t.Run("interface", func(t *testing.T) {
		roundTrip(t, any("Ada"), func(a, b any) bool { return a == b })
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
		roundTrip(t, "ada", func(a, b string) bool { return a == b }, geocache.WithCodec(upsideDown[string]{}))
	})
}

func TestAGetterMayGoOnUsingItsBytes(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		var mu sync.Mutex
		buf := make([]byte, 0, 64)
		groups := everywhere(c, "bytes", geocache.GetterFunc[[]byte](func(_ context.Context, key string) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			buf = append(buf[:0], "value of "+key...)
			return buf, nil
		}))
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

// During a deploy that changes a group's type, or its codec, each node is to go
// on as if the other version did not exist.
func TestAValueThatDoesNotDecodeIsLoadedByTheAsker(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		texts, err := geocache.NewGroup(c.Node("eu-1").Cache, "mixed", ada)
		require.NoError(t, err)
		loads := 0
		numbers, err := geocache.NewGroup(c.Node("eu-2").Cache, "mixed", geocache.GetterFunc[int](func(context.Context, string) (int, error) {
			loads++
			return loads, nil
		}))
		require.NoError(t, err)

		item, err := numbers.GetItem(c.T.Context(), key)
		require.NoError(t, err)
		require.Equal(t, 1, item.Value)
		require.Equal(t, geocache.SourceGetter, item.Source)
		item, err = numbers.GetItem(c.T.Context(), key)
		require.NoError(t, err)
		require.Equal(t, 1, item.Value)
		require.Equal(t, geocache.SourceStore, item.Source, "and kept")
		require.EqualValues(t, 1, numbers.Stats().Undecoded)
		require.EqualValues(t, 1, numbers.Stats().Loads)
		require.Contains(t, c.Log(), "value does not decode, loading it here")

		v, err := texts.Get(c.T.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "value of "+key, v)

		others := []string{c.KeyOf("eu-1", key), c.KeyOf("eu-2")}
		m, err := numbers.GetMany(c.T.Context(), append(others, key))
		require.NoError(t, err)
		require.Len(t, m, 3)
		require.EqualValues(t, 2, numbers.Stats().Undecoded)
		require.EqualValues(t, 5, numbers.Stats().Reads(), "each is counted once")
	})
}

// choosy is a codec that fails on command.
type choosy struct{ encode, decode func(string) error }

func (c choosy) Encode(v string) ([]byte, error) { return []byte(v), c.encode(v) }

func (c choosy) Decode(data []byte) (string, error) { return string(data), c.decode(string(data)) }

func TestAValueThatCannotBeEncodedIsAnError(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		value, loads := "bad", 0
		bad := errors.New("not in this alphabet")
		codec := choosy{func(v string) error {
			if v == "bad" {
				return bad
			}
			return nil
		}, func(string) error { return nil }}
		groups := everywhere(c, "choosy", geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			loads++
			return value, nil
		}), geocache.WithCodec[string](codec))

		_, err := groups["eu-1"].Get(c.T.Context(), key)
		require.ErrorIs(t, err, bad)
		require.ErrorContains(t, err, "the getter's value cannot be encoded: not in this alphabet")
		_, err = groups["eu-2"].Get(c.T.Context(), key)
		require.ErrorContains(t, err, "the getter's value cannot be encoded: not in this alphabet")
		require.Equal(t, 2, loads, "by the owner, each time")

		value = "good"
		for _, g := range groups {
			v, err := g.Get(c.T.Context(), key)
			require.NoError(t, err, "the key is not dead")
			require.Equal(t, "good", v)
		}
		require.Equal(t, 3, loads)
	})
}

func TestAValueThatNeverDecodesIsAnError(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		bad := errors.New("garbage")
		codec := choosy{func(string) error { return nil }, func(v string) error {
			if strings.HasPrefix(v, "bad") {
				return bad
			}
			return nil
		}}
		groups := everywhere(c, "choosy", geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
			return key, nil
		}), geocache.WithCodec[string](codec))
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
