package regions

import (
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

// forgetAfter is how long a node that neither answers nor is listed stays a member while the discovery is
// not trusted about its region. It outlasts any discovery outage that somebody is working on.
const forgetAfter = 24 * time.Hour

// Members decides which nodes are members of the cluster and maintains the Topology that follows. It is a
// state machine without I/O or a clock: callers tell it what was found, who answers, and what time it is.
// Its methods are safe for concurrent use.
//
// A node becomes a member when it is found. It is in the Topology while it also answers. Of other regions only
// a few nodes are asked, see Watched; the others count as not answering. A node stops being a member
//
//   - when the discovery no longer lists it and it does not answer, or
//   - when it answers, but has not been listed for the grace period and either is in another region or
//     does not ping this node.
//
// Both need the discovery to be trusted about the node's region: its last view listed at least one node
// there or, for the home region, this node. A discovery that has lost its data does not list this node
// either, so what else it leaves out means nothing. While it is not trusted, a node is removed only after
// it has been unlisted for 24 hours and does not answer. A node that the discovery has never listed gets
// no such protection.
//
// A listed node can vouch for an unlisted one, which then stays a member; see Vouch.
//
// A node of the home region that answers and pings this one stays a member, listed or not. Dropping it here,
// while others or the node itself keep it, would split the region. Instead each node decides for itself
// whether it belongs, from what the others say about it: it becomes a guest of its region once more nodes
// there do not count it than do (see Unwanted). A guest says so to all others, and no Topology contains it.
//
// If another region is divided, the nodes there that see a majority of it stand for it. The Topology has the
// others only if there are none of those.
type Members struct {
	self  Node
	seed  uint64
	grace time.Duration

	watchMost int // see WatchAtMost

	mu        sync.Mutex // guards the fields below; released while rings are built
	nodes     map[string]*member
	trusted   map[string]bool // by region: whether the last view may remove its nodes
	estimates map[string]time.Duration
	now       expiry.Instant // the latest instant given
	steps     uint64         // steps taken
	built     uint64         // how many of these the Topology reflects
	building  bool           // a goroutine is building a Topology
	guest     bool           // this node is a guest of its region
	buildDone sync.Cond      // signals that building is false again

	// topology is written only by the goroutine that set building.
	topology atomic.Pointer[Topology]
}

// A State is the current state of another node.
type State struct {
	Up    bool          // it answers
	Tried bool          // the first attempt to reach it is over, or takes long
	RTT   time.Duration // round-trip time; 0 until measured
	Guest bool          // it says it is a guest of its region
	Heard bool          // it is in the same region and pings this node

	// Minority says that it sees no majority of its region, which the network may have divided.
	Minority bool

	// Whether a node of the same region counts this one among the nodes of the region (see Counts). Both
	// are false if it cannot tell.
	Counted   bool
	Uncounted bool // it has not counted this node for the grace period
}

type member struct {
	Node
	State
	listed      bool
	unlisted    expiry.Instant // since when, if !listed
	voucher     string         // the node that last vouched for it, if any
	vouched     expiry.Instant // until when that holds
	neverListed bool           // known only because another node vouched for it

	watched bool   // this node connects to it, see Watched
	rank    uint64 // see rankOf
}

// NewMembers returns the Members of a cluster whose only known node is self.
//
// The seed goes into the rings and must be the same on all nodes. A node that is no longer listed but still
// answers stays a member for the grace period, which must not be negative. The address of self may be empty
// if no other node needs to reach it.
//
// The error reports everything wrong with self and grace.
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
		errs = append(errs, fmt.Errorf("regions: grace period is %v, must not be negative", grace))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	m := &Members{
		self:    self,
		seed:    seed,
		grace:   grace,
		nodes:   map[string]*member{self.ID: {Node: self, State: State{Up: true}, listed: true}},
		trusted: map[string]bool{},
	}
	m.buildDone.L = &m.mu
	m.topology.Store(&Topology{Self: self, Home: &Region{Name: self.Region}})
	if change := m.step(now, func() Change { return Change{} }); change.Err != nil {
		return nil, change.Err
	}
	return m, nil
}

// Topology returns the current snapshot without taking a lock. A change is in it by the time the method that
// made the change returns.
func (m *Members) Topology() *Topology { return m.topology.Load() }

// Nodes returns all members except this node, whether or not they answer, by ascending ID.
func (m *Members) Nodes() []Node {
	return m.nodesThat(func(mb *member) bool { return mb.ID != m.self.ID })
}

// nodesThat returns the members that satisfy is, by ascending ID. It calls is with the lock held.
func (m *Members) nodesThat(is func(mb *member) bool) []Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	var nodes []Node
	for _, mb := range m.nodes {
		if is(mb) {
			nodes = append(nodes, mb.Node)
		}
	}
	slices.SortFunc(nodes, byID)
	return nodes
}

// A Change describes how a step changed the members.
type Change struct {
	Joined []Node // new members
	Moved  []Node // members found at another address or in another region
	Left   []Node // former members

	Rewatched bool // the choice of Members.Watched has changed

	// Refused are nodes that were found but are unusable: the ID or the region is empty, too long or not
	// UTF-8; the address cannot be dialled; the weight is out of range; or the ID belongs to another node
	// or to this one.
	Refused []Node

	// Err is set if the nodes of a region do not fit on a ring because they are too many or too heavy. The
	// region then stays as it was.
	Err error
}

// Found applies what the discovery reports.
func (m *Members) Found(now expiry.Instant, v View) Change {
	return m.step(now, func() (change Change) {
		m.estimates = maps.Clone(v.Distances)
		listed := make(map[string]bool, len(v.Nodes))
		m.trusted = map[string]bool{}
		for _, n := range v.Nodes {
			self := n.ID == m.self.ID
			conflict := self && (n.Address != m.self.Address || n.Region != m.self.Region)
			if conflict || !self && (!usable(n) || listed[n.ID]) {
				change.Refused = append(change.Refused, n)
				continue
			}
			listed[n.ID] = true
			if !self {
				m.trusted[n.Region] = true
				m.foundLocked(n, &change)
			}
		}
		m.trusted[m.self.Region] = listed[m.self.ID]
		for id, mb := range m.nodes {
			if mb.listed && !listed[id] && id != m.self.ID {
				mb.listed, mb.unlisted = false, now
			}
		}
		return change
	})
}

// foundLocked applies that the discovery lists another node.
func (m *Members) foundLocked(n Node, change *Change) {
	mb := m.nodes[n.ID]
	if mb == nil {
		mb = &member{rank: rankOf(m.self.ID, n.ID)}
		m.nodes[n.ID] = mb
		change.Joined = append(change.Joined, n)
	} else if mb.Region != n.Region || mb.Address != n.Address {
		mb.State = State{} // it must answer at the new place first
		change.Moved = append(change.Moved, n)
	}
	mb.Node, mb.listed, mb.neverListed = n, true, false
}

// vouchTTL is how long a node's word for another node counts.
const vouchTTL = 10 * time.Second

// Vouch applies what the discovery of another node, by, lists (see Listed), according to that node.
//
// A discovery may lag, by minutes on some nodes, and nodes that disagree about the members of the region
// cannot do much. So a node that by lists counts as a member for 10 seconds. The voucher must itself be
// listed here and cannot vouch for itself. What others vouch for is not passed on, so nodes that no
// discovery lists cannot keep each other alive.
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
				mb = &member{Node: n, neverListed: true, rank: rankOf(m.self.ID, n.ID)}
				m.nodes[n.ID] = mb
				change.Joined = append(change.Joined, n)
			case mb.listed || mb.Node != n && !mb.neverListed: // what the local discovery said takes precedence
				continue
			case mb.Region != n.Region || mb.Address != n.Address:
				mb.State = State{} // it must answer at the new place first
				change.Moved = append(change.Moved, n)
			}
			mb.Node = n
			mb.voucher, mb.vouched = by, now.Add(vouchTTL)
		}
		return change
	})
}

// Home returns the IDs of the other members in this node's region, whether or not they answer.
func (m *Members) Home() (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, mb := range m.nodes {
		if id != m.self.ID && mb.Region == m.self.Region {
			ids = append(ids, id)
		}
	}
	return ids
}

// Listed returns the nodes that this node's own discovery lists, by ascending ID. It includes this node if
// listed, and excludes nodes that are members only because others vouch for them.
func (m *Members) Listed() []Node {
	return m.nodesThat(func(mb *member) bool {
		return mb.ID == m.self.ID && m.trusted[m.self.Region] || mb.ID != m.self.ID && mb.listed
	})
}

// Vouchers returns the nodes that currently vouch for an unlisted member. Ask them again before their word
// expires.
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

// Health applies the current state of a node, if it is watched.
func (m *Members) Health(now expiry.Instant, id string, s State) Change {
	return m.step(now, func() Change {
		if mb := m.nodes[id]; mb != nil && mb.watched {
			mb.State = s
		}
		return Change{}
	})
}

// Tick advances the time, which ends grace periods, and calls how for the state of each watched node. That
// also corrects calls of Health that came out of order. Call it about once a second.
func (m *Members) Tick(now expiry.Instant, how func(id string) State) Change {
	return m.step(now, func() Change {
		for id, mb := range m.nodes {
			if mb.watched {
				mb.State = how(id)
			}
		}
		return Change{}
	})
}

// step calls apply to change the state, removes nodes that are no longer members, and brings the Topology
// up to date. One goroutine builds at a time and covers the steps of all that wait for it: when a thousand
// nodes come up at once, rings are built a few times and not a thousand.
func (m *Members) step(now expiry.Instant, apply func() Change) Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	change := apply()
	m.now = max(m.now, now)
	change.Left = m.pruneLocked(m.now)
	change.Rewatched = m.watchLocked()
	m.guest = m.guest && m.unwantedLocked()
	m.steps++
	for mine := m.steps; m.built < mine; {
		if m.building {
			m.buildDone.Wait()
			continue
		}
		m.building = true
		steps, now, estimates := m.steps, m.now, m.estimates // the map is replaced, never modified
		guest, up := m.guest, m.ringNodesLocked()
		m.mu.Unlock()
		err := m.build(now, guest, up, estimates)
		m.mu.Lock()
		m.building, m.built = false, steps
		m.buildDone.Broadcast()
		change.Err = errors.Join(change.Err, err)
	}
	return change
}

// ringNodesLocked returns the nodes that make up the rings, by region. The home region always has one.
func (m *Members) ringNodesLocked() map[string][]member {
	up := map[string][]member{}
	for id, mb := range m.nodes {
		if mb.Up && !mb.Guest && id != m.self.ID {
			up[mb.Region] = append(up[mb.Region], *mb)
		}
	}
	for region, nodes := range up {
		hasMajority := func(mb member) bool { return !mb.Minority }
		if region != m.self.Region && slices.ContainsFunc(nodes, hasMajority) {
			up[region] = slices.DeleteFunc(nodes, func(mb member) bool { return mb.Minority })
		}
	}
	if home := m.self.Region; !m.guest || len(up[home]) == 0 {
		up[home] = append(up[home], *m.nodes[m.self.ID])
	}
	return up
}

// pruneLocked removes nodes that are no longer members and returns them.
func (m *Members) pruneLocked(now expiry.Instant) (left []Node) {
	for id, mb := range m.nodes {
		if mb.listed || id == m.self.ID || now < mb.vouched {
			continue
		}
		absent := now.Sub(max(mb.unlisted, mb.vouched))
		gone := !mb.Up && absent >= forgetAfter
		if m.trusted[mb.Region] || mb.neverListed {
			gone = !mb.Up || absent >= m.grace && !mb.Heard
		}
		if gone {
			delete(m.nodes, id)
			left = append(left, mb.Node)
		}
	}
	slices.SortFunc(left, byID)
	return left
}

func byID(a, b Node) int { return strings.Compare(a.ID, b.ID) }

// usable reports whether a node can be dialled and put on a ring.
func usable(n Node) bool {
	return valid.Name(n.ID) == nil && valid.Name(n.Region) == nil &&
		valid.Address(n.Address) == nil && validWeight(n)
}

// validWeight reports whether a ring accepts a node's weight.
func validWeight(n Node) bool {
	return n.Weight == 0 || n.Weight >= consistenthash.MinWeight && n.Weight <= consistenthash.MaxWeight
}
