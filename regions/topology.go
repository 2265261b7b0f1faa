package regions

import (
	"time"

	"github.com/geocache/geocache/consistenthash"
	"github.com/geocache/geocache/expiry"
)

// A Topology is the cluster as one node sees it at one moment. It is immutable
// and safe for concurrent use.
type Topology struct {
	// Self is the node whose view this is.
	Self Node
	// Guest is whether Self is a guest of its region: it owns nothing there.
	Guest bool
	// Home is the region of Self. It always has at least one node, and Self among them, unless that is
	// a guest and there are others.
	Home *Region
	// Remote are the other regions that have a node that answers, nearest
	// first.
	Remote []*Region
	// Changed is when the ring of Home last changed.
	Changed expiry.Instant
}

// A Region is the part of a Topology that lies in one region. It has at least
// one node.
type Region struct {
	Name string
	// Nodes are the nodes that answer, by ascending ID.
	Nodes []Node
	// Distance is the round trip from Self to the nearest of them: measured,
	// or else the discovery's estimate, or else 0 for not known. It is 0 for
	// Home too.
	Distance time.Duration

	ring *consistenthash.Ring
	byID map[string]Node
}

// Owner returns the node that owns key in this region.
func (r *Region) Owner(key string) Node {
	id, _ := r.ring.Owner(key) // a region without a node is not in a Topology
	return r.byID[id]
}

// Owners returns the first n distinct nodes in the succession of key, or all
// if there are fewer: the owner, then the node that would own the key if the
// owner were gone, and so on.
func (r *Region) Owners(key string, n int) []Node {
	ids := r.ring.Owners(key, n)
	nodes := make([]Node, len(ids))
	for i, id := range ids {
		nodes[i] = r.byID[id]
	}
	return nodes
}

// Ring returns a hash of all that decides which node owns which key. Two nodes for which it is
// the same agree on the owner and the succession of every key.
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
