package geocache

import (
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/engine"
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
	// SourceOwner is the memory of another node of this region: the key's owner, or one that stands in for it.
	SourceOwner
	// SourceRegion is another region.
	SourceRegion
	// SourceGetter is the getter, called by this process or by the owner, for this read or for one that waited
	// for the same load.
	SourceGetter
	// SourceStale is a value past its time to live: one that WithStaleIfError or WithStaleWhileRevalidate allows,
	// or one that took longer to load, for this read, than it lives.
	SourceStale
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

// A Generation is a place in the order of all loads and writes of the cluster: if one event could have known of
// another, it has the higher Generation. Zero comes before all events.
type Generation uint64

// Time returns the time of g to the microsecond, by the wall clock of the node that made it.
func (g Generation) Time() time.Time { return expiry.Generation(g).Time() }

// String shows g as a time and a counter, such as "2026-11-22T17:04:05.000123Z/7".
func (g Generation) String() string { return expiry.Generation(g).String() }

// An Item is a value and what is known about it.
type Item[V any] struct {
	Value V

	// Generation is when the load or write began, as the cluster orders events.
	Generation Generation

	// Age is how long ago the load began, at most: the time that an answer travelled is counted twice rather
	// than not at all.
	Age time.Duration

	// Expires is when the value expires on this node. It is in the past for a stale value.
	Expires time.Time

	// Source is where this read was answered from.
	Source Source

	// Unconfirmed says that there may have been a write that this value does not show, because the network may
	// have divided the region, and this node be in a part without a majority (see Stats.Unconfirmed). It is
	// false for what the getter has just returned.
	Unconfirmed bool
}

// GroupStats is what a Group has done in this process since NewGroup, and what it holds now. The counters never
// fall.
//
// The figures are read one after the other while the group goes on. These relations hold in each GroupStats all
// the same:
//
//   - Each read is counted once, in one of the seven figures that Reads adds up, before it returns. Reads has
//     all reads that returned before Stats was called, and none that began after Stats returned.
//   - LoadErrors and LoadLatency.Count together are at most Loads, and so is Abandoned. WriteErrors is at most
//     Writes.
//   - Entries, Copies, Bytes and CopyBytes are of one moment: Copies is at most Entries, CopyBytes at most Bytes,
//     Bytes at most MaxBytes.
type GroupStats struct {
	// Reads of this process by Get, GetItem and GetMany (each key counts), by where they were answered from.
	// NotFound and Errors are those that ended in ErrNotFound and in other errors; they are not among the
	// sources.
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

	// Panics counts calls of the group's functions, including its getter and codec, that panicked or called
	// runtime.Goexit.
	Panics uint64

	// LoadLatency is how long the loads took that ended without an error. What fails slowly is not in it: see
	// LoadErrors and Abandoned.
	LoadLatency Latency

	Writes        uint64 // calls of Set, Update, Increment and all that remove, in this process
	WriteErrors   uint64 // of these, ended by an error
	RejectedLoads uint64 // loaded values rejected because they may be older than a write
	UpdateRetries uint64 // rounds of Update that started over because another process was first
	Repaired      uint64 // writes found missing by comparing with another region

	// SingleHolder is how many values that were Set, and that no origin has, this node holds without knowing
	// that the key's owner and its successor both have them. It rises when nodes come and go, and falls to 0
	// as the values are given to the nodes that lack them. While it is 0 on all nodes of a region, one of them
	// may die and nothing is lost. It is rather too high than too low. A group with a setter has none.
	SingleHolder int
	GivenValues  uint64 // values given to other nodes for that

	OriginWrites uint64           // writes to the origin that succeeded
	OriginErrors uint64           // calls of the setter or remover that failed
	WriteBehind  WriteBehindStats // of WithWriteBehind

	Served         uint64 // keys that peers asked this process for, except peeks that missed
	Unanswered     uint64 // requests that a peer did not answer, so the next one was tried
	OwnerFallbacks uint64 // fills in place of an owner that did not answer
	DecodeErrors   uint64 // values that did not decode and were loaded again

	Entries    int   // held now, copies included, expired or not
	Copies     int   // of these, copies of keys that other nodes own
	Bytes      int64 // what the entries are charged, at most WithMaxBytes
	CopyBytes  int64
	TooLarge   uint64 // values not kept because they alone exceed the bound
	MaxBytes   int64  // as configured, or as Resize has set it
	MaxEntries int    // the same; 0 is no bound
	Floors     int    // writes that the group remembers one by one

	// Entries that have left this process's memory, by reason; see EvictReason.
	Evicted, Expired, Removed, Replaced uint64

	// Evicted values that the function of WithOnEvict has still to be called for, what they are charged (at most
	// the highest MaxBytes so far), and values that there was no room for: it was never called for them.
	EvictQueue      int
	EvictQueueBytes int64
	EvictDropped    uint64
}

// WriteBehindStats is what a group with WithWriteBehind has still to write to the origin.
type WriteBehindStats struct {
	Queued      int           // writes that this process has to make
	QueuedBytes int64         // their size
	Held        int           // writes that it keeps for the nodes that have to make them
	HeldBytes   int64         // their size
	Waiting     int           // writes that wait for room in the queue
	Lag         time.Duration // how long the origin has lacked the oldest queued write
	Coalesced   uint64        // writes that were never made because a newer one of the key came
	Refused     uint64        // writes for which there was no room
}

// Reads returns the number of reads of this process.
func (s GroupStats) Reads() uint64 {
	return s.Store + s.Owner + s.Region + s.Getter + s.Stale + s.NotFound + s.Errors
}

// HitRatio returns the share of reads that memory in this region answered, or 0 if there were none.
func (s GroupStats) HitRatio() float64 {
	if s.Reads() == 0 {
		return 0
	}
	return float64(s.Store+s.Owner) / float64(s.Reads())
}

// Stats is what a Cache has done and knows now.
type Stats struct {
	Node    regions.Node          // this process
	Regions []RegionStats         // this process's own first, then nearest first
	Peers   []PeerStats           // the members that this process connects to, by ID, up or down; see RegionStats
	Groups  map[string]GroupStats // by name
	Refused map[string]uint64     // connections refused, or closed for what came over them, by reason

	// Certificate is when the certificate expires that this process shows to its peers, the first in the
	// configuration. It is zero without TLS, or if a callback chooses the certificate.
	Certificate time.Time

	// ServesCopies reports whether this process serves what it has in memory now. It does not while the nodes of
	// the region disagree about who is there, or while it has not heard from all of them: other nodes may
	// write without it.
	ServesCopies bool

	// Unconfirmed reports whether this node sees no majority of its region. Then it may be in one part of a
	// divided network, and not be told of what is written in another. The region is the nodes that the discovery
	// lists and that this one has seen, less those that have left, have ended, or have not been listed for the
	// grace period (see WithGrace). It is also true as long as the discovery has not said who is there. See Item.Unconfirmed and
	// WithStrictReads.
	Unconfirmed bool
	LeaseLosses uint64 // how often this node has had to catch up with the others' writes before it served copies: when it came, and each time that it had not heard from all of them for a lease

	// Guest reports whether this node is a guest of its region: most nodes there no longer list it, or cannot
	// reach it. It owns no keys, and asks the owners, until it is listed again.
	Guest bool

	Panics     uint64 // calls of the discovery, dialer, listener and logger that panicked or called Goexit
	LostPushes uint64 // pushes from other regions that showed that an earlier one was lost
}

// RegionStats is a region as this process sees it. A process connects to all other members of its own region, and
// to a few of each other one: to a dozen in all, but to three of each at least. These ask the others there.
type RegionStats struct {
	Name     string
	Nodes    int           // that this process connects to and that answer, and itself
	Members  int           // that this process knows, whether it connects to them or not, and itself
	Distance time.Duration // the round trip to the nearest of Nodes

	// Exchanges are with all nodes of the region that there are and have been, so
	// they do not fall when one leaves. With a node that is a member now: see Stats.Peers.
	Exchanges

	// Outbox is what this process has to tell the region; zero for its own.
	Outbox OutboxStats
}

// OutboxStats is what a process has to tell another region about writes.
type OutboxStats struct {
	Queued   int           // writes that wait to be sent, one for each key
	InFlight int           // writes that wait to be acknowledged
	Bytes    int64         // of both
	Lag      time.Duration // how long the oldest of them has been waiting

	Sent          uint64 // writes sent, including those sent again
	Resent        uint64 // writes sent again
	Coalesced     uint64 // writes not sent because a newer one replaced them
	Lost          uint64 // pushes that the region had not received and was sent again
	DroppedValues uint64 // values dropped to keep the bound: the region has a miss
	Collapsed     uint64 // writes collapsed into one invalidation of their group, for the same reason
	Expired       uint64 // writes never sent because they no longer mattered
}

// PeerStats is what this process, as a client, has had to do with a peer.
type PeerStats struct {
	ID, Region, Address string

	Up       bool
	RTT      time.Duration // zero if not yet measured
	InFlight int           // requests waiting for an answer now
	Connects uint64        // completed handshakes
	Exchanges
	Traffic Traffic
}

// Exchanges counts requests, as seen by the node that made them. Each is counted in Requests when it begins, and
// once more when it has ended: in Errors or in one of the two latencies. So Errors and the two counts together
// never exceed Requests, and equal it when nothing is in flight. (In the sum of a region, requests that were in
// flight when a peer's last connection ended may have no end.)
type Exchanges struct {
	Requests uint64 // keys asked for, and calls
	Errors   uint64 // of these, ended without an answer or by one that is an error, for whatever reason

	// FetchLatency is how long the requests took that asked for a key, including loads at the peer. Each key of
	// a request for many counts from when all were asked for.
	FetchLatency Latency

	// CallLatency is how long calls took, until their answers arrived.
	CallLatency Latency
}

// Traffic is counted on the wire, before TLS.
type Traffic struct {
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64
}

// Latency is a distribution of durations. Its zero value is that of none.
//
// The quantiles are upper bounds: half of the durations are at most P50, 99 in 100 at most P99, 999 in 1,000 at most
// P999. Each exceeds the exact quantile by less than an eighth of it or a microsecond, whichever is more, and is
// never above Max; where the exact one is above 62.9 s, it is Max. Sum and Max are exact. Durations that are being
// counted at that moment may be in Sum and Max but not in Count.
type Latency struct {
	Count          uint64
	Sum            time.Duration
	P50, P99, P999 time.Duration
	Max            time.Duration

	distribution latency.Distribution
}

// AtMost returns how many durations are at most limit. It is exact where limit is a power of two times a
// microsecond, up to 2²⁵ µs (33.6 s); otherwise it may miss some that are less than limit by an eighth or a
// microsecond.
func (l Latency) AtMost(limit time.Duration) uint64 { return l.distribution.AtMost(limit) }

// Stats returns what the group has done and holds in this process. It may be called at any time; see GroupStats
// for how its figures relate.
func (g *Group[V]) Stats() GroupStats { return groupStats(g.core.Stats()) }

// Stats returns what the cache has done and knows now. It may be called at any time.
func (c *Cache) Stats() Stats {
	core := c.core.Stats()
	s := Stats{
		Node:         core.Node,
		Groups:       make(map[string]GroupStats, len(core.Groups)),
		Certificate:  core.Certificate,
		ServesCopies: core.ServesCopies,
		Unconfirmed:  core.Unconfirmed,
		LeaseLosses:  core.LeaseLosses,
		Guest:        core.Guest,
		Panics:       core.Panics,
		LostPushes:   core.LostPushes,
	}
	for _, r := range core.Regions {
		s.Regions = append(s.Regions, RegionStats{r.Name, r.Nodes, r.Members, r.Distance, exchangesOf(r.Exchanges), OutboxStats(r.Outbox)})
	}
	for _, p := range core.Peers {
		s.Peers = append(s.Peers, PeerStats{
			p.ID, p.Region, p.Address, p.Up, p.RTT, p.InFlight, p.Connects, exchangesOf(p.Exchanges), Traffic(p.Traffic),
		})
	}
	if core.Refused != nil {
		s.Refused = make(map[string]uint64, len(core.Refused))
	}
	for reason, n := range core.Refused {
		s.Refused[reason.String()] = n
	}
	for name, g := range core.Groups {
		s.Groups[name] = groupStats(g)
	}
	return s
}

func latencyOf(d latency.Distribution) Latency {
	return Latency{d.Count, d.Sum, d.P50, d.P99, d.P999, d.Max, d}
}

func exchangesOf(e peers.Exchanges) Exchanges {
	return Exchanges{e.Requests, e.Errors, latencyOf(e.FetchLatency), latencyOf(e.CallLatency)}
}

func groupStats(s engine.GroupStats) GroupStats {
	return GroupStats{
		Store:    s.Store,
		Owner:    s.Owner,
		Region:   s.Region,
		Getter:   s.Getter,
		Stale:    s.Stale,
		NotFound: s.NotFound,
		Errors:   s.Errors,

		Loads:      s.Loads,
		LoadErrors: s.LoadErrors,
		Abandoned:  s.Abandoned,
		Refreshes:  s.Refreshes,

		Panics: s.Panics,

		LoadLatency: latencyOf(s.LoadLatency),

		Writes:        s.Writes,
		WriteErrors:   s.WriteErrors,
		RejectedLoads: s.RejectedLoads,
		UpdateRetries: s.UpdateRetries,
		Repaired:      s.Repaired,
		SingleHolder:  s.SingleHolder,
		GivenValues:   s.GivenValues,

		OriginWrites: s.OriginWrites,
		OriginErrors: s.OriginErrors,
		WriteBehind:  WriteBehindStats(s.WriteBehind),

		Served:         s.Served,
		Unanswered:     s.Unanswered,
		OwnerFallbacks: s.OwnerFallbacks,
		DecodeErrors:   s.DecodeErrors,

		Entries:    s.Entries,
		Copies:     s.Copies,
		Bytes:      s.Bytes,
		CopyBytes:  s.CopyBytes,
		TooLarge:   s.TooLarge,
		MaxBytes:   s.MaxBytes,
		MaxEntries: s.MaxEntries,
		Floors:     s.Floors,

		Evicted:  s.Evicted,
		Expired:  s.Expired,
		Removed:  s.Removed,
		Replaced: s.Replaced,

		EvictQueue:      s.EvictQueue,
		EvictQueueBytes: s.EvictQueueBytes,
		EvictDropped:    s.EvictDropped,
	}
}
