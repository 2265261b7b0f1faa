package consul

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/regions"
	"github.com/hashicorp/consul/api"
)

// An aggregator holds the last valid answer of each datacenter and merges these into one view. A datacenter
// that stops answering keeps its last answer.
type aggregator struct {
	self string // ID of this node

	// changed holds a signal if anything was written since the last receive. The receiver reads the current
	// state, so a burst of answers makes one view.
	changed chan struct{}

	mu          sync.Mutex // guards the fields below
	lists       map[string][]regions.Node
	coordinates []*api.CoordinateDatacenterMap
	home        string // the datacenter in which self was last seen, or ""
}

func newAggregator(self string) *aggregator {
	return &aggregator{
		self:    self,
		changed: make(chan struct{}, 1),
		lists:   make(map[string][]regions.Node),
	}
}

func (a *aggregator) signal() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// set replaces the nodes of a datacenter, unless ctx is done.
//
// Invariant: before removing a datacenter, the caller cancels ctx. So the datacenter stays removed whichever
// of set and remove takes the lock first.
func (a *aggregator) set(ctx context.Context, datacenter string, nodes []regions.Node) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	a.lists[datacenter] = nodes
	if slices.ContainsFunc(nodes, func(n regions.Node) bool { return n.ID == a.self }) {
		a.home = datacenter
	}
	a.signal()
}

// remove deletes a datacenter.
func (a *aggregator) remove(datacenter string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.lists, datacenter)
	a.signal()
}

// locate replaces the network coordinates of the datacenters' servers.
func (a *aggregator) locate(c []*api.CoordinateDatacenterMap) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.coordinates = c
	a.signal()
}

// view returns the nodes of all datacenters. Its Nodes are nil until a datacenter has answered.
func (a *aggregator) view() regions.View {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.lists) == 0 {
		return regions.View{}
	}
	v := regions.View{Nodes: []regions.Node{}}
	far := roundTrips(a.home, a.coordinates)
	taken := make(map[string]bool)
	for _, dc := range slices.Sorted(maps.Keys(a.lists)) {
		for _, n := range a.lists[dc] {
			if taken[n.ID] {
				continue // also listed in another datacenter: count it once
			}
			taken[n.ID] = true
			v.Nodes = append(v.Nodes, n)

			// A region may span datacenters; its distance is that of the nearest one.
			d, known := far[dc]
			if before, ok := v.Distances[n.Region]; known && (!ok || d < before) {
				if v.Distances == nil {
					v.Distances = make(map[string]time.Duration)
				}
				v.Distances[n.Region] = d
			}
		}
	}
	return v
}

// roundTrips estimates the round-trip time from datacenter home to each datacenter, by name. Like Consul
// itself, it takes the median over pairs of their servers, since only servers have coordinates that are
// comparable across datacenters. Datacenters without comparable coordinates are left out. The result is
// rounded to milliseconds, so that not every fluctuation counts as a change.
func roundTrips(home string, all []*api.CoordinateDatacenterMap) map[string]time.Duration {
	pairs := make(map[string][]time.Duration)
	for _, from := range all {
		if from == nil || from.Datacenter != home {
			continue
		}
		for _, to := range all {
			if to == nil || to.AreaID != from.AreaID {
				continue
			}
			for _, a := range from.Coordinates {
				for _, b := range to.Coordinates {
					if d, ok := distance(a, b); ok {
						pairs[to.Datacenter] = append(pairs[to.Datacenter], d)
					}
				}
			}
		}
	}
	medians := make(map[string]time.Duration, len(pairs))
	for dc, d := range pairs {
		slices.Sort(d)
		medians[dc] = d[len(d)/2].Round(time.Millisecond)
	}
	return medians
}

// distance returns the round-trip time between two servers. ok is false if their coordinates do not give
// one.
func distance(a, b api.CoordinateEntry) (d time.Duration, ok bool) {
	if a.Coord == nil || b.Coord == nil || !a.Coord.IsValid() || !b.Coord.IsValid() ||
		!a.Coord.IsCompatibleWith(b.Coord) {
		return 0, false
	}
	d = a.Coord.DistanceTo(b.Coord)
	return d, d >= 0 && d < time.Hour // anything else overflowed or is no measurement
}
