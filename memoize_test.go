package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// memo memoizes a function of A on a single-node Cache. The function returns its argument as text.
func memo[A any](t *testing.T, calls *atomic.Int64) func(arg A) string {
	t.Helper()
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	t.Cleanup(func() { cache.Close() })
	f, err := geocache.Memoize(cache, "f", func(_ context.Context, arg A) (string, error) {
		calls.Add(1)
		return fmt.Sprintf("%#v", arg), nil
	})
	require.NoError(t, err)
	return func(arg A) string {
		t.Helper()
		v, err := f(t.Context(), arg)
		require.NoError(t, err)
		return v
	}
}

// requireCalls checks that the function is called once for each of the args.
func requireCalls[A any](t *testing.T, args ...A) {
	t.Helper()
	var calls atomic.Int64
	f := memo[A](t, &calls)
	for range 2 {
		for _, arg := range args {
			require.Equal(t, fmt.Sprintf("%#v", arg), f(arg))
		}
	}
	require.EqualValues(t, len(args), calls.Load())
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

// Which values have the same key is tested in internal/canonical.
func TestMemoize(t *testing.T) {
	requireCalls(t, "", "a", "b", strings.Repeat("x", 4096))
	requireCalls(t, color("red"), "blue")
	requireCalls(t, 0, 1, -1, math.MaxInt, math.MinInt)
	requireCalls(t, struct{}{})
	requireCalls(t, nil, []string{}, []string{""}, []string{"a", "b"}, []string{"ab"})
	requireCalls(t, query{}, query{Name: "a"}, query{Tags: []string{"a"}}, query{Tags: []string{}},
		query{Dims: [2]uint8{1, 0}},
		query{Sizes: map[string]float64{"x": 1, "y": 2, "z": 3, "w": 4, "v": 5}})
	requireCalls(t, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.Addr{})
}

func TestMemoizeRefuses(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	refused := func(_ any, err error) []string {
		require.Error(t, err)
		return strings.Split(err.Error(), "\n")
	}
	type hidden struct {
		Open   string
		secret string
		Inner  []struct{ other int }
	}
	_ = hidden{secret: "", Inner: []struct{ other int }{{other: 1}}}
	require.Equal(t, []string{
		`geocache: group "f": the argument's geocache_test.hidden.secret is not exported, ` +
			"so that it could not be restored from a key",
		"the argument's geocache_test.hidden.Inner[].other is not exported, so that it could not be restored " +
			"from a key",
	}, refused(geocache.Memoize(cache, "f", func(context.Context, hidden) (int, error) { return 0, nil })))
	require.Equal(t, []string{
		`geocache: group "f": the argument's map[string]interface {}[] is of kind interface, ` +
			"which could not be restored from a key",
		"the function is nil",
	}, refused(geocache.Memoize[map[string]any, int](cache, "f", nil)))
	refused(geocache.Memoize(cache, "f", func(context.Context, func()) (int, error) { return 0, nil }))
	refused(geocache.Memoize(cache, "f", func(context.Context, chan int) (int, error) { return 0, nil }))
	require.Contains(t, refused(geocache.Memoize(cache, "f", func(context.Context, int) (int, error) {
		return 0, nil
	}, geocache.WithTTL(-1)))[0], "WithTTL(-1ns)")
	require.Empty(t, cache.Stats().Groups)

	f, err := geocache.Memoize(cache, "f", func(_ context.Context, s []string) (int, error) {
		return len(s), nil
	})
	require.NoError(t, err)
	_, err = f(t.Context(), []string{strings.Repeat("x", 4097)})
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	require.ErrorContains(t, err, "the argument needs a key of more than 4096 bytes")
	n, err := f(t.Context(), []string{strings.Repeat("x", 4000)})
	require.NoError(t, err)
	require.Equal(t, 1, n)

	type list struct{ Next *list }
	g, err := geocache.Memoize(cache, "g", func(_ context.Context, l *list) (n int, _ error) {
		for ; l != nil; l = l.Next {
			n++
		}
		return n, nil
	})
	require.NoError(t, err)
	n, err = g(t.Context(), &list{&list{&list{}}})
	require.NoError(t, err)
	require.Equal(t, 3, n)
	circle := &list{}
	circle.Next = circle
	_, err = g(t.Context(), circle)
	require.ErrorIs(t, err, geocache.ErrTooLarge, "it is cyclic")

	h, err := geocache.Memoize(cache, "h", func(_ context.Context, q query) (int, error) {
		return 0, errDatabase
	})
	require.NoError(t, err)
	_, err = h(t.Context(), query{Name: "ada", Min: 3})
	require.ErrorIs(t, err, errDatabase)
	require.ErrorContains(t, err, `"{Name:ada Min:3 Tags:[] Exact:false Dims:[0 0] Sizes:map[]}"`)
}

func TestMemoizeInACluster(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		var calls atomic.Int64
		at := map[string]func(context.Context, query) (string, error){}
		for _, n := range c.Nodes() {
			f, err := geocache.Memoize(n.Cache, "f", func(_ context.Context, q query) (string, error) {
				calls.Add(1)
				return fmt.Sprintf("%+v", q), nil
			})
			require.NoError(t, err)
			at[n.Name] = f
		}
		time.Sleep(untilLeased)
		for i := range 50 {
			q := query{Name: fmt.Sprint(i), Min: i, Tags: []string{"a", fmt.Sprint(i)},
				Sizes: map[string]float64{"x": float64(i)}}
			for node, f := range at {
				v, err := f(context.Background(), q)
				require.NoError(t, err, node)
				require.Equal(t, fmt.Sprintf("%+v", q), v, node)
			}
		}
		require.EqualValues(t, 50, calls.Load(), "once in the region")
	})
}

// While a deploy changes the argument's type, both versions answer.
func TestMemoizeDuringADeploy(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		type newQuery struct {
			Name string
			Max  int
		}
		old, err := geocache.Memoize(c.Node("eu-1").Cache, "f", func(_ context.Context, q struct {
			Name string
			Min  int
		}) (string, error) {
			return fmt.Sprintf("at least %d", q.Min), nil
		})
		require.NoError(t, err)
		var of []func(context.Context, newQuery) (string, error)
		for _, node := range []string{"eu-2", "eu-3"} {
			f, err := geocache.Memoize(c.Node(node).Cache, "f", func(_ context.Context, q newQuery) (string, error) {
				return fmt.Sprintf("at most %d", q.Max), nil
			})
			require.NoError(t, err)
			of = append(of, f)
		}
		time.Sleep(untilLeased)
		for i := range 20 {
			v, err := old(context.Background(), struct {
				Name string
				Min  int
			}{"x", i})
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("at least %d", i), v)
			for _, f := range of {
				v, err := f(context.Background(), newQuery{"x", i})
				require.NoError(t, err)
				require.Equal(t, fmt.Sprintf("at most %d", i), v)
			}
		}
	})
}

func TestMemoizeCachesErrNotFound(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	calls := 0
	f, err := geocache.Memoize(cache, "f", func(context.Context, int) (int, error) {
		calls++
		return 0, geocache.ErrNotFound
	}, geocache.WithNegativeTTL(time.Minute))
	require.NoError(t, err)
	for range 3 {
		_, err = f(t.Context(), 1)
		require.True(t, errors.Is(err, geocache.ErrNotFound))
	}
	require.Equal(t, 1, calls)
}

func TestMemoizeBy(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	calls := 0
	square := func(_ context.Context, n int) (int, error) {
		calls++
		return n * n, nil
	}
	f, err := geocache.MemoizeBy(cache, "squares", strconv.Itoa, strconv.Atoi, square)
	require.NoError(t, err)
	for range 3 {
		v, err := f(t.Context(), 12)
		require.NoError(t, err)
		require.Equal(t, 144, v)
	}
	require.Equal(t, 1, calls)

	odd := errors.New("odd")
	bad, err := geocache.MemoizeBy(cache, "bad", strconv.Itoa, func(string) (int, error) {
		return 0, odd
	}, square)
	require.NoError(t, err)
	_, err = bad(t.Context(), 1)
	require.ErrorIs(t, err, odd)
	_, err = geocache.MemoizeBy[int, int](cache, "nil", strconv.Itoa, nil, square)
	require.ErrorContains(t, err, "nil")
	_, err = geocache.MemoizeBy(cache, "squares", strconv.Itoa, strconv.Atoi, square)
	require.ErrorContains(t, err, "a group of that name already exists")
}

func TestMemoizeOfCyclicArguments(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	type slice []slice
	type dict map[string]dict
	s, m := slice{nil}, dict{}
	s[0], m["m"] = s, m
	slices, err := geocache.Memoize(cache, "slices", func(context.Context, slice) (int, error) { return 0, nil })
	require.NoError(t, err)
	_, err = slices(t.Context(), s)
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	require.ErrorContains(t, err, `"a geocache_test.slice"`)
	dicts, err := geocache.Memoize(cache, "dicts", func(context.Context, dict) (int, error) { return 0, nil })
	require.NoError(t, err)
	_, err = dicts(t.Context(), m)
	require.ErrorIs(t, err, geocache.ErrTooLarge)
	_, err = dicts(t.Context(), dict{"a": {"b": nil, "c": {}}, "d": nil})
	require.NoError(t, err)
}
