package peers

import (
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/latency"
)

// Stats is what a Transport has done so far. The counters never fall; those of
// a peer begin anew when SetPeers has dropped it and lists it again.
type Stats struct {
	// As a client: one element for each peer, in order of id; and for each region the
	// sum of all peers that there are and have been. It is not below the sum of
	// those in Peers, and does not fall when one of them is dropped.
	Peers   []PeerStats
	Regions map[string]Exchanges

	// As a server.
	Connections int     // accepted and past the handshake, now
	Loading     int     // calls of Handler.Load and Handler.Call running now
	Requests    uint64  // keys asked for, and calls
	Hits        uint64  // of these, answered by Handler.Lookup or Handler.Take
	Busy        uint64  // of these, turned away because of maxInFlight
	Traffic     Traffic // of the accepted connections

	// Refused counts, in both roles, the connections that this node refused
	// or closed because of what came over them.
	Refused map[Reason]uint64

	// Certificate is when the certificate of this node ends: the first of the configuration's. It is zero without
	// TLS, or if a callback chooses it.
	Certificate time.Time
}

// PeerStats is what this node, as a client, has had to do with a peer.
type PeerStats struct {
	ID, Region, Address string

	Up       bool
	RTT      time.Duration // see Peer.RTT; zero if not yet measured
	InFlight int           // requests waiting for an answer now
	Connects uint64        // completed handshakes
	Exchanges
	Traffic Traffic
}

// Exchanges is what requests have come to, as seen by the node that made them. Each
// is counted among Requests when it begins, and when it has ended once more: among
// Errors, or in one of the two latencies. So Errors and the two counts are together
// never more than Requests, and as many when nothing is in flight. (In the sum of a
// region, what was in flight when a peer's last connection ended may have no end.)
type Exchanges struct {
	Requests uint64 // keys asked for, and calls
	Errors   uint64 // of these, ended without an answer or by one that is an error, for whatever reason

	// FetchLatency is for how long the others waited that asked for a key, loads at
	// the peer included. Each key of a FetchMany counts from when all were asked for.
	FetchLatency latency.Distribution

	// CallLatency is how long calls took, until the answer was here.
	CallLatency latency.Distribution
}

// plus returns the sum of both.
func (e Exchanges) plus(f Exchanges) Exchanges {
	return Exchanges{
		Requests:     e.Requests + f.Requests,
		Errors:       e.Errors + f.Errors,
		FetchLatency: e.FetchLatency.Plus(f.FetchLatency),
		CallLatency:  e.CallLatency.Plus(f.CallLatency),
	}
}

// exchanges is what an Exchanges is read from.
type exchanges struct {
	requests, failures atomic.Uint64
	fetches, calls     latency.Histogram
}

// read reads the ends before the beginnings, so that the first are not more.
func (e *exchanges) read() Exchanges {
	var x Exchanges
	x.Errors = e.failures.Load()
	x.FetchLatency, x.CallLatency = e.fetches.Distribution(), e.calls.Distribution()
	x.Requests = e.requests.Load()
	return x
}

// Traffic is counted as it enters and leaves the wire, before TLS.
type Traffic struct {
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64
}

// traffic is what a Traffic is read from.
type traffic struct {
	framesIn, framesOut atomic.Uint64
	bytesIn, bytesOut   atomic.Uint64
}

func (t *traffic) read() Traffic {
	return Traffic{
		FramesIn:  t.framesIn.Load(),
		FramesOut: t.framesOut.Load(),
		BytesIn:   t.bytesIn.Load(),
		BytesOut:  t.bytesOut.Load(),
	}
}
