package consul

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"

	"github.com/geocache/geocache/regions"
)

// Run implements [regions.Discovery]. It registers self under its address, which other nodes must be able to
// dial.
//
// It returns an error only for a bad configuration or for a self that cannot be registered, and does so
// before it contacts Consul. It logs and retries everything else. An answer that makes this package panic
// counts as a failed request.
//
// It calls healthy from a single goroutine, about four times per TTL of the check. If healthy blocks, the
// check expires.
func (d *Discovery) Run(
	ctx context.Context, self regions.Node, healthy func() error, found func(regions.View),
) error {
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

	views := newAggregator(self.ID)
	announcer := announcer{
		client:       client,
		registration: registration,
		healthy:      healthy,
		interval:     d.checkTTL / 3,
		log:          log.With("node", self.ID, "region", self.Region),
	}
	watcher := watcher{
		client:     client,
		service:    d.service,
		wait:       d.wait(),
		maxBlock:   d.maxBlock(),
		aggregator: views,
		log:        log,
	}

	var wg sync.WaitGroup
	defer wg.Wait() // before closeIdle, so that all connections are idle by then
	wg.Go(func() { announcer.run(ctx) })
	wg.Go(func() { watcher.watchDatacenters(ctx) })
	wg.Go(func() { watcher.pollCoordinates(ctx) })

	var last regions.View
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-views.changed:
			var v regions.View
			err := recovered(func() error { v = views.view(); return nil })
			if err != nil {
				log.Error("Consul's answers cannot be used", "error", err)
			}
			if v.Nodes == nil || reflect.DeepEqual(v, last) {
				continue
			}
			last = v
			found(v)
		}
	}
}
