package regions

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
)

// invalidNodes returns nodes with one thing wrong each, by what that is.
func invalidNodes() map[string]Node {
	nodes := map[string]Node{}
	for what, spoil := range map[string]func(n *Node){
		"no ID":              func(n *Node) { n.ID = "" },
		"a long ID":          func(n *Node) { n.ID = strings.Repeat("x", 256) },
		"an ID not UTF-8":    func(n *Node) { n.ID = "eu-\xff" },
		"no region":          func(n *Node) { n.Region = "" },
		"a long region":      func(n *Node) { n.Region = strings.Repeat("x", 256) },
		"a region not UTF-8": func(n *Node) { n.Region = "eu\xff" },
		"no address":         func(n *Node) { n.Address = "" },
		"no host":            func(n *Node) { n.Address = ":7946" },
		"a wildcard":         func(n *Node) { n.Address = "0.0.0.0:7946" },
		"no port":            func(n *Node) { n.Address = "10.0.0.1" },
		"an empty port":      func(n *Node) { n.Address = "10.0.0.1:" },
		"port 0":             func(n *Node) { n.Address = "10.0.0.1:0" },
		"port 99999":         func(n *Node) { n.Address = "10.0.0.1:99999" },
		"a weight of -1":     func(n *Node) { n.Weight = -1 },
		"a weight of NaN":    func(n *Node) { n.Weight = math.NaN() },
		"a weight of Inf":    func(n *Node) { n.Weight = math.Inf(1) },
		"a small weight":     func(n *Node) { n.Weight = math.SmallestNonzeroFloat64 },
		"a large weight":     func(n *Node) { n.Weight = math.Nextafter(consistenthash.MaxWeight, 101) },
	} {
		n := Node{ID: "eu-9", Region: "eu", Address: "eu-9:7946"}
		spoil(&n)
		nodes[what] = n
	}
	return nodes
}

// An invalid node is rejected no matter who reports it, and the nodes reported beside it are accepted.
func TestInvalidNodes(t *testing.T) {
	for what, n := range invalidNodes() {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, "eu-2")
			change := w.found(View{Nodes: []Node{n, node("eu-1"), node("eu-2"), node("eu-3")}})
			require.Len(t, change.Refused, 1)
			require.Equal(t, []Node{node("eu-3")}, change.Joined)

			require.Empty(t, w.Vouch(w.now, "eu-2", []Node{n, node("eu-4")}).Refused, "the voucher's mistake")
			require.Equal(t, []string{"eu-2", "eu-3", "eu-4"}, w.members())

			if n.ID == "" { // Static would use the address
				return
			}
			require.ErrorContains(t, Static(n).(static).Validate(), "node 0 of the list")
			if n.Address != "" { // an empty address is allowed for self
				_, err := NewMembers(n, 7, grace, 0)
				require.Error(t, err)
			}
		})
	}
	long := Node{Region: strings.Repeat("x", 255), ID: strings.Repeat("y", 255), Address: "a:1"}
	require.NoError(t, Static(node("eu-1"), long).(static).Validate())
}

func TestStaticWithNoNodesAndWithEmptyNodes(t *testing.T) {
	require.NoError(t, Static().(static).Validate())
	err := Static(Node{}, Node{}).(static).Validate()
	require.ErrorContains(t, err, `node 0 of the list, "": its region: the name is empty`)
	require.ErrorContains(t, err, `node 0 of the list, "": missing port in address`)
	require.ErrorContains(t, err, `node 1 of the list, "": another node has the same ID`)
}

func TestNewMembersReportsEveryMistakeInSelf(t *testing.T) {
	_, err := NewMembers(Node{ID: "\xff", Address: ":0", Weight: 1}, 7, -1, 0)
	for _, mistake := range []string{
		"ID of this node: the name \"\\xff\" is not UTF-8", "region of this node: the name is empty",
		"address of this node", "grace period is -1ns",
	} {
		require.ErrorContains(t, err, mistake)
	}
	_, err = NewMembers(Node{ID: "alone", Region: "local"}, 7, math.MaxInt64, math.MaxInt64)
	require.NoError(t, err)
}

// Impossible distance estimates are ignored.
func TestInvalidDistances(t *testing.T) {
	w := newWorld(t, "us-1", "ap-1")
	v := view("eu-1", "us-1", "ap-1")
	v.Distances = map[string]time.Duration{
		"us": math.MinInt64, "ap": 90 * time.Millisecond, "eu": -1, "nowhere": 1,
	}
	w.found(v)
	require.Equal(t, "ap", w.Topology().Remote[0].Name, "unknown distances come last")
	require.Zero(t, w.Topology().Remote[1].Distance)
	require.Zero(t, w.Topology().Home.Distance)
}

// Whatever is found, this node stays in its region and every member can be dialled.
func FuzzMembers(f *testing.F) {
	for _, n := range invalidNodes() {
		f.Add(n.ID, n.Region, n.Address, n.Weight, int64(1), byte(7))
	}
	f.Add("eu-1", "eu", "eu-1:7946", 1.0, int64(math.MaxInt64), byte(255))
	f.Add("us-1", "us", "us-1:7946", 0.01, int64(math.MinInt64), byte(31))
	f.Fuzz(func(t *testing.T, id, region, address string, weight float64, number int64, steps byte) {
		if weight > 1 { // rings of heavy nodes are slow to build
			weight *= 1000
		}
		self := node("eu-1")
		m, err := NewMembers(self, uint64(number), grace, 0)
		require.NoError(t, err)
		n := Node{id, region, address, weight}
		now := expiry.Instant(number)
		for i, step := range []func(){
			func() {
				m.Found(now, View{
					Nodes:     []Node{n, self, n, node("eu-2")},
					Distances: map[string]time.Duration{region: time.Duration(number)},
				})
			},
			func() { m.Vouch(now, "eu-2", []Node{n, self}) },
			func() { m.Health(now, id, State{Up: true}) },
			func() {
				m.Tick(now, func(string) State {
					return State{Up: true, RTT: time.Duration(number), Uncounted: true}
				})
			},
			func() { m.StepAside(now) },
			func() { m.Found(now.Add(time.Hour), View{}) },
		} {
			if steps&(1<<i) != 0 {
				step()
			}
			top := m.Topology()
			if !top.Guest {
				require.Contains(t, top.Home.Nodes, self)
			}
			require.NotEmpty(t, top.Home.Nodes)
			require.True(t, top.Home.Distance == 0)
			for _, r := range top.Regions() {
				require.GreaterOrEqual(t, r.Distance, time.Duration(0))
				require.NotEmpty(t, r.Owner("key").ID)
			}
			for _, n := range m.Nodes() {
				require.True(t, usable(n), "%v", n)
			}
		}
	})
}
