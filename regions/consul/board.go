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

// A board holds the last good answer of each datacenter. What no longer
// answers stays as it was.
type board struct {
	self string // node ID

	// changed holds one signal if the board was written to since it was last
	// drained. The reader takes the state there is then, so a burst of answers
	// makes one view.
	changed chan struct{}

	mu          sync.Mutex // guards the following
	lists       map[string][]regions.Node
	coordinates []*api.CoordinateDatacenterMap
	home        string // the datacenter in which self was last seen, or ""
}

func newBoard(self string) *board {
	return &board{
		self:    self,
		changed: make(chan struct{}, 1),
		lists:   make(map[string][]regions.Node),
	}
}

func (b *board) signal() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// set replaces the nodes of a datacenter, unless ctx is done.
//
// Invariant: who removes a datacenter cancels ctx first. Whichever of set and
// remove then takes the lock first, the datacenter is gone in the end.
func (b *board) set(ctx context.Context, datacenter string, nodes []regions.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	b.lists[datacenter] = nodes
	if slices.ContainsFunc(nodes, func(n regions.Node) bool { return n.ID == b.self }) {
		b.home = datacenter
	}
	b.signal()
}

// remove forgets a datacenter.
func (b *board) remove(datacenter string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.lists, datacenter)
	b.signal()
}

// locate replaces the coordinates of the datacenters' servers.
func (b *board) locate(c []*api.CoordinateDatacenterMap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.coordinates = c
	b.signal()
}

// view returns everything on the board. Its Nodes are nil while no datacenter
// has answered.
func (b *board) view() regions.View {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lists) == 0 {
		return regions.View{}
	}
	v := regions.View{Nodes: []regions.Node{}}
	far := roundTrips(b.home, b.coordinates)
	taken := make(map[string]bool)
	for _, dc := range slices.Sorted(maps.Keys(b.lists)) {
		for _, n := range b.lists[dc] {
			if taken[n.ID] {
				continue // seen in another datacenter too: take it for one node
			}
			taken[n.ID] = true
			v.Nodes = append(v.Nodes, n)

			// A region may span datacenters: it is as far as the nearest.
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

// roundTrips estimates the round trip from datacenter home to each, by name:
// the median between their servers, as Consul itself reckons. (Only servers
// have coordinates that compare across datacenters.) It leaves out those
// without comparable coordinates, and rounds to milliseconds so that not every
// quiver of the estimate is a change.
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

// distance returns the round trip between two servers, if their coordinates tell one.
func distance(a, b api.CoordinateEntry) (d time.Duration, ok bool) {
	if a.Coord == nil || b.Coord == nil || !a.Coord.IsValid() || !b.Coord.IsValid() || !a.Coord.IsCompatibleWith(b.Coord) {
		return 0, false
	}
	d = a.Coord.DistanceTo(b.Coord)
	return d, d >= 0 && d < time.Hour // else numbers that a Duration does not hold, or that nobody has measured
}
