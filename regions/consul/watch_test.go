package consul

import (
	"maps"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

func TestDatacentersJoinAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		f.others["us"] = []*api.ServiceEntry{nodeEntry("n2", "us")}
		r := start(t, f.config(), self)
		pass(time.Second)
		require.Equal(t, []string{"n1"}, ids(r.last()))

		f.change(func() { f.datacenters = []string{"eu", "us"} })
		pass(datacenterInterval)
		require.Equal(t, []string{"n1", "n2"}, ids(r.last()))

		f.change(func() { f.datacenters = []string{} })
		pass(time.Minute)
		require.Equal(t, []string{"n1", "n2"}, ids(r.last()), "an agent always knows its own datacenter")
		require.Equal(t, 1, r.log.Count("WARN", "listing Consul's datacenters"))

		f.change(func() { f.datacenters = []string{"eu"} })
		pass(maxBackoff)
		require.Equal(t, []string{"n1"}, ids(r.last()))
		f.change(func() { f.others["us"] = append(f.others["us"], nodeEntry("n3", "us")) })
		pass(time.Minute)
		require.Equal(t, []string{"n1"}, ids(r.last()), "no longer watched")

		f.change(func() { f.datacenters = []string{"eu", "us"} })
		pass(datacenterInterval)
		require.Equal(t, []string{"n1", "n2", "n3"}, ids(r.last()))

		// While the only datacenter left has not answered, no view is reported.
		views := len(r.all())
		f.change(func() {
			f.datacenters = []string{"ap"}
			f.fault = func(r *http.Request) *http.Response {
				if r.FormValue("dc") == "ap" {
					return refused
				}
				return nil
			}
		})
		pass(time.Minute)
		for _, v := range r.all()[views:] {
			require.NotEmpty(t, v.Nodes)
		}
	})
}

// After its index was reset, Consul is not asked to wait for the old one, which it might reach only in a
// year.
func TestIndexGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		f.index = 1e9
		r := start(t, f.config(), self)
		pass(5 * time.Second)

		f.change(func() { f.index = 5 })
		pass(2 * time.Minute) // the query that waits for 1e9 times out
		f.change(func() { f.others["eu"] = []*api.ServiceEntry{nodeEntry("n2", "eu")} })
		pass(minQueryGap)
		require.Equal(t, []string{"n1", "n2"}, ids(r.last()))

		// The same behind a failure, so that no answer shows the reset.
		f.change(func() { f.fault = func(*http.Request) *http.Response { return refused }; f.index = 1e9 })
		pass(time.Minute)
		f.change(func() { f.fault = nil; f.index = 5; f.others["eu"] = nil })
		pass(maxBackoff)
		require.Equal(t, []string{"n1"}, ids(r.last()))
	})
}

// Answers that do not wait, whatever their index, do not make a busy loop.
func TestNoBusyLoop(t *testing.T) {
	for name, c := range map[string]struct {
		index func(n int) string
		most  int // queries in ten minutes
	}{
		"index 0":          {func(int) string { return "0" }, 100},
		"no index":         {func(int) string { return "" }, 100},
		"constant index":   {func(int) string { return "7" }, 100},
		"index falls":      {func(n int) string { return strconv.Itoa(1e9 - n) }, 3001},
		"index rises":      {func(n int) string { return strconv.Itoa(n) }, 3001},
		"index alternates": {func(n int) string { return strconv.Itoa(5 + n%2) }, 3001},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake("eu")
				const path = "/v1/health/service/profile-api"
				f.fault = func(r *http.Request) *http.Response {
					if r.URL.Path != path {
						return nil
					}
					a := answer(http.StatusOK, []*api.ServiceEntry{nodeEntry("n2", "eu")})
					f.look(func() { a.Header.Set("X-Consul-Index", c.index(f.requests[path])) })
					return a
				}
				r := start(t, f.config(), self)
				pass(10 * time.Minute)
				require.Equal(t, []string{"n2"}, ids(r.last()))
				require.Len(t, r.all(), 1)
				f.look(func() { require.LessOrEqual(t, f.requests[path], c.most) })
			})
		})
	}
}

// While nothing changes, a datacenter gets one query a minute, with the index of the last answer.
func TestBlockingQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		start(t, f.config(), self)
		pass(10 * time.Second)
		f.look(func() { f.indexes = nil })
		pass(time.Hour)
		f.look(func() {
			require.InDelta(t, 60, len(f.indexes), 1)
			for _, index := range f.indexes {
				require.Equal(t, strconv.FormatUint(f.index, 10), index)
			}
		})
	})
}

// Instances that are not valid nodes are skipped, and each is logged once.
func TestInvalidInstancesAreSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu")
		with := func(id, key, value string) *api.ServiceEntry {
			e := nodeEntry(id, "eu")
			e.Service.Meta = maps.Clone(e.Service.Meta)
			e.Service.Meta[key] = value
			return e
		}
		noAddress := nodeEntry("g5", "eu")
		noAddress.Service.Address, noAddress.Node.Address = "", ""
		noPort := nodeEntry("g6", "eu")
		noPort.Service.Port = 0
		agentsAddress := nodeEntry("n3", "eu")
		agentsAddress.Service.Address = ""
		noRegion := with("n4", metaRegion, "")
		warning := nodeEntry("n5", "eu")
		warning.Checks = append(warning.Checks, &api.HealthCheck{CheckID: "disk", Status: api.HealthWarning})
		critical := nodeEntry("g7", "eu")
		critical.Checks = append(critical.Checks, &api.HealthCheck{CheckID: "ttl", Status: api.HealthCritical})
		maintenance := nodeEntry("g8", "eu")
		maintenance.Checks = append(maintenance.Checks,
			&api.HealthCheck{CheckID: api.NodeMaint, Status: api.HealthCritical})
		older, newer := nodeEntry("n6", "eu"), nodeEntry("n6", "eu")
		older.Service.ID, older.Service.Address, older.Service.CreateIndex = "old", "192.0.2.200", 3
		newer.Service.CreateIndex = 4
		f.others["eu"] = []*api.ServiceEntry{
			nodeEntry("n2", "eu"), nil, {}, agentsAddress, noRegion, warning, critical, maintenance, older, newer,
			entry("web", "192.0.2.3", 80, nil),
			with("g1", metaProtocol, "2"), with("g2", metaNode, ""), noAddress, noPort,
			with("g3", metaWeight, "heavy"), with("g4", metaWeight, "NaN"),
			with("g9", metaWeight, "-1"), with("g10", metaWeight, "1e300"),
		}
		r := start(t, f.config(), self)
		pass(time.Second)
		require.Equal(t, []regions.Node{
			self,
			{ID: "n2", Region: "eu", Address: "192.0.2.9:7946"},
			{ID: "n3", Region: "eu", Address: "192.0.2.1:7946"},
			{ID: "n4", Region: "eu", Address: "192.0.2.9:7946"},
			{ID: "n5", Region: "eu", Address: "192.0.2.9:7946"},
			{ID: "n6", Region: "eu", Address: "192.0.2.9:7946"},
		}, r.last().Nodes)
		for i := range 100 {
			f.change(func() { f.others["eu"][0] = with("n2", metaWeight, strconv.Itoa(i%10+1)) })
			pass(time.Second)
		}
		for _, instance := range []string{
			"web", "profile-api-g1", "profile-api-g2", "profile-api-g3", "profile-api-g4", "profile-api-g5",
			"profile-api-g6", "profile-api-g9", "profile-api-g10", "old",
		} {
			logged := r.log.Count("skipping an instance", "datacenter=eu", "instance=machine/"+instance+" ")
			require.Equal(t, 1, logged, "%s: %s", instance, r.log)
		}
		require.Equal(t, 10, r.log.Count("WARN"))
	})
}

func TestANodeInTwoDatacentersCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu", "us")
		f.others["us"] = []*api.ServiceEntry{nodeEntry("n1", "us"), nodeEntry("n2", "us")}
		r := start(t, f.config(), self)
		pass(time.Second)
		require.Equal(t, []string{"n1", "n2"}, ids(r.last()))
		require.Equal(t, self, r.last().Nodes[0])
	})
}
