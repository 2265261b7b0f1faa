package regions

import (
	"fmt"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
)

const grace = time.Minute

// at returns the instant d after time zero.
func at(d time.Duration) expiry.Instant { return expiry.Instant(0).Add(d) }

// node returns a valid node whose region is the first two letters of its ID. Its weight is small because
// rings of heavy nodes are slow to build.
func node(id string) Node {
	return Node{ID: id, Region: id[:2], Address: id + ":7946", Weight: 0.05}
}

// view returns a View that lists the nodes with these IDs.
func view(ids ...string) View {
	var v View
	for _, id := range ids {
		v.Nodes = append(v.Nodes, node(id))
	}
	return v
}

func ids(nodes []Node) []string {
	var ids []string
	for _, n := range nodes {
		ids = append(ids, n.ID)
	}
	return ids
}

// A world is the Members of eu-1 with a clock that the test advances.
type world struct {
	*testing.T
	*Members
	now  expiry.Instant
	rtts map[string]time.Duration
}

// newWorld returns the world of eu-1 after it has found the other nodes, all of which answer.
func newWorld(t *testing.T, others ...string) *world {
	m, err := NewMembers(node("eu-1"), 7, grace, 0)
	require.NoError(t, err)
	w := &world{t, m, 0, map[string]time.Duration{}}
	if others == nil {
		return w
	}
	w.found(view(append(others, "eu-1")...))
	w.up(others...)
	return w
}

func (w *world) found(v View) Change { return w.Found(w.now, v) }

func (w *world) up(ids ...string) {
	for _, id := range ids {
		w.Health(w.now, id, State{Up: true})
	}
}

func (w *world) down(nodes ...string) (left []string) {
	for _, id := range nodes {
		left = append(left, ids(w.Health(w.now, id, State{}).Left)...)
	}
	return left
}

// wait advances the clock by d and returns the nodes that left.
func (w *world) wait(d time.Duration) (left []string) {
	w.now = w.now.Add(d)
	return ids(w.Tick(w.now, w.how).Left)
}

// measure sets round-trip times of nodes.
func (w *world) measure(rtts map[string]time.Duration) {
	maps.Copy(w.rtts, rtts)
	w.Tick(w.now, w.how)
}

// how returns the state that a node already has.
func (w *world) how(id string) State {
	s := State{RTT: w.rtts[id]}
	for _, r := range w.Topology().Regions() {
		_, here := r.byID[id]
		s.Up = s.Up || here
	}
	return s
}

func (w *world) members() []string { return ids(w.Nodes()) }

func (w *world) home() []string { return ids(w.Topology().Home.Nodes) }

// remote returns the names of the other regions, nearest first.
func (w *world) remote() (names []string) {
	for _, r := range w.Topology().Remote {
		names = append(names, r.Name)
	}
	return names
}

func TestMembersStartWithSelfOnly(t *testing.T) {
	w := newWorld(t)
	top := w.Topology()
	require.Equal(t, node("eu-1"), top.Self)
	require.Equal(t, []string{"eu-1"}, w.home())
	require.Empty(t, top.Remote)
	require.Empty(t, w.Nodes())
	require.Same(t, top.Home, top.Region("eu"))
	require.Nil(t, top.Region("us"))

	require.Equal(t, node("eu-1"), top.Home.Owner("ada"))
	require.Equal(t, []Node{node("eu-1")}, top.Home.Owners("ada", 3))
}

func TestNewMembersRejectsAWeightThatNoRingTakes(t *testing.T) {
	self := node("eu-1")
	self.Weight = consistenthash.MaxWeight + 1
	_, err := NewMembers(self, 7, grace, 0)
	require.ErrorContains(t, err, `member "eu-1" has weight 101`)
}

func TestANodeIsAMemberWhenFoundAndInTheTopologyWhenItAnswers(t *testing.T) {
	w := newWorld(t)
	change := w.found(view("eu-2", "us-1", "eu-1"))
	require.Equal(t, Change{Joined: []Node{node("eu-2"), node("us-1")}, Rewatched: true}, change)
	require.Equal(t, []string{"eu-2", "us-1"}, w.members())
	require.Equal(t, []string{"eu-1"}, w.home())
	require.Empty(t, w.remote(), "a region in which no node answers does not appear")

	w.up("us-1", "eu-2", "nobody")
	require.Equal(t, []string{"eu-1", "eu-2"}, w.home())
	require.Equal(t, []string{"us"}, w.remote())
	require.Equal(t, []string{"eu-2", "us-1"}, w.members())

	require.Empty(t, w.down("us-1", "eu-2"), "still listed, so still members")
	require.Equal(t, []string{"eu-1"}, w.home())
	require.Empty(t, w.remote())
	require.Equal(t, []string{"eu-2", "us-1"}, w.members())

	require.Equal(t, Change{}, w.found(view("eu-1", "eu-2", "us-1")), "nothing new")
}

func TestNothingRemovesSelf(t *testing.T) {
	w := newWorld(t, "eu-2")
	w.down("eu-1")
	elsewhere := node("us-9")
	elsewhere.ID = "eu-1" // listed with another address and region
	w.found(View{Nodes: []Node{elsewhere, node("eu-2")}})
	w.found(View{})
	w.wait(2 * forgetAfter)
	require.Contains(t, w.home(), "eu-1")
	require.Equal(t, node("eu-1"), w.Topology().Self)
}

func TestViewsThatAreNotTrusted(t *testing.T) {
	for name, test := range map[string]struct {
		view View
		keep []string // of eu-2, eu-3, us-1 and us-2, none of which answers
	}{
		"empty":                     {View{}, []string{"eu-2", "eu-3", "us-1", "us-2"}},
		"without this node":         {view("eu-2", "us-1"), []string{"eu-2", "eu-3", "us-1"}},
		"no node of another region": {view("eu-1", "eu-2"), []string{"eu-2", "us-1", "us-2"}},
		"only this node":            {view("eu-1"), []string{"us-1", "us-2"}},
		"only the other region":     {view("us-1"), []string{"eu-2", "eu-3", "us-1"}},
		"only an unusable node of another region": {
			View{Nodes: []Node{node("eu-1"), node("eu-2"), node("eu-3"), {ID: "us-9", Region: "us"}}},
			[]string{"eu-2", "eu-3", "us-1", "us-2"}},
		"trusted": {view("eu-1", "us-2"), []string{"us-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "eu-2", "eu-3", "us-1", "us-2")
			w.down("eu-2", "eu-3", "us-1", "us-2")
			w.found(test.view)
			w.wait(2 * grace)
			require.Equal(t, test.keep, w.members())
			w.up(test.keep...)
			w.wait(forgetAfter - 3*grace)
			require.Subset(t, test.keep, w.members())
		})
	}
}

func TestANodeThatAnswersButIsUnlistedStaysForTheGracePeriod(t *testing.T) {
	w := newWorld(t, "eu-2", "eu-3")
	require.Empty(t, w.found(view("eu-1", "eu-3")).Left)
	require.Empty(t, w.wait(grace-1))
	require.Equal(t, []string{"eu-1", "eu-2", "eu-3"}, w.home())

	w.found(view("eu-1", "eu-2", "eu-3")) // listed again: resets the grace period
	w.wait(time.Second)
	w.found(view("eu-1", "eu-3"))
	require.Empty(t, w.wait(grace-1))
	w.found(view("eu-1", "eu-3")) // still unlisted: does not reset it
	require.Equal(t, []string{"eu-2"}, w.wait(1))
	require.Equal(t, []string{"eu-1", "eu-3"}, w.home())
	require.Equal(t, []string{"eu-3"}, w.members())
}

func TestANodeThatIsDownAndUnlistedLeavesAtOnce(t *testing.T) {
	w := newWorld(t, "eu-2", "eu-3")
	w.found(view("eu-1", "eu-3"))
	require.Equal(t, []string{"eu-2"}, w.down("eu-2"), "unlisted, then down")

	w.down("eu-3")
	require.Equal(t, []string{"eu-3"}, ids(w.found(view("eu-1")).Left), "down, then unlisted")
	require.Empty(t, w.members())
}

func TestGraceDoesNotEndWhileTheDiscoveryHasLostItsData(t *testing.T) {
	w := newWorld(t, "eu-2", "us-1")
	w.found(View{})
	require.Empty(t, w.wait(10*grace))
	require.Equal(t, []string{"eu-1", "eu-2"}, w.home())

	// The data comes back bit by bit. From then on the discovery is trusted.
	left := w.found(view("eu-1")).Left
	require.Equal(t, []string{"eu-2"}, ids(left), "unlisted for longer than the grace period")
	require.Equal(t, []string{"us-1"}, w.members())
}

func TestNodesThatAreDownAreForgottenAfterADayWithoutTrust(t *testing.T) {
	w := newWorld(t, "eu-2", "us-1", "us-2")
	w.down("us-1", "us-2", "eu-2")
	w.found(view("eu-1", "eu-2"))
	require.Empty(t, w.wait(forgetAfter-1))
	require.Equal(t, []string{"eu-2", "us-1", "us-2"}, w.members())
	w.up("us-2")
	require.Equal(t, []string{"us-1"}, w.wait(1), "us-2 answers and eu-2 is listed")
	require.Equal(t, []string{"us-2"}, w.down("us-2"))
	require.Equal(t, []string{"eu-2"}, w.members())
}

func TestANodeThatMovedMustAnswerAtTheNewPlace(t *testing.T) {
	for name, move := range map[string]func(*Node){
		"address": func(n *Node) { n.Address = "elsewhere:7946" },
		"region":  func(n *Node) { n.Region = "us" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "eu-2")
			moved := node("eu-2")
			move(&moved)
			change := w.found(View{Nodes: []Node{node("eu-1"), moved}})
			require.Equal(t, Change{Moved: []Node{moved}}, change)
			require.Equal(t, []string{"eu-1"}, w.home())
			require.Equal(t, []Node{moved}, w.Nodes())

			w.up("eu-2")
			require.Contains(t, w.Topology().Region(moved.Region).Nodes, moved)
		})
	}
}

func TestANodeThatChangesItsWeightStaysUp(t *testing.T) {
	w := newWorld(t, "eu-2")
	before := w.Topology()
	heavier := node("eu-2")
	heavier.Weight *= 2
	w.now = at(time.Hour)
	require.Equal(t, Change{}, w.found(View{Nodes: []Node{node("eu-1"), heavier}}))
	top := w.Topology()
	require.Contains(t, top.Home.Nodes, heavier)
	require.NotSame(t, before.Home.ring, top.Home.ring)
	require.Equal(t, at(time.Hour), top.Changed)
}

func TestUnusableNodesAreRefused(t *testing.T) {
	w := newWorld(t, "eu-2")
	var bad []Node
	for _, spoil := range []func(*Node){
		func(n *Node) { n.ID = "" },
		func(n *Node) { n.Region = "" },
		func(n *Node) { n.Address = "" },
		func(n *Node) { n.Weight = -1 },
		func(n *Node) { n.Weight = consistenthash.MinWeight / 2 },
		func(n *Node) { n.Weight = consistenthash.MaxWeight * 2 },
		func(n *Node) { n.Weight = math.Inf(1) },
		func(n *Node) { n.ID, n.Address = "eu-2", "" }, // already a member
	} {
		n := node(fmt.Sprintf("eu-%d", 10+len(bad)))
		spoil(&n)
		bad = append(bad, n)
	}
	change := w.found(View{Nodes: append(bad, node("eu-1"), node("eu-3"))})
	require.Equal(t, bad, change.Refused)
	require.Equal(t, []Node{node("eu-3")}, change.Joined)
	require.NoError(t, change.Err)
	require.Equal(t, []string{"eu-2", "eu-3"}, w.members())
	require.Equal(t, []string{"eu-1", "eu-2"}, w.home(), "eu-2 stays as it was")
	require.Equal(t, []string{"eu-2"}, w.down("eu-2"), "a refused node is not listed")
}

func TestARegionTooHeavyForARingStaysAsItWas(t *testing.T) {
	w := newWorld(t, "eu-2", "us-1")
	heavy := []Node{node("eu-1"), node("eu-2"), node("us-1")}
	for i := range consistenthash.MaxTotalWeight/consistenthash.MaxWeight + 1 {
		n := node(fmt.Sprintf("eu-%d", 10+i))
		n.Weight = consistenthash.MaxWeight
		heavy = append(heavy, n)
	}
	before := w.Topology()
	// Mark the heavy nodes up before they are found, so that no ring of slightly fewer of them, which would
	// still fit, is built first.
	w.Members.mu.Lock()
	for _, n := range heavy[3:] {
		w.Members.nodes[n.ID] = &member{Node: n, State: State{Up: true}}
	}
	w.Members.mu.Unlock()
	change := w.found(View{Nodes: heavy})
	require.ErrorContains(t, change.Err, "regions: eu: consistenthash: the weights add up to")
	require.Same(t, before, w.Topology())
	require.Len(t, w.members(), len(heavy)-1)

	w.found(view("eu-1", "eu-2", "us-1"))
	w.wait(grace)
	require.Equal(t, []string{"eu-2", "us-1"}, w.members())
	require.Len(t, w.Topology().Home.Nodes, 2)
}

// A node that another listed node vouches for is a member for a while.
func TestVouch(t *testing.T) {
	w := newWorld(t, "eu-2")
	vouch := func(by string, nodes ...string) []string {
		return ids(w.Vouch(w.now, by, view(nodes...).Nodes).Joined)
	}
	require.Equal(t, []string{"eu-3", "us-1"}, vouch("eu-2", "eu-1", "eu-2", "eu-3", "us-1"))
	w.up("eu-3", "us-1")
	require.Len(t, w.Topology().Home.Nodes, 3)
	require.NotNil(t, w.Topology().Region("us"))
	require.Equal(t, []string{"eu-1", "eu-2"}, ids(w.Listed()), "vouched nodes are not passed on")
	require.Equal(t, []string{"eu-2"}, w.Vouchers())

	require.Empty(t, vouch("eu-3", "eu-4"), "the voucher is not listed here")
	require.Empty(t, vouch("eu-4", "eu-5"), "the voucher is not even a member")
	require.Empty(t, ids(w.found(view("eu-1", "eu-2")).Left))
	w.now = w.now.Add(vouchTTL - 1)
	vouch("eu-2", "eu-3")
	w.now = w.now.Add(1)
	require.Empty(t, w.down("eu-2"))
	require.Equal(t, []string{"us-1"}, w.down("us-1"), "no longer vouched for and does not answer")
	require.Equal(t, []string{"eu-2"}, w.Vouchers())

	w.found(view("eu-1", "eu-2", "eu-3"))
	require.Empty(t, w.Vouchers())
	moved := node("eu-3")
	moved.Address = "elsewhere:7946"
	w.Vouch(w.now, "eu-2", []Node{moved})
	require.NotContains(t, w.Nodes(), moved, "the local discovery takes precedence")
}
