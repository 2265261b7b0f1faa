// Package prom shows Prometheus what a Cache does. It is a module of its own, so that
// the Prometheus client is in the go.mod of those services only that use it.
//
//	prometheus.MustRegister(prom.NewCollector(cache))
//
// What [geocache.Stats] has is there under names that begin with geocache_; what each
// figure means is said where its field is. Requests, errors and latencies are by region and
// not for each peer: a cluster of n nodes would have n² histograms. For that, print
// the Stats of the node in question.
//
// The region that a figure is about is in the label peer_region, since region is what
// many services are labelled with by whoever scrapes them.
//
// Two Caches in one process need a label each to be told apart:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"cache": "a"}, registry).MustRegister(prom.NewCollector(a))
package prom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/geocache/geocache"
)

// NewCollector returns a collector of what the cache has done and knows. It reads
// Stats once for each scrape and does nothing in between. It can go on being
// scraped when the cache is closed. It panics if cache is nil, as each scrape would.
func NewCollector(cache *geocache.Cache) prometheus.Collector {
	if cache == nil {
		panic("prom: the cache is nil")
	}
	return collector{cache.Stats}
}

type collector struct{ stats func() geocache.Stats }

// Describe implements prometheus.Collector.
func (c collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range all {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(metrics chan<- prometheus.Metric) {
	s := c.stats()
	out := output{metrics}
	out.node(s)
	for _, r := range s.Regions {
		out.region(r, r.Name == s.Node.Region)
	}
	for _, p := range s.Peers {
		out.peer(p)
	}
	for name, g := range s.Groups {
		out.group(name, g)
	}
}

// An output is where metrics go. Labels are names, which are UTF-8: whatever has another one is
// refused where it is given, so that no two of them are one here.
type output struct{ metrics chan<- prometheus.Metric }

func (o output) counter(d *prometheus.Desc, n uint64, labels ...string) {
	o.metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (o output) gauge(d *prometheus.Desc, value float64, labels ...string) {
	o.metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func (o output) histogram(d *prometheus.Desc, l geocache.Latency, labels ...string) {
	counts := make(map[float64]uint64, len(bounds))
	for _, bound := range bounds {
		counts[bound.Seconds()] = l.AtMost(bound)
	}
	o.metrics <- prometheus.MustNewConstHistogram(d, l.Count, l.Sum.Seconds(), counts, labels...)
}

// bounds are those of the histograms' buckets, from 64 µs to 16.8 s. At powers of two
// times a microsecond a geocache.Latency is exact.
var bounds = func() (bounds []time.Duration) {
	for k := 6; k <= 24; k++ {
		bounds = append(bounds, time.Microsecond<<k)
	}
	return bounds
}()
