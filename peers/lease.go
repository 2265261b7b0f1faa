package peers

import (
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/lease"
)

// This file carries pings and pongs between connections and Config.Leases, which decides what they mean.

// SetView sets the hash of this node's view of its region, see lease.Table.SetView. The connected peers of the region
// are told at once; SetView does not wait for that.
func (t *Transport) SetView(hash uint64) {
	t.mu.Lock()
	changed := t.leaving.Err() == nil && t.leases.SetView(hash)
	t.mu.Unlock()
	if !changed {
		return
	}
	for _, p := range *t.byID.Load() {
		if p.home() {
			p.pingSoon()
		}
	}
}

// farewell tells the peers of the region that this node holds no leases any more.
func (t *Transport) farewell(ctx context.Context) {
	t.leases.Leave()
	var pinging sync.WaitGroup
	for _, p := range t.Peers() {
		if c := p.conn.Load(); c != nil && p.home() {
			pinging.Go(func() { _ = c.ping() })
		}
	}
	_ = waitFor(ctx, &pinging)
}

// silence returns how long a peer may be silent before it counts as down. It is shorter than a lease, so that this
// node goes on without the peer before the lease that it last granted has ended.
func silence(lease time.Duration) time.Duration { return lease - lease/10 }

// checkEnded tells the leases that the process of a node has ended, if all evidence says so: nobody listens at its
// address, and no connection of its own is left. Call it when either may have become true.
func (t *Transport) checkEnded(id string) {
	t.mu.Lock() // so that no connection of its enters meanwhile, and pings
	defer t.mu.Unlock()
	p := t.Peer(id)
	if p == nil || !p.home() || !p.refused.Load() {
		return
	}
	for s := range t.accepted {
		if s.client.id == id {
			return
		}
	}
	t.leases.Ended(id)
}

// pong answers a ping. Leases are for this node's own region only.
func (s *serverConn) pong(id, view uint64) error {
	t := s.transport
	var m pong
	home := s.home()
	if home {
		answer, ok := t.leases.Pinged(s.client.id, s.number, view)
		if !ok {
			return s.queuePong(0, pong{}) // it says that this node is there, and nothing else
		}
		m.lease, m.others = answer.Lease, answer.Others
		m.standing = t.standing(s.client.id)
	}
	if hook := t.config.OnOtherView; hook != nil && home && lease.IsMember(view) && view != t.leases.Hash() {
		hook(s.client.id)
	}
	if p := t.Peer(s.client.id); p != nil && !lease.IsLeaving(view) && p.Guest() != (view == lease.Guest) {
		p.pingSoon() // its pong says so too, which is what counts
	}
	return s.queuePong(id, m)
}

// standing returns what this node takes a client for, which has just pinged it.
func (t *Transport) standing(client string) lease.Standing {
	if t.config.Counts == nil {
		return lease.Unknown
	}
	counts, known := t.config.Counts(client)
	return t.leases.Standing(client, counts, known)
}

func (s *serverConn) queuePong(id uint64, m pong) error {
	t := s.transport
	return s.writer.queue(0, nil, func(b []byte) []byte {
		m.instant = t.config.Clock.Instant()
		m.guest, m.minority = t.leases.IsGuest(), t.leases.LacksMajority()
		return appendPong(b, id, t.config.Clock.Physical(), m)
	})
}

// home reports whether the client is in this node's region.
func (s *serverConn) home() bool { return s.client.region == s.transport.config.Region }

// home reports whether the peer is in this node's region.
func (p *Peer) home() bool { return p.endpoint.Region == p.transport.config.Region }

// ponged is called when the peer has answered a ping that was sent over c.
func (p *Peer) ponged(c *clientConn, sent ping, m pong) {
	taken, news := p.takePong(c, sent, m)
	if news {
		p.tell()
	}
	if taken && p.transport.config.OnPong != nil {
		p.transport.config.OnPong(p)
	}
}

// takePong takes in a pong, unless there is a later connection. news reports whether it says something new
// about either node.
func (p *Peer) takePong(c *clientConn, sent ping, m pong) (taken, news bool) {
	p.pongs.Lock()
	defer p.pongs.Unlock()
	if p.latest != c {
		return false, false
	}
	p.rtt.Store(int64(p.trips.add(max(time.Since(sent.At), 1))))
	says := uint32(m.flags())
	news = p.says.Swap(says) != says
	if p.home() {
		p.lease.Ponged(sent.Ping, lease.Answer{Lease: m.lease, Others: m.others, NoMajority: m.minority})
	}
	return true, news
}
