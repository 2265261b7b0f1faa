package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/geocache/geocache"
)

// figures is what is measured of some reads. README.md defines the fields.
type figures struct {
	Reads                uint64             `json:"reads"`
	Errors               uint64             `json:"errors"`
	NoSource             uint64             `json:"no_source"`
	HitRatio             float64            `json:"hit_ratio"`
	Shares               map[string]float64 `json:"shares"`
	MaxAgeOverTTL        float64            `json:"max_age_over_ttl"`
	OriginLoads          uint64             `json:"origin_loads"`
	LoadsPerKeyPerExpiry float64            `json:"loads_per_key_per_expiry"`
	FailoverMS           float64            `json:"failover_ms"`
	P50US                float64            `json:"p50_us"`
	P99US                float64            `json:"p99_us"`
}

func figuresOf(c *counts, ttl time.Duration) figures {
	f := figures{
		Reads:                c.reads(),
		Errors:               c.errors,
		NoSource:             c.noSource,
		HitRatio:             c.share(geocache.SourceStore, geocache.SourceOwner),
		Shares:               make(map[string]float64),
		MaxAgeOverTTL:        float64(c.maxAge) / float64(ttl),
		OriginLoads:          c.loads,
		LoadsPerKeyPerExpiry: c.loadsPerKeyPerExpiry(),
		FailoverMS:           float64(c.maxWait) / float64(time.Millisecond),
		P50US:                float64(c.latency.quantile(0.50)) / float64(time.Microsecond),
		P99US:                float64(c.latency.quantile(0.99)) / float64(time.Microsecond),
	}
	for _, source := range sources {
		f.Shares[source.String()] = c.share(source)
	}
	return f
}

// A summary is what -json writes.
type summary struct {
	figures
	Workload string   `json:"workload"` // "zipf" or the trace's name
	Consul   bool     `json:"consul"`
	Rows     int      `json:"rows"`
	TTLMS    float64  `json:"ttl_ms"`
	Seconds  float64  `json:"seconds"`
	Broken   []breach `json:"broken"` // the first breaches of each promise
	writeFigures
	Regions map[string]figures `json:"regions"`
	Scenes  []sceneSummary     `json:"scenes"`
}

// writeFigures is what is measured of writes, and of the reads of accounts.
type writeFigures struct {
	Writes            map[outcome]uint64         `json:"writes"`       // by outcome
	WriteErrors       map[outcome]map[string]int `json:"write_errors"` // those that were not acknowledged, by outcome and error
	SetP50US          float64                    `json:"set_p50_us"`
	SetP99US          float64                    `json:"set_p99_us"`
	WriteVisibleMS    map[string]visibility      `json:"write_visible_ms"` // by "from-to"
	ReadsChecked      uint64                     `json:"reads_checked"`
	ReadsInDoubt      uint64                     `json:"reads_in_doubt"`
	StaleAfterAck     uint64                     `json:"stale_after_ack"`
	ConvergedMS       float64                    `json:"converged_ms_after_heal"`
	LostInvalidations int                        `json:"lost_invalidations"`
	Kills             int64                      `json:"kills"`
}

// visibility is how long writes of one region took to be seen in another.
type visibility struct {
	P50    float64 `json:"p50"`
	P99    float64 `json:"p99"`
	OneWay float64 `json:"one_way"` // as configured
	Writes uint64  `json:"writes"`
}

func (d *demo) writeFigures() writeFigures {
	r := d.ledger.accounts
	w := writeFigures{
		WriteVisibleMS: make(map[string]visibility),
		ConvergedMS:    milliseconds(d.converged),
		Kills:          d.kills.Load(),
	}
	for way, h := range r.visible() {
		w.WriteVisibleMS[way[0]+"-"+way[1]] = visibility{
			P50:    milliseconds(h.quantile(0.5)),
			P99:    milliseconds(h.quantile(0.99)),
			OneWay: milliseconds(d.options.delays[pairOf(way[0], way[1])]),
			Writes: h.count(),
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w.Writes, w.WriteErrors = maps.Clone(r.outcomes), maps.Clone(r.errs)
	w.SetP50US = 1000 * milliseconds(r.latency.quantile(0.5))
	w.SetP99US = 1000 * milliseconds(r.latency.quantile(0.99))
	w.ReadsChecked, w.ReadsInDoubt, w.StaleAfterAck = r.checked, r.inDoubt, r.stale
	w.LostInvalidations = len(r.lost)
	return w
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

type sceneSummary struct {
	figures
	Name    string             `json:"name"`
	Seconds float64            `json:"seconds"`
	Regions map[string]figures `json:"regions"`
}

func (d *demo) summary(scenes []*scene) summary {
	ttl := d.options.ttl
	byRegion := func(scene int) map[string]figures {
		m := make(map[string]figures)
		for _, region := range regionNames {
			m[region] = figuresOf(d.ledger.sum(scene, region), ttl)
		}
		return m
	}
	s := summary{
		figures:  figuresOf(d.ledger.sum(-1, ""), ttl),
		Workload: "zipf",
		Consul:   d.options.consul,
		Rows:     d.options.rows,
		TTLMS:    float64(ttl) / float64(time.Millisecond),
		Seconds:  time.Since(d.screen.began).Seconds(),
		Broken:   d.ledger.broken(),
		Regions:  byRegion(-1),

		writeFigures: d.writeFigures(),
	}
	if d.options.trace != "" {
		s.Workload = filepath.Base(d.options.trace)
	}
	for i, scene := range scenes {
		s.Scenes = append(s.Scenes, sceneSummary{
			figures: figuresOf(d.ledger.sum(i, ""), ttl),
			Name:    scene.name,
			Seconds: scene.took.Seconds(),
			Regions: byRegion(i),
		})
	}
	return s
}

// conclude tells the figures of the whole, writes them, and returns an error if
// a promise was broken.
func (d *demo) conclude(scenes []*scene) error {
	s := d.summary(scenes)
	d.screen.title("Summary")
	d.screen.write(s.text())
	if d.options.json != "" {
		data, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(d.options.json, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	if len(s.Broken) == 0 {
		return nil
	}
	var lines []string
	for _, b := range s.Broken {
		lines = append(lines, fmt.Sprintf("broken in %q, %s: %s: %s", b.Scene, b.Region, b.Promise, b.Detail))
	}
	return fmt.Errorf("%s", strings.Join(lines, "\n"))
}

func (s summary) text() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-34s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("reads", "%d in %.0f s, p50 %.1f µs, p99 %.1f ms", s.Reads, s.Seconds, s.P50US, s.P99US/1000)
	line("errors", "%d; %d more found no source in reach", s.Errors, s.NoSource)
	line("answered in the reader's region", "%.1f%% from a memory", 100*s.HitRatio)
	line("origin loads", "%d, %.3f per key and expiry", s.OriginLoads, s.LoadsPerKeyPerExpiry)
	line("oldest value not marked stale", "%.3f of the TTL", s.MaxAgeOverTTL)
	line("longest wait for a dead node's row", "%.0f ms", s.FailoverMS)
	var writes uint64
	for _, n := range s.Writes {
		writes += n
	}
	line("writes", "%d: %d acknowledged, %d unconfirmed, %d uncertain, %d failed, %d not begun; %d nodes killed meanwhile", writes,
		s.Writes[acked], s.Writes[unconfirmed], s.Writes[uncertain], s.Writes[failed], s.Writes[notBegun], s.Kills)
	for _, o := range slices.Sorted(maps.Keys(s.WriteErrors)) {
		for _, err := range slices.Sorted(maps.Keys(s.WriteErrors[o])) {
			line("  "+string(o), "%d: %s", s.WriteErrors[o][err], err)
		}
	}
	line("Set, until acknowledged", "p50 %.1f ms, p99 %.1f ms", s.SetP50US/1000, s.SetP99US/1000)
	for _, way := range slices.Sorted(maps.Keys(s.WriteVisibleMS)) {
		v := s.WriteVisibleMS[way]
		line("Set until seen, "+way, "p50 %.1f ms, p99 %.1f ms; one way %.0f ms", v.P50, v.P99, v.OneWay)
	}
	line("reads after an acknowledged write", "%d, of which %d stale, %d in doubt", s.ReadsChecked, s.StaleAfterAck, s.ReadsInDoubt)
	line("until all writes were seen", "%.0f ms; %d lost", s.ConvergedMS, s.LostInvalidations)
	if len(s.Broken) == 0 {
		line("promises", "all kept")
	}
	return b.String()
}
