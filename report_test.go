package geocache_test

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/latency"
	"github.com/geocache/geocache/regions"
)

// latencyOf returns what Stats would say of these many calls of each duration.
func latencyOf(many map[time.Duration]int) geocache.Latency {
	var h latency.Histogram
	for took, n := range many {
		for range n {
			h.Record(took)
		}
	}
	d := h.Distribution()
	return geocache.Latency{Count: d.Count, Sum: d.Sum, P50: d.P50, P99: d.P99, P999: d.P999, Max: d.Max}
}

// fullStats is a Stats with something in every field.
func fullStats() geocache.Stats {
	near := geocache.Exchanges{
		Requests: 12_103, Errors: 2,
		FetchLatency: latencyOf(map[time.Duration]int{180 * time.Microsecond: 980, 14 * time.Millisecond: 19,
			1200 * time.Millisecond: 1}),
		CallLatency: latencyOf(map[time.Duration]int{210 * time.Microsecond: 100}),
	}
	far := geocache.Exchanges{Requests: 40,
		CallLatency: latencyOf(map[time.Duration]int{81 * time.Millisecond: 40})}
	unsent := geocache.OutboxStats{
		Queued: 1200, InFlight: 64, Bytes: 3 << 20, Lag: 2345 * time.Millisecond, Sent: 98_765, Resent: 3,
		Coalesced: 12, Lost: 1, DroppedValues: 4, Collapsed: 2, Expired: 9,
	}
	return geocache.Stats{
		Node: regions.Node{ID: "eu-1", Region: "eu", Address: "10.0.3.7:7946"},
		Regions: []geocache.RegionStats{
			{Name: "eu", Nodes: 2, Members: 2, Distance: 175 * time.Microsecond, Exchanges: near},
			{Name: "us-east", Nodes: 1, Members: 40, Distance: 80123 * time.Microsecond, Exchanges: far, Outbox: unsent},
			{Name: "ap", Members: 1},
		},
		Peers: []geocache.PeerStats{
			{ID: "eu-2", Region: "eu", Up: true, RTT: 175 * time.Microsecond, Exchanges: near},
			{ID: "us-1", Region: "us-east", Up: true, RTT: 80123 * time.Microsecond, Exchanges: far},
			{ID: "ap-1", Region: "ap"},
		},
		Groups: map[string]geocache.GroupStats{
			"sessions": {
				Store: 1_000_000, Owner: 9000, Region: 9, Getter: 1900, Stale: 11, NotFound: 70, Errors: 10,
				Loads: 1902, LoadErrors: 3, Panics: 1, Abandoned: 2,
				LoadLatency: latencyOf(map[time.Duration]int{12 * time.Millisecond: 1880, 90 * time.Millisecond: 18,
					3 * time.Second: 1}),
				Served: 5123, Unanswered: 2, OwnerFallbacks: 1, DecodeErrors: 4,
				Entries: 12_345, Copies: 2345, Bytes: 47_395_635, CopyBytes: 11 << 20, Evicted: 10, Expired: 11,
				Removed: 12, Replaced: 13, TooLarge: 1, MaxBytes: 64 << 20, MaxEntries: 20_000, Floors: 300,
				Writes: 120, WriteErrors: 1, RejectedLoads: 5, UpdateRetries: 2, Repaired: 6, SingleHolder: 9, GivenValues: 17, OriginWrites: 118,
				OriginErrors: 2,
				WriteBehind: geocache.WriteBehindStats{Queued: 3, QueuedBytes: 1234, Held: 7, HeldBytes: 900, Waiting: 1,
					Lag: 20 * time.Millisecond, Coalesced: 4, Refused: 8},
			},
			"idle": {MaxBytes: 1 << 30},
		},
		Refused:      map[string]uint64{"tls": 3, "clock": 1},
		ServesCopies: true, LeaseLosses: 1, LostPushes: 2,
	}
}

func TestReport(t *testing.T) {
	want, err := os.ReadFile("testdata/report.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), fullStats().String())

	s := fullStats()
	s.ServesCopies = false
	require.Equal(t, strings.Replace(string(want), "serving from memory", "not serving from memory: no lease", 1), s.String())
}

// A field that is missing in the report fails here, because changing it does not change the report.
func TestEveryFieldIsReported(t *testing.T) {
	requireEveryFieldReported(t, geocache.GroupStats{}, geocache.GroupStats.String)
	requireEveryFieldReported(t, geocache.WriteBehindStats{}, func(b geocache.WriteBehindStats) string {
		return geocache.GroupStats{WriteBehind: b}.String()
	})
	requireEveryFieldReported(t, geocache.OutboxStats{}, func(o geocache.OutboxStats) string {
		return geocache.Stats{Regions: []geocache.RegionStats{{Name: "us", Outbox: o}}}.String()
	})
	requireEveryFieldReported(t, geocache.Exchanges{}, func(e geocache.Exchanges) string {
		return geocache.Stats{Regions: []geocache.RegionStats{{Exchanges: e}}}.String()
	})
	requireEveryFieldReported(t, geocache.Exchanges{}, func(e geocache.Exchanges) string {
		return geocache.Stats{Peers: []geocache.PeerStats{{Exchanges: e}}}.String()
	})
}

// requireEveryFieldReported fails if there is a field of S that does not change the report.
func requireEveryFieldReported[S any](t *testing.T, zero S, report func(S) string) {
	t.Helper()
	for field, v := range reflect.ValueOf(zero).Fields() {
		var s S
		f := reflect.ValueOf(&s).Elem().FieldByIndex(field.Index)
		switch {
		case v.CanUint():
			f.SetUint(12345)
		case v.CanInt():
			f.SetInt(12345)
		case v.Type() == reflect.TypeFor[geocache.Latency]():
			f.Set(reflect.ValueOf(latencyOf(map[time.Duration]int{time.Second: 1})))
		default:
			require.Equal(t, reflect.TypeFor[geocache.WriteBehindStats](), v.Type(),
				"a type that this test does not know")
			continue
		}
		require.NotEqual(t, report(zero), report(s), "%T.%s is not in the report", zero, field.Name)
	}
}

// A single-node Cache has little to report.
func TestReportOfASingleNode(t *testing.T) {
	cache, err := geocache.Open(t.Context(), silent)
	require.NoError(t, err)
	defer cache.Close()
	require.Equal(t, `node alone in region local
serving from memory  lease losses 0  lost pushes 0  panics 0

region  nodes  members  distance  requests  errors  fetches  p50  p99  max  calls  p50  p99  max
local       1        1         -         0       0        0    -    -    -      0    -    -    -
`, cache.Stats().String())
}

func TestReportUnits(t *testing.T) {
	for _, c := range []struct {
		stats geocache.GroupStats
		want  string
	}{
		{geocache.GroupStats{}, "0 B of 0 B (-)"},
		{geocache.GroupStats{Bytes: 1023, MaxBytes: 1024}, "1023 B of 1 KiB (99.9%)"},
		{geocache.GroupStats{Bytes: 1536, MaxBytes: 5 << 40}, "1.5 KiB of 5 TiB (0.0%)"},
		{geocache.GroupStats{Writes: 999}, "writes   999 "},
		{geocache.GroupStats{Writes: 1000}, "writes   1,000 "},
		{geocache.GroupStats{Writes: 1_234_567_890}, "writes   1,234,567,890 "},
		{geocache.GroupStats{WriteBehind: geocache.WriteBehindStats{Lag: 999}}, "lag 999ns"},
		{geocache.GroupStats{WriteBehind: geocache.WriteBehindStats{Lag: 83456 * time.Millisecond}}, "lag 1m23.5s"},
		{geocache.GroupStats{WriteBehind: geocache.WriteBehindStats{Lag: 26*time.Hour + 7*time.Second}},
			"lag 26h0m0s"},
	} {
		require.Contains(t, c.stats.String(), c.want)
	}
	require.False(t, strings.Contains(geocache.GroupStats{}.String(), "behind"))
	require.Equal(t, fullStats().String(), fmt.Sprint(fullStats()))
}
