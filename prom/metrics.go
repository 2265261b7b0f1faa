package prom

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/peers"
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
	copiesServed = desc("copies_served", "1 if copies of other nodes' entries are served now, else 0.")
	guest        = desc("guest", "1 if this node is a guest of its region, which does not list it any more, else 0.")
	lapses       = desc("copy_lapses_total", "How often serving copies has ended, or not begun, because the nodes of the region did not agree about who is there.")
	gaps         = desc("push_gaps_total", "Pushes from other regions that showed that one before them had been lost.")
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
	o.gauge(copiesServed, oneIf(s.Copies))
	o.gauge(guest, oneIf(s.Guest))
	o.counter(lapses, s.Lapses)
	o.counter(gaps, s.Gaps)
	if !s.Certificate.IsZero() {
		o.gauge(certificate, time.Until(s.Certificate).Seconds())
	}
	o.counter(panics, s.Panics, "")
	for reason, n := range s.Refused {
		o.counter(refused, n, reason.String())
	}
}

// Of each region.
var (
	regionNodes    = desc("region_nodes", "Nodes of the region that answer.", "peer_region")
	regionDistance = desc("region_round_trip_seconds", "Round trip to the nearest node of the region.", "peer_region")
	requests       = desc("requests_total", "Keys that this process has asked nodes of the region for, and calls.", "peer_region")
	requestErrors  = desc("request_errors_total", "Of the requests, those that ended without an answer or by an error.", "peer_region")
	requestTime    = desc("request_duration_seconds", "How long requests took that were answered: kind is fetch for keys, call for what nodes tell each other.", "peer_region", "kind")

	outboxNotes     = desc("outbox_notes", "Notes of writes that the region has still to be told: state is queued or in_flight.", "peer_region", "state")
	outboxBytes     = desc("outbox_bytes", "Bytes of the notes that the region has still to be told.", "peer_region")
	outboxLag       = desc("outbox_lag_seconds", "For how long the oldest note has been waiting that the region has still to be told.", "peer_region")
	outboxSent      = desc("outbox_sent_total", "Notes sent to the region, those that were sent again included.", "peer_region")
	outboxResent    = desc("outbox_resent_total", "Notes sent to the region again.", "peer_region")
	outboxCoalesced = desc("outbox_coalesced_total", "Notes that were not sent because of a newer one of the key.", "peer_region")
	outboxGaps      = desc("outbox_gaps_total", "Messages that the region had not received and was sent again.", "peer_region")
	outboxStripped  = desc("outbox_stripped_total", "Values that were dropped to keep the outbox within its bound: the region has a miss.", "peer_region")
	outboxFolded    = desc("outbox_folded_total", "Notes that became one floor for their group to keep the outbox within its bound: the region has misses.", "peer_region")
	outboxExpired   = desc("outbox_expired_total", "Notes that were never sent because they no longer mattered.", "peer_region")
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
	o.gauge(outboxNotes, float64(b.Queued), r.Name, "queued")
	o.gauge(outboxNotes, float64(b.InFlight), r.Name, "in_flight")
	o.gauge(outboxBytes, float64(b.Bytes), r.Name)
	o.gauge(outboxLag, b.Lag.Seconds(), r.Name)
	o.counter(outboxSent, b.Sent, r.Name)
	o.counter(outboxResent, b.Resent, r.Name)
	o.counter(outboxCoalesced, b.Coalesced, r.Name)
	o.counter(outboxGaps, b.Gaps, r.Name)
	o.counter(outboxStripped, b.Stripped, r.Name)
	o.counter(outboxFolded, b.Folded, r.Name)
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

func (o output) peer(p peers.PeerStats) {
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

	writes      = desc("writes_total", "Calls of Set, Remove, Clear and Update.", "group")
	writeErrors = desc("write_errors_total", "Of the writes, those that ended by an error.", "group")
	doubts      = desc("write_doubts_total", "Loaded values that were not taken in, because they may be from before a write although their generation is higher.", "group")
	retries     = desc("update_retries_total", "Rounds of Update that had to begin anew because another process was first.", "group")
	repaired    = desc("floors_repaired_total", "Floors found missing by comparing with another region.", "group")

	originWrites      = desc("origin_writes_total", "Writes that the origin has taken from this process.", "group")
	originWriteErrors = desc("origin_write_errors_total", "Calls of the setter or remover that failed.", "group")
	behindWrites      = desc("write_behind_writes", "Writes that the origin has still to take: state is queued if this process is to make them, held if it keeps them for another, waiting if there is no room yet.", "group", "state")
	behindBytes       = desc("write_behind_bytes", "Bytes of the writes that the origin has still to take.", "group", "state")
	behindLag         = desc("write_behind_lag_seconds", "For how long the origin has lacked the oldest queued write.", "group")
	behindCoalesced   = desc("write_behind_coalesced_total", "Writes that were never made because a newer one of the key came.", "group")
	behindRefused     = desc("write_behind_refused_total", "Writes for which there was no room in the queue.", "group")

	served     = desc("keys_served_total", "Keys that peers asked this process for, but for peeks that missed.", "group")
	unanswered = desc("requests_unanswered_total", "Requests that a peer did not answer, so that the next was tried.", "group")
	takeovers  = desc("takeovers_total", "Fills in place of an owner that did not answer.", "group")
	undecoded  = desc("values_undecoded_total", "Values that did not decode and were loaded anew.", "group")

	storeEntries    = desc("store_entries", "Entries held: class is copy for keys that other nodes own, else owned.", "group", "class")
	storeBytes      = desc("store_bytes", "Bytes that the entries are charged.", "group", "class")
	storeMaxEntries = desc("store_max_entries", "Entries that the group may have; 0 is no bound.", "group")
	storeMaxBytes   = desc("store_max_bytes", "Bytes that all entries of the group may be charged.", "group")
	left            = desc("store_left_total", "Entries that have left memory: to make room, expired, removed by a write, or replaced by a newer value.", "group", "reason")
	leaving         = desc("on_evict_waiting", "Values that have left and that the function of WithOnEvict has still to be called for.", "group")
	leavingBytes    = desc("on_evict_waiting_bytes", "What these values are charged.", "group")
	untold          = desc("on_evict_untold_total", "Values that the function of WithOnEvict was not called for, because too many waited.", "group")
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
	o.counter(doubts, s.Doubts, name)
	o.counter(retries, s.Retried, name)
	o.counter(repaired, s.Repaired, name)

	o.counter(originWrites, s.Stored, name)
	o.counter(originWriteErrors, s.StoreErrors, name)
	o.gauge(behindWrites, float64(s.Behind.Queued), name, "queued")
	o.gauge(behindWrites, float64(s.Behind.Held), name, "held")
	o.gauge(behindWrites, float64(s.Behind.Waiting), name, "waiting")
	o.gauge(behindBytes, float64(s.Behind.QueuedBytes), name, "queued")
	o.gauge(behindBytes, float64(s.Behind.HeldBytes), name, "held")
	o.gauge(behindLag, s.Behind.Lag.Seconds(), name)
	o.counter(behindCoalesced, s.Behind.Coalesced, name)
	o.counter(behindRefused, s.Behind.Refused, name)

	o.counter(served, s.Served, name)
	o.counter(unanswered, s.Unanswered, name)
	o.counter(takeovers, s.Takeovers, name)
	o.counter(undecoded, s.Undecoded, name)

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
	o.gauge(leaving, float64(s.Leaving), name)
	o.gauge(leavingBytes, float64(s.LeavingBytes), name)
	o.counter(untold, s.Untold, name)
	o.counter(tooLarge, s.TooLarge, name)
	o.gauge(floors, float64(s.FloorsHeld), name)
}
