package consul_test

import (
	"log/slog"

	"github.com/geocache/geocache/regions"
	"github.com/geocache/geocache/regions/consul"
	"github.com/hashicorp/consul/api"
)

func ExampleNew() {
	// The agent is at CONSUL_HTTP_ADDR, by default localhost:8500. Pass the result to
	// geocache.WithDiscovery.
	var _ regions.Discovery = consul.New("profile-api")
}

func ExampleWithConfig() {
	config := api.DefaultConfig()
	config.Address = "https://10.0.3.1:8501"
	config.TokenFile = "/run/secrets/consul-token"
	config.TLSConfig.CAFile = "/etc/consul/ca.pem"
	discovery := consul.New("profile-api", consul.WithConfig(config))
	if err := discovery.Validate(); err != nil {
		slog.Error("no discovery", "error", err)
	}
}
