package geocache_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestWhatAWriteRefuses(t *testing.T) {
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
			"level":   {opts: []geocache.WriteOption{geocache.WithAck(geocache.AckWorld + 1)}, text: "Ack(3): there is no such level"},
			"ttl":     {opts: []geocache.WriteOption{geocache.WithItemTTL(-time.Second)}, text: "ItemTTL(-1s): must not be negative"},
			"key":     {key: long, is: geocache.ErrTooLarge, text: "a key of 4097 bytes, at most 4096 are allowed"},
			"context": {ctx: cancelled, is: context.Canceled},
		} {
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			w := geocache.Receipt{Generation: 7}
			opts := append(c.opts, geocache.WithReceipt(&w))
			_, updateErr := g.Update(c.ctx, c.key, func(string, bool) (string, error) { t.Error(name); return "", nil }, opts...)
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

func TestAnItemTTLOfASet(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		for own, want := range map[time.Duration]time.Duration{10 * time.Second: 10 * time.Second, time.Hour: testcluster.TTL, 0: testcluster.TTL} {
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

func TestAValueThatIsTooLarge(t *testing.T) {
	config := testcluster.Config{Cache: []geocache.Option{geocache.WithMaxValueBytes(1000)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		for _, n := range c.Nodes() {
			require.NoError(t, n.Group.Set(context.Background(), "ada", strings.Repeat("x", 1000)), n.Name)
			err := n.Group.Set(context.Background(), "ada", strings.Repeat("x", 1001))
			require.ErrorIs(t, err, geocache.ErrTooLarge, n.Name)
		}
	})
}

func TestWritesOfAClosedCache(t *testing.T) {
	check := func(t *testing.T, g *geocache.Group[string]) {
		ctx := context.Background()
		require.ErrorIs(t, g.Set(ctx, "ada", "v"), geocache.ErrClosed)
		require.ErrorIs(t, g.Remove(ctx, "ada"), geocache.ErrClosed)
		require.ErrorIs(t, g.Clear(ctx), geocache.ErrClosed)
		_, err := g.Update(ctx, "ada", func(old string, _ bool) (string, error) { return old, nil })
		require.ErrorIs(t, err, geocache.ErrClosed)
	}
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	g, err := geocache.NewGroup(cache, "test", ada)
	require.NoError(t, err)
	require.NoError(t, cache.Close())
	check(t, g)
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Node("eu-2").Close()
		check(t, c.Node("eu-2").Group)
	})
}

// An owner that goes away in the middle of a write leaves its caller in doubt, unless
// the write can be done again by the next owner in time.
func TestAWriteWhoseOwnerDies(t *testing.T) {
	for name, config := range map[string]testcluster.Config{
		"cache":  {Nodes: 2},
		"origin": {Nodes: 2, Group: newDatabase().options()},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, config, func(c *testcluster.Cluster) {
				time.Sleep(standing)
				owner := c.Owner("eu", "ada")
				caller := c.Node(owner.Group.Locate("ada")[0].Successor.ID)
				set := func(timeout time.Duration) error {
					ctx, cancel := context.WithTimeout(context.Background(), timeout)
					defer cancel()
					return caller.Group.Set(ctx, "ada", testcluster.Value{Key: "ada", Begun: c.Now(), By: "1"}.String())
				}
				owner.Freeze()
				err := set(500 * time.Millisecond)
				require.ErrorIs(t, err, geocache.ErrUncertain)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				err = set(20 * time.Second)
				if name == "origin" {
					require.ErrorIs(t, err, geocache.ErrUncertain, "it is not written twice")
					return
				}
				require.NoError(t, err)
				require.Equal(t, "1", text(t, caller, "ada"))
			})
		})
	}
}

func TestAWriteThatIsNotConfirmed(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 3}, func(c *testcluster.Cluster) {
		time.Sleep(standing)
		owner := c.Owner("eu", "ada")
		hung := other(c, "eu", "ada")
		hung.Freeze()
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		var w geocache.Receipt
		err := owner.Group.Set(ctx, "ada", testcluster.Value{Key: "ada", Begun: c.Now(), By: "1"}.String(), geocache.WithReceipt(&w))
		require.ErrorIs(t, err, geocache.ErrUnconfirmed)
		require.NotErrorIs(t, err, geocache.ErrUncertain)
		require.NotZero(t, w.Generation)
		require.Empty(t, w.Confirmed)
		require.Equal(t, []string{"eu"}, w.Pending)

		w, err = owner.Set("ada", "2", geocache.WithAck(geocache.AckOwner))
		require.NoError(t, err)
		require.NotZero(t, w.Generation)
		require.Empty(t, w.Confirmed, "not waited for")
		hung.Thaw()
		c.Settle()
		require.Equal(t, "2", text(t, hung, "ada"), "it went on")
	})
}

func TestWriteBackingMistakes(t *testing.T) {
	cache, err := geocache.Open(t.Context())
	require.NoError(t, err)
	defer cache.Close()
	_, err = geocache.NewGroup(cache, "test", ada,
		geocache.WithSetter(func(context.Context, string, int) error { return nil }),
		geocache.WithWriteBehind(1000),
		geocache.WithOriginLag(time.Second))
	requireMistakes(t, err,
		"WithSetter: func(context.Context, string, int) error does not take a string",
		"WithWriteBehind needs WithSetter and WithRemover",
		"WithOriginLag needs WithHomeRegion or WithOriginRegion")
	_, err = geocache.NewGroup(cache, "test", ada,
		geocache.WithSetter[string](nil),
		geocache.WithWriteBehind(-1),
		geocache.WithOriginLag(-1))
	requireMistakes(t, err,
		"WithWriteBehind(-1): must not be negative",
		"WithOriginLag(-1ns): must be from 0 to 10 years")
	_, err = geocache.NewGroup(cache, "test", ada,
		geocache.WithSetter[string](nil),
		geocache.WithRemover(func(context.Context, string) error { return nil }),
		geocache.WithWriteBehind(1))
	requireMistakes(t, err, "WithWriteBehind needs WithSetter and WithRemover")
}

func TestNilOptions(t *testing.T) {
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
