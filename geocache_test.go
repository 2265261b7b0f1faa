package geocache_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

func TestErrClosedAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now))
		require.NoError(t, err)
		waiting := make(chan struct{})
		getter := geocache.GetterFunc[string](func(ctx context.Context, key string) (string, error) {
			if key == "ada" {
				return "v", nil
			}
			close(waiting)
			<-ctx.Done()
			return "", context.Cause(ctx)
		})
		g, err := geocache.NewGroup(cache, "test", getter)
		require.NoError(t, err)
		_, err = g.Get(t.Context(), "ada")
		require.NoError(t, err)
		got := make(chan error)
		go func() {
			_, err := g.Get(context.Background(), "bob")
			got <- err
		}()
		<-waiting
		require.NoError(t, cache.Close())
		require.ErrorIs(t, <-got, geocache.ErrClosed, "a caller that waits")

		v, err := g.Get(t.Context(), "ada")
		require.NoError(t, err, "memory still answers after Close")
		require.Equal(t, "v", v)
		_, err = g.Get(t.Context(), "eve")
		require.ErrorIs(t, err, geocache.ErrClosed)
		m, err := g.GetMany(t.Context(), []string{"ada", "eve", "dan"})
		require.ErrorIs(t, err, geocache.ErrClosed)
		require.Equal(t, map[string]string{"ada": "v"}, m)
		require.NoError(t, cache.Close(), "a second Close")
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

// Shutdown gives up on what outlasts its context, and names it.
func TestShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, err := geocache.Open(t.Context(), geocache.WithClock(time.Now), silent)
		require.NoError(t, err)
		stuck := make(chan struct{})
		defer close(stuck)
		g, err := geocache.NewGroupFunc(cache, "g", func(context.Context, string) (string, error) {
			<-stuck
			return "", nil
		})
		require.NoError(t, err)
		go g.Get(t.Context(), "ada")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		require.ErrorContains(t, cache.Shutdown(ctx), "a getter")
		require.Equal(t, 3*time.Second, time.Since(begun))
		require.NoError(t, cache.Close(), "a later Close has nothing to do")
		_, err = g.Get(t.Context(), "ada")
		require.ErrorIs(t, err, geocache.ErrClosed)
	})
}

func TestNewGroupFuncAndShutdownRefuseNil(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	_, err = geocache.NewGroupFunc[string](cache, "g", nil)
	require.ErrorContains(t, err, "the function is nil")
	var none context.Context
	require.ErrorContains(t, cache.Shutdown(none), "the context is nil")
}

func TestFailedOpenLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	_, err = geocache.Open(t.Context(), silent, geocache.WithListen(busy.Addr().String()))
	require.ErrorContains(t, err, "address already in use")

	ls, nodes := listeners(t, 2)
	ls[0].Close() // nobody accepts connections there
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = geocache.Open(ctx, silent, geocache.WithListener(ls[1]), geocache.WithDiscovery(emptyDiscovery{}))
	require.ErrorIs(t, err, context.Canceled)
	_, err = net.DialTimeout("tcp", nodes[1].Address, time.Second)
	require.Error(t, err, "the listener is closed")

	_, err = geocache.Open(t.Context(), silent, geocache.WithListen("127.0.0.1:0"),
		geocache.WithDiscovery(inRegion("")))
	require.Error(t, err)
}

func TestOpenWithoutAWorkingDiscovery(t *testing.T) {
	for _, wait := range []time.Duration{0, 50 * time.Millisecond} {
		begun := time.Now()
		cache, err := geocache.Open(t.Context(), silent, geocache.WithListen("127.0.0.1:0"),
			geocache.WithDiscovery(emptyDiscovery{}), geocache.WithJoinWait(wait))
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(begun), wait)
		g, err := geocache.NewGroup(cache, "test", ada)
		require.NoError(t, err)
		_, err = g.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, cache.Close())
	}
}
