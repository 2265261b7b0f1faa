package geocache

import (
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/latency"
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
	// SourceStale is a value past its time to live: one that WithStaleIfError or
	// WithStaleWhileRevalidate
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
//
// The figures are read while the group goes on, one after the other. These relations
// hold in each GroupStats all the same:
//
//   - Each read is counted once, in one of the seven figures that Reads adds up, before
//     it returns. Reads has all that returned before Stats was called, and none that
//     began after Stats returned.
//   - LoadErrors and LoadLatency.Count together are at most Loads, and so is
//     Abandoned. WriteErrors is at most Writes.
//   - Entries, Copies, Bytes and CopyBytes are of one moment: Copies is at most Entries,
//     CopyBytes at most Bytes, Bytes at most MaxBytes.
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
	Abandoned  uint64 // of these, still running when their context had ended
	Refreshes  uint64 // fills in the background, see WithRefreshAhead and WithStaleWhileRevalidate

	Panics uint64 // calls of the group's functions, its getter and codec among them, that panicked or called runtime.Goexit

	// LoadLatency is how long those loads took that ended without an error. What
	// fails slowly is not in it: see LoadErrors and Abandoned.
	LoadLatency latency.Distribution

	Writes      uint64 // calls of Set, Update, Increment and all that remove, in this process
	WriteErrors uint64 // of these, ended by an error
	Doubts      uint64 // loaded values that were not taken in, because they may be from before a write although their generation is higher
	Retried     uint64 // rounds of Update that had to begin anew, because another process was first
	Repaired    uint64 // floors found missing by comparing with another region

	Stored      uint64      // writes that the origin has taken from this process
	StoreErrors uint64      // calls of the setter or remover that failed
	Behind      BehindStats // of WithWriteBehind

	Served     uint64 // keys that peers asked this process for, but for peeks that missed
	Unanswered uint64 // requests that a peer did not answer, so that the next was tried
	Takeovers  uint64 // fills in place of an owner that did not answer
	Undecoded  uint64 // values that did not decode and were loaded anew

	Entries    int   // held now, copies included, expired or not
	Copies     int   // of these, copies of keys that other nodes own
	Bytes      int64 // what the entries are charged, at most WithMaxBytes
	CopyBytes  int64
	TooLarge   uint64 // values not kept because they alone are over the bound
	MaxBytes   int64  // as configured, or as Resize has set it
	MaxEntries int    // the same; 0 is no bound
	FloorsHeld int    // keys with a floor of their own

	// Entries that have left this process's memory, by reason; see EvictReason.
	Evicted, Expired, Removed, Replaced uint64

	// Values that have left and that the function of WithOnEvict has still to be called for, what they are
	// charged, at most MaxBytes (the highest that there has been), and those for which there was no room beyond that:
	// it was never called for them.
	Leaving      int
	LeavingBytes int64
	Untold       uint64
}

// BehindStats is what a group with WithWriteBehind has still to write to the
// origin.
type BehindStats struct {
	Queued      int           // writes that this process is to make
	QueuedBytes int64         // their size
	Held        int           // writes that it keeps for the nodes that are to make them
	HeldBytes   int64         // their size
	Waiting     int           // writes that wait for room in the queue
	Lag         time.Duration // for how long the origin has lacked the oldest queued write
	Coalesced   uint64        // writes that were never made because a newer one of the key came
	Refused     uint64        // writes for which there was no room
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

// A hitCounter counts hits. It is striped: an atomic that all cores write costs more
// than the hit. The count also says which hit is to read the exact clock, so that
// no random number need be drawn for that. One that this clock finds to be late has been counted,
// and is counted again as what it becomes. (xsync.Counter and math/rand did the same for
// a fifth of the time of a hit.)
type hitCounter struct {
	stripes [hitStripes]struct {
		n atomic.Uint64
		_ [56]byte // the rest of a cache line
	}
}

const hitStripes = 32

// add counts a hit, and reports whether it is the one in 64 that is to read the exact clock.
func (c *hitCounter) add() (exact bool) {
	// Goroutines have stacks of 2 KiB and more, so the address of a variable tells them
	// apart, mostly, and one has the same for some time.
	var here byte
	goroutine := uint64(uintptr(unsafe.Pointer(&here)) >> 11)
	return c.stripes[goroutine*0x9e3779b97f4a7c15>>59].n.Add(1)%64 == 0 // Fibonacci hashing (Knuth), to 5 bits
}

func (c *hitCounter) value() (sum uint64) {
	for i := range c.stripes {
		sum += c.stripes[i].n.Load()
	}
	return sum
}

// groupStats holds the counters of a group. The one for reads answered by this
// process's memory is the only one on the path of a hit; it is striped, since an
// atomic that all cores write costs more than the hit.
type groupStats struct {
	hits       hitCounter
	bySource   [sources]atomic.Uint64 // of reads; SourceStore is in hits
	notFound   atomic.Uint64
	errors     atomic.Uint64
	loads      atomic.Uint64
	loadErrors atomic.Uint64
	abandoned  atomic.Uint64
	refreshes  atomic.Uint64
	served     atomic.Uint64
	unanswered atomic.Uint64
	takeovers  atomic.Uint64
	undecoded  atomic.Uint64

	writes, writeErrors, stored, storeErrors, doubts, retried, repaired atomic.Uint64

	loadLatency latency.Histogram
}

// Stats returns what the group has done and holds in this process. It may be
// called at any time; GroupStats says what its figures have to do with each other.
func (g *group) Stats() GroupStats {
	held := g.store.Stats()
	s := &g.stats
	// Parts are read before the whole, and counted after it: so they are not more.
	loaded := s.loadLatency.Distribution()
	loadErrors, abandoned, writeErrors := s.loadErrors.Load(), s.abandoned.Load(), s.writeErrors.Load()
	var b BehindStats
	if q := g.backing.behind; q != nil {
		s := q.Stats()
		b = BehindStats{s.Queued, s.QueuedBytes, s.Held, s.HeldBytes, s.Waiting, s.Oldest, s.Coalesced, s.Refused}
	}
	return GroupStats{
		Writes:      s.writes.Load(),
		WriteErrors: writeErrors,
		Doubts:      s.doubts.Load(),
		Retried:     s.retried.Load(),
		Repaired:    s.repaired.Load(),
		Stored:      s.stored.Load(),
		StoreErrors: s.storeErrors.Load(),
		Behind:      b,

		Store:    s.hits.value(),
		Owner:    s.bySource[SourceOwner].Load(),
		Region:   s.bySource[SourceRegion].Load(),
		Getter:   s.bySource[SourceGetter].Load(),
		Stale:    s.bySource[SourceStale].Load(),
		NotFound: s.notFound.Load(),
		Errors:   s.errors.Load(),

		Loads:       s.loads.Load(),
		LoadErrors:  loadErrors,
		Panics:      g.guard.failed.Load(),
		Abandoned:   abandoned,
		Refreshes:   s.refreshes.Load(),
		LoadLatency: loaded,

		Served:     s.served.Load(),
		Unanswered: s.unanswered.Load(),
		Takeovers:  s.takeovers.Load(),
		Undecoded:  s.undecoded.Load(),
		Entries:    held.Entries(),
		Copies:     held.Copies.Entries,
		Bytes:      held.Bytes(),
		CopyBytes:  held.Copies.Bytes,
		TooLarge:   held.TooLarge,
		MaxBytes:   held.MaxBytes,
		MaxEntries: held.MaxEntries,
		FloorsHeld: g.floors.Len(),
		Evicted:    held.Left(store.Capacity),
		Expired:    held.Left(store.Expired),
		Removed:    held.Left(store.Removed),
		Replaced:   held.Left(store.Replaced),

		Leaving:      held.Leaving,
		LeavingBytes: held.LeavingBytes,
		Untold:       held.Untold,
	}
}

// Stats is what a Cache has done and knows now.
type Stats struct {
	Node    regions.Node            // this process
	Regions []RegionStats           // this process's own first, then nearest first
	Peers   []peers.PeerStats       // every other member, by ID, whether it answers or not
	Groups  map[string]GroupStats   // by name
	Refused map[peers.Reason]uint64 // connections refused or closed for what came over them

	// Certificate is when the certificate ends that this process shows to its peers, the first in the
	// configuration. It is zero without TLS, or if a callback chooses the certificate.
	Certificate time.Time

	// Copies is whether copies of other nodes' entries are served now. They are
	// not while the nodes of the region do not agree about who is there.
	Copies bool
	Lapses uint64 // how often this node has had to catch up with the others' writes before it served copies: when it came, and each time that it had not heard from all of them for a lease

	// Guest reports whether this node is a guest of its region: most nodes there no longer list it, or
	// cannot reach it. It owns no keys, and asks the owners, until it is listed again.
	Guest bool

	Panics uint64 // calls of the discovery, the dialer, the listener and the logger that panicked or called runtime.Goexit
	Gaps   uint64 // pushes from other regions that showed that one before them had been lost
}

// RegionStats is a region as this process sees it.
type RegionStats struct {
	Name     string
	Nodes    int           // that answer
	Distance time.Duration // the round trip to the nearest of them

	// Exchanges are with all nodes of the region that there are and have been, so
	// they do not fall when one leaves. With a node that is a member now: see Stats.Peers.
	peers.Exchanges

	// Outbox is what this process has to tell the region; zero for its own.
	Outbox OutboxStats
}

// OutboxStats is what a process has to tell another region about writes.
type OutboxStats struct {
	Queued   int           // notes that wait to be sent, one for each key
	InFlight int           // notes that wait to be acknowledged
	Bytes    int64         // of both
	Lag      time.Duration // for how long the oldest of them has been waiting

	Sent      uint64 // notes sent, those that were sent again included
	Resent    uint64 // notes sent again
	Coalesced uint64 // notes that were not sent because of a newer one
	Gaps      uint64 // messages that the region had not received and was sent again
	Stripped  uint64 // values that were dropped to keep the bound: the region has a miss
	Folded    uint64 // notes that became one floor for their group for the same reason
	Expired   uint64 // notes that were never sent because they no longer mattered
}

// Stats returns what the cache has done and knows now.
func (c *Cache) Stats() Stats {
	top := c.topology()
	s := Stats{Node: c.node, Groups: map[string]GroupStats{}}
	for _, r := range top.Regions() {
		s.Regions = append(s.Regions, RegionStats{Name: r.Name, Nodes: len(r.Nodes), Distance: r.Distance})
	}
	for _, name := range c.remoteRegions() { // those that do not answer, too
		if top.Region(name) == nil {
			s.Regions = append(s.Regions, RegionStats{Name: name})
		}
	}
	for i := range s.Regions {
		if o, ok := c.outboxes.Load(s.Regions[i].Name); ok {
			b := o.Stats(c.clock.Instant())
			s.Regions[i].Outbox = OutboxStats{b.Queued, b.InFlight, b.Bytes, b.Oldest, b.Sent, b.Resent, b.Coalesced, b.Gaps, b.Stripped, b.Folded, b.Expired}
		}
	}
	s.Copies = int64(c.clock.Instant()) < c.standing.copies.Load()
	s.Guest = top.Guest
	s.Lapses = c.standing.period.Load()
	s.Panics = c.guard.failed.Load()
	s.Gaps = c.inbox.Gaps()
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
