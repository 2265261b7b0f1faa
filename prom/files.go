package prom

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/geocache/geocache/peertls"
)

var (
	filesLoaded = prometheus.NewDesc("geocache_certificate_files_loaded_total",
		"How often a new certificate, or new authorities, were taken in from files, the first time included.", nil, nil)
	filesFailed = prometheus.NewDesc("geocache_certificate_files_failed_total",
		"How often the files of the certificate could not be read, or were no use. What was read before goes on.", nil, nil)
)

// NewFilesCollector returns a collector of how it goes with the files of a certificate. For how long
// the certificate still is good is told by NewCollector.
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
