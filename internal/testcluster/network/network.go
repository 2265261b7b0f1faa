// Package network is a network in memory for tests of clusters: hosts in zones that talk over
// TCP-like connections with latency and loss, and that can be cut off from each other, crash and
// freeze. Inside a testing/synctest bubble, hours of cluster life take milliseconds.
//
//	n := network.New(1)
//	eu, us := n.Host("eu-1", "eu"), n.Host("us-1", "us")
//	n.SetLatency("eu", "us", 40*time.Millisecond)
//	l, err := us.Listen()
//	c, err := eu.Dial(ctx, us.Addr()) // 80 ms later
//	n.Cut("eu", "us")                 // what is written to c now
//	n.Heal("eu", "us")                // arrives after this
//
// # What it promises
//
// A connection behaves as TCP on Linux does, where a program can tell. Bytes arrive once and in
// order, one latency after they were written, and are never lost: a lost segment is sent again
// after a retransmission timeout of 200 ms, which doubles up to 120 s, and what was sent after it
// waits behind it. A cut silently loses everything that is on its way and everything sent until it
// is healed. A connection that outlives the cut delivers at its next retransmission after Heal: the
// longer the cut, the later. Dial takes a round trip, repeats an unanswered SYN after 1, 2, 4, ...
// seconds, and gives up with ETIMEDOUT after 127. A RST is sent once; if it is lost, the other end
// learns of it from the RST that answers its next data.
//
// No goroutine belongs to a connection or to the network, every wait is durably blocking in the
// sense of testing/synctest, and a cut keeps no timer. So a test that waits for what cannot happen
// fails at once, with the deadlock.
//
// Given the seed, whether a segment is lost depends on the two addresses and on what that direction
// of the connection carried before, and not on how the goroutines of other connections were
// scheduled.
//
// # What it leaves out
//
// Bandwidth and congestion control. Acknowledgements are immediate and never lost, so that a
// one-way cut leaves the other direction unharmed, and no number of retransmissions ends a
// connection. A listener's queue is unbounded.
package network

import (
	"fmt"
	"sync"
	"time"
)

// The one-way latencies, unless SetLatency has set others.
const (
	LatencyWithinZone   = 250 * time.Microsecond
	LatencyBetweenZones = 40 * time.Millisecond
)

// A Network is a set of hosts and the links between them. All its methods, and those of its hosts,
// are safe for concurrent use.
//
// Names given to its methods are those of hosts or zones, unless they are said to be zones. A zone
// stands for each of its hosts. A method panics if there is no such name: a test with a misspelt
// name would prove nothing.
type Network struct {
	seed   uint64
	jitter time.Duration // set before there are connections

	// mu guards the following fields and everything in the network's hosts,
	// listeners, connections and pipes. It is never held while blocking.
	//
	// A lock for each connection would be no faster where it matters, and an
	// event that concerns many of them (a cut, a crash) could be seen half done.
	mu       sync.Mutex
	hosts    map[string]*Host // the latest of each name
	latency  map[link]time.Duration
	loss     map[link]float64
	cuts     map[link]struct{}
	inFlight map[*pipe]struct{}
}

// A link is one direction between two names.
type link struct{ from, to string }

// New returns a network without hosts. The seed determines its losses.
func New(seed uint64) *Network {
	return &Network{
		seed:     seed,
		hosts:    make(map[string]*Host),
		latency:  make(map[link]time.Duration),
		loss:     make(map[link]float64),
		cuts:     make(map[link]struct{}),
		inFlight: make(map[*pipe]struct{}),
	}
}

// Host adds a host to a zone. It panics if the name is taken by a host or a zone, or if zone is the
// name of a host.
func (n *Network) Host(name, zone string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.knownLocked(name) || n.hosts[zone] != nil || name == zone {
		panic(fmt.Sprintf("network: host %q in zone %q: the name is taken", name, zone))
	}
	return n.startLocked(name, zone)
}

// SetLatency sets how long data takes from zone a to zone b, and from b to a.
// It holds for what is sent from now on, which still does not overtake what was
// sent before. With a == b it is the latency between hosts of that zone.
func (n *Network) SetLatency(a, b string, oneWay time.Duration) {
	if oneWay < 0 {
		panic(fmt.Sprintf("network: negative latency %v", oneWay))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mustBeZonesLocked(a, b)
	n.latency[link{a, b}] = oneWay
	n.latency[link{b, a}] = oneWay
}

// SetJitter makes everything that is sent take longer, by up to most, as the seed says. What would
// arrive at the same moment, in an order that is up to the scheduler, then arrives one after the
// other. Call it before there are connections.
func (n *Network) SetJitter(most time.Duration) { n.jitter = most }

// SetLoss sets the share, at least 0 and below 1, of the segments (of up to 1460 bytes) that are
// lost between zones a and b, in each direction.
func (n *Network) SetLoss(a, b string, share float64) {
	if !(share >= 0 && share < 1) {
		panic(fmt.Sprintf("network: loss of %v: a share in [0, 1) is wanted, for all of it use Cut", share))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mustBeZonesLocked(a, b)
	n.loss[link{a, b}] = share
	n.loss[link{b, a}] = share
}

// Cut turns the links between a and b into black holes, both ways. What is on its way is lost as
// well. A host's connections to itself are never cut.
func (n *Network) Cut(a, b string) {
	n.cut(link{a, b}, link{b, a})
}

// CutOneWay turns the links from one name to another into black holes. The other direction still
// works. No connection can be established meanwhile, since that takes both.
func (n *Network) CutOneWay(from, to string) {
	n.cut(link{from, to})
}

// Heal undoes Cut(a, b), CutOneWay(a, b) and CutOneWay(b, a). Cuts made with other names stay, even
// if they concern the same hosts: a host that was cut off by its own name is not healed with its
// zone.
func (n *Network) Heal(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mustExistLocked(a, b)
	delete(n.cuts, link{a, b})
	delete(n.cuts, link{b, a})
	n.cutsChangedLocked()
}

// HealAll undoes all cuts.
func (n *Network) HealAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	n.cutsChangedLocked()
}

func (n *Network) cut(links ...link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range links {
		n.mustExistLocked(l.from, l.to)
		n.cuts[l] = struct{}{}
	}
	n.cutsChangedLocked()
}

func (n *Network) cutsChangedLocked() {
	for p := range n.inFlight {
		p.cutsChangedLocked()
	}
}

func (n *Network) knownLocked(name string) bool {
	for _, h := range n.hosts {
		if h.is(name) {
			return true
		}
	}
	return false
}

func (n *Network) mustExistLocked(names ...string) {
	for _, name := range names {
		if !n.knownLocked(name) {
			panic(fmt.Sprintf("network: no host or zone %q", name))
		}
	}
}

// mustBeZonesLocked accepts names that nobody has yet: links may be described before there are
// hosts.
func (n *Network) mustBeZonesLocked(names ...string) {
	for _, name := range names {
		if n.hosts[name] != nil {
			panic(fmt.Sprintf("network: %q is a host, a zone is wanted", name))
		}
	}
}

func (n *Network) isCutLocked(from, to *Host) bool {
	if from.name == to.name {
		return false
	}
	for l := range n.cuts {
		if from.is(l.from) && to.is(l.to) {
			return true
		}
	}
	return false
}

func (n *Network) latencyLocked(from, to *Host) time.Duration {
	if d, ok := n.latency[link{from.zone, to.zone}]; ok {
		return d
	}
	if from.zone == to.zone {
		return LatencyWithinZone
	}
	return LatencyBetweenZones
}
