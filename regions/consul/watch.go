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
	// datacenterInterval is the time between two looks at the list of
	// datacenters, at most. Consul has no blocking query for it.
	datacenterInterval = 10 * time.Second

	// coordinateInterval is the same for the network coordinates, after a
	// start in shorter steps. They are wanted only until round trips have been
	// measured.
	coordinateInterval = time.Minute

	// minQueryGap is the time between two blocking queries for a service that
	// changes all the time.
	minQueryGap = 200 * time.Millisecond

	// idleQuery is how long a blocking query whose answer brings nothing new
	// takes at least if Consul does hold it back as it should.
	idleQuery = time.Second
)

// errFiltered stands for an empty answer to a token that may not see more.
var errFiltered = errors.New("the ACL token may not read the service or its nodes: answer is empty because Consul has filtered it")

// A watcher puts on the board what Consul says about a service.
type watcher struct {
	client   *api.Client
	service  string
	wait     time.Duration
	maxBlock time.Duration
	board    *board
	log      *slog.Logger
}

// watchDatacenters keeps a watch on each datacenter that Consul lists, until
// ctx is cancelled and they have all ended.
func (w *watcher) watchDatacenters(ctx context.Context) {
	var (
		watches = make(map[string]context.CancelFunc)
		wg      sync.WaitGroup
		t       trouble
		retry   backoff
	)
	defer wg.Wait() // they end with ctx
	for ctx.Err() == nil {
		var list []string
		err := guarded(func() (err error) { list, err = w.datacenters(ctx); return err })
		if ctx.Err() != nil {
			return
		}
		t.note(w.log, "listing Consul's datacenters", err)
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
			cancel() // before the removal, see board.set
			w.board.remove(dc)
			delete(watches, dc)
		}
		pause(ctx, jitter(datacenterInterval))
	}
}

func (w *watcher) datacenters(ctx context.Context) ([]string, error) {
	var list []string
	// Catalog().Datacenters takes no context.
	if err := get(ctx, w.client, "/v1/catalog/datacenters", &list); err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(dc string) bool { return dc == "" }) // which would be the agent's own once more
	if len(list) == 0 {
		return nil, errors.New("the agent does not even list its own datacenter")
	}
	return list, nil
}

// watch puts the nodes of one datacenter on the board, by blocking queries,
// until ctx is cancelled.
func (w *watcher) watch(ctx context.Context, datacenter string) {
	var (
		log     = w.log.With("datacenter", datacenter)
		index   uint64 // wait for a change after it; 0 does not wait
		t       trouble
		retry   backoff
		skipped map[string]string
	)
	for ctx.Err() == nil {
		asked := time.Now()
		var list []regions.Node
		var bad map[string]string
		var next uint64
		err := guarded(func() error {
			entries, after, err := w.instances(ctx, datacenter, index)
			list, bad = nodes(datacenter, entries)
			next = after
			return err
		})
		if ctx.Err() != nil {
			return
		}
		t.note(log, "watching a datacenter", err)
		if err != nil {
			// Who answers next may have restarted and count from below
			// index: asked to wait for index, he would wait for long.
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
		w.board.set(ctx, datacenter, list)

		gap := minQueryGap
		switch {
		case next > index:
			index, retry = next, 0
		case next < index:
			// The index counts anew, so ours means nothing any more.
			index = 0
			gap = retry.next()
		case time.Since(asked) < idleQuery:
			// It did not wait although nothing is new. It never does where
			// the index is 0 or a proxy has lost it: then this is a poll.
			gap = retry.next()
		default:
			retry = 0
		}
		pause(ctx, gap)
	}
}

// instances returns all instances in a datacenter once they have changed since
// index, or after w.wait, and the index that they have now.
//
// The query is Consul's default, answered by the leader. A stale one could be
// answered by a server that has just been restarted and has nothing yet: valid,
// and empty.
func (w *watcher) instances(ctx context.Context, datacenter string, index uint64) ([]*api.ServiceEntry, uint64, error) {
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
	return whole(entries), meta.LastIndex, nil
}

// whole returns the entries without those of which a part is missing, and those without checks that are none.
func whole(entries []*api.ServiceEntry) []*api.ServiceEntry {
	entries = slices.DeleteFunc(entries, func(e *api.ServiceEntry) bool {
		return e == nil || e.Service == nil || e.Node == nil
	})
	for _, e := range entries {
		e.Checks = slices.DeleteFunc(e.Checks, func(c *api.HealthCheck) bool { return c == nil })
	}
	return entries
}

// pollCoordinates puts network coordinates on the board until ctx is
// cancelled. They are a help at best: where an agent has them switched off, or
// the token may not read them, there are none.
func (w *watcher) pollCoordinates(ctx context.Context) {
	// Servers that have just met know no coordinates of each other yet.
	for gap := time.Second; ctx.Err() == nil; gap = min(2*gap, coordinateInterval) {
		var c []*api.CoordinateDatacenterMap
		// Coordinate().Datacenters takes no context.
		err := guarded(func() error { return get(ctx, w.client, "/v1/coordinate/datacenters", &c) })
		if err == nil {
			w.board.locate(c)
		} else if ctx.Err() == nil {
			w.log.Debug("Consul gives no network coordinates", "error", err)
		}
		pause(ctx, jitter(gap))
	}
}
