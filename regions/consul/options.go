package consul

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/consul/api"
)

// An Option configures a [Discovery].
type Option interface{ apply(*Discovery) }

type option func(*Discovery)

func (o option) apply(d *Discovery) { o(d) }

const (
	minCheckTTL        = time.Second
	minDeregisterAfter = time.Minute // Consul's own minimum
)

// WithConfig sets how to reach the agent: address, ACL token and TLS. The default is [api.DefaultConfig],
// which reads Consul's usual environment variables and otherwise expects the agent at localhost:8500.
//
// The config is copied when Region or Run is called. WaitTime is how long a blocking query waits, up to 1
// hour; 0 means 1 minute. An HttpClient is used as it is, and its idle connections are closed when Region
// or Run returns.
func WithConfig(config *api.Config) Option {
	return option(func(d *Discovery) {
		if config == nil {
			d.optionErrs = append(d.optionErrs, errors.New("WithConfig: config is nil"))
		}
		d.config = config
	})
}

// WithCheckTTL sets how long a process may be silent before its instance counts as failed. The process
// reports about four times per TTL. Default 10 s, minimum 1 s.
func WithCheckTTL(ttl time.Duration) Option {
	return option(func(d *Discovery) {
		if ttl < minCheckTTL {
			d.optionErrs = append(d.optionErrs, fmt.Errorf(
				"WithCheckTTL: %v is below the minimum of %v", ttl, minCheckTTL))
		}
		d.checkTTL = ttl
	})
}

// WithDeregisterAfter sets how long after an instance has failed the agent removes it. Agents look for such
// instances every 30 seconds. Default and minimum 1 minute.
func WithDeregisterAfter(after time.Duration) Option {
	return option(func(d *Discovery) {
		if after < minDeregisterAfter {
			d.optionErrs = append(d.optionErrs, fmt.Errorf(
				"WithDeregisterAfter: %v is below Consul's minimum of %v", after, minDeregisterAfter))
		}
		d.deregisterAfter = after
	})
}

// WithLogger sets the logger for failures of Consul. Each is logged once when it starts and once when it
// ends, with the attributes service, datacenter, node and region where they apply. Default [slog.Default].
func WithLogger(log *slog.Logger) Option {
	return option(func(d *Discovery) {
		if log == nil {
			d.optionErrs = append(d.optionErrs, errors.New("WithLogger: logger is nil"))
		}
		d.log = log
	})
}
