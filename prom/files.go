package prom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/geocache/geocache/peertls"
)

var (
	filesLoaded = prometheus.NewDesc("geocache_certificate_files_loaded_total",
		"Times that a new certificate or new CAs were loaded from files, including the first time.", nil, nil)
	filesFailed = prometheus.NewDesc("geocache_certificate_files_failed_total",
		"Times that the certificate files could not be read or were invalid. The last valid ones stay in use.",
		nil, nil)
)

// NewFilesCollector returns a collector that counts how often certificate files were loaded and how often
// that failed. NewCollector reports when the certificate expires. It must not be given nil.
func NewFilesCollector(files *peertls.Files) prometheus.Collector { return filesCollector{files} }

type filesCollector struct{ files *peertls.Files }

// Describe implements prometheus.Collector.
func (c filesCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- filesLoaded
	descs <- filesFailed
}

// Collect implements prometheus.Collector.
func (c filesCollector) Collect(metrics chan<- prometheus.Metric) {
	s, out := c.files.Stats(), output{metrics}
	out.counter(filesLoaded, s.Loaded)
	out.counter(filesFailed, s.Failed)
}
