package geocache_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestSetIsVisibleInItsRegionOnReturn(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 4}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 40 {
			key := fmt.Sprint(i)
			for _, n := range c.Nodes("eu") {
				n.MustGet(key) // a copy everywhere
			}
			writer := c.Nodes("eu")[i%4]
			w, err := writer.Set(key, "written")
			require.NoError(t, err)
			require.Equal(t, []string{"eu"}, w.Confirmed)
			for _, n := range c.Nodes("eu") {
				require.Equal(t, "written", text(t, n, key), n.Name)
			}
			_, err = c.Nodes("eu")[(i+1)%4].Set(key, "again")
			require.NoError(t, err)
			for _, n := range c.Nodes("eu") {
				require.Equal(t, "again", text(t, n, key), n.Name)
			}
		}
	})
}

func TestRemoveMakesTheNextReadLoad(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for i := range 10 {
			key := fmt.Sprint(i)
			for _, n := range c.Nodes("eu") {
				n.MustGet(key)
			}
			_, err := c.Nodes("eu")[i%3].Remove(key)
			require.NoError(t, err)
			for _, n := range c.Nodes("eu") {
				_, ok := n.Group.Peek(key)
				require.False(t, ok, n.Name)
			}
			for _, n := range c.Nodes("eu") {
				require.Equal(t, "load 2 in eu", text(t, n, key))
			}
		}
	})
}

func TestSetMany(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		groups := onAll[int](c, "many", nil)
		values := map[string]int{}
		for i := range 200 {
			values[fmt.Sprint(i)] = i
		}
		var receipt geocache.Receipt
		require.NoError(c.T, groups["eu-1"].SetMany(c.T.Context(), values, geocache.WithReceipt(&receipt),
			geocache.WithAck(geocache.AckWorld)))
		require.ElementsMatch(c.T, []string{"eu", "us"}, receipt.Confirmed)
		require.NotZero(c.T, receipt.Generation)
		for _, g := range groups {
			for key, want := range values {
				v, err := g.Get(c.T.Context(), key)
				require.NoError(c.T, err)
				require.Equal(c.T, want, v)
			}
		}
		err := groups["eu-1"].SetMany(c.T.Context(), map[string]int{"a": 1, string(make([]byte, 5000)): 2})
		require.ErrorIs(c.T, err, geocache.ErrTooLarge)
		v, err := groups["eu-1"].Get(c.T.Context(), "a")
		require.NoError(c.T, err, "the other key is set")
		require.Equal(c.T, 1, v)
	})
}

func TestWriteArgumentErrors(t *testing.T) {
	alone(t, ada, nil, func(t *testing.T, g *geocache.Group[string]) {
		cancelled, cancel := context.WithCancel(context.Background())
		cancel()
		long := strings.Repeat("k", 4097)
		for name, c := range map[string]struct {
			ctx  context.Context
			key  string
			opts []geocache.WriteOption
			is   error
			text string
		}{
			"level": {opts: []geocache.WriteOption{geocache.WithAck(geocache.AckWorld + 1)},
				text: "Ack(3): there is no such level"},
			"ttl": {opts: []geocache.WriteOption{geocache.WithItemTTL(-time.Second)},
				text: "ItemTTL(-1s): must not be negative"},
			"key":     {key: long, is: geocache.ErrTooLarge, text: "a key of 4097 bytes, at most 4096 are allowed"},
			"context": {ctx: cancelled, is: context.Canceled},
		} {
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			w := geocache.Receipt{Generation: 7}
			opts := append(c.opts, geocache.WithReceipt(&w))
			_, updateErr := g.Update(c.ctx, c.key, func(string, bool) (string, error) {
				t.Error(name)
				return "", nil
			}, opts...)
			for op, err := range map[string]error{
				"Set":    g.Set(c.ctx, c.key, "v", opts...),
				"Remove": g.Remove(c.ctx, c.key, opts...),
				"Update": updateErr,
			} {
				var e *geocache.Error
				require.ErrorAs(t, err, &e, name)
				require.Equal(t, op, e.Op)
				require.Equal(t, "test", e.Group)
				require.ErrorContains(t, err, c.text)
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
			}
			require.Zero(t, w)
		}
		require.EqualValues(t, 12, g.Stats().Writes)
		require.EqualValues(t, 12, g.Stats().WriteErrors)
		require.NoError(t, g.Set(t.Context(), long[1:], "v"))
	})
}

func TestItemTTLOfASet(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		for own, want := range map[time.Duration]time.Duration{
			10 * time.Second: 10 * time.Second, time.Hour: testcluster.TTL, 0: testcluster.TTL,
		} {
			_, err := c.Node("eu-1").Set("ada", "1", geocache.WithItemTTL(own), geocache.WithAck(geocache.AckWorld))
			require.NoError(t, err)
			for _, n := range c.Nodes() {
				left := time.Until(n.MustGet("ada").Expires)
				require.LessOrEqual(t, left, want, n.Name)
				require.Greater(t, left, want*9/10-time.Second, n.Name)
			}
		}
	})
}

func TestValueTooLarge(t *testing.T) {
	config := testcluster.Config{Cache: []geocache.Option{geocache.WithMaxValueBytes(1000)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		for _, n := range c.Nodes() {
			require.NoError(t, n.Group.Set(context.Background(), "ada", strings.Repeat("x", 1000)), n.Name)
			err := n.Group.Set(context.Background(), "ada", strings.Repeat("x", 1001))
			require.ErrorIs(t, err, geocache.ErrTooLarge, n.Name)
		}
	})
}

func TestNilWriteOptions(t *testing.T) {
	alone(t, ada, nil, func(t *testing.T, g *geocache.Group[string]) {
		ctx := t.Context()
		for name, call := range map[string]func() error{
			"Set":          func() error { return g.Set(ctx, "k", "v", geocache.WithAck(geocache.AckOwner), nil) },
			"Remove":       func() error { return g.Remove(ctx, "k", nil) },
			"RemoveTag":    func() error { return g.RemoveTag(ctx, "k", nil) },
			"RemovePrefix": func() error { return g.RemovePrefix(ctx, "k", nil) },
			"RemoveMany":   func() error { return g.RemoveMany(ctx, nil, nil) },
			"Clear":        func() error { return g.Clear(ctx, nil) },
			"Update": func() error {
				_, err := g.Update(ctx, "k", func(s string, _ bool) (string, error) { return s, nil }, nil)
				return err
			},
			"Warm": func() error {
				_, err := g.Warm(ctx, func(func(string) bool) {}, nil)
				return err
			},
		} {
			require.ErrorContains(t, call(), "is nil", name)
		}
		require.ErrorContains(t, g.Set(ctx, "k", "v", geocache.WithAck(geocache.AckOwner), nil), "option 1 is nil")
	})
}
