package prom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/geocache/geocache"
)

// all has every metric description.
var all []*prometheus.Desc

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("geocache_"+name, help, labels, nil)
	all = append(all, d)
	return d
}

// Metrics of the process.
var (
	nodeInfo = desc("node_info",
		"Always 1. The labels identify the node of the cluster that this process is.",
		"node", "node_region", "node_address")
	copiesServed = desc("serves_copies",
		"1 if this node holds the lease by which it may serve what it has in memory, else 0.")
	unconfirmed = desc("unconfirmed",
		"1 if this node sees no majority of its region, and so may miss writes, else 0.")
	guest = desc("guest",
		"1 if this node is a guest of its region, because most nodes there no longer list it "+
			"or cannot reach it, else 0.")
	leaseLosses = desc("lease_losses_total",
		"Times that this node had to catch up on writes before serving copies: at "+
			"startup, and each time it lost its lease.")
	lostPushes = desc("lost_pushes_total",
		"Pushes from other regions that revealed the loss of an earlier push.")
	panics = desc("panics_total",
		"Calls of user functions that panicked or called runtime.Goexit. An empty group "+
			"stands for functions given to Open.", "group")
	refused = desc("connections_refused_total",
		"Connections refused, or closed because of invalid input.", "reason")
	certificate = desc("certificate_left_seconds",
		"Time until this process's certificate expires; negative once it has. Absent "+
			"without TLS, or if a callback chooses the certificate.")
)

// oneIf returns 1 if is holds, else 0.
func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (o output) node(s geocache.Stats) {
	o.gauge(nodeInfo, 1, s.Node.ID, s.Node.Region, s.Node.Address)
	o.gauge(copiesServed, oneIf(s.ServesCopies))
	o.gauge(unconfirmed, oneIf(s.Unconfirmed))
	o.gauge(guest, oneIf(s.Guest))
	o.counter(leaseLosses, s.LeaseLosses)
	o.counter(lostPushes, s.LostPushes)
	if !s.Certificate.IsZero() {
		o.gauge(certificate, time.Until(s.Certificate).Seconds())
	}
	o.counter(panics, s.Panics, "")
	for reason, n := range s.Refused {
		o.counter(refused, n, reason)
	}
}

// Metrics of each region.
var (
	regionNodes    = desc("region_nodes", "Nodes of the region that this one connects to and that answer.", "peer_region")
	regionMembers  = desc("region_members", "Nodes of the region that this one knows.", "peer_region")
	regionDistance = desc("region_round_trip_seconds",
		"Round-trip time to the nearest node of the region.", "peer_region")
	requests = desc("requests_total",
		"Keys requested from nodes of the region, plus other requests between nodes.", "peer_region")
	requestErrors = desc("request_errors_total", "Requests that failed or got no answer.", "peer_region")
	requestTime   = desc("request_duration_seconds",
		"Duration of answered requests. kind is fetch for keys, call for other requests "+
			"between nodes.", "peer_region", "kind")

	outboxWrites = desc("outbox_messages",
		"Writes that the region has not acknowledged yet. state is queued or in_flight.", "peer_region", "state")
	outboxBytes = desc("outbox_bytes",
		"Size of the writes that the region has not acknowledged yet.", "peer_region")
	outboxLag = desc("outbox_lag_seconds",
		"Age of the oldest write that the region has not acknowledged yet.", "peer_region")
	outboxSent = desc("outbox_sent_total",
		"Writes sent to the region, including those sent again.", "peer_region")
	outboxResent    = desc("outbox_resent_total", "Writes sent to the region again.", "peer_region")
	outboxCoalesced = desc("outbox_coalesced_total",
		"Writes not sent because a newer write to the same key replaced them.", "peer_region")
	outboxLost = desc("outbox_lost_total",
		"Pushes that did not reach the region and were sent again.", "peer_region")
	outboxDropped = desc("outbox_dropped_values_total",
		"Values dropped to stay within the outbox limit. Each costs the region a miss.", "peer_region")
	outboxCollapsed = desc("outbox_collapsed_total",
		"Writes collapsed into one invalidation of their group to stay within the outbox "+
			"limit, which costs the region misses.", "peer_region")
	outboxExpired = desc("outbox_expired_total",
		"Writes never sent because they no longer mattered.", "peer_region")
)

func (o output) region(r geocache.RegionStats, home bool) {
	o.gauge(regionNodes, float64(r.Nodes), r.Name)
	o.gauge(regionMembers, float64(r.Members), r.Name)
	if r.Distance > 0 { // 0 means unknown
		o.gauge(regionDistance, r.Distance.Seconds(), r.Name)
	}
	o.counter(requests, r.Requests, r.Name)
	o.counter(requestErrors, r.Errors, r.Name)
	o.histogram(requestTime, r.FetchLatency, r.Name, "fetch")
	o.histogram(requestTime, r.CallLatency, r.Name, "call")
	if home { // has no outbox
		return
	}
	b := r.Outbox
	o.gauge(outboxWrites, float64(b.Queued), r.Name, "queued")
	o.gauge(outboxWrites, float64(b.InFlight), r.Name, "in_flight")
	o.gauge(outboxBytes, float64(b.Bytes), r.Name)
	o.gauge(outboxLag, b.Lag.Seconds(), r.Name)
	o.counter(outboxSent, b.Sent, r.Name)
	o.counter(outboxResent, b.Resent, r.Name)
	o.counter(outboxCoalesced, b.Coalesced, r.Name)
	o.counter(outboxLost, b.Lost, r.Name)
	o.counter(outboxDropped, b.DroppedValues, r.Name)
	o.counter(outboxCollapsed, b.Collapsed, r.Name)
	o.counter(outboxExpired, b.Expired, r.Name)
}

// Metrics of each peer.
var (
	peerUp = desc("peer_up",
		"1 if this process considers the peer up, else 0.", "peer", "peer_region")
	peerDistance = desc("peer_round_trip_seconds", "Round-trip time to the peer.", "peer", "peer_region")
	peerInFlight = desc("peer_requests_in_flight",
		"Requests waiting for an answer from the peer.", "peer", "peer_region")
	peerConnects = desc("peer_connects_total",
		"Connections established to the peer.", "peer", "peer_region")
	peerReceived = desc("peer_received_bytes_total",
		"Bytes received from the peer in answers, without TLS overhead.", "peer", "peer_region")
	peerSent = desc("peer_sent_bytes_total",
		"Bytes sent to the peer in requests, without TLS overhead.", "peer", "peer_region")
)

func (o output) peer(p geocache.PeerStats) {
	o.gauge(peerUp, oneIf(p.Up), p.ID, p.Region)
	if p.RTT > 0 {
		o.gauge(peerDistance, p.RTT.Seconds(), p.ID, p.Region)
	}
	o.gauge(peerInFlight, float64(p.InFlight), p.ID, p.Region)
	o.counter(peerConnects, p.Connects, p.ID, p.Region)
	o.counter(peerReceived, p.Traffic.BytesIn, p.ID, p.Region)
	o.counter(peerSent, p.Traffic.BytesOut, p.ID, p.Region)
}

const helpOfReads = "Reads by result: answered from store (this process's memory), " +
	"owner (the owner's memory), region (another region), getter (a load) or stale (an expired value), " +
	"or ended in not_found or error."

// Metrics of each group.
var (
	reads = desc("reads_total", helpOfReads, "group", "result")

	loads      = desc("loads_total", "Calls of the getter.", "group")
	loadErrors = desc("load_errors_total",
		"Loads that failed with an error other than not found.", "group")
	loadAbandoned = desc("loads_abandoned_total",
		"Loads still running when their context ended.", "group")
	refreshes = desc("refreshes_total",
		"Fills in the background, before or after a value expired.", "group")
	loadTime = desc("load_duration_seconds", "Duration of loads that succeeded.", "group")

	writes = desc("writes_total",
		"Calls of Set, Update, Increment and the methods that remove.", "group")
	writeErrors   = desc("write_errors_total", "Writes that failed.", "group")
	rejectedLoads = desc("rejected_loads_total",
		"Loaded values rejected because they may be older than a write.", "group")
	retries = desc("update_retries_total",
		"Rounds of Update repeated because another process wrote first.", "group")
	repaired = desc("floors_repaired_total",
		"Missing floors found by comparison with another region.", "group")

	singleHolder = desc("single_holder_values",
		"Values that were Set, that no origin has, and that only this node is known to hold.", "group")
	given = desc("given_values_total",
		"Values that were Set and that this node gave to their keys' owners or successors.", "group")

	originWrites = desc("origin_writes_total",
		"Writes from this process that the origin accepted.", "group")
	originWriteErrors = desc("origin_errors_total", "Calls of the setter or remover that failed.", "group")
	behindWrites      = desc("write_behind_writes",
		"Writes not yet made to the origin. state is queued for writes that this process will "+
			"make, held for those it keeps for another node, waiting for those without room in "+
			"the queue.", "group", "state")
	behindBytes = desc("write_behind_bytes",
		"Size of the writes not yet made to the origin. state is queued or held.", "group", "state")
	behindLag       = desc("write_behind_lag_seconds", "Age of the oldest queued write.", "group")
	behindCoalesced = desc("write_behind_coalesced_total",
		"Writes never made because a newer write to the same key replaced them.", "group")
	behindRefused = desc("write_behind_refused_total",
		"Writes refused because the queue was full.", "group")

	served = desc("keys_served_total",
		"Keys requested by peers, except peeks that missed.", "group")
	unanswered = desc("requests_unanswered_total",
		"Requests that a peer did not answer, so the next one was tried.", "group")
	ownerFallbacks = desc("owner_fallbacks_total",
		"Fills done in place of an owner that did not answer.", "group")
	decodeErrors = desc("decode_errors_total",
		"Values that failed to decode and were loaded again.", "group")

	storeEntries = desc("store_entries",
		"Entries in memory. class is copy for keys that other nodes own, else owned.", "group", "class")
	storeBytes      = desc("store_bytes", "Charged size of the entries in memory.", "group", "class")
	storeMaxEntries = desc("store_max_entries",
		"Maximum number of entries in the group; 0 means no limit.", "group")
	storeMaxBytes = desc("store_max_bytes", "Maximum charged size of all entries in the group.", "group")
	left          = desc("store_left_total",
		"Entries that left memory: to make room (capacity), expired, removed by a write, or "+
			"replaced by a newer value.", "group", "reason")
	evictQueue = desc("evict_queue",
		"Entries that left memory and wait for a call of the WithOnEvict function.", "group")
	evictQueueBytes = desc("evict_queue_bytes",
		"Charged size of the entries that wait for a call of the WithOnEvict function.", "group")
	evictDropped = desc("evict_dropped_total",
		"Entries that left memory without a call of the WithOnEvict function because too "+
			"many were waiting.", "group")
	tooLarge = desc("store_too_large_total",
		"Values not stored because they alone exceed the limit.", "group")
	floors = desc("floors", "Keys that have a floor of their own.", "group")
)

func (o output) group(name string, s geocache.GroupStats) {
	o.counter(reads, s.Store, name, "store")
	o.counter(reads, s.Owner, name, "owner")
	o.counter(reads, s.Region, name, "region")
	o.counter(reads, s.Getter, name, "getter")
	o.counter(reads, s.Stale, name, "stale")
	o.counter(reads, s.NotFound, name, "not_found")
	o.counter(reads, s.Errors, name, "error")

	o.counter(panics, s.Panics, name)
	o.counter(loads, s.Loads, name)
	o.counter(loadErrors, s.LoadErrors, name)
	o.counter(loadAbandoned, s.Abandoned, name)
	o.counter(refreshes, s.Refreshes, name)
	o.histogram(loadTime, s.LoadLatency, name)

	o.counter(writes, s.Writes, name)
	o.counter(writeErrors, s.WriteErrors, name)
	o.counter(rejectedLoads, s.RejectedLoads, name)
	o.counter(retries, s.UpdateRetries, name)
	o.counter(repaired, s.Repaired, name)
	o.gauge(singleHolder, float64(s.SingleHolder), name)
	o.counter(given, s.GivenValues, name)

	o.counter(originWrites, s.OriginWrites, name)
	o.counter(originWriteErrors, s.OriginErrors, name)
	o.gauge(behindWrites, float64(s.WriteBehind.Queued), name, "queued")
	o.gauge(behindWrites, float64(s.WriteBehind.Held), name, "held")
	o.gauge(behindWrites, float64(s.WriteBehind.Waiting), name, "waiting")
	o.gauge(behindBytes, float64(s.WriteBehind.QueuedBytes), name, "queued")
	o.gauge(behindBytes, float64(s.WriteBehind.HeldBytes), name, "held")
	o.gauge(behindLag, s.WriteBehind.Lag.Seconds(), name)
	o.counter(behindCoalesced, s.WriteBehind.Coalesced, name)
	o.counter(behindRefused, s.WriteBehind.Refused, name)

	o.counter(served, s.Served, name)
	o.counter(unanswered, s.Unanswered, name)
	o.counter(ownerFallbacks, s.OwnerFallbacks, name)
	o.counter(decodeErrors, s.DecodeErrors, name)

	o.gauge(storeEntries, float64(s.Entries-s.Copies), name, "owned")
	o.gauge(storeEntries, float64(s.Copies), name, "copy")
	o.gauge(storeBytes, float64(s.Bytes-s.CopyBytes), name, "owned")
	o.gauge(storeBytes, float64(s.CopyBytes), name, "copy")
	o.gauge(storeMaxBytes, float64(s.MaxBytes), name)
	o.gauge(storeMaxEntries, float64(s.MaxEntries), name)
	o.counter(left, s.Evicted, name, "capacity")
	o.counter(left, s.Expired, name, "expired")
	o.counter(left, s.Removed, name, "removed")
	o.counter(left, s.Replaced, name, "replaced")
	o.gauge(evictQueue, float64(s.EvictQueue), name)
	o.gauge(evictQueueBytes, float64(s.EvictQueueBytes), name)
	o.counter(evictDropped, s.EvictDropped, name)
	o.counter(tooLarge, s.TooLarge, name)
	o.gauge(floors, float64(s.Floors), name)
}
