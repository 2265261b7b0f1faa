package consul

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/consul/api"
)

// An Option changes how a [Discovery] uses Consul.
type Option interface{ apply(*Discovery) }

type option func(*Discovery)

func (o option) apply(d *Discovery) { o(d) }

const (
	minCheckTTL        = time.Second
	minDeregisterAfter = time.Minute // Consul's own
)

// WithConfig sets how the agent is reached: its address, the ACL token, TLS.
// The default is [api.DefaultConfig], which takes these from Consul's usual
// environment variables and else expects the agent at localhost:8500.
//
// The config is copied when Region or Run is called. WaitTime is how long a
// blocking query waits, 1 minute if it is 0. An HttpClient is used as it is,
// and its idle connections are closed at the end.
func WithConfig(config *api.Config) Option {
	return option(func(d *Discovery) {
		if config == nil {
			d.mistakes = append(d.mistakes, errors.New("WithConfig: config is nil"))
		}
		d.config = config
	})
}

// WithCheckTTL sets after how much silence of a process its instance counts as
// failed. The process reports about four times as often. The default is 10
// seconds, the minimum 1.
func WithCheckTTL(ttl time.Duration) Option {
	return option(func(d *Discovery) {
		if ttl < minCheckTTL {
			d.mistakes = append(d.mistakes, fmt.Errorf("WithCheckTTL: %v is below the minimum of %v", ttl, minCheckTTL))
		}
		d.checkTTL = ttl
	})
}

// WithDeregisterAfter sets after how long the agent removes an instance that
// has failed. An agent looks for such instances every 30 seconds. The default
// is 1 minute, which is also the minimum.
func WithDeregisterAfter(after time.Duration) Option {
	return option(func(d *Discovery) {
		if after < minDeregisterAfter {
			d.mistakes = append(d.mistakes, fmt.Errorf("WithDeregisterAfter: %v is below Consul's minimum of %v", after, minDeregisterAfter))
		}
		d.deregisterAfter = after
	})
}

// WithLogger sets where troubles with Consul are logged: once when they begin
// and once when they end, with the attributes service, datacenter, node and
// region where they apply. The default is [slog.Default].
func WithLogger(log *slog.Logger) Option {
	return option(func(d *Discovery) {
		if log == nil {
			d.mistakes = append(d.mistakes, errors.New("WithLogger: logger is nil"))
		}
		d.log = log
	})
}
