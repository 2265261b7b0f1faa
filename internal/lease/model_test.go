package lease

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/geocache/geocache/expiry"
)

var (
	worlds = flag.Int("worlds", 25, "how many random worlds TestNobodyOutsideASettledViewServes runs")
	first  = flag.Uint64("first", 1, "the seed of the first world")
)

// A world is a region of nodes that ping each other, while messages are late or lost, clocks run at different speeds,
// connections are replaced, and views change as if discoveries and health checks said anything.
type world struct {
	rand  *rand.Rand
	now   time.Time
	nodes []*node
	sent  []message            // in order of arrival
	last  map[stream]time.Time // when the last message of each arrives
}

// A stream is one direction of a connection: what is sent over it arrives in order, up to where it breaks.
type stream struct {
	from, to *node
	conn     uint64
	pong     bool
}

type node struct {
	id    string
	speed float64 // of its clock, within half of 1% of the others'
	clock func() time.Time
	table *Table
	view  View
	conn  map[string]uint64 // of its connections to others
	peers map[string]*Peer
	under View // the view by which it last got the lease that it holds
}

// A message is a ping, or a pong, on its way.
type message struct {
	stream
	at     time.Time
	ping   Ping
	answer Answer
}

func newWorld(seed uint64) *world {
	w := &world{rand: rand.New(rand.NewPCG(seed, 0)), now: time.Unix(1_000_000_000, 0), last: map[stream]time.Time{}}
	begun := w.now
	for i := range 3 + w.rand.IntN(2) {
		n := &node{id: fmt.Sprint(i), conn: map[string]uint64{}, peers: map[string]*Peer{}, speed: 1 + (w.rand.Float64()-0.5)/101}
		n.clock = func() time.Time { return begun.Add(time.Duration(float64(w.now.Sub(begun)) * n.speed)) }
		w.nodes = append(w.nodes, n)
	}
	for _, n := range w.nodes {
		w.start(n)
	}
	return w
}

// start starts a process of a node, which knows nothing of an earlier one.
func (w *world) start(n *node) {
	n.table = New(Config{Length: length, Clock: expiry.NewClock(n.clock, time.Hour), Now: n.clock})
	for _, other := range w.nodes {
		n.peers[other.id] = n.table.Register(other.id)
	}
	w.change(n)
}

// connect makes the connection from one node to another anew: what was under way over the old one is lost.
func (w *world) connect(from, to *node) {
	from.conn[to.id]++
	from.peers[to.id].Reset()
	w.sent = slices.DeleteFunc(w.sent, func(m message) bool {
		return m.from == from && m.to == to && !m.pong || m.from == to && m.to == from && m.pong
	})
}

// restart kills the process of a node and starts another one.
func (w *world) restart(n *node) {
	for _, other := range w.nodes {
		if other != n {
			w.connect(n, other)
			w.connect(other, n)
		}
	}
	w.start(n)
}

// change gives a node another view: as a rule that of all nodes.
func (w *world) change(n *node) {
	n.view = View{}
	all := w.rand.IntN(3) > 0
	for _, other := range w.nodes {
		if other != n && (all || w.rand.IntN(2) == 0) {
			n.view.Others = append(n.view.Others, other.id)
		}
	}
	n.view.Hash = HashOf(hashOf(n))
	n.table.SetView(n.view.Hash)
	w.renew(n)
}

// hashOf is the set of a view's nodes in bits.
func hashOf(n *node) (hash uint64) {
	for _, id := range append(slices.Clone(n.view.Others), n.id) {
		hash |= 1 << (id[0] - '0' + 1)
	}
	return hash
}

func (w *world) renew(n *node) {
	was := n.table.hold.end.Load()
	switch n.table.Renew(n.view) {
	case Extended:
		if n.table.hold.end.Load() > was { // else one by an earlier view runs on
			n.under = n.view
		}
	case Resume: // the journals are there at once
		epoch := n.table.BeginResume()
		n.table.NextEpoch()
		if n.table.FinishResume(epoch, true) {
			n.under = n.view
		}
	}
}

// step lets some time pass, and something happen.
func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.rand.Int64N(int64(length / 20))))
	for len(w.sent) > 0 && !w.sent[0].at.After(w.now) {
		m := w.sent[0]
		w.sent = w.sent[1:]
		w.deliver(m)
	}
	n := w.nodes[w.rand.IntN(len(w.nodes))]
	switch k := w.rand.IntN(100); {
	case k < 2:
		w.change(n)
	case k < 3:
		n.conn[w.nodes[w.rand.IntN(len(w.nodes))].id]++
	case k < 4 && w.rand.IntN(2) == 0:
		w.restart(n)
	case k < 5: // another one takes it for dead, be it or not
		other := w.nodes[w.rand.IntN(len(w.nodes))]
		w.connect(n, other)
		other.table.Ended(n.id)
	case k < 6: // it stands still, or everybody does
		w.now = w.now.Add(time.Duration(w.rand.Int64N(int64(3 * length))))
	default:
		for _, other := range w.nodes {
			if other != n {
				w.send(message{stream: stream{n, other, n.conn[other.id], false}, ping: n.table.Ping()})
			}
		}
	}
}

// send has a message arrive some time, after those before it, or never.
func (w *world) send(m message) {
	if w.rand.IntN(20) == 0 {
		return
	}
	delay := length / 50
	if w.rand.IntN(10) == 0 {
		delay = 2 * length
	}
	m.at = w.now.Add(time.Duration(w.rand.Int64N(int64(delay))))
	if last := w.last[m.stream]; last.After(m.at) {
		m.at = last
	}
	w.last[m.stream] = m.at
	w.sent = append(w.sent, m)
	slices.SortStableFunc(w.sent, func(a, b message) int { return a.at.Compare(b.at) })
}

func (w *world) deliver(m message) {
	if !m.pong {
		if answer, ok := m.to.table.Pinged(m.from.id, m.conn, m.ping.Hash()); ok {
			w.send(message{stream: stream{m.to, m.from, m.conn, true}, ping: m.ping, answer: answer})
		}
		return
	}
	if m.conn == m.to.conn[m.from.id] { // the transport drops pongs of older connections
		m.to.peers[m.from.id].Ponged(m.ping, m.answer)
		w.renew(m.to)
	}
}

func (n *node) holds() bool { return n.table.Held(n.table.config.Clock.Instant()) }

// in reports whether a node is in a view of another one.
func (n *node) in(of *node, v View) bool { return n == of || slices.Contains(v.Others, n.id) }

// check returns what is wrong.
func (w *world) check() string {
	for _, n := range w.nodes {
		at, known := n.table.SettledAt(n.view)
		settled := known && !at.After(n.table.config.Now())
		for _, other := range w.nodes {
			overlaps := slices.ContainsFunc(w.nodes, func(x *node) bool { return x.in(n, n.view) && x.in(other, other.under) })
			if settled && !other.in(n, n.view) && other.holds() && overlaps {
				return fmt.Sprintf("the view %v of %s is settled, and %s holds a lease by %v", n.view.Others, n.id, other.id, other.under.Others)
			}
			overlaps = slices.ContainsFunc(w.nodes, func(x *node) bool { return x.in(n, n.view) && x.in(other, other.view) })
			if n.view.Hash != other.view.Hash && overlaps && len(n.view.Others)*len(other.view.Others) > 0 &&
				n.table.InTerm(n.view) && other.table.InTerm(other.view) {
				return fmt.Sprintf("%s is in a term of %v, and %s of %v", n.id, n.view.Others, other.id, other.view.Others)
			}
		}
	}
	return ""
}

// When a view is settled, no node outside of it serves copies by a lease of a node inside. And two nodes whose views
// overlap without being the same are not both in a term.
func TestNobodyOutsideASettledViewServes(t *testing.T) {
	held, settled, terms := 0, 0, 0
	for seed := *first; seed < *first+uint64(*worlds); seed++ {
		w := newWorld(seed)
		for step := range 2000 {
			w.step()
			if wrong := w.check(); wrong != "" {
				t.Fatalf("world %d, step %d: %s", seed, step, wrong)
			}
			n := w.nodes[step%len(w.nodes)]
			if n.holds() {
				held++
			}
			if at, known := n.table.SettledAt(n.view); known && !at.After(n.table.config.Now()) {
				settled++
			}
			if n.table.InTerm(n.view) {
				terms++
			}
		}
	}
	steps := *worlds * 2000
	t.Logf("of %d looks, %d at a lease held, %d at a settled view, %d at a term", steps, held, settled, terms)
	require.Greater(t, held, steps/20)
	require.Greater(t, settled, steps/10)
	require.Greater(t, terms, steps/25)
}
