package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// hangingGetter is a getter whose origin does not answer while it is down.
func hangingGetter(down *bool) geocache.Getter[string] {
	return geocache.GetterFunc[string](func(ctx context.Context, _ string) (string, error) {
		if *down {
			<-ctx.Done()
			return "", errDatabase
		}
		return "v", nil
	})
}

// A reader with WithStaleIfError gets the stale value when a load fails that was begun by somebody
// who had no use for a stale value: a refresh ahead of the expiry, or another GetMany.
func TestStaleValueForReadersThatJoinALoad(t *testing.T) {
	for name, more := range map[string][]geocache.GroupOption{
		"refreshed ahead": {geocache.WithRefreshAhead(5 * time.Second)},
		"revalidated":     {geocache.WithStaleWhileRevalidate(time.Second)},
		"just read":       nil,
	} {
		t.Run(name, func(t *testing.T) {
			down := false
			opts := append(more, geocache.WithTTL(time.Minute), geocache.WithLoadTimeout(10*time.Second),
				geocache.WithStaleIfError(time.Hour))
			alone(t, hangingGetter(&down), opts, func(t *testing.T, g *geocache.Group[string]) {
				item, err := g.GetItem(t.Context(), "ada")
				require.NoError(t, err)
				down = true
				time.Sleep(time.Until(item.Expires) - 2*time.Second)
				for range 40 {
					_, err := g.Get(t.Context(), "ada")
					require.NoError(t, err)
					time.Sleep(time.Second)
				}
			})
		})
	}
}

func TestStaleValueForGetBesideGetMany(t *testing.T) {
	down := false
	opts := []geocache.GroupOption{geocache.WithTTL(time.Minute), geocache.WithLoadTimeout(10 * time.Second),
		geocache.WithStaleIfError(time.Hour)}
	alone(t, hangingGetter(&down), opts, func(t *testing.T, g *geocache.Group[string]) {
		_, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		down = true
		time.Sleep(2 * time.Minute)
		many := make(chan error, 1)
		go func() {
			_, err := g.GetMany(context.Background(), []string{"ada"})
			many <- err
		}()
		time.Sleep(time.Second)
		_, err = g.Get(t.Context(), "ada")
		require.NoError(t, err)
		require.NoError(t, <-many)

		// A caller that stops waiting has not seen the load fail.
		time.Sleep(2 * time.Second)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = g.Get(short, "ada")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// The same in a cluster: at the owner, at a node with a copy and at one without, by Get and by
// GetMany.
func TestStaleValueWhileARefreshHangs(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithRefreshAhead(5 * time.Second),
		geocache.WithStaleIfError(time.Hour)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		time.Sleep(untilLeased)
		key := c.KeyOf("eu-1")
		owner, copier, other := c.Node("eu-1"), c.Node("eu-2"), c.Node("eu-3")
		item := owner.MustGet(key)
		copier.MustGet(key)
		c.Origin.Behave(c.Origin.Block())
		time.Sleep(time.Until(item.Expires) - 2*time.Second)
		read := func(n *testcluster.Node) {
			go func() {
				if _, err := n.Get(key); err != nil {
					c.T.Errorf("Get at %s: %v", n.Name, err)
				}
			}()
			go func() {
				if _, err := n.Group.GetMany(context.Background(), []string{key}); err != nil {
					c.T.Errorf("GetMany at %s: %v", n.Name, err)
				}
			}()
		}
		for i := range 30 {
			read(owner)
			read(copier)
			if i > 4 { // the value has expired
				read(other)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
	})
}

// A value that was loaded right after a write may be older than it by its generation, but not by
// its age. Once it has expired, a node that the owner answers with it while it revalidates accepts
// it too, and does not load the key beside the owner.
func TestStaleValueLoadedSoonAfterAWrite(t *testing.T) {
	config := testcluster.Config{Group: []geocache.GroupOption{geocache.WithStaleWhileRevalidate(time.Minute)}}
	testcluster.Run(t, config, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 5*time.Millisecond)
		time.Sleep(untilLeased)
		key := c.KeyOf("eu-1")
		// so that floors are checked
		require.NoError(t, c.Node("eu-3").Group.RemoveTag(c.T.Context(), "of nothing here"))
		_, err := c.Node("eu-2").Remove(key)
		require.NoError(t, err)
		time.Sleep(300 * time.Millisecond)
		for _, n := range c.Nodes() {
			n.MustGet(key)
		}
		require.Equal(t, 1, c.Origin.Loads(key))
		time.Sleep(testcluster.TTL)
		c.Origin.Behave(testcluster.After(time.Second))
		for range 3 {
			for _, n := range c.Nodes() {
				require.Equal(t, geocache.SourceStale, n.MustGet(key).Source, n.Name)
			}
		}
		time.Sleep(2 * time.Second)
		for _, n := range c.Nodes() {
			n.MustGet(key)
		}
		require.Equal(t, 2, c.Origin.Loads(key))
	})
}

func TestOriginDownLongerThanTheTTL(t *testing.T) {
	for _, in := range [][]string{{"eu"}, {"eu", "us"}} {
		t.Run(fmt.Sprint(len(in), " regions"), func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{
				Regions: in,
				Cache:   []geocache.Option{geocache.WithLease(10 * time.Second)}, // fewer heartbeats in these hours
				Group:   []geocache.GroupOption{geocache.WithStaleIfError(time.Hour)},
			}, originDown)
		})
	}
}

func originDown(c *testcluster.Cluster) {
	t := c.T
	for _, n := range c.Nodes() {
		n.MustGet("ada")
	}
	c.Origin.Behave(testcluster.Failing(errors.New("down")))
	time.Sleep(2 * testcluster.TTL)
	before, waits := c.Origin.Total(), 0
	for range 100 {
		for _, n := range c.Nodes() {
			begun := time.Now()
			item := n.MustGet("ada")
			require.Equal(t, geocache.SourceStale, item.Source)
			require.Greater(t, item.Age, testcluster.TTL)
			require.True(t, item.Expires.Before(time.Now()))
			if time.Since(begun) > 0 {
				waits++
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	regions := len(c.Nodes()) / 3
	require.LessOrEqual(t, c.Origin.Total()-before, 11*regions*regions,
		"one attempt a second, by each region for itself and for the others")
	require.LessOrEqual(t, waits, 11*len(c.Nodes()),
		"a node that was told that the value is stale does not ask again at once")

	_, err := c.Node("eu-1").Get("new")
	require.ErrorContains(t, err, "down")

	c.Origin.Behave(nil)
	time.Sleep(2 * time.Second)
	for _, n := range c.Nodes() {
		require.NotEqual(t, geocache.SourceStale, n.MustGet("ada").Source)
	}

	c.Origin.Behave(testcluster.Failing(errors.New("down for good")))
	time.Sleep(testcluster.TTL + time.Hour + time.Second)
	_, err = c.Node("eu-1").Get("ada")
	require.ErrorContains(t, err, "down for good")
}
