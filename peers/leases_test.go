package peers

import (
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
)

// What the tests of pings and pongs ask of leases.

const Guest = lease.Guest

func (t *Transport) OwnLeasesEnd(view uint64) time.Time { return t.leases.OwnEnd(view) }

func (t *Transport) OtherViews(view uint64) bool { return t.leases.OtherViews(view) }

func (t *Transport) StrangersEnd(known func(id string) bool) time.Time {
	return t.leases.UnknownEnd(known)
}

func (p *Peer) LeaseEnd() expiry.Instant { return p.lease.End() }

func (p *Peer) Settled(view uint64) (time.Time, bool) { return p.lease.Settled(view) }

func (p *Peer) Agreed(view uint64) expiry.Instant { return p.lease.Agreed(view) }

type Standing = lease.Standing

const (
	Unknown   = lease.Unknown
	Counted   = lease.Counted
	Uncounted = lease.Uncounted
)
