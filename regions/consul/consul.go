package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/valid"
	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
)

// requestTimeout bounds every request that is not a blocking query.
const requestTimeout = 5 * time.Second

// A Discovery finds nodes by Consul and announces this process there. It
// implements [regions.Discovery]. Create one with [New].
type Discovery struct {
	service         string
	config          *api.Config // nil for api.DefaultConfig()
	checkTTL        time.Duration
	deregisterAfter time.Duration
	log             *slog.Logger // nil for slog.Default()
	mistakes        []error      // made by the options
}

var _ regions.Discovery = (*Discovery)(nil)

// New returns a Discovery of the instances of a Consul service that are tagged
// "geocache". The processes of one cluster name the same service. Others that
// look it up in Consul without the tag are given the cache's address too, so a
// service that is already registered for other purposes is better not shared.
//
// New does not talk to Consul. Mistakes in the arguments are reported by
// [Discovery.Validate].
func New(service string, options ...Option) *Discovery {
	d := &Discovery{
		service:         service,
		checkTTL:        10 * time.Second,
		deregisterAfter: minDeregisterAfter,
	}
	for i, o := range options {
		if o == nil {
			d.mistakes = append(d.mistakes, fmt.Errorf("option %d is nil", i))
			continue
		}
		o.apply(d)
	}
	return d
}

// serviceName matches the names that need no escaping in a URL or in DNS.
var serviceName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// Validate returns an error that names every mistake in what New was given,
// or nil. Region and Run return the same error.
func (d *Discovery) Validate() error {
	errs := slices.Clone(d.mistakes)
	if !serviceName.MatchString(d.service) {
		errs = append(errs, fmt.Errorf("service name %q: must be letters, digits, '-', '_' and '.' between letters or digits", d.service))
	}
	if _, _, err := d.open(); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("consul: bad configuration: %w", err)
	}
	return nil
}

// open returns a client and the function that closes its connections once
// they are idle.
func (d *Discovery) open() (*api.Client, func(), error) {
	config := api.DefaultConfig()
	if d.config != nil {
		*config = *d.config // NewClient writes to it
	}
	if config.HttpClient == nil && config.Transport != nil {
		config.Transport = config.Transport.Clone() // NewClient writes to it, and it is ours to close
	}
	if config.HttpClient != nil {
		config.HttpClient = new(*config.HttpClient) // it is written to below
	}
	if config.WaitTime < 0 || config.WaitTime > time.Hour {
		return nil, nil, fmt.Errorf("client: a WaitTime of %v, must be from 0 to 1 hour", config.WaitTime)
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, nil, fmt.Errorf("client: %w", err)
	}
	if t := config.HttpClient.Timeout; t > 0 && t < d.maxBlock() {
		return nil, nil, fmt.Errorf("client: HttpClient.Timeout of %v would cut off blocking queries, which take up to %v: raise it or lower WaitTime", t, d.maxBlock())
	}
	unbounded := *config.HttpClient
	config.HttpClient.Transport = bounded{cmp.Or(unbounded.Transport, http.DefaultTransport)}
	return client, unbounded.CloseIdleConnections, nil
}

// wait returns how long Consul may hold back the answer to a blocking query.
// Consul's own default is 5 minutes; one minute finds out sooner that a
// connection is dead and costs an agent next to nothing. It is also how late
// news from a datacenter that failed and came back may be: our agent goes on
// asking it for what we wait for, and lets us wait meanwhile.
func (d *Discovery) wait() time.Duration {
	if d.config != nil && d.config.WaitTime > 0 {
		return d.config.WaitTime
	}
	return time.Minute
}

// maxBlock returns how long a blocking query may take until it counts as
// failed. Consul adds up to a sixteenth of the time to spread the load.
func (d *Discovery) maxBlock() time.Duration {
	return d.wait() + d.wait()/16 + requestTimeout
}

// Region returns the datacenter of the agent. It asks once and returns an
// error if the agent does not answer within 5 seconds.
func (d *Discovery) Region(ctx context.Context) (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	client, closeIdle, err := d.open()
	if err != nil {
		return "", fmt.Errorf("consul: %w", err)
	}
	defer closeIdle()

	// Agent().Self takes no context.
	var self struct{ Config struct{ Datacenter string } }
	err = guarded(func() error { return get(ctx, client, "/v1/agent/self", &self) })
	if err != nil {
		return "", fmt.Errorf("consul: asking the agent for its datacenter: %w", err)
	}
	if err := valid.Name(self.Config.Datacenter); err != nil {
		return "", fmt.Errorf("consul: the agent's datacenter: %w", err)
	}
	return self.Config.Datacenter, nil
}

// Run implements [regions.Discovery]. It registers self under its Address, which must be
// one that others can dial. It returns an error only for a bad
// configuration or a self that cannot be registered, before it has told Consul
// anything. All else it logs and tries again: whatever Consul answers, even if it
// should make this package panic, is no more than an answer that is missing.
//
// It calls healthy from one goroutine about every quarter of the check's TTL.
// A healthy that does not return lets the check expire.
func (d *Discovery) Run(ctx context.Context, self regions.Node, healthy func() error, found func(regions.View)) error {
	if err := d.Validate(); err != nil {
		return err
	}
	registration, err := d.registration(self)
	if err != nil {
		return fmt.Errorf("consul: cannot register node %q: %w", self.ID, err)
	}
	client, closeIdle, err := d.open()
	if err != nil {
		return fmt.Errorf("consul: %w", err)
	}
	defer closeIdle()

	log := d.log
	if log == nil {
		log = slog.Default()
	}
	log = log.With("service", d.service)

	b := newBoard(self.ID)
	a := announcer{
		client:       client,
		registration: registration,
		healthy:      healthy,
		interval:     d.checkTTL / 3,
		log:          log.With("node", self.ID, "region", self.Region),
	}
	w := watcher{
		client:   client,
		service:  d.service,
		wait:     d.wait(),
		maxBlock: d.maxBlock(),
		board:    b,
		log:      log,
	}

	var wg sync.WaitGroup
	defer wg.Wait() // before closeIdle: then every connection is idle
	wg.Go(func() { a.run(ctx) })
	wg.Go(func() { w.watchDatacenters(ctx) })
	wg.Go(func() { w.pollCoordinates(ctx) })

	var last regions.View
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.changed:
			var v regions.View
			err := guarded(func() error { v = b.view(); return nil })
			if err != nil {
				log.Error("what Consul has answered cannot be used", "error", err)
			}
			if v.Nodes == nil || reflect.DeepEqual(v, last) {
				continue
			}
			last = v
			found(v)
		}
	}
}

// get sends a request for which the api has no method that takes a context.
func get(ctx context.Context, client *api.Client, endpoint string, out any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := client.Raw().Query(endpoint, out, new(api.QueryOptions).WithContext(ctx))
	return err
}
