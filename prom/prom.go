// Package prom exports the statistics of a Cache to Prometheus. It is a module of its own, so that only
// services that use it depend on the Prometheus client.
//
//	prometheus.MustRegister(prom.NewCollector(cache))
//
// Every metric name begins with geocache_. The metrics are those of [geocache.Stats], whose fields
// document what each one means. Requests, errors and latencies are exported by region and not by peer,
// since a cluster of n nodes would then have n² histograms. To see them by peer, print the Stats of the
// node in question.
//
// The region that a metric is about is in the label peer_region. The label region is left to scrape
// configurations, many of which use it for the region of the service.
//
// To tell two Caches in one process apart, give each a label:
//
//	labels := prometheus.Labels{"cache": "a"}
//	prometheus.WrapRegistererWith(labels, registry).MustRegister(prom.NewCollector(a))
//
// Not promised: that the metrics of one scrape are consistent with each other beyond what [geocache.Stats]
// and [geocache.GroupStats] document.
package prom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/geocache/geocache"
)

// NewCollector returns a collector of the cache's statistics. It calls Stats once per scrape and does
// nothing in between. It can still be scraped after the cache is closed. It panics if cache is nil.
func NewCollector(cache *geocache.Cache) prometheus.Collector {
	if cache == nil {
		panic("prom: cache is nil")
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

// An output sends metrics to a channel. Label values must be UTF-8, or different ones could become equal.
// Names of nodes, regions and groups are: geocache rejects others where they are given.
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

// bounds are the bucket bounds of the histograms, from 64 µs to 16.8 s. They are powers of two times 1 µs,
// where geocache.Latency is exact.
var bounds = func() (bounds []time.Duration) {
	for k := 6; k <= 24; k++ {
		bounds = append(bounds, time.Microsecond<<k)
	}
	return bounds
}()
