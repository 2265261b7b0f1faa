package peers

import (
	"sync/atomic"
	"time"
)

// Stats is what a Transport has done so far. The counters never fall; those of
// a peer begin anew when SetPeers has dropped it and lists it again.
type Stats struct {
	// As a client: one element for each peer, in order of id.
	Peers []PeerStats

	// As a server.
	Connections int     // accepted and past the handshake, now
	Loading     int     // calls of Handler.Load running now
	Requests    uint64  // keys asked for
	Hits        uint64  // of these, answered by Handler.Lookup
	Busy        uint64  // of these, turned away because of MaxInFlight
	Traffic     Traffic // of the accepted connections

	// Refused counts, in both roles, the connections that this node refused
	// or closed because of what came over them.
	Refused map[Reason]uint64
}

// PeerStats is what this node, as a client, has had to do with a peer.
type PeerStats struct {
	ID, Region, Address string

	Up       bool
	RTT      time.Duration // see Peer.RTT; zero if not yet measured
	InFlight int           // requests waiting for an answer now
	Connects uint64        // completed handshakes
	Requests uint64        // keys asked for
	Errors   uint64        // of these, ended without an answer, for whatever reason
	Traffic  Traffic
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
