package prom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/geocache/geocache"
)

// all has every desc that there is.
var all []*prometheus.Desc

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("geocache_"+name, help, labels, nil)
	all = append(all, d)
	return d
}

// Of the process.
var (
	nodeInfo     = desc("node_info", "Always 1; the labels say which node of the cluster this process is.", "node", "node_region", "node_address")
	copiesServed = desc("serves_copies", "1 if copies of other nodes' entries are served now, else 0.")
	guest        = desc("guest", "1 if this node is a guest of its region, which does not list it any more, else 0.")
	leaseLosses  = desc("lease_losses_total", "How often serving copies has ended, or not begun, because the nodes of the region did not agree about who is there.")
	lostPushes   = desc("lost_pushes_total", "Pushes from other regions that showed that one before them had been lost.")
	panics       = desc("panics_total", "Calls of the users' functions that panicked or called runtime.Goexit: of the group's, or, where that is empty, of what was given to Open.", "group")
	refused      = desc("connections_refused_total", "Connections refused, or closed for what came over them.", "reason")
	certificate  = desc("certificate_left_seconds", "For how long the certificate of this process still is good; negative after its end. Not there without TLS.")
)

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (o output) node(s geocache.Stats) {
	o.gauge(nodeInfo, 1, s.Node.ID, s.Node.Region, s.Node.Address)
	o.gauge(copiesServed, oneIf(s.ServesCopies))
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

// Of each region.
var (
	regionNodes    = desc("region_nodes", "Nodes of the region that answer.", "peer_region")
	regionDistance = desc("region_round_trip_seconds", "Round trip to the nearest node of the region.", "peer_region")
	requests       = desc("requests_total", "Keys that this process has asked nodes of the region for, and calls.", "peer_region")
	requestErrors  = desc("request_errors_total", "Of the requests, those that ended without an answer or by an error.", "peer_region")
	requestTime    = desc("request_duration_seconds", "How long requests took that were answered: kind is fetch for keys, call for what nodes tell each other.", "peer_region", "kind")

	outboxWrites    = desc("outbox_messages", "Writes that the region has not confirmed yet: state is queued or in_flight.", "peer_region", "state")
	outboxBytes     = desc("outbox_bytes", "Bytes of the writes that the region has not confirmed yet.", "peer_region")
	outboxLag       = desc("outbox_lag_seconds", "Age of the oldest write that the region has not confirmed yet.", "peer_region")
	outboxSent      = desc("outbox_sent_total", "Writes sent to the region, including those sent again.", "peer_region")
	outboxResent    = desc("outbox_resent_total", "Writes sent to the region again.", "peer_region")
	outboxCoalesced = desc("outbox_coalesced_total", "Writes not sent because a newer one of the key replaced them.", "peer_region")
	outboxLost      = desc("outbox_lost_total", "Pushes that the region had not received and was sent again.", "peer_region")
	outboxDropped   = desc("outbox_dropped_values_total", "Values dropped to keep the outbox within its bound: the region has a miss.", "peer_region")
	outboxCollapsed = desc("outbox_collapsed_total", "Writes collapsed into one invalidation of their group to keep the outbox within its bound: the region has misses.", "peer_region")
	outboxExpired   = desc("outbox_expired_total", "Writes never sent because they no longer mattered.", "peer_region")
)

func (o output) region(r geocache.RegionStats, home bool) {
	o.gauge(regionNodes, float64(r.Nodes), r.Name)
	if r.Distance > 0 { // or it is not known
		o.gauge(regionDistance, r.Distance.Seconds(), r.Name)
	}
	o.counter(requests, r.Requests, r.Name)
	o.counter(requestErrors, r.Errors, r.Name)
	o.histogram(requestTime, r.FetchLatency, r.Name, "fetch")
	o.histogram(requestTime, r.CallLatency, r.Name, "call")
	if home { // which has no outbox
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

// Of each peer.
var (
	peerUp       = desc("peer_up", "1 if the peer is up as this process sees it, else 0.", "peer", "peer_region")
	peerDistance = desc("peer_round_trip_seconds", "Round trip to the peer.", "peer", "peer_region")
	peerInFlight = desc("peer_requests_in_flight", "Requests that wait for the peer's answer.", "peer", "peer_region")
	peerConnects = desc("peer_connects_total", "Connections made to the peer.", "peer", "peer_region")
	peerReceived = desc("peer_received_bytes_total", "Bytes that the peer has answered, before TLS.", "peer", "peer_region")
	peerSent     = desc("peer_sent_bytes_total", "Bytes that the peer was sent requests in, before TLS.", "peer", "peer_region")
)

func (o output) peer(p geocache.PeerStats) {
	up := 0.0
	if p.Up {
		up = 1
	}
	o.gauge(peerUp, up, p.ID, p.Region)
	if p.RTT > 0 {
		o.gauge(peerDistance, p.RTT.Seconds(), p.ID, p.Region)
	}
	o.gauge(peerInFlight, float64(p.InFlight), p.ID, p.Region)
	o.counter(peerConnects, p.Connects, p.ID, p.Region)
	o.counter(peerReceived, p.Traffic.BytesIn, p.ID, p.Region)
	o.counter(peerSent, p.Traffic.BytesOut, p.ID, p.Region)
}

const helpOfReads = "Reads of this process by what they came to: " +
	"answered by store (this process's memory), owner (the owner's), region (another region), " +
	"getter (a load) or stale (a value past its time), or by not_found or error."

// Of each group.
var (
	reads = desc("reads_total", helpOfReads, "group", "result")

	loads         = desc("loads_total", "Calls of the getter.", "group")
	loadErrors    = desc("load_errors_total", "Of the loads, those that ended by an error other than not found.", "group")
	loadAbandoned = desc("loads_abandoned_total", "Of the loads, those that were still running when their time was up.", "group")
	refreshes     = desc("refreshes_total", "Fills in the background, ahead of the expiry or after it.", "group")
	loadTime      = desc("load_duration_seconds", "How long loads took that ended without an error.", "group")

	writes        = desc("writes_total", "Calls of Set, Remove, Clear and Update.", "group")
	writeErrors   = desc("write_errors_total", "Of the writes, those that ended by an error.", "group")
	rejectedLoads = desc("rejected_loads_total", "Loaded values that were rejected because they may be older than a write.", "group")
	retries       = desc("update_retries_total", "Rounds of Update that had to begin anew because another process was first.", "group")
	repaired      = desc("floors_repaired_total", "Floors found missing by comparing with another region.", "group")

	originWrites      = desc("origin_writes_total", "Writes that the origin has taken from this process.", "group")
	originWriteErrors = desc("origin_errors_total", "Calls of the setter or remover that failed.", "group")
	behindWrites      = desc("write_behind_writes", "Writes that the origin has still to take: state is queued if this process is to make them, held if it keeps them for another, waiting if there is no room yet.", "group", "state")
	behindBytes       = desc("write_behind_bytes", "Bytes of the writes that the origin has still to take.", "group", "state")
	behindLag         = desc("write_behind_lag_seconds", "For how long the origin has lacked the oldest queued write.", "group")
	behindCoalesced   = desc("write_behind_coalesced_total", "Writes that were never made because a newer one of the key came.", "group")
	behindRefused     = desc("write_behind_refused_total", "Writes for which there was no room in the queue.", "group")

	served         = desc("keys_served_total", "Keys that peers asked this process for, but for peeks that missed.", "group")
	unanswered     = desc("requests_unanswered_total", "Requests that a peer did not answer, so that the next was tried.", "group")
	ownerFallbacks = desc("owner_fallbacks_total", "Fills in place of an owner that did not answer.", "group")
	decodeErrors   = desc("decode_errors_total", "Values that did not decode and were loaded anew.", "group")

	storeEntries    = desc("store_entries", "Entries held: class is copy for keys that other nodes own, else owned.", "group", "class")
	storeBytes      = desc("store_bytes", "Bytes that the entries are charged.", "group", "class")
	storeMaxEntries = desc("store_max_entries", "Entries that the group may have; 0 is no bound.", "group")
	storeMaxBytes   = desc("store_max_bytes", "Bytes that all entries of the group may be charged.", "group")
	left            = desc("store_left_total", "Entries that have left memory: to make room, expired, removed by a write, or replaced by a newer value.", "group", "reason")
	evictQueue      = desc("evict_queue", "Values that have left and that the function of WithOnEvict has still to be called for.", "group")
	evictQueueBytes = desc("evict_queue_bytes", "What these values are charged.", "group")
	evictDropped    = desc("evict_dropped_total", "Values that the function of WithOnEvict was not called for, because too many waited.", "group")
	tooLarge        = desc("store_too_large_total", "Values not kept because they alone are over the bound.", "group")
	floors          = desc("floors", "Keys with a floor of their own.", "group")
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
