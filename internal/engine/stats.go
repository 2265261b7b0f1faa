package engine

import (
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/latency"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// A Source says where the answer to a read came from.
type Source uint8

// The sources of a read.
const (
	// SourceStore is this process's memory.
	SourceStore Source = iota + 1
	// SourceOwner is the memory of another node of this region: the key's owner, or a node that stands in
	// for it.
	SourceOwner
	// SourceRegion is another region.
	SourceRegion
	// SourceGetter is the getter, called by this process or by the owner, for this read or for one that
	// shared the load.
	SourceGetter
	// SourceStale is a value past its time to live: either one that WithStaleIfError or
	// WithStaleWhileRevalidate allows, or one that took longer to load for this read than it lives.
	SourceStale

	numSources
)

// GroupStats has the values of the fields of geocache.GroupStats, which documents them.
type GroupStats struct {
	Store    uint64
	Owner    uint64
	Region   uint64
	Getter   uint64
	Stale    uint64
	NotFound uint64
	Errors   uint64

	Loads      uint64
	LoadErrors uint64
	Abandoned  uint64
	Refreshes  uint64

	Panics uint64

	LoadLatency latency.Distribution

	Writes        uint64
	WriteErrors   uint64
	RejectedLoads uint64
	UpdateRetries uint64
	Repaired      uint64
	SingleHolder  int
	GivenValues   uint64

	OriginWrites uint64
	OriginErrors uint64
	WriteBehind  WriteBehindStats

	Served         uint64
	Unanswered     uint64
	OwnerFallbacks uint64
	DecodeErrors   uint64

	Entries    int
	Copies     int
	Bytes      int64
	CopyBytes  int64
	TooLarge   uint64
	MaxBytes   int64
	MaxEntries int
	Floors     int

	Evicted, Expired, Removed, Replaced uint64

	EvictQueue      int
	EvictQueueBytes int64
	EvictDropped    uint64
}

// WriteBehindStats has the values of the fields of geocache.WriteBehindStats, which documents them.
type WriteBehindStats struct {
	Queued      int
	QueuedBytes int64
	Held        int
	HeldBytes   int64
	Waiting     int
	Lag         time.Duration
	Coalesced   uint64
	Refused     uint64
}

// A hitCounter counts hits. It is striped: an atomic that all cores write costs more than the hit itself.
// The count also picks the hits that read the exact clock, which saves a random number. A hit that the
// exact clock finds to be too late has been counted, and is counted again as what it turns into.
// (xsync.Counter and math/rand took a fifth of the time of a hit for the same job.)
type hitCounter struct {
	stripes [hitStripes]struct {
		n atomic.Uint64
		_ [56]byte // the rest of a cache line
	}
}

const hitStripes = 32

// add counts a hit. It returns true for one hit in 64, which is to read the exact clock.
func (c *hitCounter) add() (exact bool) {
	// Goroutines have stacks of at least 2 KiB, so the address of a local variable mostly tells them apart,
	// and stays the same for one goroutine for some time.
	var here byte
	goroutine := uint64(uintptr(unsafe.Pointer(&here)) >> 11)
	stripe := goroutine * 0x9e3779b97f4a7c15 >> 59 // Fibonacci hashing (Knuth), to 5 bits
	return c.stripes[stripe].n.Add(1)%64 == 0
}

// value returns the number of hits.
func (c *hitCounter) value() (sum uint64) {
	for i := range c.stripes {
		sum += c.stripes[i].n.Load()
	}
	return sum
}

// groupStats holds a group's counters. Only hits is on the path of a hit, so only it is striped.
type groupStats struct {
	hits         hitCounter
	bySource     [numSources]atomic.Uint64 // of reads; SourceStore is in hits
	notFound     atomic.Uint64
	errors       atomic.Uint64
	loads        atomic.Uint64
	loadErrors   atomic.Uint64
	abandoned    atomic.Uint64
	refreshes    atomic.Uint64
	served       atomic.Uint64
	unanswered   atomic.Uint64
	fallbacks    atomic.Uint64
	decodeErrors atomic.Uint64

	writes, writeErrors, originWrites, originErrors, updateRetries, repaired, given atomic.Uint64

	loadLatency latency.Histogram
}

// Stats returns what the group has done and holds in this process. geocache.GroupStats documents how its
// values relate to each other.
func (g *Group) Stats() GroupStats {
	held := g.store.Stats()
	s := &g.stats
	// Read parts before the whole, since they are counted after it: so no part exceeds the whole.
	loaded := s.loadLatency.Distribution()
	loadErrors, abandoned, writeErrors := s.loadErrors.Load(), s.abandoned.Load(), s.writeErrors.Load()
	var b WriteBehindStats
	if q := g.origin.queue; q != nil {
		s := q.Stats()
		b = WriteBehindStats{
			s.Queued, s.QueuedBytes, s.Held, s.HeldBytes, s.Waiting, s.Oldest, s.Coalesced, s.Refused,
		}
	}
	return GroupStats{
		Writes:        s.writes.Load(),
		WriteErrors:   writeErrors,
		RejectedLoads: g.fresh.rejected.Load(),
		UpdateRetries: s.updateRetries.Load(),
		Repaired:      s.repaired.Load(),
		SingleHolder:  g.cache.redundancy.singleHolder(g),
		GivenValues:   s.given.Load(),
		OriginWrites:  s.originWrites.Load(),
		OriginErrors:  s.originErrors.Load(),
		WriteBehind:   b,

		Store:    s.hits.value(),
		Owner:    s.bySource[SourceOwner].Load(),
		Region:   s.bySource[SourceRegion].Load(),
		Getter:   s.bySource[SourceGetter].Load(),
		Stale:    s.bySource[SourceStale].Load(),
		NotFound: s.notFound.Load(),
		Errors:   s.errors.Load(),

		Loads:       s.loads.Load(),
		LoadErrors:  loadErrors,
		Panics:      g.guard.Failed(),
		Abandoned:   abandoned,
		Refreshes:   s.refreshes.Load(),
		LoadLatency: loaded,

		Served:         s.served.Load(),
		Unanswered:     s.unanswered.Load(),
		OwnerFallbacks: s.fallbacks.Load(),
		DecodeErrors:   s.decodeErrors.Load(),
		Entries:        held.Entries(),
		Copies:         held.Copies.Entries,
		Bytes:          held.Bytes(),
		CopyBytes:      held.Copies.Bytes,
		TooLarge:       held.TooLarge,
		MaxBytes:       held.MaxBytes,
		MaxEntries:     held.MaxEntries,
		Floors:         g.floors.Len(),
		Evicted:        held.Left(store.Capacity),
		Expired:        held.Left(store.Expired),
		Removed:        held.Left(store.Removed),
		Replaced:       held.Left(store.Replaced),

		EvictQueue:      held.EvictQueue,
		EvictQueueBytes: held.EvictQueueBytes,
		EvictDropped:    held.EvictDropped,
	}
}

// Stats has the values of the fields of geocache.Stats, which documents them.
type Stats struct {
	Node    regions.Node
	Regions []RegionStats
	Peers   []peers.PeerStats
	Groups  map[string]GroupStats
	Refused map[peers.Reason]uint64

	Certificate time.Time

	ServesCopies bool
	Unconfirmed  bool
	LeaseLosses  uint64

	Guest bool

	Panics     uint64
	LostPushes uint64
}

type RegionStats struct {
	Name     string
	Nodes    int
	Members  int
	Distance time.Duration

	peers.Exchanges

	Outbox OutboxStats
}

type OutboxStats struct {
	Queued   int
	InFlight int
	Bytes    int64
	Lag      time.Duration

	Sent          uint64
	Resent        uint64
	Coalesced     uint64
	Lost          uint64
	DroppedValues uint64
	Collapsed     uint64
	Expired       uint64
}

// Stats returns what the cache has done, and how it currently sees the cluster.
func (c *Cache) Stats() Stats {
	top := c.topology()
	s := Stats{Node: c.node, Groups: map[string]GroupStats{}}
	for _, r := range top.Regions() {
		s.Regions = append(s.Regions, RegionStats{Name: r.Name, Nodes: len(r.Nodes), Distance: r.Distance})
	}
	for _, name := range c.remoteRegions() { // includes regions that do not answer
		if top.Region(name) == nil {
			s.Regions = append(s.Regions, RegionStats{Name: name})
		}
	}
	members := map[string]int{c.node.Region: 1}
	for _, n := range c.members.Nodes() {
		members[n.Region]++
	}
	for i := range s.Regions {
		s.Regions[i].Members = members[s.Regions[i].Name]
		if o, ok := c.replicator.outboxes.Load(s.Regions[i].Name); ok {
			b := o.Stats(c.clock.Instant())
			s.Regions[i].Outbox = OutboxStats{
				b.Queued, b.InFlight, b.Bytes, b.Oldest,
				b.Sent, b.Resent, b.Coalesced, b.Lost, b.DroppedValues, b.Collapsed, b.Expired,
			}
		}
	}
	s.ServesCopies = c.leases.Held(c.clock.Instant())
	s.Unconfirmed = c.leases.Unconfirmed()
	s.Guest = top.Guest
	s.LeaseLosses = c.leases.Epoch()
	s.Panics = c.guard.Failed() + c.logGuard.Failed()
	s.LostPushes = c.replicator.inbox.Lost()
	if c.transport != nil {
		t := c.transport.Stats()
		s.Peers, s.Refused, s.Certificate = t.Peers, t.Refused, t.Certificate
		for i := range s.Regions {
			s.Regions[i].Exchanges = t.Regions[s.Regions[i].Name]
		}
	}
	for name, g := range *c.groups.Load() {
		s.Groups[name] = g.Stats()
	}
	return s
}
