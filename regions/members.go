package regions

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
)

// oblivion is how long a node that neither answers nor is listed is still
// tried when the discovery has nothing to say about its region at all. It
// outlasts any outage of a discovery that somebody attends to.
const oblivion = 24 * time.Hour

// Members decides which nodes are members of the cluster and keeps the
// Topology that follows. It is a state machine without I/O or clock: it is told
// what was found, who answers and what time it is. Its methods are safe for
// concurrent use.
//
// A node is a member from the moment it is found. It is in the Topology while
// it also answers. It ceases to be a member
//
//   - when the discovery no longer lists it and it does not answer, or
//   - when it does answer, but has not been listed for the grace period,
//
// and in both cases only if the discovery is to be believed about the node's
// region: it lists at least one node there, and for the home region it lists
// this very node. A discovery that lost its memory cannot know that we are
// here, and its silence about the others means as little.
type Members struct {
	self  Node
	seed  uint64
	grace time.Duration

	mu        sync.Mutex // guards the following
	nodes     map[string]*member
	believed  map[string]bool // by region: the last view may remove its nodes
	estimates map[string]time.Duration

	// topology is replaced under mu and read without it.
	topology atomic.Pointer[Topology]
}

type member struct {
	Node
	up       bool
	rtt      time.Duration // 0 until measured
	listed   bool
	unlisted expiry.Instant // since when, if !listed
}

// NewMembers returns the Members of a cluster in which self is alone so far.
// The seed goes into the rings and must be the same on all nodes. A node that
// is no longer listed but still answers is kept for grace. The error says what
// is wrong with self.
func NewMembers(self Node, seed uint64, grace time.Duration, now expiry.Instant) (*Members, error) {
	m := &Members{
		self:     self,
		seed:     seed,
		grace:    grace,
		nodes:    map[string]*member{self.ID: {Node: self, up: true, listed: true}},
		believed: map[string]bool{},
	}
	// The others were refused on arrival if their ring would not build, so
	// only this one can fail.
	if _, err := consistenthash.New(seed, ringMember(self)); err != nil {
		return nil, err
	}
	m.rebuildLocked(now)
	return m, nil
}

// Topology returns the present snapshot. It takes no lock.
func (m *Members) Topology() *Topology { return m.topology.Load() }

// Nodes returns all members but this node, whether they answer or not, by
// ascending ID.
func (m *Members) Nodes() []Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	var nodes []Node
	for id, mb := range m.nodes {
		if id != m.self.ID {
			nodes = append(nodes, mb.Node)
		}
	}
	slices.SortFunc(nodes, byID)
	return nodes
}

// A Change tells what a step did to the members.
type Change struct {
	Joined  []Node // new members
	Moved   []Node // members found at another address or in another region
	Left    []Node // no longer members
	Refused []Node // found, but unusable: no ID or address, or a weight out of range
}

// Found takes in what the discovery reports.
func (m *Members) Found(now expiry.Instant, v View) Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	var change Change
	m.estimates = maps.Clone(v.Distances)

	listed := make(map[string]bool, len(v.Nodes))
	believed := map[string]bool{}
	for _, n := range v.Nodes {
		if n.ID == m.self.ID {
			listed[n.ID] = true
			continue
		}
		if !usable(n) {
			change.Refused = append(change.Refused, n)
			continue
		}
		listed[n.ID] = true
		believed[n.Region] = true
		mb := m.nodes[n.ID]
		if mb == nil {
			mb = &member{}
			m.nodes[n.ID] = mb
			change.Joined = append(change.Joined, n)
		} else if mb.Region != n.Region || mb.Address != n.Address {
			mb.up = false // it has to answer there first
			change.Moved = append(change.Moved, n)
		}
		mb.Node, mb.listed = n, true
	}
	believed[m.self.Region] = listed[m.self.ID]
	m.believed = believed

	for id, mb := range m.nodes {
		if mb.listed && !listed[id] && id != m.self.ID {
			mb.listed, mb.unlisted = false, now
		}
	}
	change.Left = m.pruneLocked(now)
	m.rebuildLocked(now)
	return change
}

// Health takes in whether a node answers.
func (m *Members) Health(now expiry.Instant, id string, up bool) Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	mb := m.nodes[id]
	if mb == nil || mb.up == up || id == m.self.ID {
		return Change{}
	}
	mb.up = up
	change := Change{Left: m.pruneLocked(now)}
	m.rebuildLocked(now)
	return change
}

// Tick lets time pass: grace periods end, and round trips are read anew from
// rtt, which reports false for a node not measured yet. Call it about once a
// second.
func (m *Members) Tick(now expiry.Instant, rtt func(id string) (time.Duration, bool)) Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, mb := range m.nodes {
		if d, ok := rtt(id); ok {
			mb.rtt = d
		}
	}
	change := Change{Left: m.pruneLocked(now)}
	m.rebuildLocked(now)
	return change
}

// pruneLocked removes the nodes that are members no longer.
func (m *Members) pruneLocked(now expiry.Instant) (left []Node) {
	for id, mb := range m.nodes {
		if mb.listed || id == m.self.ID {
			continue
		}
		missing := now.Sub(mb.unlisted)
		gone := !mb.up && missing >= oblivion
		if m.believed[mb.Region] {
			gone = !mb.up || missing >= m.grace
		}
		if gone {
			delete(m.nodes, id)
			left = append(left, mb.Node)
		}
	}
	slices.SortFunc(left, byID)
	return left
}

// rebuildLocked publishes a new Topology if anything in it changed. Rings are
// taken over from the present one where their nodes are the same: building one
// is by far the most expensive part.
func (m *Members) rebuildLocked(now expiry.Instant) {
	old := m.topology.Load()
	if old == nil {
		old = &Topology{Home: &Region{Name: m.self.Region}}
	}
	up := map[string][]*member{}
	for _, mb := range m.nodes {
		if mb.up {
			up[mb.Region] = append(up[mb.Region], mb)
		}
	}
	next := &Topology{Self: m.self, Changed: old.Changed}
	for name, members := range up {
		r := m.region(name, members, old.Region(name))
		if name == m.self.Region {
			next.Home = r
		} else {
			next.Remote = append(next.Remote, r)
		}
	}
	slices.SortFunc(next.Remote, func(a, b *Region) int {
		return cmp.Or(compareDistance(a.Distance, b.Distance), strings.Compare(a.Name, b.Name))
	})
	if next.Home.ring != old.Home.ring {
		next.Changed = now
	}
	if next.Home != old.Home || !slices.Equal(next.Remote, old.Remote) {
		m.topology.Store(next)
	}
}

// region returns old if the members make no difference to it.
func (m *Members) region(name string, members []*member, old *Region) *Region {
	r := &Region{Name: name, Nodes: make([]Node, 0, len(members))}
	for _, mb := range members {
		r.Nodes = append(r.Nodes, mb.Node)
		if mb.rtt > 0 && (r.Distance == 0 || mb.rtt < r.Distance) {
			r.Distance = mb.rtt
		}
	}
	slices.SortFunc(r.Nodes, byID)
	if r.Distance == 0 && name != m.self.Region {
		r.Distance = m.estimates[name]
	}
	if old != nil && slices.Equal(r.Nodes, old.Nodes) {
		if near(r.Distance, old.Distance) {
			return old
		}
		r.ring, r.byID = old.ring, old.byID
		return r
	}
	r.byID = make(map[string]Node, len(r.Nodes))
	ringMembers := make([]consistenthash.Member, len(r.Nodes))
	for i, n := range r.Nodes {
		r.byID[n.ID] = n
		ringMembers[i] = ringMember(n)
	}
	if old != nil && slices.EqualFunc(r.Nodes, old.Nodes, samePlace) {
		r.ring = old.ring
		return r
	}
	ring, err := consistenthash.New(m.seed, ringMembers...)
	if err != nil {
		panic("regions: usable let a node through that the ring refuses: " + err.Error())
	}
	r.ring = ring
	return r
}

// usable reports whether a node can be reached and put on a ring.
func usable(n Node) bool {
	if n.Address == "" || n.Region == "" {
		return false
	}
	_, err := consistenthash.New(0, ringMember(n))
	return err == nil
}

func ringMember(n Node) consistenthash.Member {
	return consistenthash.Member{ID: n.ID, Weight: n.Weight}
}

// samePlace reports whether two nodes sit at the same points of a ring.
func samePlace(a, b Node) bool { return a.ID == b.ID && a.Weight == b.Weight }

func byID(a, b Node) int { return strings.Compare(a.ID, b.ID) }

// compareDistance orders distances, those not known last.
func compareDistance(a, b time.Duration) int {
	if (a == 0) != (b == 0) {
		return cmp.Compare(b, a)
	}
	return cmp.Compare(a, b)
}

// near reports whether two distances are within a tenth of each other: round
// trips that waver must not have snapshots replaced every second.
func near(a, b time.Duration) bool {
	if a == 0 || b == 0 {
		return a == b
	}
	return (a - b).Abs() <= max(a, b)/10
}
