package regions

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/geocache/geocache/expiry"
)

// A model decides who is a member by checking the conditions in the doc comment of Members afresh each time.
// It is slow and knows nothing about steps, rings or reuse.
type model struct {
	now   expiry.Instant
	last  View // the discovery's last view
	guest bool
	nodes map[string]*modelled
}

type modelled struct {
	Node
	State
	seen   expiry.Instant // the last view that listed it, or the first that no longer did
	listed bool           // by the last view

	vouched     expiry.Instant // until when another node vouches for it
	neverListed bool           // known only because another node vouched for it
}

// lists reports whether the last view has a usable node that satisfies want.
func (m *model) lists(want func(Node) bool) bool {
	return slices.ContainsFunc(m.last.Nodes, func(n Node) bool { return usable(n) && want(n) })
}

func (m *model) trusted(region string) bool {
	if region == "eu" {
		return m.lists(func(n Node) bool { return n.ID == "eu-1" })
	}
	return m.lists(func(n Node) bool { return n.Region == region })
}

// found applies a view.
func (m *model) found(v View) {
	m.last = v
	for _, mb := range m.nodes {
		listed := m.lists(func(n Node) bool { return n.ID == mb.ID })
		if listed || mb.listed {
			mb.seen = m.now
		}
		mb.listed = listed
	}
	for _, n := range v.Nodes {
		if n.ID == "eu-1" || !usable(n) {
			continue
		}
		mb := m.nodes[n.ID]
		if mb == nil {
			mb = &modelled{seen: m.now, listed: true}
			m.nodes[n.ID] = mb
		}
		mb.neverListed = false
		mb.move(n)
	}
}

// move applies where a node is now. Its state was that of the old place.
func (mb *modelled) move(n Node) {
	if mb.Address != n.Address || mb.Region != n.Region {
		mb.State = State{}
	}
	mb.Node = n
}

// vouch applies what another node says its discovery lists.
func (m *model) vouch(by string, nodes []Node) {
	if v := m.nodes[by]; v == nil || !v.listed {
		return
	}
	for _, n := range nodes {
		if n.ID == "eu-1" || n.ID == by || !usable(n) {
			continue
		}
		if m.nodes[n.ID] == nil {
			m.nodes[n.ID] = &modelled{Node: n, neverListed: true}
		}
		if mb := m.nodes[n.ID]; !mb.listed && (mb.neverListed || mb.Node == n) {
			mb.move(n)
			mb.vouched = m.now.Add(vouchTTL)
		}
	}
}

// prune removes nodes that are no longer members and returns them.
func (m *model) prune() (left []string) {
	for id, mb := range m.nodes {
		absent := m.now.Sub(max(mb.seen, mb.vouched))
		var gone bool
		switch {
		case mb.listed || m.now < mb.vouched:
		case (mb.neverListed || m.trusted(mb.Region)) && !mb.Up:
			gone = true
		case mb.neverListed || m.trusted(mb.Region):
			gone = absent >= grace && !mb.Heard
		default:
			gone = !mb.Up && absent >= forgetAfter
		}
		if gone {
			delete(m.nodes, id)
			left = append(left, id)
		}
	}
	m.guest = m.guest && m.unwanted()
	slices.Sort(left)
	return left
}

// counts reports whether eu-1 counts the node among the nodes of its region.
func (m *model) counts(id string) bool {
	mb := m.nodes[id]
	return mb != nil && mb.Region == "eu" && mb.Up && (mb.listed || m.now < mb.vouched)
}

// unwanted reports whether more nodes of the region do not count eu-1 than do.
func (m *model) unwanted() bool {
	counted, uncounted := 0, 0
	for id, mb := range m.nodes {
		switch {
		case mb.Region != "eu" || !mb.Up || mb.Guest:
		case mb.Counted:
			counted++
		case mb.Uncounted && m.counts(id): // eu-1 has the lowest ID
			uncounted++
		}
	}
	return uncounted > counted
}

// inTopology reports whether a node answers, is no guest, and is in a part of its region that stands for it.
func (m *model) inTopology(mb *modelled) bool {
	if !mb.Up || mb.Guest {
		return false
	}
	hasMajority := false
	for _, other := range m.nodes {
		hasMajority = hasMajority || other.Region == mb.Region && other.Up && !other.Guest && !other.Minority
	}
	return mb.Region == "eu" || !mb.Minority || !hasMajority
}

// up returns the nodes that belong in the Topology, by region.
func (m *model) up() map[string][]Node {
	up := map[string][]Node{}
	for _, mb := range m.nodes {
		if m.inTopology(mb) {
			up[mb.Region] = append(up[mb.Region], mb.Node)
		}
	}
	if !m.guest || len(up["eu"]) == 0 {
		up["eu"] = append(up["eu"], node("eu-1"))
	}
	for _, nodes := range up {
		slices.SortFunc(nodes, byID)
	}
	return up
}

// distance returns the distance of another region.
func (m *model) distance(region string) (d time.Duration) {
	for _, mb := range m.nodes {
		if m.inTopology(mb) && mb.Region == region && mb.RTT > 0 && (d == 0 || mb.RTT < d) {
			d = mb.RTT
		}
	}
	return cmp.Or(d, m.last.Distances[region])
}

// ring describes what the home region's ring depends on.
func (m *model) ring() (ring []string) {
	for _, n := range m.up()["eu"] {
		ring = append(ring, fmt.Sprint(n.ID, n.Weight))
	}
	return ring
}

func TestMembersBehaveAsTheModel(t *testing.T) {
	all := []string{"eu-2", "eu-3", "eu-4", "us-1", "us-2", "ap-1"}
	drawNode := rapid.Custom(func(t *rapid.T) Node {
		n := node(rapid.SampledFrom(all).Draw(t, "id"))
		switch rapid.IntRange(0, 15).Draw(t, "change") {
		case 0:
			n.Address = "elsewhere:7946"
		case 1:
			n.Region = "us"
		case 2:
			n.Weight = 0.1
		case 3:
			n.Weight = -1
		case 4:
			n.Address = ""
		}
		return n
	})
	drawRTT := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(1, 40).Draw(t, "ms")) * time.Millisecond
	})

	drawState := rapid.Custom(func(t *rapid.T) State {
		s := State{Up: rapid.IntRange(0, 3).Draw(t, "up") > 0}
		s.RTT = rapid.SampledFrom([]time.Duration{0, drawRTT.Draw(t, "rtt")}).Draw(t, "known")
		s.Guest = rapid.IntRange(0, 3).Draw(t, "guest") == 0
		s.Minority = rapid.Bool().Draw(t, "minority")
		s.Heard = rapid.IntRange(0, 3).Draw(t, "heard") > 0
		verdict := rapid.IntRange(0, 3).Draw(t, "verdict")
		s.Counted, s.Uncounted = verdict == 1, verdict >= 2
		return s
	})

	byNodeID := func(n Node) string { return n.ID }
	drawNodes := rapid.SliceOfNDistinct(drawNode, 0, len(all), byNodeID)

	rapid.Check(t, func(t *rapid.T) {
		members, err := NewMembers(node("eu-1"), 7, grace, 0)
		require.NoError(t, err)
		m := &model{nodes: map[string]*modelled{}}
		var changed expiry.Instant
		var change Change

		// step calls a method and compares its effect with the model's.
		step := func(t *rapid.T, call func() Change, model func()) {
			ring := m.ring()
			known := slices.Sorted(maps.Keys(m.nodes))
			model()
			now := slices.Sorted(maps.Keys(m.nodes))
			change = call()
			require.NoError(t, change.Err)
			var joined []string
			for _, id := range now {
				if !slices.Contains(known, id) {
					joined = append(joined, id)
				}
			}
			require.ElementsMatch(t, joined, ids(change.Joined))
			require.Equal(t, m.prune(), ids(change.Left))
			if !slices.Equal(ring, m.ring()) {
				changed = m.now
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"found": func(t *rapid.T) {
				v := View{Nodes: drawNodes.Draw(t, "nodes")}
				if rapid.IntRange(0, 3).Draw(t, "self") > 0 {
					v.Nodes = append(v.Nodes, node("eu-1"))
				}
				known := rapid.SampledFrom([]string{"eu", "us", "ap"})
				v.Distances = rapid.MapOf(known, drawRTT).Draw(t, "distances")
				step(t, func() Change { return members.Found(m.now, v) }, func() { m.found(v) })
			},
			"vouch": func(t *rapid.T) {
				by := rapid.SampledFrom(all).Draw(t, "by")
				nodes := drawNodes.Draw(t, "nodes")
				step(t, func() Change { return members.Vouch(m.now, by, nodes) }, func() { m.vouch(by, nodes) })
			},
			"health": func(t *rapid.T) {
				id, s := rapid.SampledFrom(all).Draw(t, "id"), drawState.Draw(t, "state")
				step(t, func() Change { return members.Health(m.now, id, s) }, func() {
					if mb := m.nodes[id]; mb != nil {
						mb.State = s
					}
				})
			},
			"step aside": func(t *rapid.T) {
				require.Equal(t, m.unwanted() && !m.guest, members.Unwanted())
				step(t, func() Change { return members.StepAside(m.now) }, func() { m.guest = true })
			},
			"tick": func(t *rapid.T) {
				d := rapid.SampledFrom([]time.Duration{
					0, time.Second, vouchTTL, grace / 2, grace, forgetAfter / 2, forgetAfter,
				}).Draw(t, "d")
				states := rapid.MapOf(rapid.SampledFrom(all), drawState).Draw(t, "states")
				how := func(id string) State { return states[id] }
				step(t, func() Change { return members.Tick(m.now, how) }, func() {
					m.now = m.now.Add(d)
					for id, mb := range m.nodes {
						mb.State = how(id)
					}
				})
			},
			"": func(t *rapid.T) {
				require.Equal(t, slices.Sorted(maps.Keys(m.nodes)), append([]string(nil), ids(members.Nodes())...))
				top := members.Topology()
				require.Equal(t, changed, top.Changed)
				require.Equal(t, m.guest, top.Guest)
				for _, id := range all {
					counts, known := members.Counts(id)
					require.Equal(t, m.counts(id), counts, id)
					require.Equal(t, counts || m.trusted("eu"), known, id)
				}
				up := m.up()
				require.Len(t, top.Remote, len(up)-1)
				for name, nodes := range up {
					r := top.Region(name)
					require.NotNil(t, r, name)
					require.Equal(t, nodes, r.Nodes)
					require.ElementsMatch(t, nodes, r.Owners("ada", 10))
				}
				for i, r := range top.Remote {
					require.True(t, near(m.distance(r.Name), r.Distance),
						"%s: %v, but %v is published", r.Name, m.distance(r.Name), r.Distance)
					if i > 0 {
						require.LessOrEqual(t, compareDistance(top.Remote[i-1].Distance, r.Distance), 0)
					}
				}
			},
		})
	})
}
