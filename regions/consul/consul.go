package consul

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"time"

	"github.com/geocache/geocache/internal/valid"
	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
)

// A Discovery finds nodes through Consul and registers this process there. It implements
// [regions.Discovery]. Create one with [New]. Its methods are safe for concurrent use.
type Discovery struct {
	service         string
	config          *api.Config // nil for api.DefaultConfig()
	checkTTL        time.Duration
	deregisterAfter time.Duration
	log             *slog.Logger // nil for slog.Default()
	optionErrs      []error      // mistakes in the options
}

var _ regions.Discovery = (*Discovery)(nil)

// New returns a Discovery over the instances of a Consul service that have the tag "geocache". All
// processes of a cluster use the same service name. Clients that look the service up in Consul without
// that tag get the cache's address too, so do not share a service that is registered for another purpose.
//
// New does not contact Consul. [Discovery.Validate] reports mistakes in the arguments.
func New(service string, options ...Option) *Discovery {
	d := &Discovery{
		service:         service,
		checkTTL:        10 * time.Second,
		deregisterAfter: minDeregisterAfter,
	}
	for i, o := range options {
		if o == nil {
			d.optionErrs = append(d.optionErrs, fmt.Errorf("option %d is nil", i))
			continue
		}
		o.apply(d)
	}
	return d
}

// serviceName matches names that need no escaping in a URL or in DNS.
var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// Validate reports every mistake in the arguments of New. Region and Run return the same error.
func (d *Discovery) Validate() error {
	errs := slices.Clone(d.optionErrs)
	if !serviceName.MatchString(d.service) {
		errs = append(errs, fmt.Errorf("service name %q: must be letters, digits, '-', '_' and '.', "+
			"starting and ending with a letter or digit", d.service))
	}
	if _, _, err := d.open(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("consul: bad configuration: %w", err)
	}
	return nil
}

// Region returns the datacenter of the agent. It asks once, and fails if the agent does not answer within 5
// seconds.
func (d *Discovery) Region(ctx context.Context) (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	client, closeIdle, err := d.open()
	if err != nil {
		return "", fmt.Errorf("consul: %w", err)
	}
	defer closeIdle()

	// Agent().Self does not accept a context.
	var self struct{ Config struct{ Datacenter string } }
	err = recovered(func() error { return get(ctx, client, "/v1/agent/self", &self) })
	if err != nil {
		return "", fmt.Errorf("consul: asking the agent for its datacenter: %w", err)
	}
	if err := valid.Name(self.Config.Datacenter); err != nil {
		return "", fmt.Errorf("consul: the agent's datacenter: %w", err)
	}
	return self.Config.Datacenter, nil
}
