package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
	"github.com/stretchr/testify/require"
)

// servers returns the coordinates of a datacenter whose servers lie on a line.
func servers(t *testing.T, datacenter, area string, at ...time.Duration) *api.CoordinateDatacenterMap {
	var entries []string
	for _, d := range at {
		entries = append(entries, fmt.Sprintf(`{"Node":"s","Coord":{"Vec":[%g,0]}}`, d.Seconds()))
	}
	m := &api.CoordinateDatacenterMap{Datacenter: datacenter, AreaID: area}
	require.NoError(t, json.Unmarshal([]byte("["+strings.Join(entries, ",")+"]"), &m.Coordinates))
	return m
}

func TestRoundTrips(t *testing.T) {
	const ms = time.Millisecond
	all := []*api.CoordinateDatacenterMap{
		servers(t, "eu", "wan", 0, 2*ms, 4*ms),
		servers(t, "us", "wan", 81*ms, 82*ms, 300*ms),
		servers(t, "ap", "wan", -150*ms-300*time.Microsecond),
		servers(t, "peer", "other area", 10*ms),
		servers(t, "none", "wan"),
		{Datacenter: "odd", AreaID: "wan", Coordinates: []api.CoordinateEntry{{Node: "s"}}},
	}
	flat := servers(t, "flat", "wan", 0)
	flat.Coordinates[0].Coord.Vec = []float64{1}
	all = append(all, flat)

	want := map[string]time.Duration{"eu": 2 * ms, "us": 81 * ms, "ap": 152 * ms}
	require.Equal(t, want, roundTrips("eu", all))
	require.Empty(t, roundTrips("", all), "the own datacenter is not known yet")
	require.Empty(t, roundTrips("nowhere", all))
	require.Empty(t, roundTrips("eu", nil))
}

func TestDistances(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		f := newFake("eu-1", "eu-2", "us")
		f.coordinates = []*api.CoordinateDatacenterMap{
			servers(t, "eu-1", "wan", 0), servers(t, "eu-2", "wan", 5*ms), servers(t, "us", "wan", 80*ms),
		}
		f.others["eu-1"] = []*api.ServiceEntry{nodeEntry("n2", "north")}
		f.others["eu-2"] = []*api.ServiceEntry{nodeEntry("n3", "south"), nodeEntry("n4", "east")}
		f.others["us"] = []*api.ServiceEntry{nodeEntry("n5", "us"), nodeEntry("n6", "east")}
		r := start(t, f.config(), self)
		pass(time.Second)
		want := map[string]time.Duration{"eu": 0, "north": 0, "south": 5 * ms, "us": 80 * ms, "east": 5 * ms}
		require.Equal(t, want, r.last().Distances)

		// A failed request changes nothing.
		views := len(r.all())
		f.change(func() {
			f.coordinates = nil
		})
		pass(2 * coordinateInterval)
		require.Len(t, r.all(), views)

		f.change(func() {
			f.coordinates = []*api.CoordinateDatacenterMap{
				servers(t, "eu-1", "wan", 0), servers(t, "us", "wan", 90*ms),
			}
		})
		pass(coordinateInterval)
		want = map[string]time.Duration{"eu": 0, "north": 0, "us": 90 * ms, "east": 90 * ms}
		require.Equal(t, want, r.last().Distances)
	})
}

// An answer in flight while its datacenter is removed does not bring the datacenter back.
func TestARemovedDatacenterStaysRemoved(t *testing.T) {
	a := newAggregator("n1")
	ctx, cancel := context.WithCancel(t.Context())
	a.set(t.Context(), "eu", []regions.Node{{ID: "n1"}})
	a.set(ctx, "us", []regions.Node{{ID: "n2"}})
	require.Equal(t, []string{"n1", "n2"}, ids(a.view()))
	cancel()
	a.remove("us")
	a.set(ctx, "us", []regions.Node{{ID: "n2"}})
	require.Equal(t, []string{"n1"}, ids(a.view()))
}
