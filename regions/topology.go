package regions

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
)

// A Topology is the cluster as one node sees it at one moment. It is immutable and safe for concurrent use.
type Topology struct {
	// Self is the node that sees the cluster this way.
	Self Node
	// Guest reports whether Self is a guest of its region, that is, owns nothing there.
	Guest bool
	// Home is the region of Self. It always has a node. Self is among them, unless it is a guest and the
	// region has other nodes.
	Home *Region
	// Remote are the other regions in which a watched node answers, nearest first. See Members.Watched.
	Remote []*Region
	// Changed is when the ring of Home last changed.
	Changed expiry.Instant
}

// A Region is one region of a Topology. It has at least one node.
type Region struct {
	Name string
	// Nodes are the nodes that answer, by ascending ID; in another region than Self's, those that are watched.
	Nodes []Node
	// Distance is the round-trip time from Self to the nearest of these nodes if one was measured, else the
	// discovery's estimate, else 0. It is always 0 for the home region.
	Distance time.Duration

	ring *consistenthash.Ring
	byID map[string]Node
}

// Owner returns the node that owns key in this region: in another one than Self's, the node to ask for it.
func (r *Region) Owner(key string) Node {
	id, _ := r.ring.Owner(key) // a Topology has no region without nodes
	return r.byID[id]
}

// Owners returns the first n nodes for key in ring order, or all of them if there are fewer: the owner, then
// the node that would own the key if the owner were gone, and so on.
func (r *Region) Owners(key string, n int) []Node {
	ids := r.ring.Owners(key, n)
	nodes := make([]Node, len(ids))
	for i, id := range ids {
		nodes[i] = r.byID[id]
	}
	return nodes
}

// Ring returns a hash of everything that determines ownership. Nodes with the same hash agree on the Owners
// of every key.
func (r *Region) Ring() uint64 { return r.ring.Fingerprint() }

// Regions returns all regions: Home, then Remote.
func (t *Topology) Regions() []*Region { return append([]*Region{t.Home}, t.Remote...) }

// Region returns the named region, or nil if it has no node that answers.
func (t *Topology) Region(name string) *Region {
	for _, r := range t.Regions() {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// build publishes a new Topology of the nodes that are up, by region, if it differs from the current one.
// Only the goroutine that set m.building may call it.
func (m *Members) build(
	now expiry.Instant, guest bool, up map[string][]member, estimates map[string]time.Duration,
) error {
	old := m.topology.Load()
	next := &Topology{Self: m.self, Guest: guest, Home: old.Home, Changed: old.Changed}
	var errs []error
	for name, members := range up {
		r, err := m.region(name, members, estimates[name], old.Region(name))
		if err != nil {
			errs = append(errs, fmt.Errorf("regions: %s: %w", name, err))
		}
		switch {
		case r == nil:
		case name == m.self.Region:
			next.Home = r
		default:
			next.Remote = append(next.Remote, r)
		}
	}
	slices.SortFunc(next.Remote, func(a, b *Region) int {
		return cmp.Or(compareDistance(a.Distance, b.Distance), strings.Compare(a.Name, b.Name))
	})
	if next.Home.ring != old.Home.ring {
		next.Changed = now
	}
	if next.Home != old.Home || next.Guest != old.Guest || !slices.Equal(next.Remote, old.Remote) {
		m.topology.Store(next)
	}
	return errors.Join(errs...)
}

// region returns the region made of the given members. It returns old if nothing has changed or if the ring
// cannot be built, and reuses old's ring if it can: building a ring is by far the most expensive part.
func (m *Members) region(
	name string, members []member, estimate time.Duration, old *Region,
) (*Region, error) {
	r := &Region{Name: name, Nodes: make([]Node, 0, len(members)), byID: make(map[string]Node, len(members))}
	ringMembers := make([]consistenthash.Member, 0, len(members))
	for _, mb := range members {
		r.Nodes = append(r.Nodes, mb.Node)
		r.byID[mb.ID] = mb.Node
		ringMembers = append(ringMembers, consistenthash.Member{ID: mb.ID, Weight: mb.Weight})
		if mb.RTT > 0 && (r.Distance == 0 || mb.RTT < r.Distance) && name != m.self.Region {
			r.Distance = mb.RTT
		}
	}
	slices.SortFunc(r.Nodes, byID)
	if r.Distance == 0 && name != m.self.Region {
		r.Distance = max(estimate, 0)
	}
	if old != nil && slices.Equal(r.Nodes, old.Nodes) && near(r.Distance, old.Distance) {
		return old, nil
	}
	if old != nil && slices.EqualFunc(r.Nodes, old.Nodes, sameRingMember) {
		r.ring = old.ring
		return r, nil
	}
	var err error
	if r.ring, err = consistenthash.New(m.seed, ringMembers...); err != nil {
		return old, err
	}
	return r, nil
}

// sameRingMember reports whether two nodes occupy the same points of a ring.
func sameRingMember(a, b Node) bool { return a.ID == b.ID && a.Weight == b.Weight }

// compareDistance orders distances, unknown ones last.
func compareDistance(a, b time.Duration) int {
	if (a == 0) != (b == 0) {
		return cmp.Compare(b, a)
	}
	return cmp.Compare(a, b)
}

// near reports whether two distances are within a tenth of each other. Smaller changes are ignored, so that
// jitter in round trips does not replace the snapshot every second.
func near(a, b time.Duration) bool {
	if a == 0 || b == 0 {
		return a == b
	}
	return (a - b).Abs() <= max(a, b)/10
}
