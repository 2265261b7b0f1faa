package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// tagsFromKey is a getter of values whose tags are in the key: "a:b" has the tags a and b.
func tagsFromKey(n *atomic.Int64) geocache.Getter[string] {
	return geocache.ItemGetterFunc[string](func(_ context.Context, key string) (geocache.Loaded[string], error) {
		return geocache.Loaded[string]{Value: fmt.Sprintf("load %d", n.Add(1)), Tags: strings.Split(key, ":")}, nil
	})
}

func TestRemoveTag(t *testing.T) {
	var loads atomic.Int64
	alone(t, tagsFromKey(&loads), nil, func(t *testing.T, g *geocache.Group[string]) {
		for _, key := range []string{"red:ada", "red:grace", "blue:ada"} {
			_, err := g.Get(t.Context(), key)
			require.NoError(t, err)
		}
		require.NoError(t, g.Set(t.Context(), "set", "v", geocache.WithTags("red")))
		require.NoError(t, g.Set(t.Context(), "plain", "v"))
		time.Sleep(time.Second)
		there := func() (keys []string) {
			for _, key := range []string{"red:ada", "red:grace", "blue:ada", "set", "plain"} {
				if _, ok := g.Peek(key); ok {
					keys = append(keys, key)
				}
			}
			return keys
		}
		require.NoError(t, g.RemoveTag(t.Context(), "re"))
		require.NoError(t, g.RemoveTag(t.Context(), "redd"))
		require.Len(t, there(), 5)
		require.NoError(t, g.RemoveTag(t.Context(), "red"))
		require.Equal(t, []string{"blue:ada", "plain"}, there())
		require.NoError(t, g.RemoveTag(t.Context(), "ada"))
		require.Equal(t, []string{"plain"}, there())
		time.Sleep(time.Second)
		for range 3 {
			v, err := g.Get(t.Context(), "red:ada")
			require.NoError(t, err)
			require.Equal(t, "load 4", v, "and is cached")
		}
		time.Sleep(2 * time.Minute)
		require.Equal(t, 2, g.Stats().Entries, "removed entries are swept long before they expire")
	})
}

func TestRemovePrefix(t *testing.T) {
	var loads atomic.Int64
	alone(t, countLoads(&loads, ada), nil, func(t *testing.T, g *geocache.Group[string]) {
		for _, key := range []string{"user:1", "user:12", "user:2", "users", "\xffpx"} {
			_, err := g.Get(t.Context(), key)
			require.NoError(t, err)
		}
		time.Sleep(2 * time.Second)
		require.NoError(t, g.RemovePrefix(t.Context(), "user:1"))
		time.Sleep(time.Second)
		for key, want := range map[string]bool{"user:1": false, "user:12": false, "user:2": true, "users": true} {
			_, ok := g.Peek(key)
			require.Equal(t, want, ok, key)
		}
		m, err := g.GetMany(t.Context(), []string{"user:1", "user:12", "user:2"})
		require.NoError(t, err)
		require.Len(t, m, 3)
		require.EqualValues(t, 7, loads.Load())

		require.NoError(t, g.RemovePrefix(t.Context(), "x"))
		require.NoError(t, g.RemovePrefix(t.Context(), strings.Repeat("u", 2000)))
		require.NoError(t, g.RemovePrefix(t.Context(), "user"))
		for _, key := range []string{"user:1", "user:2", "users"} {
			_, ok := g.Peek(key)
			require.False(t, ok, key)
		}
		require.ErrorContains(t, g.RemovePrefix(t.Context(), ""), "Clear")
		require.ErrorIs(t, g.RemovePrefix(t.Context(), strings.Repeat("u", 5000)), geocache.ErrTooLarge)
	})
}

func TestTagsAreChecked(t *testing.T) {
	var bad []string
	getter := geocache.ItemGetterFunc[string](func(context.Context, string) (geocache.Loaded[string], error) {
		return geocache.Loaded[string]{Tags: bad}, nil
	})
	alone(t, getter, nil, func(t *testing.T, g *geocache.Group[string]) {
		for _, tags := range [][]string{{""}, {"a", strings.Repeat("x", 256)}, make([]string, 256)} {
			bad = tags
			require.ErrorContains(t, g.Set(t.Context(), "k", "v", geocache.WithTags(tags...)), "tag")
			_, err := g.Get(t.Context(), "k")
			require.ErrorContains(t, err, "tag")
			_, err = g.Update(t.Context(), "k", func(string, bool) (string, error) {
				return "", nil
			}, geocache.WithTags(tags...))
			require.ErrorContains(t, err, "tag")
		}
		require.Error(t, g.RemoveTag(t.Context(), ""))
	})
}

// A fill that began before the tag was removed brings nothing back: its value is not cached, and
// readers that come after the removal do not get it.
func TestFillBegunBeforeItsTagWasRemoved(t *testing.T) {
	var loads atomic.Int64
	release := make(chan struct{})
	slow := geocache.ItemGetterFunc[string](func(context.Context, string) (geocache.Loaded[string], error) {
		n := loads.Add(1)
		if n == 1 {
			<-release
		}
		return geocache.Loaded[string]{Value: fmt.Sprintf("load %d", n), Tags: []string{"red"}}, nil
	})
	alone(t, slow, nil, func(t *testing.T, g *geocache.Group[string]) {
		release = make(chan struct{}) // made in this bubble
		get := func(read func() (string, error)) chan string {
			got := make(chan string, 1)
			go func() {
				v, err := read()
				got <- fmt.Sprint(v, err)
			}()
			time.Sleep(time.Millisecond)
			return got
		}
		one := func() (string, error) { return g.Get(context.Background(), "k") }
		many := func() (string, error) {
			m, err := g.GetMany(context.Background(), []string{"k"})
			return m["k"], err
		}
		before := get(one)
		require.NoError(t, g.RemoveTag(t.Context(), "red"))
		time.Sleep(time.Millisecond)
		after, afterToo := get(one), get(many)
		close(release)
		require.Equal(t, "load 1<nil>", <-before)
		require.Equal(t, "load 2<nil>", <-after)
		require.Equal(t, "load 2<nil>", <-afterToo)
		v, ok := g.Peek("k")
		require.True(t, ok)
		require.Equal(t, "load 2", v)
	})
}

// Tags do not reach the origin, and neither do their removals.
func TestTagsAndTheOrigin(t *testing.T) {
	for name, opts := range map[string][]geocache.GroupOption{
		"through": nil, "behind": {geocache.WithWriteBehind(1 << 20)},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var sets []string
			set := func(what ...string) []string {
				mu.Lock()
				defer mu.Unlock()
				sets = append(sets, what...)
				return slices.Clone(sets)
			}
			var down atomic.Bool
			opts := append(opts,
				geocache.WithSetter(func(_ context.Context, key, v string) error {
					if down.Load() {
						return errors.New("down")
					}
					set(key + "=" + v)
					return nil
				}),
				geocache.WithRemover(func(_ context.Context, key string) error { set(key); return nil }))
			var loads atomic.Int64
			alone(t, countLoads(&loads, ada), opts, func(t *testing.T, g *geocache.Group[string]) {
				require.NoError(t, g.Set(t.Context(), "k", "v", geocache.WithTags("red")))
				time.Sleep(time.Second)
				require.Equal(t, []string{"k=v"}, set())
				require.NoError(t, g.RemoveTag(t.Context(), "red"))
				require.NoError(t, g.RemovePrefix(t.Context(), "k"))
				time.Sleep(time.Second)
				require.Len(t, set(), 1)
				require.Equal(t, "value of k", must(g.Get(t.Context(), "k")))
				require.NoError(t, g.RemoveMany(t.Context(), []string{"a", "b"}))
				time.Sleep(time.Second)
				require.ElementsMatch(t, []string{"k=v", "a", "b"}, set())

				if name == "behind" { // a queued write is removed from the cache, and still reaches the origin
					down.Store(true)
					require.NoError(t, g.Set(t.Context(), "q", "v2", geocache.WithTags("blue")))
					require.Equal(t, "v2", must(g.Get(t.Context(), "q")))
					require.NoError(t, g.RemoveTag(t.Context(), "blue"))
					time.AfterFunc(time.Second, func() { down.Store(false) })
					require.Equal(t, "value of q", must(g.Get(t.Context(), "q")))
					require.Contains(t, set(), "q=v2")
				}
			})
		})
	}
}

// A removal is visible in the whole region when it returns, and in the others one trip later. It
// drops older entries and nothing else.
func TestRemovalsAcrossRegions(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "us", 40*time.Millisecond)
		time.Sleep(untilLeased)
		removals := map[string]func(n *testcluster.Node, key string) error{
			"tag": func(n *testcluster.Node, key string) error {
				return n.Group.RemoveTag(context.Background(), "tag of "+key)
			},
			"prefix": func(n *testcluster.Node, key string) error {
				return n.Group.RemovePrefix(context.Background(), key)
			},
			"many": func(n *testcluster.Node, key string) error {
				return n.Group.RemoveMany(context.Background(), []string{key, key + "+"})
			},
		}
		for name, remove := range removals {
			for i, n := range c.Nodes() {
				key, other := fmt.Sprintf("%s%d", name, i), fmt.Sprintf("other than %s%d", name, i)
				for _, n := range c.Nodes() {
					n.MustGet(key)
					n.MustGet(other)
				}
				loads := c.Origin.Total()
				time.Sleep(2 * time.Second)
				require.NoError(t, remove(n, key))
				for _, m := range c.Nodes(n.Region) {
					_, ok := m.Group.Peek(key)
					require.False(t, ok, "%s at %s", name, m.Name)
				}
				time.Sleep(50 * time.Millisecond)
				for _, m := range c.Nodes() {
					_, ok := m.Group.Peek(key)
					require.False(t, ok, "%s at %s, in another region", name, m.Name)
				}
				for _, m := range c.Nodes() {
					m.MustGet(key)
					m.MustGet(other)
				}
				require.Equal(t, loads+2, c.Origin.Total(), "once in each region")
			}
		}
	})
}

func TestRemoveManyReceipt(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		var keys []string
		for i := range 3000 {
			keys = append(keys, fmt.Sprint(i))
		}
		for _, key := range keys[:300] {
			c.Node("us-1").MustGet(key)
		}
		n := c.Node("eu-1")
		var w geocache.Receipt
		before := time.Now()
		require.NoError(t,
			n.Group.RemoveMany(c.T.Context(), keys, geocache.WithAck(geocache.AckWorld), geocache.WithReceipt(&w)))
		require.Equal(t, []string{"eu", "us"}, w.Confirmed)
		require.Empty(t, w.Pending)
		require.NotZero(t, w.Generation)
		require.Less(t, time.Since(before), 2*time.Second)
		for _, key := range keys[:300] {
			_, ok := c.Node("us-1").Group.Peek(key)
			require.False(t, ok)
		}
		c.Net.Cut("eu", "us")
		err := n.Group.RemoveMany(c.T.Context(), append(keys, strings.Repeat("x", 5000)), geocache.WithReceipt(&w))
		require.ErrorIs(t, err, geocache.ErrTooLarge)
		require.NotErrorIs(t, err, geocache.ErrUnconfirmed)
		require.NoError(t, n.Group.RemoveMany(c.T.Context(), nil))
	})
}

// A tag is removed twice while a value that bears it is being loaded. A reader that came in between
// knows of the first removal, of which only the second is left.
func TestTagRemovedTwiceDuringALoad(t *testing.T) {
	var loads atomic.Int64
	release := make(chan struct{})
	slow := geocache.ItemGetterFunc[string](func(context.Context, string) (geocache.Loaded[string], error) {
		n := loads.Add(1)
		if n == 1 {
			<-release
		}
		return geocache.Loaded[string]{Value: fmt.Sprintf("load %d", n), Tags: []string{"red"}}, nil
	})
	alone(t, slow, nil, func(t *testing.T, g *geocache.Group[string]) {
		release = make(chan struct{}) // made in this bubble
		got := make(chan string, 2)
		get := func() {
			go func() { got <- must(g.Get(context.Background(), "k")) }()
			time.Sleep(time.Millisecond)
		}
		get()
		require.NoError(t, g.RemoveTag(t.Context(), "red"))
		time.Sleep(time.Millisecond)
		get()
		require.NoError(t, g.RemoveTag(t.Context(), "red"))
		time.Sleep(time.Millisecond)
		close(release)
		require.ElementsMatch(t, []string{"load 1", "load 2"}, []string{<-got, <-got})
	})
}

// A RemoveMany that is cancelled halfway has happened for some of the keys, and does not go on with
// the rest.
func TestRemoveManyCancelledHalfway(t *testing.T) {
	setter := func(_ context.Context, key, _ string) error {
		if key == "b" {
			time.Sleep(3 * time.Second)
		}
		return nil
	}
	opts := []geocache.GroupOption{geocache.WithSetter(setter)}
	alone(t, nil, opts, func(t *testing.T, g *geocache.Group[string]) {
		for _, key := range []string{"a", "c"} {
			require.NoError(t, g.Set(t.Context(), key, "old"))
		}
		go g.Set(context.Background(), "b", "new") // holds the key's lock until its setter is done
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := g.RemoveMany(ctx, []string{"a", "b", "c"})
		require.ErrorIs(t, err, geocache.ErrUncertain)
		require.NotErrorIs(t, err, geocache.ErrUnconfirmed)
		require.False(t, g.Contains("a"))
		require.True(t, g.Contains("c"))
	})
}

// A region that is away for longer than a tagged value lives is told of the write without the
// value, and of what comes after it.
func TestTaggedValueExpiresInTransit(t *testing.T) {
	config := testcluster.Config{Regions: []string{"eu", "us"}, Nodes: 1}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		eu, us := c.Node("eu-1"), c.Node("us-1")
		us.MustGet("ada")
		c.Net.Cut("eu", "us")
		_, err := eu.Set("ada", "1", geocache.WithTags("red"), geocache.WithItemTTL(time.Second))
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		c.Net.HealAll()
		time.Sleep(4 * time.Second)
		_, err = eu.Set("bob", "2", geocache.WithAck(geocache.AckWorld))
		require.NoError(t, err)
		require.Equal(t, "2", text(t, us, "bob"))
	})
}

// The second key of a RemoveMany is being written for longer than its caller waits. The region is
// told of the first one all the same.
func TestRemoveManyCancelledBetweenItsKeys(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		var keys []string
		for i := 0; len(keys) < 2; i++ {
			if k := fmt.Sprint("x", i); c.Owner("eu", k).Name == "eu-2" {
				keys = append(keys, k)
			}
		}
		var loads atomic.Int64
		groups := onAll(c, "removals", geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			return fmt.Sprint(loads.Add(1)), nil
		}), geocache.WithTTL(time.Hour), geocache.WithSetter(func(context.Context, string, string) error {
			time.Sleep(3 * time.Second)
			return nil
		}))
		for _, g := range groups {
			_, err := g.Get(c.T.Context(), keys[0])
			require.NoError(t, err)
		}
		go groups["eu-2"].Set(context.Background(), keys[1], "new")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(c.T.Context(), time.Second)
		defer cancel()
		err := groups["eu-2"].RemoveMany(ctx, keys)
		require.ErrorIs(t, err, geocache.ErrUncertain)
		time.Sleep(10 * time.Second)
		w, err := groups["eu-2"].Get(c.T.Context(), keys[0])
		require.NoError(t, err)
		require.Equal(t, "2", w, "at the owner")
		for node, g := range groups {
			got, err := g.Get(c.T.Context(), keys[0])
			require.NoError(t, err)
			require.Equal(t, w, got, node)
		}
	})
}
