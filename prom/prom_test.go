package prom

import (
	"context"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/latency"
	"github.com/geocache/geocache/regions"
)

// distribution returns the Latency of calls with these durations. Only package geocache can make one with
// buckets, so this function sets its unexported field through unsafe.
func distribution(took ...time.Duration) geocache.Latency {
	var h latency.Histogram
	for _, d := range took {
		h.Record(d)
	}
	d := h.Distribution()
	l := geocache.Latency{Count: d.Count, Sum: d.Sum, P50: d.P50, P99: d.P99, P999: d.P999, Max: d.Max}
	f := reflect.ValueOf(&l).Elem().FieldByName("distribution")
	*(*latency.Distribution)(f.Addr().UnsafePointer()) = d
	return l
}

// stats returns a Stats in which every number is different.
func stats() geocache.Stats {
	return geocache.Stats{
		Node: regions.Node{ID: "eu-1", Region: "eu", Address: "10.0.3.7:7946"},
		Regions: []geocache.RegionStats{
			{Name: "eu", Nodes: 2, Members: 3, Distance: 175 * time.Microsecond, Exchanges: geocache.Exchanges{
				Requests: 12_103, Errors: 2,
				FetchLatency: distribution(64*time.Microsecond, 65*time.Microsecond, 180*time.Microsecond, time.Hour),
				CallLatency:  distribution(210 * time.Microsecond)}},
			{Name: "us", Nodes: 1, Members: 4, Distance: 80 * time.Millisecond, Outbox: geocache.OutboxStats{
				Queued: 101, InFlight: 102, Bytes: 103, Lag: 104 * time.Second, Sent: 105, Resent: 106,
				Coalesced: 107, Lost: 108, DroppedValues: 109, Collapsed: 110, Expired: 111}},
		},
		Peers: []geocache.PeerStats{
			{ID: "eu-2", Region: "eu", Up: true, RTT: 175 * time.Microsecond, InFlight: 120, Connects: 121,
				Traffic: geocache.Traffic{BytesIn: 122, BytesOut: 123}},
			{ID: "us-1", Region: "us"},
		},
		Groups: map[string]geocache.GroupStats{"sessions": {
			Store: 201, Owner: 202, Region: 203, Getter: 204, Stale: 205, NotFound: 206, Errors: 207,
			Loads: 208, LoadErrors: 209, Panics: 210, Abandoned: 211, Refreshes: 237,
			LoadLatency: distribution(12*time.Millisecond, 3*time.Second),
			Writes:      212, WriteErrors: 213, RejectedLoads: 214, UpdateRetries: 215, Repaired: 216,
			SingleHolder: 241, GivenValues: 242,
			OriginWrites: 217, OriginErrors: 218,
			WriteBehind: geocache.WriteBehindStats{
				Queued: 219, QueuedBytes: 220, Held: 221, HeldBytes: 222, Waiting: 223,
				Lag: 224 * time.Second, Coalesced: 225, Refused: 226,
			},
			Served: 227, Unanswered: 228, OwnerFallbacks: 229, DecodeErrors: 230,
			Entries: 1231, Copies: 231, Bytes: 2232, CopyBytes: 232,
			Evicted: 233, Expired: 2331, Removed: 2332, Replaced: 2333, TooLarge: 234,
			MaxBytes: 235, MaxEntries: 2350, Floors: 236,
			EvictQueue: 238, EvictQueueBytes: 239, EvictDropped: 240,
		}},
		Refused:      map[string]uint64{"tls": 3},
		ServesCopies: true, LeaseLosses: 4, LostPushes: 5, Panics: 6,
	}
}

// The metrics have the expected values, and names and help texts follow Prometheus conventions.
func TestMetrics(t *testing.T) {
	c := collector{stats}
	problems, err := testutil.CollectAndLint(c)
	require.NoError(t, err)
	require.Empty(t, problems)
	want, err := os.ReadFile("testdata/metrics.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), text(t, c))
}

// Every field of GroupStats is exported: setting one changes what is scraped.
func TestEveryFieldOfGroupStats(t *testing.T) {
	requireEveryField[geocache.GroupStats](t, "", withGroup)
}

func TestEveryFieldOfWriteBehindStats(t *testing.T) {
	requireEveryField(t, "WriteBehind.", func(b geocache.WriteBehindStats) geocache.Stats {
		return withGroup(geocache.GroupStats{WriteBehind: b})
	})
}

func TestEveryFieldOfOutboxStats(t *testing.T) {
	requireEveryField(t, "Outbox.", func(o geocache.OutboxStats) geocache.Stats {
		return geocache.Stats{Regions: []geocache.RegionStats{{Name: "us", Outbox: o}}}
	})
}

// text returns what a scrape of the collector yields.
func text(t *testing.T, c prometheus.Collector) string {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(c))
	families, err := registry.Gather()
	require.NoError(t, err)
	var b strings.Builder
	for _, f := range families {
		_, err := expfmt.MetricFamilyToText(&b, f)
		require.NoError(t, err)
	}
	return b.String()
}

func withGroup(g geocache.GroupStats) geocache.Stats {
	return geocache.Stats{Groups: map[string]geocache.GroupStats{"g": g}}
}

// requireEveryField fails if setting some field of S does not change what is exported.
func requireEveryField[S any](t *testing.T, prefix string, with func(S) geocache.Stats) {
	exported := func(s S) string { return text(t, collector{func() geocache.Stats { return with(s) }}) }
	var zero S
	none := exported(zero)
	for field, v := range reflect.ValueOf(&zero).Elem().Fields() {
		var s S
		f := reflect.ValueOf(&s).Elem().FieldByIndex(field.Index)
		switch {
		case v.CanUint():
			f.SetUint(12345)
		case v.CanInt():
			f.SetInt(12345)
		case v.Type() == reflect.TypeFor[geocache.Latency]():
			f.Set(reflect.ValueOf(distribution(time.Second)))
		default:
			require.Equal(t, reflect.TypeFor[geocache.WriteBehindStats](), v.Type(), "unknown field type")
			continue
		}
		require.NotEqual(t, none, exported(s), "%s%s is not exported", prefix, field.Name)
	}
}

func TestCollector(t *testing.T) {
	cache, err := geocache.Open(t.Context(), geocache.WithLogger(slog.New(slog.DiscardHandler)))
	require.NoError(t, err)
	defer cache.Close()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(NewCollector(cache)))

	load := geocache.GetterFunc[string](func(_ context.Context, key string) (string, error) { return key, nil })
	g, err := geocache.NewGroup(cache, "odd: \"\n\uFFFD", load) // after Register
	require.NoError(t, err)
	for _, name := range []string{"odd: \"\n\xff", "odd: \"\n\xfe"} { // would be the same label value
		_, err = geocache.NewGroup(cache, name, load)
		require.ErrorContains(t, err, "is not UTF-8")
	}
	for range 3 {
		_, err = g.Get(t.Context(), "ada")
		require.NoError(t, err)
	}
	expected := `
		# HELP geocache_reads_total ` + helpOfReads + `
		# TYPE geocache_reads_total counter
		geocache_reads_total{group="odd: \"\n` + "\uFFFD" + `",result="error"} 0
		geocache_reads_total{group="odd: \"\n` + "\uFFFD" + `",result="getter"} 1
		geocache_reads_total{group="odd: \"\n` + "\uFFFD" + `",result="not_found"} 0
		geocache_reads_total{group="odd: \"\n` + "\uFFFD" + `",result="owner"} 0
		geocache_reads_total{group="odd: \"\n` + "\uFFFD" + `",result="region"} 0
		geocache_reads_total{group="odd: \"\n` + "\uFFFD" + `",result="stale"} 0
		geocache_reads_total{group="odd: \"\n` + "\uFFFD" + `",result="store"} 2
	`
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(expected), "geocache_reads_total"))
	n, err := testutil.GatherAndCount(registry, "geocache_load_duration_seconds")
	require.NoError(t, err)
	require.Equal(t, 1, n)

	require.NoError(t, cache.Close())
	err = testutil.GatherAndCompare(registry, strings.NewReader(expected), "geocache_reads_total")
	require.NoError(t, err, "after Close")
}

// All metrics that the documentation mentions exist.
func TestNamesInTheDocumentation(t *testing.T) {
	page, err := os.ReadFile("../docs/observability.md")
	require.NoError(t, err)
	certificates, _ := files(t)
	exported := text(t, collector{func() geocache.Stats {
		s := stats()
		s.Certificate = time.Now()
		return s
	}}) + text(t, NewFilesCollector(certificates))
	names := regexp.MustCompile(`geocache_\w+\w`).FindAllString(string(page), -1)
	require.Greater(t, len(names), 10)
	for _, name := range names {
		require.Regexp(t, `(?m)^`+name+`[ {]`, exported)
	}
}

func TestNewCollectorPanicsOnNil(t *testing.T) {
	require.PanicsWithValue(t, "prom: cache is nil", func() { NewCollector(nil) })
}
