package geocache_test

import (
	"context"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/regions"
)

// userDiscovery, userListener and userHandler are a user's code around what works.
type userDiscovery struct {
	regions.Discovery
	u *culprit
}

func (d userDiscovery) Region(ctx context.Context) (string, error) {
	d.u.at("region")
	return "eu", nil
}

func (d userDiscovery) Run(ctx context.Context, self regions.Node, healthy func() error, found func(regions.View)) error {
	d.u.at("run")
	return d.Discovery.Run(ctx, self, healthy, func(v regions.View) {
		var calling sync.WaitGroup
		for range 3 { // at the same time
			calling.Go(func() { found(v) })
		}
		calling.Wait()
	})
}

type userListener struct {
	net.Listener
	u *culprit
}

func (l userListener) Accept() (net.Conn, error) { l.u.at("accept"); return l.Listener.Accept() }

type userHandler struct{ u *culprit }

func (h userHandler) Enabled(context.Context, slog.Level) bool  { h.u.at("enabled"); return true }
func (h userHandler) Handle(context.Context, slog.Record) error { h.u.at("handle"); return nil }
func (h userHandler) WithAttrs([]slog.Attr) slog.Handler        { h.u.at("attrs"); return h }
func (h userHandler) WithGroup(string) slog.Handler             { return h }

// What is given to Open misbehaves a few times: the node becomes a member all the same.
func TestWhatIsGivenToOpenMisbehaves(t *testing.T) {
	for mode, misbehave := range map[string]func(){
		"panics": func() { panic("no") },
		"exits":  runtime.Goexit,
		"blocks": nil,
	} {
		for _, where := range []string{"run", "dial", "accept", "enabled", "handle", "attrs"} {
			if mode == "blocks" && (where == "run" || where == "accept") { // that is what they are for
				continue
			}
			if mode != "panics" && (where == "enabled" || where == "attrs") { // on the goroutine that logs
				continue
			}
			t.Run(mode+" "+where, func(t *testing.T) {
				testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
					do := misbehave
					if mode == "blocks" {
						release := make(chan struct{})
						do = func() { <-release }
						defer close(release)
					}
					u := &culprit{}
					u.next(3, where, do)
					host := c.Net.Host("odd", "eu")
					l, err := host.Listen()
					require.NoError(t, err)
					cache, err := geocache.Open(context.Background(), geocache.WithNodeID("odd"), geocache.WithClock(time.Now),
						geocache.WithListener(userListener{l, u}),
						geocache.WithDialer(func(ctx context.Context, address string) (net.Conn, error) {
							u.at("dial")
							return host.Dial(ctx, address)
						}),
						geocache.WithDiscovery(userDiscovery{c.Directory, u}),
						geocache.WithLogger(slog.New(userHandler{u})))
					require.NoError(t, err)
					defer cache.Close()
					g, err := geocache.NewGroup(cache, "test", ada)
					require.NoError(t, err)
					time.Sleep(30 * time.Second)
					require.Equal(t, 4, len(cache.Stats().Peers)+1)
					for _, p := range cache.Stats().Peers {
						require.True(t, p.Up, p.ID)
					}
					if mode != "blocks" {
						require.EqualValues(t, 3, cache.Stats().Panics)
					}
					require.Len(t, c.Node("eu-1").Group.Locate("k"), 1)
					_, err = g.Get(c.T.Context(), "k")
					require.NoError(t, err)
				})
			})
		}
	}
	t.Run("region", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			u := &culprit{}
			open := func(ctx context.Context) error {
				cache, err := geocache.Open(ctx, geocache.WithListen("127.0.0.1:0"), geocache.WithDiscovery(userDiscovery{nil, u}), silent)
				require.Nil(t, cache)
				return err
			}
			u.next(1, "region", func() { panic("no") })
			require.ErrorContains(t, open(t.Context()), "panicked: no")
			u.next(1, "region", runtime.Goexit)
			require.ErrorContains(t, open(t.Context()), "discovery called runtime.Goexit")
			release := make(chan struct{})
			u.next(1, "region", func() { <-release })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			require.ErrorIs(t, open(ctx), context.DeadlineExceeded)
			close(release)
		})
	})
}
