package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// everybody reads key at once: callers on each of the nodes.
func everybody(t *testing.T, nodes []*testcluster.Node, callers int, key string) {
	t.Helper()
	var wg sync.WaitGroup
	for _, n := range nodes {
		for range callers {
			wg.Go(func() {
				if _, err := n.Get(key); err != nil {
					t.Errorf("%s: %v", n.Name, err)
				}
			})
		}
	}
	wg.Wait()
}

func TestOneLoadForAllCallers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 9}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(20 * time.Millisecond))
		everybody(t, c.Nodes(), 1000/9+1, "ada")
		require.Equal(t, 1, c.Origin.Loads("ada"))
	})
}

// A load that takes no time ends between one caller's miss and its joining.
func TestOneLoadHoweverShort(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 1}, func(c *testcluster.Cluster) {
		for i := range 500 {
			key := fmt.Sprint("key-", i)
			everybody(t, c.Nodes(), 30, key)
			require.Equal(t, 1, c.Origin.Loads(key))
		}
	})
}

func TestOneLoadPerRegion(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us", "ap"}}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(2 * time.Second))
		everybody(t, c.Nodes(), 50, "ada")
		require.Equal(t, 3, c.Origin.Loads("ada"))
		require.Equal(t, 1, c.Origin.Total("us"))
	})
}

func TestOneLoadInTheWorldWithAnOriginRegion(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Regions: []string{"eu", "us", "ap"},
		Group:   []geocache.GroupOption{geocache.WithOriginRegion("us")},
	}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(2 * time.Second))
		everybody(t, c.Nodes(), 50, "ada")
		require.Equal(t, 1, c.Origin.Loads("ada"))
		require.Equal(t, 1, c.Origin.Total("us"))
		require.Equal(t, geocache.SourceStore, c.Node("eu-1").MustGet("ada").Source)
	})
}

func TestOneLoadPerExpiry(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		end := time.Now().Add(20 * testcluster.TTL)
		for time.Now().Before(end) {
			for _, n := range c.Nodes() {
				n.MustGet("ada")
			}
			time.Sleep(100 * time.Millisecond)
		}
		// A key lives between nine tenths of the TTL and the whole.
		require.LessOrEqual(t, c.Origin.Loads("ada"), 23)
		require.GreaterOrEqual(t, c.Origin.Loads("ada"), 20)
	})
}

func TestACallerThatGivesUpDoesNotFailTheOthers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Origin.Behave(testcluster.After(time.Second))
		var wg sync.WaitGroup
		for _, n := range c.Nodes() {
			wg.Go(func() { // the first everywhere: it starts the fill
				ctx, cancel := context.WithTimeout(c.T.Context(), 50*time.Millisecond)
				defer cancel()
				_, err := n.GetContext(ctx, key)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("impatient caller got %v", err)
				}
			})
			wg.Go(func() {
				time.Sleep(time.Millisecond)
				if _, err := n.Get(key); err != nil {
					t.Errorf("patient caller got %v", err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, c.Origin.Loads(key))
	})
}

func TestALoadThatNobodyWaitsForIsCancelled(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Origin.Behave(testcluster.After(time.Hour))
		for _, n := range c.Nodes() { // the owner, and others through it
			ctx, cancel := context.WithTimeout(c.T.Context(), 50*time.Millisecond)
			_, err := n.GetContext(ctx, key)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			time.Sleep(10 * time.Millisecond)
			require.Zero(t, c.Origin.Running(), "asked through %s", n.Name)
		}
	})
}

func TestGetterThatMisbehaves(t *testing.T) {
	boom := errors.New("boom")
	for _, test := range []struct {
		name   string
		behave testcluster.Getter
		check  func(t *testing.T, at string, err error)
	}{
		{"fails", testcluster.Failing(boom), func(t *testing.T, at string, err error) {
			require.ErrorContains(t, err, "boom")
		}},
		{"has no such key", testcluster.Failing(fmt.Errorf("row: %w", geocache.ErrNotFound)), func(t *testing.T, at string, err error) {
			require.ErrorIs(t, err, geocache.ErrNotFound)
		}},
		{"panics", func(context.Context, string) error { panic(boom) }, func(t *testing.T, at string, err error) {
			require.ErrorContains(t, err, "panicked: boom")
		}},
		{"exits", func(context.Context, string) error { runtime.Goexit(); return nil }, func(t *testing.T, at string, err error) {
			require.ErrorContains(t, err, "Goexit")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				key := c.KeyOf("eu-1")
				c.Origin.Behave(test.behave)
				for _, n := range c.Nodes() {
					_, err := n.Get(key)
					require.Error(t, err)
					test.check(t, n.Name, err)
					var e *geocache.Error
					require.ErrorAs(t, err, &e)
					require.Equal(t, key, e.Key)
				}
				require.Equal(t, 3, c.Origin.Loads(key), "each read tried once, at the owner")
				c.Origin.Behave(nil)
				for _, n := range c.Nodes() {
					n.MustGet(key) // the key is not dead
				}
				require.Equal(t, 4, c.Origin.Loads(key))
			})
		})
	}
}

func TestGetterThatBlocksForEver(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Regions: []string{"eu", "us"}}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Origin.Behave(c.Origin.Block(), "eu")
		begun := time.Now()
		item := c.Node("eu-2").MustGet(key)
		require.Equal(t, geocache.SourceRegion, item.Source, "the other region's getter works")
		require.Less(t, time.Since(begun), 10*time.Second)

		c.Origin.Behave(c.Origin.Block())
		begun = time.Now()
		_, err := c.Node("eu-2").Get(c.KeyOf("eu-1", key))
		require.ErrorIs(t, err, geocache.ErrTimeout)
		require.LessOrEqual(t, time.Since(begun), 13*time.Second)
		c.Origin.Unblock()
	})
}

func TestALoadThatTakesLongerThanTheTTL(t *testing.T) {
	testcluster.Run(t, testcluster.Config{TTL: time.Second}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(1500 * time.Millisecond))
		for _, n := range c.Nodes() {
			item := n.MustGet("ada") // which checks the age of what is not marked
			require.Equal(t, geocache.SourceStale, item.Source)
		}
	})
}

func TestACancelledLoadIsNoFailureOfTheOrigin(t *testing.T) {
	testcluster.Run(t, testcluster.Config{
		Group: []geocache.GroupOption{geocache.WithStaleIfError(time.Hour)},
	}, func(c *testcluster.Cluster) {
		key := c.KeyOf("eu-1")
		c.Node("eu-2").MustGet(key)
		time.Sleep(2 * testcluster.TTL)
		c.Origin.Behave(testcluster.After(time.Second))
		for _, n := range c.Nodes() {
			ctx, cancel := context.WithTimeout(c.T.Context(), 50*time.Millisecond)
			_, err := n.GetContext(ctx, key)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			time.Sleep(10 * time.Millisecond)
		}
		for _, n := range c.Nodes() {
			require.NotEqual(t, geocache.SourceStale, n.MustGet(key).Source)
		}
	})
}
