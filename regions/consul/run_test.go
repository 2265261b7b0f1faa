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

	"github.com/geocache/geocache/internal/testcluster/logs"
	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

// A running is a Run in progress.
type running struct {
	stop   func() error // cancels Run, waits for it, and returns what it did
	log    *logs.Buffer
	health atomic.Pointer[error]

	mu    sync.Mutex // guards the following
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

func (r *running) fall(err error) { r.health.Store(&err) }

// start begins a Run of the service profile-api. It is stopped at the end of
// the test at the latest.
func start(t *testing.T, config *api.Config, self regions.Node, options ...Option) *running {
	t.Helper()
	r := &running{log: new(logs.Buffer)}
	r.fall(nil)
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

// pass lets fake time pass, and all that is due in it happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

var (
	self    = regions.Node{ID: "n1", Region: "eu", Address: "192.0.2.7:7946", Weight: 1.5}
	errSick = errors.New("disk on fire")
)

func TestRunAnnouncesAndFinds(t *testing.T) {
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
			require.Equal(t, map[string]string{"protocol": "1", "node": "n1", "region": "eu", "weight": "1.5"}, s.Meta)
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

func TestHealthIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		r := start(t, f.config(), self)
		pass(time.Second)
		require.Equal(t, []string{"n1"}, ids(r.last()))

		r.fall(errSick)
		pass(5 * time.Second)
		require.Equal(t, [2]string{"critical", "disk on fire"}, f.health["service:profile-api-n1"])
		require.Empty(t, r.last().Nodes)

		r.fall(nil)
		pass(5 * time.Second)
		require.Equal(t, []string{"n1"}, ids(r.last()))
	})
}

func TestSickFromTheStartIsNeverOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		f.registering = func(s *api.AgentServiceRegistration) { require.Equal(t, "critical", s.Check.Status) }
		f.others["eu"] = []*api.ServiceEntry{nodeEntry("n2", "eu")}
		// Its first registration may be on its way before it falls sick.
		f.fault = func(*http.Request) *http.Response { return refused }
		r := start(t, f.config(), self)
		r.fall(errSick)
		pass(time.Minute)
		f.change(func() { f.fault = nil })
		pass(time.Minute)
		for _, v := range r.all() {
			require.Equal(t, []string{"n2"}, ids(v))
		}
		require.NotEmpty(t, r.all())
	})
}

// TestForgetfulAgent: an agent that was restarted without its data is told
// again within a third of the TTL.
func TestForgetfulAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		r := start(t, f.config(), self)
		pass(time.Minute)
		f.change(func() { clear(f.services) })
		pass(10*time.Second/3 + minQueryGap)
		require.Len(t, f.services, 1)
		require.Equal(t, []string{"n1"}, ids(r.last()))
		require.Equal(t, 1, r.log.Count("WARN", "forgotten", "service=profile-api", "node=n1", "region=eu"))
	})
}

// TestErrorsTakeNothingAway: one datacenter fails for an hour in every way
// there is, while another changes.
func TestErrorsTakeNothingAway(t *testing.T) {
	forever := func(r *http.Request) *http.Response {
		a := answer(http.StatusOK, nil)
		a.Header.Set("X-Consul-Index", "99")
		a.Body = io.NopCloser(endless{r.Context()})
		return a
	}
	for name, fault := range map[string]func(*http.Request) *http.Response{
		"error":       func(*http.Request) *http.Response { return answer(500, "No path to datacenter") },
		"refused":     func(*http.Request) *http.Response { return refused },
		"no token":    func(*http.Request) *http.Response { return answer(403, "Permission denied") },
		"not JSON":    func(*http.Request) *http.Response { return answer(200, "<html>") },
		"wrong JSON":  func(*http.Request) *http.Response { return answer(200, map[string]int{"a": 1}) },
		"never ended": forever,
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
				pass(time.Second) // the query that was waiting is answered
				f.change(func() {
					f.others["us"] = nil
					f.others["eu"] = []*api.ServiceEntry{nodeEntry("n4", "eu")}
				})
				before := f.count("/v1/health/service/profile-api")
				pass(time.Hour)
				require.Equal(t, []string{"n1", "n4", "n2"}, ids(r.last()))
				require.Less(t, f.count("/v1/health/service/profile-api")-before, 1000, "it hammers")
				require.Equal(t, 1, r.log.Count("WARN"), r.log)
				require.Equal(t, 1, r.log.Count("WARN", "watching a datacenter failed", "datacenter=us", "service=profile-api"), r.log)

				f.change(func() { f.fault = nil; f.others["us"] = []*api.ServiceEntry{nodeEntry("n5", "us")} })
				pass(2 * time.Minute)
				require.Equal(t, []string{"n1", "n4", "n5"}, ids(r.last()))
				require.Equal(t, 1, r.log.Count("works again", "datacenter=us"))
				require.NoError(t, r.stop())
			})
		})
	}
}

// endless is a body that gives nothing until the request is given up.
type endless struct{ ctx context.Context }

func (e endless) Read([]byte) (int, error) {
	<-e.ctx.Done()
	return 0, e.ctx.Err()
}

// TestAgentGoneForAnHour: nothing answers, and Run neither ends nor reports.
func TestAgentGoneForAnHour(t *testing.T) {
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

func TestNoAgentAtTheStart(t *testing.T) {
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

// TestHangingAgent: an agent that takes requests and does not answer them holds
// up the end no longer than the withdrawal may take.
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

// TestEmptyIsReported: whether to believe an empty answer is not decided here,
// unless Consul itself says that it has filtered it.
func TestEmptyIsReported(t *testing.T) {
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

// TestWithdrawalComesAfterRegistration: a registration that is under way when
// Run is cancelled is not left behind.
func TestWithdrawalComesAfterRegistration(t *testing.T) {
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
