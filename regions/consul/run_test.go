package consul

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster/logs"
	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

// A running is a call of Run in progress.
type running struct {
	stop   func() error // cancels Run, waits for it and returns its result
	log    *logs.Buffer
	health atomic.Pointer[error]

	mu    sync.Mutex // guards the fields below
	views []regions.View
}

func (r *running) last() regions.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.views) == 0 {
		return regions.View{}
	}
	return r.views[len(r.views)-1]
}

func (r *running) all() []regions.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]regions.View(nil), r.views...)
}

// setHealth sets what healthy returns.
func (r *running) setHealth(err error) { r.health.Store(&err) }

// start starts Run for the service profile-api. The end of the test stops it, unless stop was called before.
func start(t *testing.T, config *api.Config, self regions.Node, options ...Option) *running {
	t.Helper()
	r := &running{log: new(logs.Buffer)}
	r.setHealth(nil)
	log := slog.New(slog.NewTextHandler(r.log, nil))
	d := New("profile-api", append([]Option{WithConfig(config), WithLogger(log)}, options...)...)

	var busy atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- d.Run(ctx, self, func() error { return *r.health.Load() }, func(v regions.View) {
			if !busy.CompareAndSwap(false, true) {
				t.Error("calls to found overlap")
			}
			defer busy.Store(false)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.views = append(r.views, v)
		})
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { r.stop() })
	return r
}

// pass advances virtual time by d and waits until everything that is due has happened.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var (
	self    = regions.Node{ID: "n1", Region: "eu", Address: "192.0.2.7:7946", Weight: 1.5}
	errSick = errors.New("disk on fire")
)

func TestRunRegistersSelfAndFindsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu", "us")
		f.others["us"] = []*api.ServiceEntry{nodeEntry("n3", "us"), nodeEntry("n2", "us")}
		r := start(t, f.config(), self, WithCheckTTL(20*time.Second), WithDeregisterAfter(5*time.Minute))
		pass(time.Second)

		require.Equal(t, []regions.Node{
			self,
			{ID: "n2", Region: "us", Address: "192.0.2.9:7946"},
			{ID: "n3", Region: "us", Address: "192.0.2.9:7946"},
		}, r.last().Nodes)
		require.Nil(t, r.last().Distances)
		f.look(func() {
			require.Len(t, f.services, 1)
			s := f.services["profile-api-n1"]
			require.Equal(t, "profile-api", s.Name)
			require.Equal(t, []string{"geocache"}, s.Tags)
			meta := map[string]string{"protocol": "1", "node": "n1", "region": "eu", "weight": "1.5"}
			require.Equal(t, meta, s.Meta)
			require.Equal(t, "20s", s.Check.TTL)
			require.Equal(t, "5m0s", s.Check.DeregisterCriticalServiceAfter)
			require.Equal(t, [2]string{"passing", "serving"}, f.health[s.Check.CheckID])
		})

		views := len(r.all())
		pass(time.Hour)
		require.Len(t, r.all(), views, "nothing has changed")
		require.InDelta(t, 90, f.count("/v1/coordinate/datacenters"), 35)
		require.InDelta(t, 540, f.count("/v1/catalog/datacenters"), 190)
		require.NoError(t, r.stop())
		require.Empty(t, f.services)
	})
}

func TestHealthIsReportedToTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		r := start(t, f.config(), self)
		pass(time.Second)
		require.Equal(t, []string{"n1"}, ids(r.last()))

		r.setHealth(errSick)
		pass(5 * time.Second)
		require.Equal(t, [2]string{"critical", "disk on fire"}, f.health["service:profile-api-n1"])
		require.Empty(t, r.last().Nodes)

		r.setHealth(nil)
		pass(5 * time.Second)
		require.Equal(t, []string{"n1"}, ids(r.last()))
	})
}

func TestAProcessUnhealthyFromTheStartIsNeverListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		f.registering = func(s *api.AgentServiceRegistration) { require.Equal(t, "critical", s.Check.Status) }
		f.others["eu"] = []*api.ServiceEntry{nodeEntry("n2", "eu")}
		// Nothing gets through at first, since setHealth may come after the first registration.
		f.fault = func(*http.Request) *http.Response { return refused }
		r := start(t, f.config(), self)
		r.setHealth(errSick)
		pass(time.Minute)
		f.change(func() { f.fault = nil })
		pass(time.Minute)
		for _, v := range r.all() {
			require.Equal(t, []string{"n2"}, ids(v))
		}
		require.NotEmpty(t, r.all())
	})
}

// An agent that was restarted without its data gets the registration again within a third of the TTL.
func TestAnAgentThatLostItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		r := start(t, f.config(), self)
		pass(time.Minute)
		f.change(func() { clear(f.services) })
		pass(10*time.Second/3 + minQueryGap)
		require.Len(t, f.services, 1)
		require.Equal(t, []string{"n1"}, ids(r.last()))
		require.Equal(t, 1, r.log.Count("WARN", "lost", "service=profile-api", "node=n1", "region=eu"))
	})
}

// One datacenter fails for an hour, in various ways, while another one changes.
func TestErrorsRemoveNoNodes(t *testing.T) {
	forever := func(r *http.Request) *http.Response {
		a := answer(http.StatusOK, nil)
		a.Header.Set("X-Consul-Index", "99")
		a.Body = io.NopCloser(endless{r.Context()})
		return a
	}
	for name, fault := range map[string]func(*http.Request) *http.Response{
		"error":      func(*http.Request) *http.Response { return answer(500, "No path to datacenter") },
		"refused":    func(*http.Request) *http.Response { return refused },
		"no token":   func(*http.Request) *http.Response { return answer(403, "Permission denied") },
		"not JSON":   func(*http.Request) *http.Response { return answer(200, "<html>") },
		"wrong JSON": func(*http.Request) *http.Response { return answer(200, map[string]int{"a": 1}) },
		"endless":    forever,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake("eu", "us")
				f.others["us"] = []*api.ServiceEntry{nodeEntry("n2", "us")}
				r := start(t, f.config(), self)
				pass(time.Second)
				require.Equal(t, []string{"n1", "n2"}, ids(r.last()))

				f.change(func() {
					f.fault = func(r *http.Request) *http.Response {
						if r.FormValue("dc") == "us" {
							return fault(r)
						}
						return nil
					}
				})
				pass(time.Second) // the query in progress returns
				f.change(func() {
					f.others["us"] = nil
					f.others["eu"] = []*api.ServiceEntry{nodeEntry("n4", "eu")}
				})
				before := f.count("/v1/health/service/profile-api")
				pass(time.Hour)
				require.Equal(t, []string{"n1", "n4", "n2"}, ids(r.last()))
				require.Less(t, f.count("/v1/health/service/profile-api")-before, 1000, "too many queries")
				require.Equal(t, 1, r.log.Count("WARN"), r.log)
				failed := r.log.Count("WARN", "watching a datacenter failed", "datacenter=us", "service=profile-api")
				require.Equal(t, 1, failed, r.log)

				f.change(func() { f.fault = nil; f.others["us"] = []*api.ServiceEntry{nodeEntry("n5", "us")} })
				pass(2 * time.Minute)
				require.Equal(t, []string{"n1", "n4", "n5"}, ids(r.last()))
				require.Equal(t, 1, r.log.Count("succeeds again", "datacenter=us"))
				require.NoError(t, r.stop())
			})
		})
	}
}

// endless is a response body that blocks until the request is cancelled.
type endless struct{ ctx context.Context }

func (e endless) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}

// While the agent does not answer, Run neither returns nor reports a view.
func TestAgentDownForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu", "us")
		f.others["us"] = []*api.ServiceEntry{nodeEntry("n2", "us")}
		r := start(t, f.config(), self)
		pass(time.Minute)
		views := len(r.all())
		f.change(func() { f.fault = func(*http.Request) *http.Response { return refused } })
		pass(time.Hour)
		require.Len(t, r.all(), views)
		require.Equal(t, 4, r.log.Count("WARN"), "announcing, listing, two watches: %s", r.log)

		f.change(func() { f.fault = nil; clear(f.services) })
		pass(maxBackoff)
		require.Equal(t, []string{"n1", "n2"}, ids(r.last()))

		f.change(func() { f.fault = func(*http.Request) *http.Response { return refused } })
		began := time.Now()
		require.NoError(t, r.stop())
		require.LessOrEqual(t, time.Since(began), requestTimeout)
		require.Equal(t, 1, r.log.Count("WARN", "withdrawing"))
	})
}

func TestAgentDownAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		f.fault = func(*http.Request) *http.Response { return refused }
		r := start(t, f.config(), self)
		pass(time.Hour)
		require.Empty(t, r.all())
		f.change(func() { f.fault = nil })
		pass(2 * maxBackoff)
		require.Equal(t, []string{"n1"}, ids(r.last()))
	})
}

// An agent that accepts requests and never answers delays the return of Run by no more than the timeout of
// the withdrawal.
func TestHangingAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu", "us")
		r := start(t, f.config(), self)
		pass(time.Minute)
		views := len(r.all())
		f.change(func() {
			f.fault = func(r *http.Request) *http.Response { <-r.Context().Done(); return refused }
		})
		pass(time.Hour)
		require.Len(t, r.all(), views)
		began := time.Now()
		require.NoError(t, r.stop())
		require.Equal(t, requestTimeout, time.Since(began))
	})
}

// An empty answer is reported like any other, unless Consul says that it filtered it.
func TestEmptyAnswersAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu", "us")
		f.others["us"] = []*api.ServiceEntry{nodeEntry("n2", "us")}
		r := start(t, f.config(), self)
		pass(time.Second)

		f.change(func() { f.filtered = true })
		pass(time.Minute)
		require.Equal(t, []string{"n1", "n2"}, ids(r.last()))
		require.Equal(t, 2, r.log.Count("WARN", "ACL token may not read"), r.log)

		f.change(func() { f.filtered = false; f.others["us"] = nil })
		pass(time.Minute)
		require.Equal(t, []string{"n1"}, ids(r.last()))
	})
}

// A registration that is in progress when Run is cancelled is withdrawn too.
func TestWithdrawalFollowsARegistrationInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		f.registering = func(*api.AgentServiceRegistration) { time.Sleep(2 * time.Second) }
		r := start(t, f.config(), self)
		pass(time.Second)
		require.NoError(t, r.stop())
		pass(time.Minute)
		require.Equal(t, 1, f.count("/v1/agent/service/register"))
		require.Empty(t, f.services)
	})
}

// With port 0 advertised, Consul and the other nodes get the port that was bound.
func TestOpenWithPortZero(t *testing.T) {
	f := newFake("eu")
	open := func(opts ...geocache.Option) *geocache.Cache {
		discovery := geocache.WithDiscovery(New("profile-api", WithConfig(f.config())))
		cache, err := geocache.Open(t.Context(), append(opts, discovery)...)
		require.NoError(t, err)
		t.Cleanup(func() { cache.Close() })
		return cache
	}
	first := open(geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise("localhost:0"))
	second := open(geocache.WithListen("127.0.0.1:0"))
	require.Equal(t, 2, second.Stats().Regions[0].Nodes, "%v", second.Stats())
	f.look(func() {
		for _, s := range f.services {
			require.NotZero(t, s.Port)
		}
		require.Len(t, f.services, 2)
	})
	require.Regexp(t, `^localhost:\d+$`, first.Node().Address)

	for _, address := range []string{":0", "host:99999", "0.0.0.0:7946"} {
		_, err := geocache.Open(t.Context(), geocache.WithListen("127.0.0.1:0"), geocache.WithAdvertise(address),
			geocache.WithDiscovery(New("profile-api", WithConfig(f.config()))))
		require.ErrorContains(t, err, "WithAdvertise(")
	}
	f.look(func() { require.Len(t, f.services, 2, "an unreachable address is not registered") })
}
