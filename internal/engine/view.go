package engine

import (
	"encoding/binary"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/internal/lease"
	"github.com/geocache/geocache/regions"
)

// A view is the part of the topology that all nodes of a region must agree on: the ring of the nodes that
// answer, this one included, and the list of regions. The ring decides who owns a key, the list where a
// key is updated. A view is immutable.
type view struct {
	lease.View
	home        *regions.Region // without this node if it is a guest, see regions.Members
	regions     []string        // all, whether they answer or not, sorted
	regionsHash uint64          // identifies the regions in the messages of an Update; never 0
	couriers    []*courier      // to each of the Others
}

// newView returns the view that the node named self has of a topology with these regions.
func newView(self string, top *regions.Topology, names []string) *view {
	var b []byte
	for _, name := range names {
		b = append(append(b, byte(len(name))), name...)
	}
	regionsHash := xxh3.Hash(b)
	v := &view{
		View: lease.View{Hash: lease.Guest, Guest: top.Guest}, home: top.Home,
		regions: names, regionsHash: max(regionsHash, 1),
	}
	for _, n := range v.home.Nodes {
		if n.ID != self {
			v.Others = append(v.Others, n.ID)
		}
	}
	if !v.Guest {
		ring := binary.BigEndian.AppendUint64(nil, v.home.Ring())
		v.Hash = lease.HashOf(xxh3.Hash(binary.BigEndian.AppendUint64(ring, regionsHash)))
	}
	return v
}

// same reports whether two views show the same cluster from the same place in it.
func (v *view) same(w *view) bool {
	return v.Hash == w.Hash && v.regionsHash == w.regionsHash && v.home.Ring() == w.home.Ring()
}

// has reports whether the node is in the view.
func (v *view) has(id string) bool {
	return slices.ContainsFunc(v.home.Nodes, func(n regions.Node) bool { return n.ID == id })
}

// keeps reports whether the node is the key's owner or its successor.
func (v *view) keeps(key, node string) bool {
	return slices.ContainsFunc(v.home.Owners(key, 2), func(n regions.Node) bool { return n.ID == node })
}
