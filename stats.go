package geocache

import (
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// A Source says where a read was answered from.
type Source uint8

// The sources of a read.
const (
	// SourceStore is the memory of this process.
	SourceStore Source = iota + 1
	// SourceOwner is the memory of another node of this region: the owner of
	// the key, or one that stands in for it.
	SourceOwner
	// SourceRegion is another region.
	SourceRegion
	// SourceGetter is the getter, called by this process or by the owner for
	// this read or for one that waited for the same load.
	SourceGetter
	// SourceStale is a value past its time to live: one that WithStaleIfError
	// allows, or one whose loading, for this read, took longer than it lives.
	SourceStale

	sources
)

// String returns "store", "owner", "region", "getter" or "stale".
func (s Source) String() string {
	switch s {
	case SourceStore:
		return "store"
	case SourceOwner:
		return "owner"
	case SourceRegion:
		return "region"
	case SourceGetter:
		return "getter"
	case SourceStale:
		return "stale"
	}
	return "unknown"
}

// An Item is a value with what is known about it.
type Item[V any] struct {
	Value V

	// Generation is when the load began, as the cluster orders events. Its
	// Time method gives the wall-clock time on the node that loaded.
	Generation expiry.Generation

	// Age is how long ago the load began, at most: the time that an answer
	// travelled counts twice rather than not at all.
	Age time.Duration

	// Expires is when the value expires on this node. It is in the past for
	// a stale value.
	Expires time.Time

	// Source is where this read was answered from.
	Source Source
}

// GroupStats is what a Group has done in this process since NewGroup, and what
// it holds now. The counters never fall.
type GroupStats struct {
	// Reads of this process by Get, GetItem and GetMany (each key counts),
	// by where they were answered from. NotFound and Errors are those that
	// were answered by ErrNotFound and by other errors; they are not among
	// the sources.
	Store    uint64 // this process's memory
	Owner    uint64 // the owner's memory
	Region   uint64 // another region
	Getter   uint64 // a load
	Stale    uint64 // past the time to live, see SourceStale
	NotFound uint64
	Errors   uint64

	Loads      uint64 // calls of the getter in this process
	LoadErrors uint64 // of these, ended by an error other than ErrNotFound
	Panics     uint64 // of these, by a panic
	Abandoned  uint64 // of these, still running when their context had ended

	Served     uint64 // keys that peers asked this process for, but for peeks that missed
	Unanswered uint64 // requests that a peer did not answer, so that the next was tried
	Takeovers  uint64 // fills in place of an owner that did not answer
	Undecoded  uint64 // values that did not decode and were loaded anew

	Entries    int   // held now, copies included, expired or not
	Copies     int   // of these, copies of keys that other nodes own
	Bytes      int64 // what the entries are charged, at most WithMaxBytes
	CopyBytes  int64
	Evictions  uint64 // entries removed to make room
	TooLarge   uint64 // values not kept because they alone are over the bound
	MaxBytes   int64  // as configured
	FloorsHeld int    // keys with a floor of their own
}

// Reads returns the number of reads of this process.
func (s GroupStats) Reads() uint64 {
	return s.Store + s.Owner + s.Region + s.Getter + s.Stale + s.NotFound + s.Errors
}

// HitRatio returns the share of reads that were answered from memory in this
// region, or 0 if there were none.
func (s GroupStats) HitRatio() float64 {
	if s.Reads() == 0 {
		return 0
	}
	return float64(s.Store+s.Owner) / float64(s.Reads())
}

// groupStats holds the counters of a group. The one for reads answered by this
// process's memory is the only one on the path of a hit; it is striped, since an
// atomic that all cores write costs more than the hit.
type groupStats struct {
	hits       *xsync.Counter
	bySource   [sources]atomic.Uint64 // of reads; SourceStore is in hits
	notFound   atomic.Uint64
	errors     atomic.Uint64
	loads      atomic.Uint64
	loadErrors atomic.Uint64
	panics     atomic.Uint64
	abandoned  atomic.Uint64
	served     atomic.Uint64
	unanswered atomic.Uint64
	takeovers  atomic.Uint64
	undecoded  atomic.Uint64
}

// Stats returns what the group has done and holds in this process. It may be
// called at any time; the figures are read one after the other.
func (g *group) Stats() GroupStats {
	held := g.store.Stats()
	s := &g.stats
	return GroupStats{
		Store:      uint64(s.hits.Value()),
		Owner:      s.bySource[SourceOwner].Load(),
		Region:     s.bySource[SourceRegion].Load(),
		Getter:     s.bySource[SourceGetter].Load(),
		Stale:      s.bySource[SourceStale].Load(),
		NotFound:   s.notFound.Load(),
		Errors:     s.errors.Load(),
		Loads:      s.loads.Load(),
		LoadErrors: s.loadErrors.Load(),
		Panics:     s.panics.Load(),
		Abandoned:  s.abandoned.Load(),
		Served:     s.served.Load(),
		Unanswered: s.unanswered.Load(),
		Takeovers:  s.takeovers.Load(),
		Undecoded:  s.undecoded.Load(),
		Entries:    held.Entries(),
		Copies:     held.Copies.Entries,
		Bytes:      held.Bytes(),
		CopyBytes:  held.Copies.Bytes,
		Evictions:  held.Owned.Evicted + held.Copies.Evicted,
		TooLarge:   held.TooLarge,
		MaxBytes:   g.config.maxBytes,
		FloorsHeld: g.floors.Len(),
	}
}

// Stats is what a Cache has done and knows now.
type Stats struct {
	Node    regions.Node            // this process
	Regions []RegionStats           // this process's own first, then nearest first
	Peers   []peers.PeerStats       // every other member, by ID, whether it answers or not
	Groups  map[string]GroupStats   // by name
	Refused map[peers.Reason]uint64 // connections refused or closed for what came over them
}

// RegionStats is a region as this process sees it.
type RegionStats struct {
	Name     string
	Nodes    int           // that answer
	Distance time.Duration // the round trip to the nearest of them
}

// Stats returns what the cache has done and knows now.
func (c *Cache) Stats() Stats {
	top := c.topology()
	s := Stats{Node: c.node, Groups: map[string]GroupStats{}}
	for _, r := range top.Regions() {
		s.Regions = append(s.Regions, RegionStats{Name: r.Name, Nodes: len(r.Nodes), Distance: r.Distance})
	}
	if c.transport != nil {
		t := c.transport.Stats()
		s.Peers, s.Refused = t.Peers, t.Refused
	}
	for name, g := range *c.groups.Load() {
		s.Groups[name] = g.Stats()
	}
	return s
}
