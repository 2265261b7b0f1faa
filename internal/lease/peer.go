package lease

import (
	"sync/atomic"
	"time"

	"github.com/geocache/geocache/expiry"
)

// A Peer is what another node of the region has granted this one, and said of its own grants. Its methods
// are safe for concurrent use, but Ponged is for one caller at a time.
type Peer struct {
	table   *Table
	held    atomic.Pointer[held] // the last lease that was granted
	settled atomic.Pointer[settled]

	noMajority atomic.Bool // what its last pong said
}

// held is a lease that a peer has granted.
type held struct {
	view *present // of the ping that it was granted for
	end  expiry.Instant
}

// settled is what the last pong said of the view that its ping had carried.
type settled struct {
	view  *present
	at    time.Time      // from when no lease granted under another view runs
	until expiry.Instant // from when the peer may grant others again, unless it is pinged
	agree expiry.Instant // the end of the last lease that was granted to a ping with this view
}

// Register makes a Peer for a node of the region, in the place of an earlier one of its ID.
func (t *Table) Register(id string) *Peer {
	p := &Peer{table: t}
	t.peers.Store(id, p)
	return p
}

// Forget drops a Peer, unless another one of its ID has taken its place.
func (t *Table) Forget(id string, p *Peer) {
	if there, _ := t.peers.Load(id); there == p {
		t.peers.Delete(id)
	}
}

// A Ping is what the sender of a ping remembers of it.
type Ping struct {
	At      time.Time      // when it was sent
	instant expiry.Instant // the same
	view    *present
}

// Hash returns the hash of the view that the ping carries.
func (p Ping) Hash() uint64 { return p.view.hash }

// Ping returns a ping that is sent now.
func (t *Table) Ping() Ping {
	return Ping{At: t.config.Now(), instant: t.config.Clock.Instant(), view: t.view.Load()}
}

// shortened is how long d, as measured by another node, is here at least.
func shortened(d time.Duration) time.Duration { return d - d/100 }

// Ponged takes in the answer to a ping.
func (p *Peer) Ponged(sent Ping, a Answer) {
	t := p.table
	end := sent.instant.Add(shortened(a.Lease))
	if a.Lease > 0 { // what was granted before runs on
		p.held.Store(&held{sent.view, end})
	}
	s := &settled{
		view:  sent.view,
		at:    t.config.Now().Add(a.Others),
		until: sent.instant.Add(shortened(t.grants.memory())),
	}
	// As long as the peer has not forgotten the view in between, what it said of it before still holds.
	last := p.settled.Load()
	if last != nil && last.view == s.view {
		if last.at.Before(s.at) && t.config.Clock.Instant() < last.until {
			s.at = last.at
		}
		s.agree = last.agree
	}
	if a.Lease > 0 {
		s.agree = end
	}
	p.settled.Store(s)
	p.noMajority.Store(a.NoMajority)
}

// Reset forgets what the peer said of its grants: whatever answers next may know nothing of it. The lease that it
// has granted runs on.
func (p *Peer) Reset() { p.settled.Store(nil) }

// End returns when the last lease ends that the peer has granted. It is zero before the first, and before the first
// since this node was a guest: a guest's leases have ended, and the others did not wait for them.
func (p *Peer) End() expiry.Instant {
	l := p.held.Load()
	if l == nil || l.view.stays != p.table.view.Load().stays {
		return 0
	}
	return l.end
}

// Settled reports whether the peer knows that this is the present view of this node: it has answered a ping with this
// view, none with another has been sent since, and it has not forgotten it, as it does after a lease and a quarter. It then
// grants leases under this view only, and at is the moment from which no node holds a lease of it that was
// granted under another view, and none under this since. For one connection and view, at only ever gets
// earlier.
func (p *Peer) Settled(view uint64) (at time.Time, ok bool) {
	s, t := p.settled.Load(), p.table
	if s == nil || s.view.hash != view || s.view != t.view.Load() || t.config.Clock.Instant() >= s.until {
		return time.Time{}, false
	}
	return s.at, true
}

// Agreed returns until when this node holds a lease that the peer has granted for this very view, the present one. To
// grant it the peer must have had the same view. It is zero where there is none.
func (p *Peer) Agreed(view uint64) expiry.Instant {
	s := p.settled.Load()
	if s == nil || s.view.hash != view || s.view != p.table.view.Load() {
		return 0
	}
	return s.agree
}
