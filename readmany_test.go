package geocache_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// rareHeartbeats keeps heartbeats away from a test that counts frames.
var rareHeartbeats = []geocache.Option{geocache.WithLease(time.Minute)}

// peerStats returns what a node has exchanged with its peers, as a client, by their IDs.
func peerStats(n *testcluster.Node) map[string]geocache.PeerStats {
	all := map[string]geocache.PeerStats{}
	for _, p := range n.Cache.Stats().Peers {
		all[p.ID] = p
	}
	return all
}

func TestGetManyAsksEachOwnerOnce(t *testing.T) {
	testcluster.Run(t, testcluster.Config{Nodes: 5, Cache: rareHeartbeats}, func(c *testcluster.Cluster) {
		c.Net.SetLatency("eu", "eu", 50*time.Millisecond)
		time.Sleep(testcluster.TTL) // no owner looks for keys at former owners any more
		c.Origin.Behave(testcluster.After(time.Second))
		all := keys(300)
		owned := map[string]uint64{}
		for _, key := range all {
			owned[c.Owner("eu", key).Name]++
		}
		reader := c.Node("eu-1")
		before := peerStats(reader)
		begun := time.Now()
		m, err := reader.Group.GetMany(c.T.Context(), append(all, all[:50]...))
		require.NoError(t, err)
		require.Len(t, m, 300)
		require.Equal(t, 1100*time.Millisecond, time.Since(begun), "a round trip and a load, at all owners at once")
		for name, p := range peerStats(reader) {
			require.Equal(t, owned[name], p.FetchLatency.Count-before[name].FetchLatency.Count)
			// One, but for comparing floors, which may happen meanwhile.
			require.LessOrEqual(t, p.Traffic.FramesOut-before[name].Traffic.FramesOut, uint64(5), "frames to %s", name)
		}
		require.Equal(t, 300, c.Origin.Total())

		// The next reader finds everything at the owners, one round trip away.
		begun = time.Now()
		_, err = c.Node("eu-2").Group.GetMany(c.T.Context(), all)
		require.NoError(t, err)
		require.Equal(t, 100*time.Millisecond, time.Since(begun))
		begun = time.Now()
		_, err = reader.Group.GetMany(c.T.Context(), all)
		require.NoError(t, err)
		require.Zero(t, time.Since(begun), "and now all of it is local")
		require.Equal(t, 300, c.Origin.Total())
	})
}

func TestGetManyWhenAnOwnerIsGone(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Node("eu-2").Crash()
		m, err := c.Node("eu-1").Group.GetMany(c.T.Context(), keys(200))
		require.NoError(t, err)
		require.Len(t, m, 200)
		require.Equal(t, 200, c.Origin.Total())

		c.Node("eu-3").Freeze()
		begun := time.Now()
		m, err = c.Node("eu-1").Group.GetMany(c.T.Context(), keys(400))
		require.NoError(t, err)
		require.Len(t, m, 400)
		require.LessOrEqual(t, time.Since(begun), detectionTime)
	})
}

// slowAt returns an origin that hangs for the keys of one node, until their caller gives up.
func slowAt(c *testcluster.Cluster, node string) testcluster.Getter {
	held := map[string]bool{}
	for _, key := range keys(100) {
		held[key] = c.Owner("eu", key).Name == node
	}
	return func(ctx context.Context, key string) error {
		if held[key] {
			return testcluster.After(time.Hour)(ctx, key)
		}
		return nil
	}
}

func TestGetManyReturnsAPartialResultAtItsDeadline(t *testing.T) {
	for _, held := range []string{"eu-1", "eu-2"} { // keys of the reader itself, and of a peer
		t.Run(held, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				c.Origin.Behave(slowAt(c, held))
				want := 0
				for _, key := range keys(100) {
					if c.Owner("eu", key).Name != held {
						want++
					}
				}
				ctx, cancel := context.WithTimeout(c.T.Context(), time.Second)
				defer cancel()
				begun := time.Now()
				m, err := c.Node("eu-1").Group.GetMany(ctx, keys(100))
				require.Equal(t, time.Second, time.Since(begun))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.NotErrorIs(t, err, geocache.ErrTimeout)
				require.Len(t, m, want)
				require.Len(t, err.(interface{ Unwrap() []error }).Unwrap(), 21)
				require.ErrorContains(t, err, strconv.Itoa(80-want)+" more keys could not be read")
				time.Sleep(time.Millisecond)
				require.Zero(t, c.Origin.Running(), "nobody waits for the rest, so it is cancelled")
			})
		})
	}
}

func TestGetManyCallerThatGivesUpDoesNotFailOthers(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		c.Origin.Behave(testcluster.After(time.Second))
		n := c.Node("eu-1")
		key := c.KeyOf("eu-2")
		results := make(chan error, 3)
		go func() {
			ctx, cancel := context.WithTimeout(c.T.Context(), 100*time.Millisecond)
			defer cancel()
			m, err := n.Group.GetMany(ctx, []string{key, c.KeyOf("eu-2", key), c.KeyOf("eu-1")})
			if len(m) > 0 || !errors.Is(err, context.DeadlineExceeded) {
				c.T.Errorf("impatient caller got %v, %v", m, err)
			}
			results <- nil
		}()
		time.Sleep(10 * time.Millisecond)
		go func() { // joins the load of a key of the batch
			_, err := n.Get(key)
			results <- err
		}()
		go func() { // a batch of which all keys but one are being loaded already
			m, err := n.Group.GetMany(c.T.Context(), []string{key, c.KeyOf("eu-3")})
			if len(m) != 2 {
				c.T.Errorf("got %v", m)
			}
			results <- err
		}()
		for range 3 {
			require.NoError(t, <-results)
		}
		require.Equal(t, 1, c.Origin.Loads(key))
		require.Zero(t, c.Origin.Running())
	})
}

func TestGetManyOfOddKeys(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		n := c.Node("eu-1")
		odd := []string{"", "\x00", "\xff", "ключ", string(make([]byte, 4<<10))}
		m, err := n.Group.GetMany(c.T.Context(), odd)
		require.NoError(t, err)
		require.Len(t, m, len(odd))
		for _, key := range odd {
			n.MustGet(key)
		}
		m, err = n.Group.GetMany(c.T.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, m)
	})
}

// The owner answers with a value that expires on the way to the reader. The owner has to load it
// again, not its successor.
func TestValueExpiresInTransit(t *testing.T) {
	for name, get := range map[string]func(n *testcluster.Node, key string) error{
		"Get": func(n *testcluster.Node, key string) error { _, err := n.Get(key); return err },
		"GetMany": func(n *testcluster.Node, key string) error {
			m, err := n.Group.GetMany(context.Background(), []string{key})
			if len(m) != 1 {
				return errors.Join(err, errors.New("no value"))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
				c.Net.SetLatency("eu", "eu", 300*time.Millisecond)
				key := c.KeyOf("eu-2")
				c.Node("eu-2").MustGet(key)
				expires := c.Node("eu-2").MustGet(key).Expires
				time.Sleep(time.Until(expires) - 450*time.Millisecond)
				require.NoError(t, get(c.Node("eu-1"), key))
				require.Equal(t, 2, c.Origin.Loads(key))
				require.EqualValues(t, 2, c.Node("eu-2").Group.Stats().Loads)
				require.Zero(t, c.Node("eu-1").Group.Stats().OwnerFallbacks)
				require.Zero(t, c.Node("eu-3").Group.Stats().Served)
			})
		})
	}
}

// A slow key does not make GetMany return others that have expired while it waited.
func TestGetManyReturnsNothingExpired(t *testing.T) {
	loads := map[string]int{}
	getter := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) {
		if key == "slow" {
			time.Sleep(3 * time.Second)
			return "", nil
		}
		loads[key]++
		return fmt.Sprint("load ", loads[key]), nil
	})
	opts := []geocache.GroupOption{geocache.WithTTL(5 * time.Second)}
	alone(t, getter, opts, func(t *testing.T, g *geocache.Group[string]) {
		_, err := g.Get(t.Context(), "ada")
		require.NoError(t, err)
		time.Sleep(4 * time.Second)
		values, err := g.GetMany(t.Context(), []string{"ada", "slow"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"ada": "load 2", "slow": ""}, values)
	})
}

func TestGetManyOnOneNode(t *testing.T) {
	var loads atomic.Int64
	bad := errors.New("out of order")
	getter := countLoads(&loads, func(_ context.Context, key string) (string, error) {
		time.Sleep(time.Second)
		switch {
		case strings.HasPrefix(key, "none"):
			return "", geocache.ErrNotFound
		case strings.HasPrefix(key, "bad"):
			return "", bad
		}
		return "value of " + key, nil
	})
	alone(t, getter, nil, func(t *testing.T, g *geocache.Group[string]) {
		_, err := g.Get(t.Context(), "cached")
		require.NoError(t, err)

		begun := time.Now()
		m, err := g.GetMany(t.Context(),
			[]string{"a", "b", "a", "none-1", "bad-1", "cached", "b", "bad-2", "cached", "none-1"})
		require.Equal(t, time.Second, time.Since(begun), "the loads run concurrently")
		require.Equal(t, map[string]string{"a": "value of a", "b": "value of b", "cached": "value of cached"}, m)
		require.ErrorIs(t, err, bad)
		require.NotErrorIs(t, err, geocache.ErrNotFound)
		require.ElementsMatch(t, []string{
			`geocache: getmany test/"bad-1" at alone in local: out of order`,
			`geocache: getmany test/"bad-2" at alone in local: out of order`,
		}, strings.Split(err.Error(), "\n"))
		require.EqualValues(t, 6, loads.Load())

		s := g.Stats()
		require.EqualValues(t, 7, s.Reads(), "one Get and six distinct keys")
		require.EqualValues(t, 1, s.Store)
		require.EqualValues(t, 3, s.Getter)
		require.EqualValues(t, 1, s.NotFound)
		require.EqualValues(t, 2, s.Errors)
		require.EqualValues(t, 6, s.Loads)
		require.EqualValues(t, 2, s.LoadErrors)
		require.InDelta(t, 1.0/7, s.HitRatio(), 1e-9)
	})
}
