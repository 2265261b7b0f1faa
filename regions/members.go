package regions

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/valid"
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
//   - when it does answer, but has not been listed for the grace period and is in another region, or
//     does not know of this node,
//
// unless a listed node vouches for it (see Vouch), and in both cases only if the discovery is to
// be believed about the node's region: it lists at least one node there, and for the home region it
// lists this very node. A discovery that lost its memory cannot know that we are
// here, and its silence about the others means as little. That does not keep a node that the
// discovery has never listed.
//
// A node of the home region that answers and pings this one stays a member, listed or not: to drop it
// here while others, or it itself, do not would divide the region. Whether it belongs to the region is its own decision, by
// what the others say of it. A node that more of them do not count than do is a guest from then
// on (see Unwanted): it tells all others so, and is in nobody's Topology.
type Members struct {
	self  Node
	seed  uint64
	grace time.Duration

	mu        sync.Mutex // guards the following; not held while rings are built
	nodes     map[string]*member
	believed  map[string]bool // by region: the last view may remove its nodes
	estimates map[string]time.Duration
	now       expiry.Instant // the latest that was given
	steps     uint64         // taken so far
	built     uint64         // of these, in the Topology
	building  bool           // somebody is building one
	guest     bool           // this node is a guest of its region
	ended     sync.Cond      // a build has

	// topology is replaced only by whoever has set building, and read by
	// anybody.
	topology atomic.Pointer[Topology]
}

// A State is how another node does.
type State struct {
	Up    bool          // it answers
	RTT   time.Duration // 0 until measured
	Guest bool          // it says that it is a guest of its region
	Heard bool          // it is in the same region and pings this node

	// What it takes this node for, if it is in the same region: neither if it cannot tell.
	Counted   bool // it counts it among the nodes of the region, see Counts
	Uncounted bool // it has not for the grace period
}

type member struct {
	Node
	State
	listed   bool
	unlisted expiry.Instant // since when, if !listed
	voucher  string         // the node that vouches for it, if any does
	vouched  expiry.Instant // until when
	hearsay  bool           // it has never been listed
}

// NewMembers returns the Members of a cluster in which self is alone so far.
// The seed goes into the rings and must be the same on all nodes. A node that
// is no longer listed but still answers is kept for grace. The error says everything that
// is wrong with self, which has no address if others need not reach it, and with grace.
func NewMembers(self Node, seed uint64, grace time.Duration, now expiry.Instant) (*Members, error) {
	var errs []error
	bad := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("regions: %s of this node: %w", what, err))
		}
	}
	bad("ID", valid.Name(self.ID))
	bad("region", valid.Name(self.Region))
	if self.Address != "" {
		bad("address", valid.Address(self.Address))
	}
	if grace < 0 {
		errs = append(errs, fmt.Errorf("regions: a grace period of %v, must not be negative", grace))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	m := &Members{
		self:     self,
		seed:     seed,
		grace:    grace,
		nodes:    map[string]*member{self.ID: {Node: self, State: State{Up: true}, listed: true}},
		believed: map[string]bool{},
	}
	m.ended.L = &m.mu
	m.topology.Store(&Topology{Self: self, Home: &Region{Name: self.Region}})
	if change := m.step(now, func() Change { return Change{} }); change.Err != nil {
		return nil, change.Err
	}
	return m, nil
}

// Topology returns the present snapshot. It takes no lock. A change is in it when
// the method that took it in returns.
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
	Joined []Node // new members
	Moved  []Node // members found at another address or in another region
	Left   []Node // no longer members

	// Refused were found, but are unusable: an ID or a region that is empty, too long or not UTF-8, an
	// address that cannot be dialled, a weight out of range, or an ID that is another's or this node's.
	Refused []Node

	// Err says that the nodes of a region cannot be put on a ring, there being
	// too many or too heavy ones. The region stays as it was.
	Err error
}

// Found takes in what the discovery reports.
func (m *Members) Found(now expiry.Instant, v View) Change {
	return m.step(now, func() (change Change) {
		m.estimates = maps.Clone(v.Distances)
		listed := make(map[string]bool, len(v.Nodes))
		m.believed = map[string]bool{}
		for _, n := range v.Nodes {
			self := n.ID == m.self.ID
			twin := self && (n.Address != m.self.Address || n.Region != m.self.Region)
			if twin || !self && (!usable(n) || listed[n.ID]) {
				change.Refused = append(change.Refused, n)
				continue
			}
			listed[n.ID] = true
			if !self {
				m.believed[n.Region] = true
				m.foundLocked(n, &change)
			}
		}
		m.believed[m.self.Region] = listed[m.self.ID]
		for id, mb := range m.nodes {
			if mb.listed && !listed[id] && id != m.self.ID {
				mb.listed, mb.unlisted = false, now
			}
		}
		return change
	})
}

// foundLocked takes in that another node is listed.
func (m *Members) foundLocked(n Node, change *Change) {
	mb := m.nodes[n.ID]
	if mb == nil {
		mb = &member{}
		m.nodes[n.ID] = mb
		change.Joined = append(change.Joined, n)
	} else if mb.Region != n.Region || mb.Address != n.Address {
		mb.State = State{} // it has to answer there first
		change.Moved = append(change.Moved, n)
	}
	mb.Node, mb.listed, mb.hearsay = n, true, false
}

// vouching is for how long a node's word for another one counts.
const vouching = 10 * time.Second

// Vouch takes in what another node's discovery lists (see Listed), as that node says. A discovery
// may be late, on one node by minutes, and nodes that do not agree on who is there can do little.
// So a node that the voucher lists counts as a member for a while. The voucher must be listed here
// itself, and cannot vouch for itself: hearsay is not passed on, and nodes that are listed nowhere do
// not stay by vouching for each other.
func (m *Members) Vouch(now expiry.Instant, by string, nodes []Node) Change {
	return m.step(now, func() (change Change) {
		if v := m.nodes[by]; v == nil || !v.listed {
			return change
		}
		for _, n := range nodes {
			if n.ID == m.self.ID || n.ID == by || !usable(n) {
				continue
			}
			mb := m.nodes[n.ID]
			switch {
			case mb == nil:
				mb = &member{Node: n, hearsay: true}
				m.nodes[n.ID] = mb
				change.Joined = append(change.Joined, n)
			case mb.listed || mb.Node != n && !mb.hearsay: // what the discovery here has said of it counts
				continue
			case mb.Region != n.Region || mb.Address != n.Address:
				mb.State = State{} // it has to answer there first
				change.Moved = append(change.Moved, n)
			}
			mb.Node = n
			mb.voucher, mb.vouched = by, now.Add(vouching)
		}
		return change
	})
}

// Listed returns the nodes that this node's own discovery lists, by ascending ID: with this node
// if it is among them, and without those that others vouch for.
func (m *Members) Listed() []Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	var nodes []Node
	for id, mb := range m.nodes {
		if id == m.self.ID && m.believed[m.self.Region] || id != m.self.ID && mb.listed {
			nodes = append(nodes, mb.Node)
		}
	}
	slices.SortFunc(nodes, byID)
	return nodes
}

// Vouchers returns the nodes on whose word alone others are members. They are to be asked again
// before that ceases to count.
func (m *Members) Vouchers() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for _, mb := range m.nodes {
		if !mb.listed && m.now < mb.vouched && !slices.Contains(ids, mb.voucher) {
			ids = append(ids, mb.voucher)
		}
	}
	return ids
}

// Counts reports whether this node counts another one among those of its region: it is listed or
// vouched for, and answers. known is false if the discovery is not to be believed about that.
func (m *Members) Counts(id string) (counts, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mb := m.nodes[id]; mb != nil && mb.Region == m.self.Region && m.countsLocked(mb) {
		return true, true
	}
	return false, m.believed[m.self.Region]
}

func (m *Members) countsLocked(mb *member) bool {
	return mb.Up && (mb.listed || m.now < mb.vouched)
}

// Unwanted reports whether this node has to become a guest of its region, because more nodes there do not
// count it than do. The caller then hands over what the node owns, and calls StepAside. The node ceases to
// be a guest by itself when that is no longer so.
//
// Of two nodes that do not count each other the one with the lower ID does not heed that. So
// somebody always stays, whatever the discoveries say.
func (m *Members) Unwanted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.guest && m.unwantedLocked()
}

func (m *Members) unwantedLocked() bool {
	against := 0
	for id, mb := range m.nodes {
		if id == m.self.ID || mb.Region != m.self.Region || !mb.Up || mb.Guest {
			continue
		}
		switch {
		case mb.Counted:
			against--
		case mb.Uncounted && (id < m.self.ID || m.countsLocked(mb)):
			against++
		}
	}
	return against > 0
}

// StepAside makes this node a guest of its region if it is still unwanted.
func (m *Members) StepAside(now expiry.Instant) Change {
	return m.step(now, func() Change {
		m.guest = true // step looks whether it is to stay one
		return Change{}
	})
}

// Health takes in how a node does.
func (m *Members) Health(now expiry.Instant, id string, s State) Change {
	return m.step(now, func() Change {
		if mb := m.nodes[id]; mb != nil && id != m.self.ID {
			mb.State = s
		}
		return Change{}
	})
}

// Tick lets time pass: grace periods end, and how is asked anew how each node does.
// Whatever Health was told too early or too late is made good then. Call it about once a second.
func (m *Members) Tick(now expiry.Instant, how func(id string) State) Change {
	return m.step(now, func() Change {
		for id, mb := range m.nodes {
			if id != m.self.ID {
				mb.State = how(id)
			}
		}
		return Change{}
	})
}

// step lets take change the state, removes the members that are none any more,
// and brings the Topology up to date. Whoever finds no Topology being built builds
// it, and takes along the steps of those who wait: when a thousand nodes come up
// at once, rings are built a few times and not a thousand.
func (m *Members) step(now expiry.Instant, take func() Change) Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	change := take()
	m.now = max(m.now, now)
	change.Left = m.pruneLocked(m.now)
	m.guest = m.guest && m.unwantedLocked()
	m.steps++
	for mine := m.steps; m.built < mine; {
		if m.building {
			m.ended.Wait()
			continue
		}
		m.building = true
		steps, now, estimates := m.steps, m.now, m.estimates // replaced as a whole, never changed
		guest, up := m.guest, m.presentLocked()
		m.mu.Unlock()
		err := m.build(now, guest, up, estimates)
		m.mu.Lock()
		m.building, m.built = false, steps
		m.ended.Broadcast()
		change.Err = errors.Join(change.Err, err)
	}
	return change
}

// presentLocked returns the nodes that make up the rings, by region. Home is never without a node.
func (m *Members) presentLocked() map[string][]member {
	up := map[string][]member{}
	for id, mb := range m.nodes {
		if mb.Up && !mb.Guest && id != m.self.ID {
			up[mb.Region] = append(up[mb.Region], *mb)
		}
	}
	if home := m.self.Region; !m.guest || len(up[home]) == 0 {
		up[home] = append(up[home], *m.nodes[m.self.ID])
	}
	return up
}

// pruneLocked removes the nodes that are members no longer.
func (m *Members) pruneLocked(now expiry.Instant) (left []Node) {
	for id, mb := range m.nodes {
		if mb.listed || id == m.self.ID || now < mb.vouched {
			continue
		}
		missing := now.Sub(max(mb.unlisted, mb.vouched))
		gone := !mb.Up && missing >= oblivion
		if m.believed[mb.Region] || mb.hearsay {
			gone = !mb.Up || missing >= m.grace && !mb.Heard
		}
		if gone {
			delete(m.nodes, id)
			left = append(left, mb.Node)
		}
	}
	slices.SortFunc(left, byID)
	return left
}

// build publishes a new Topology of the nodes that are up, by region, if
// anything in it is new. It is called by whoever has set m.building.
func (m *Members) build(now expiry.Instant, guest bool, up map[string][]member, estimates map[string]time.Duration) error {
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

// region makes the region of the given members. It returns old if they make no
// difference to it, or if their ring cannot be built, and takes over its ring
// if it can: building one is by far the most expensive part.
func (m *Members) region(name string, members []member, estimate time.Duration, old *Region) (*Region, error) {
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
	if old != nil && slices.EqualFunc(r.Nodes, old.Nodes, samePlace) {
		r.ring = old.ring
		return r, nil
	}
	var err error
	if r.ring, err = consistenthash.New(m.seed, ringMembers...); err != nil {
		return old, err
	}
	return r, nil
}

// usable reports whether a node can be reached and put on a ring.
func usable(n Node) bool {
	return valid.Name(n.ID) == nil && valid.Name(n.Region) == nil && valid.Address(n.Address) == nil && weighs(n)
}

// weighs reports whether a node's weight is one that a ring takes.
func weighs(n Node) bool {
	return n.Weight == 0 || n.Weight >= consistenthash.MinWeight && n.Weight <= consistenthash.MaxWeight
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
