package geocache_test

import (
	"context"
	"io/fs"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
	"github.com/geocache/geocache/internal/testcluster/logs"
	"github.com/geocache/geocache/regions"
)

// userArgument is an argument of a memoized function whose method is user code.
type userArgument struct {
	u *culprit
	s string
}

func (a userArgument) MarshalText() ([]byte, error) {
	if a.u != nil {
		a.u.at("argument")
	}
	return []byte(a.s), nil
}

func (a *userArgument) UnmarshalText(b []byte) error { a.s = string(b); return nil }

// userCodec is a codec written by a user.
type userCodec struct{ u *culprit }

func (c userCodec) Encode(v string) ([]byte, error) {
	if strings.HasSuffix(v, "!") {
		c.u.at("encode!")
	}
	c.u.at("encode")
	return []byte(v), nil
}

func (c userCodec) Decode(b []byte) (string, error) { c.u.at("decode"); return string(b), nil }

// typedNil is an error whose methods panic on a nil pointer.
type typedNil struct{ text string }

func (e *typedNil) Error() string { return e.text }

// userWorld is a single-node Cache with user code wherever there can be some.
type userWorld struct {
	*culprit
	cache          *geocache.Cache
	g, items, many *geocache.Group[string]
	memoized       func(context.Context, userArgument) (string, error)
	by             func(context.Context, string) (string, error)
	evicted        atomic.Int64
}

func newUserWorld(t *testing.T) *userWorld {
	u := &culprit{}
	w := &userWorld{culprit: u}
	cache, err := geocache.Open(context.Background(), geocache.WithClock(time.Now), silent)
	require.NoError(t, err)
	w.cache = cache
	get := func(ctx context.Context, key string) (string, error) { u.at("getter"); return key, nil }
	w.g, err = geocache.NewGroup(cache, "g", geocache.GetterFunc[string](get), geocache.WithCodec(userCodec{u}),
		geocache.WithSetter(func(context.Context, string, string) error { u.at("setter"); return nil }),
		geocache.WithRemover(func(context.Context, string) error { u.at("remover"); return nil }),
		geocache.WithOnEvict(func(string, string, geocache.EvictReason) { u.at("evict"); w.evicted.Add(1) }))
	require.NoError(t, err)
	items := geocache.ItemGetterFunc[string](func(
		ctx context.Context, key string,
	) (geocache.Loaded[string], error) {
		u.at("item")
		return geocache.Loaded[string]{Value: key}, nil
	})
	w.items, err = geocache.NewGroup(cache, "items", items)
	require.NoError(t, err)
	batches := geocache.BatchGetterFunc[string](func(
		ctx context.Context, keys []string,
	) (map[string]string, error) {
		u.at("batch")
		return map[string]string{"k": "k"}, nil
	})
	w.many, err = geocache.NewGroup(cache, "many", batches)
	require.NoError(t, err)
	w.memoized, err = geocache.Memoize(cache, "memo", func(_ context.Context, a userArgument) (string, error) {
		u.at("memoized")
		return a.s, nil
	})
	require.NoError(t, err)
	w.by, err = geocache.MemoizeBy(cache, "by", func(s string) string { u.at("key"); return s },
		func(s string) (string, error) { u.at("parse"); return s, nil },
		func(_ context.Context, s string) (string, error) { return s, nil })
	require.NoError(t, err)
	return w
}

// User code that panics, ends its goroutine or blocks does so only to the callers that wait for it.
func TestUserCodePanicsExitsOrBlocks(t *testing.T) {
	ctx := context.Background()
	get := func(w *userWorld) error { _, err := w.g.Get(ctx, "k"); return err }
	set := func(w *userWorld) error { return w.g.Set(ctx, "k", "v") }
	update := func(w *userWorld) error {
		_, err := w.g.Update(ctx, "k", func(old string, ok bool) (string, error) {
			w.at("update")
			return old + "!", nil
		})
		return err
	}
	type calls map[string]func(w *userWorld) error
	type check func(t *testing.T, w *userWorld, where string, call func(*userWorld) error)
	// These run on the caller's goroutine, those of onOwn on a goroutine of the cache's.
	onCallers := calls{
		"encode: Set":    set,
		"decode: Get":    get,
		"key: MemoizeBy": func(w *userWorld) error { _, err := w.by(ctx, "k"); return err },
		"argument: Memoize": func(w *userWorld) error {
			_, err := w.memoized(ctx, userArgument{w.culprit, "k"})
			return err
		},
		"decode: GetMany": func(w *userWorld) error { _, err := w.g.GetMany(ctx, []string{"k"}); return err },
	}
	onOwn := calls{
		"getter: Get":     get,
		"getter: GetMany": func(w *userWorld) error { _, err := w.g.GetMany(ctx, []string{"k"}); return err },
		"getter: Update":  update,
		"encode: Get":     get,
		"item: Get":       func(w *userWorld) error { _, err := w.items.Get(ctx, "k"); return err },
		"batch: GetMany": func(w *userWorld) error {
			_, err := w.many.GetMany(ctx, []string{"k"})
			return err
		},
		"batch: Get":          func(w *userWorld) error { _, err := w.many.Get(ctx, "k"); return err },
		"setter: Set":         set,
		"setter: Update":      update,
		"decode: setter":      set,
		"remover: Remove":     func(w *userWorld) error { return w.g.Remove(ctx, "k") },
		"remover: RemoveMany": func(w *userWorld) error { return w.g.RemoveMany(ctx, []string{"k"}) },
		"decode: Update":      update,
		"encode!: Update":     update,
		"memoized: Memoize": func(w *userWorld) error {
			_, err := w.memoized(ctx, userArgument{w.culprit, "k"})
			return err
		},
		"parse: MemoizeBy": func(w *userWorld) error { _, err := w.by(ctx, "k"); return err },
	}
	run := func(name string, calls calls, do check) {
		for what, call := range calls {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newUserWorld(t)
					defer func() { require.NoError(t, w.cache.Close()) }()
					where, _, _ := strings.Cut(what, ":")
					do(t, w, where, call)
					// Everything works again.
					w.next(0, "", nil)
					for _, call := range []func(*userWorld) error{get, set, update, call} {
						require.NoError(t, call(w))
					}
				})
			})
		}
	}
	panics := func(t *testing.T, w *userWorld, where string, call func(*userWorld) error) {
		// a value that does not decode is loaded once more, and goes to WithOnEvict
		w.next(9, where, func() { panic(fs.ErrPermission) })
		err := call(w)
		var p *geocache.PanicError
		require.ErrorAs(t, err, &p)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.Contains(t, string(p.Stack), "guarded_test.go")
		var panics uint64
		for _, g := range w.cache.Stats().Groups {
			panics += g.Panics
		}
		require.NotZero(t, panics)
	}
	onlyUpdate := calls{"update: Update": update}
	run("panics", onCallers, panics)
	run("panics", onOwn, panics)
	run("panics with its error", onOwn, func(
		t *testing.T, w *userWorld, where string, call func(*userWorld) error,
	) {
		w.next(2, where, func() { var e *typedNil; panic(e) })
		require.Error(t, call(w))
	})
	run("exits", onOwn, func(t *testing.T, w *userWorld, where string, call func(*userWorld) error) {
		w.next(1, where, runtime.Goexit)
		require.ErrorContains(t, call(w), "called runtime.Goexit")
	})
	run("exits", onCallers, func(t *testing.T, w *userWorld, where string, call func(*userWorld) error) {
		w.next(1, where, runtime.Goexit)
		var calling sync.WaitGroup
		calling.Go(func() { _ = call(w); t.Error("the caller's goroutine should have ended") })
		calling.Wait()
	})
	run("blocks", onOwn, func(t *testing.T, w *userWorld, where string, call func(*userWorld) error) {
		release := make(chan struct{})
		defer close(release)
		w.next(1, where, func() { <-release })
		begun := time.Now()
		require.ErrorIs(t, call(w), geocache.ErrTimeout)
		require.LessOrEqual(t, time.Since(begun), 11*time.Second)
	})
	run("blocks", onCallers, func(t *testing.T, w *userWorld, where string, call func(*userWorld) error) {
		release := make(chan struct{})
		var calling sync.WaitGroup
		w.next(1, where, func() { <-release })
		calling.Go(func() { require.NoError(t, call(w)) })
		synctest.Wait()
		require.NoError(t, call(w), "other callers go on")
		close(release)
		calling.Wait()
	})
	run("panics", onlyUpdate, panics)
	run("exits", onlyUpdate, func(t *testing.T, w *userWorld, where string, call func(*userWorld) error) {
		w.next(1, where, runtime.Goexit)
		require.ErrorContains(t, call(w), "called runtime.Goexit")
	})
	// Update waits for its function, as documented. Others wait for it up to the load timeout.
	run("blocks", onlyUpdate, func(t *testing.T, w *userWorld, where string, call func(*userWorld) error) {
		release := make(chan struct{})
		w.next(1, where, func() { <-release })
		var calling sync.WaitGroup
		calling.Go(func() { require.ErrorIs(t, call(w), geocache.ErrTimeout) })
		synctest.Wait()
		begun := time.Now()
		require.NoError(t, call(w))
		require.LessOrEqual(t, time.Since(begun), 11*time.Second)
		close(release)
		calling.Wait()
	})
}

// An error whose methods panic fails the call of the getter, and not whatever node formats the
// error later.
func TestErrorMethodPanics(t *testing.T) {
	testcluster.Run(t, testcluster.Config{}, func(c *testcluster.Cluster) {
		groups := onAll(c, "g", geocache.GetterFunc[string](func(context.Context, string) (string, error) {
			var e *typedNil
			return "", e
		}))
		key := c.KeyOf("eu-1")
		_, err := groups["eu-1"].Get(c.T.Context(), key)
		var p *geocache.PanicError
		require.ErrorAs(t, err, &p)
		_, err = groups["eu-2"].Get(c.T.Context(), key)
		require.ErrorContains(t, err, "nil pointer")
	})
}

func TestOnEvictPanicsExitsOrBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newUserWorld(t)
		set := func(n int) {
			for range n {
				require.NoError(t, w.g.Set(t.Context(), "k", "v"))
			}
			synctest.Wait()
		}
		set(3)
		require.EqualValues(t, 2, w.evicted.Load())
		w.next(2, "evict", func() { panic("no") })
		set(4)
		require.EqualValues(t, 4, w.evicted.Load())
		w.next(2, "evict", runtime.Goexit)
		set(4)
		require.EqualValues(t, 6, w.evicted.Load())
		require.EqualValues(t, 4, w.g.Stats().Panics)

		release := make(chan struct{})
		w.next(1, "evict", func() { <-release })
		set(10)
		require.Equal(t, 9, w.g.Stats().EvictQueue, "the tenth is being passed to the function")
		require.Positive(t, w.g.Stats().EvictQueueBytes)
		require.Zero(t, w.g.Stats().EvictDropped)
		close(release)
		synctest.Wait()
		require.Zero(t, w.g.Stats().EvictQueue)
		require.EqualValues(t, 16, w.evicted.Load())
		require.NoError(t, w.cache.Close())
	})
}

// A WithOnEvict function that hangs costs at most as much memory as the group may have, and is
// logged.
func TestOnEvictHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logs.Buffer
		cache, err := geocache.Open(context.Background(), geocache.WithClock(time.Now),
			geocache.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		require.NoError(t, err)
		release := make(chan struct{})
		var told atomic.Uint64
		g, err := geocache.NewGroup[[]byte](cache, "g", nil, geocache.WithMaxBytes(100_000),
			geocache.WithOnEvict(func(string, []byte, geocache.EvictReason) { <-release; told.Add(1) }))
		require.NoError(t, err)
		for range 500 {
			require.NoError(t, g.Set(t.Context(), "k", make([]byte, 1000)))
		}
		s := g.Stats()
		require.LessOrEqual(t, s.EvictQueueBytes, int64(100_000))
		require.Positive(t, s.EvictDropped)
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, strings.Count(log.String(), "function of WithOnEvict is too slow, or hangs"))
		close(release)
		require.NoError(t, cache.Close())
		require.EqualValues(t, 499, told.Load()+s.EvictDropped)
	})
}

// userDiscovery, userListener and userHandler are user code around working implementations.
type userDiscovery struct {
	regions.Discovery
	u *culprit
}

func (d userDiscovery) Region(ctx context.Context) (string, error) {
	d.u.at("region")
	return "eu", nil
}

func (d userDiscovery) Run(
	ctx context.Context, self regions.Node, healthy func() error, found func(regions.View),
) error {
	d.u.at("run")
	return d.Discovery.Run(ctx, self, healthy, func(v regions.View) {
		var calling sync.WaitGroup
		for range 3 { // concurrently
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

func (h userHandler) Enabled(context.Context, slog.Level) bool { h.u.at("enabled"); return true }

func (h userHandler) Handle(context.Context, slog.Record) error { h.u.at("handle"); return nil }

func (h userHandler) WithAttrs([]slog.Attr) slog.Handler { h.u.at("attrs"); return h }

func (h userHandler) WithGroup(string) slog.Handler { return h }

// What a user passes to Open misbehaves a few times. The node becomes a member all the same.
func TestOptionsOfOpenPanicExitOrBlock(t *testing.T) {
	for mode, misbehave := range map[string]func(){
		"panics": func() { panic("no") },
		"exits":  runtime.Goexit,
		"blocks": nil,
	} {
		for _, where := range []string{"run", "dial", "accept", "enabled", "handle", "attrs"} {
			if mode == "blocks" && (where == "run" || where == "accept") { // blocking is what they are for
				continue
			}
			if mode != "panics" && (where == "enabled" || where == "attrs") { // these run on the goroutine that logs
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
					cache, err := geocache.Open(context.Background(), geocache.WithNodeID("odd"),
						geocache.WithClock(time.Now),
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
				cache, err := geocache.Open(ctx, geocache.WithListen("127.0.0.1:0"),
					geocache.WithDiscovery(userDiscovery{nil, u}), silent)
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
