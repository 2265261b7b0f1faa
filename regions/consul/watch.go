package consul

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
)

const (
	// datacenterInterval is the maximum time between requests for the list of datacenters. Consul has no
	// blocking query for it.
	datacenterInterval = 10 * time.Second

	// coordinateInterval is the maximum time between requests for the network coordinates, which come more
	// often at first. Coordinates are used only until round trips have been measured.
	coordinateInterval = time.Minute

	// minQueryGap is the minimum time between blocking queries for a service that keeps changing.
	minQueryGap = 200 * time.Millisecond

	// idleQuery is how long a blocking query without news takes at least if Consul holds it as it should.
	idleQuery = time.Second
)

// errFiltered reports an empty answer that would have had entries for a token with more permissions.
var errFiltered = errors.New("the ACL token may not read the service or its nodes: " +
	"Consul has filtered the answer, leaving nothing")

// A watcher passes on what Consul says about a service to an aggregator.
type watcher struct {
	client     *api.Client
	service    string
	wait       time.Duration
	maxBlock   time.Duration
	aggregator *aggregator
	log        *slog.Logger
}

// watchDatacenters watches each datacenter that Consul lists. It returns once ctx is cancelled and all
// watches have ended.
func (w *watcher) watchDatacenters(ctx context.Context) {
	var (
		watches  = make(map[string]context.CancelFunc)
		wg       sync.WaitGroup
		failures failureLog
		retry    backoff
	)
	defer wg.Wait() // the watches end with ctx
	for ctx.Err() == nil {
		var list []string
		err := recovered(func() (err error) { list, err = w.datacenters(ctx); return err })
		if ctx.Err() != nil {
			return
		}
		failures.record(w.log, "listing Consul's datacenters", err)
		if err != nil {
			pause(ctx, retry.next())
			continue
		}
		retry = 0

		for _, dc := range list {
			if watches[dc] != nil {
				continue
			}
			w.log.Info("watching a datacenter", "datacenter", dc)
			watch, cancel := context.WithCancel(ctx)
			watches[dc] = cancel
			wg.Go(func() { w.watch(watch, dc) })
		}
		for dc, cancel := range watches {
			if slices.Contains(list, dc) {
				continue
			}
			w.log.Info("a datacenter has left Consul", "datacenter", dc)
			cancel() // before remove, see aggregator.set
			w.aggregator.remove(dc)
			delete(watches, dc)
		}
		pause(ctx, jitter(datacenterInterval))
	}
}

func (w *watcher) datacenters(ctx context.Context) ([]string, error) {
	var list []string
	// Catalog().Datacenters does not accept a context.
	if err := get(ctx, w.client, "/v1/catalog/datacenters", &list); err != nil {
		return nil, err
	}
	// An empty name would stand for the agent's own datacenter, which is listed by name too.
	list = slices.DeleteFunc(list, func(dc string) bool { return dc == "" })
	if len(list) == 0 {
		return nil, errors.New("the agent does not even list its own datacenter")
	}
	return list, nil
}

// watch reports the nodes of one datacenter to the aggregator, using blocking queries, until ctx is
// cancelled.
func (w *watcher) watch(ctx context.Context, datacenter string) {
	var (
		log      = w.log.With("datacenter", datacenter)
		index    uint64 // the last one seen, which the next query waits to be exceeded; 0 does not wait
		failures failureLog
		retry    backoff
		skipped  map[string]string
	)
	for ctx.Err() == nil {
		asked := time.Now()
		var list []regions.Node
		var bad map[string]string
		var next uint64
		err := recovered(func() error {
			entries, after, err := w.instances(ctx, datacenter, index)
			list, bad = nodes(datacenter, entries)
			next = after
			return err
		})
		if ctx.Err() != nil {
			return
		}
		failures.record(log, "watching a datacenter", err)
		if err != nil {
			// The server that answers next may have restarted and count from a lower index. Waiting for
			// the old one could take very long.
			index = 0
			pause(ctx, retry.next())
			continue
		}

		for instance, why := range bad {
			if skipped[instance] != why {
				log.Warn("skipping an instance", "instance", instance, "reason", why)
			}
		}
		skipped = bad
		w.aggregator.set(ctx, datacenter, list)

		gap := minQueryGap
		switch {
		case next > index:
			index, retry = next, 0
		case next < index:
			// The index was reset, so the old one is meaningless.
			index = 0
			gap = retry.next()
		case time.Since(asked) < idleQuery:
			// The query did not wait although nothing is new. That is normal where the index is 0 or a
			// proxy drops it: then this is polling.
			gap = retry.next()
		default:
			retry = 0
		}
		pause(ctx, gap)
	}
}

// instances returns all instances in a datacenter and their current index, as soon as they have changed
// since index or w.wait is over.
//
// The query uses Consul's default consistency, so the leader answers. A stale query could reach a server
// that has just restarted and has no data yet; its answer would be valid and empty.
func (w *watcher) instances(
	ctx context.Context, datacenter string, index uint64,
) ([]*api.ServiceEntry, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, w.maxBlock)
	defer cancel()
	query := &api.QueryOptions{Datacenter: datacenter, WaitIndex: index, WaitTime: w.wait}
	entries, meta, err := w.client.Health().Service(w.service, tag, false, query.WithContext(ctx))
	if err != nil {
		return nil, 0, err
	}
	if len(entries) == 0 && meta.ResultsFilteredByACLs {
		return nil, 0, errFiltered
	}
	return complete(entries), meta.LastIndex, nil
}

// complete returns the entries that have both a node and a service. It also drops nil checks.
func complete(entries []*api.ServiceEntry) []*api.ServiceEntry {
	entries = slices.DeleteFunc(entries, func(e *api.ServiceEntry) bool {
		return e == nil || e.Service == nil || e.Node == nil
	})
	for _, e := range entries {
		e.Checks = slices.DeleteFunc(e.Checks, func(c *api.HealthCheck) bool { return c == nil })
	}
	return entries
}

// pollCoordinates passes network coordinates to the aggregator until ctx is cancelled. They are optional:
// there are none if the agent has them disabled or the token may not read them.
func (w *watcher) pollCoordinates(ctx context.Context) {
	// Servers that have just met do not have each other's coordinates yet, hence the short first gaps.
	for gap := time.Second; ctx.Err() == nil; gap = min(2*gap, coordinateInterval) {
		var c []*api.CoordinateDatacenterMap
		// Coordinate().Datacenters does not accept a context.
		err := recovered(func() error { return get(ctx, w.client, "/v1/coordinate/datacenters", &c) })
		if err == nil {
			w.aggregator.locate(c)
		} else if ctx.Err() == nil {
			w.log.Debug("no network coordinates from Consul", "error", err)
		}
		pause(ctx, jitter(gap))
	}
}
