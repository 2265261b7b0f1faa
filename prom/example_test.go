package prom_test

import (
	"context"
	"log"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/prom"
)

func ExampleNewCollector() {
	cache, err := geocache.Open(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	defer cache.Close()

	registry := prometheus.NewRegistry()
	registry.MustRegister(prom.NewCollector(cache))
	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
}
