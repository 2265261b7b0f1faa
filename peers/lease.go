package peers

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
)

// This file is views and leases, of both roles: what this node grants to those
// that ping it, and what it has been granted. The package documentation says
// what a lease is.

// A view is what SetView was called with last. One that is set again after
// another is a new view, told from the first by its address: in between the
// peers may have granted leases under the other.
type view struct {
	hash  uint64
	stays int // how often this node had been a guest by then
}

// ViewOf makes a view of a hash: it is never 0, which is none, nor Guest, nor that of a node that leaves.
func ViewOf(hash uint64) uint64 { return min(max(hash, 1), Guest-1) }

// Guest is the view of a node that is a guest of its region. It is granted no leases, and its view keeps
// nobody from granting leases to others. A node must stop using its leases before it sets this view.
const Guest = gone - 1

// A Standing is what a node takes another one of its region for, as its pongs say.
type Standing uint8

const (
	Unknown   Standing = iota // it cannot tell, or not yet
	Counted                   // it counts it among the nodes of the region
	Uncounted                 // it has not counted it for Config.Grace, or never, although it is there
)

// SetView sets the hash of this node's view of its region, which is zero until
// then (see ViewOf): the nodes that it takes for present, itself among them, and what else
// they have to agree on. Equal views must have equal hashes. The connected peers of the region are told at once; SetView
// does not wait for that.
//
// A node that has not set a view is granted no leases, and it keeps those who
// hear from it from granting any to others.
func (t *Transport) SetView(hash uint64) {
	t.mu.Lock()
	last := t.view.Load()
	changed := last.hash != hash && t.leaving.Err() == nil
	if changed {
		next := &view{hash, last.stays}
		if hash == Guest {
			next.stays++
		}
		t.view.Store(next)
	}
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

// gone is the view of a node that leaves: it uses no lease any more, and is to be
// forgotten at once. Otherwise its last view would keep its peers from granting
// each other leases until they have forgotten it.
const gone = ^uint64(0)

// farewell tells the peers of the region that this node holds no leases any more.
func (t *Transport) farewell(ctx context.Context) {
	t.view.Store(&view{hash: gone})
	var pinging sync.WaitGroup
	for _, p := range t.Peers() {
		if c := p.conn.Load(); c != nil && p.home() {
			pinging.Go(func() { _ = c.ping() })
		}
	}
	_ = waitFor(ctx, &pinging)
}

// OwnLeasesEnd returns the moment from which no node has a lease of this one that
// it was granted under another view than this, and none under this since. It is
// zero if there is none now.
func (t *Transport) OwnLeasesEnd(view uint64) time.Time {
	t.granted.mu.Lock()
	defer t.granted.mu.Unlock()
	return t.granted.endLocked(view)
}

// OtherViews reports whether a node of this one's region has pinged it, in the last two leases, with
// another view than this.
func (t *Transport) OtherViews(view uint64) bool {
	t.granted.mu.Lock()
	defer t.granted.mu.Unlock()
	return t.granted.otherLocked(view, time.Now())
}

// StrangersEnd returns the moment until which this node has to reckon with nodes of its region that
// ping it and for which known is false: a lease after the last ping of any. Nodes that are refused
// because they are not listed count too, from one attempt to the next. Such a node takes this one for
// present and is not seen from here, because this one has just come and has not found it yet, or cannot
// reach it. It is zero if there are none.
func (t *Transport) StrangersEnd(known func(id string) bool) (end time.Time) {
	t.granted.mu.Lock()
	defer t.granted.mu.Unlock()
	for id, g := range t.granted.clients {
		if until := g.heard.Add(t.granted.length); until.After(end) && g.view != Guest && !known(id) {
			end = until
		}
	}
	for id, heard := range t.granted.strangers {
		if until := heard.Add(t.granted.strangeness()); until.After(end) && !known(id) {
			end = until
		}
	}
	if !end.After(time.Now()) {
		return time.Time{}
	}
	return end
}

// Hears reports whether a node of this one's region has pinged it in the last two leases.
func (t *Transport) Hears(id string) bool {
	l := &t.granted
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.clients[id]
	return g != nil && time.Since(g.heard) <= l.memory()
}

// HearsGuest reports whether a node of this one's region has last pinged it as a guest.
func (t *Transport) HearsGuest(id string) bool {
	l := &t.granted
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.clients[id]
	return g != nil && g.view == Guest
}

// leases is what this node remembers of those of its region that ping it. It is
// the Transport's and not a connection's: a lease runs on when the connection
// is gone, and who has another view still has it.
//
// All times are monotonic. An Instant would jump forward with the wall clock,
// and leases would seem to have ended.
type leases struct {
	length time.Duration // Config.Lease

	mu        sync.Mutex // guards the following
	clients   map[string]*grant
	strangers map[string]time.Time // when a node last tried that was refused because it is not listed
}

// maxStrangers is of how many nodes that are refused a node keeps the ids. Others count as one, without
// an id.
const maxStrangers = 1024

// stranger notes that a node of the region, with a certificate that an authority has issued, was
// refused because it is not listed here. It takes this node for present all the same.
func (l *leases) stranger(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(l.strangers, func(_ string, heard time.Time) bool { return now.Sub(heard) > l.strangeness() })
	if len(l.strangers) >= maxStrangers {
		id = ""
	}
	l.strangers[id] = now
}

// strangeness is for how long a stranger counts: it tries again before that.
func (l *leases) strangeness() time.Duration { return max(l.length, 2*lastBackoff) }

// A grant is what a client has said and been granted.
type grant struct {
	conn  uint64    // the latest of its connections that has carried one, see conn.number
	view  uint64    // of its last ping
	heard time.Time // when that came
	under uint64    // the view of the lease granted last
	end   time.Time // of that lease; zero if there was none

	counted bool      // this node has counted it among the region's
	outside time.Time // since when it has not; zero if it does, or cannot tell
}

// memory is for how long a client's last ping counts.
func (l *leases) memory() time.Duration { return 2 * l.length }

// pinged takes in a ping of a client that carried this view. It returns the
// lease that the client is granted, and for how long one granted under another
// view may still run. own says what view this node has, and is called with the
// lock held: after SetView and then OwnLeasesEnd there are no new leases under
// the old view.
//
// A connection may be made anew while the one before it still is there, and what was sent over that one
// may come late. So a ping counts only if none has come over a connection that was made later: ok is
// false then.
func (l *leases) pinged(client string, conn, view uint64, own func() uint64) (lease, others time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.clients[client]
	if g != nil && conn < g.conn {
		return 0, 0, false
	}
	if view == gone {
		delete(l.clients, client)
		return 0, 0, true
	}
	now, ours := time.Now(), own()
	if g == nil {
		g = new(grant)
		l.clients[client] = g
	}
	g.conn, g.view, g.heard = conn, view, now
	if view == Guest { // it has ceased to use its lease
		g.under, g.end = 0, time.Time{}
		return 0, 0, true
	}

	// This client and all others, in our list of peers or not: one that has
	// another view counts on us to grant nothing under this one.
	if other := l.otherLocked(ours, now); view != 0 && ours != Guest && !other {
		lease, g.under, g.end = l.length, view, now.Add(l.length)
	}
	return lease, max(l.endLocked(view).Sub(now), 0), true
}

// otherLocked reports whether the last ping of a client that is remembered had another view, and
// forgets those that are not.
func (l *leases) otherLocked(view uint64, now time.Time) (other bool) {
	for id, g := range l.clients {
		if now.Sub(g.heard) > l.memory() {
			delete(l.clients, id) // and its lease, which is shorter, has ended
		} else if g.view != view && g.view != Guest {
			other = true
		}
	}
	return other
}

// endLocked returns when the last lease ends that was granted under another
// view than this. Where a client was granted one under this view after one under
// another, the second counts: that client is in the view.
func (l *leases) endLocked(view uint64) (end time.Time) {
	for _, g := range l.clients {
		if g.under != view && g.end.After(end) {
			end = g.end
		}
	}
	return end
}

// standing returns what this node takes a client for, which has just pinged it.
func (t *Transport) standing(client string) Standing {
	if t.config.Counts == nil {
		return Unknown
	}
	counts, known := t.config.Counts(client)
	l := &t.granted
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.clients[client]
	switch {
	case g == nil: // it is leaving
		return Unknown
	case !known:
		g.outside = time.Time{}
		return Unknown
	case counts:
		g.counted, g.outside = true, time.Time{}
		return Counted
	case g.outside.IsZero():
		g.outside = time.Now()
	}
	patience := l.memory()
	if g.counted {
		patience = max(patience, t.config.Grace)
	}
	if time.Since(g.outside) < patience {
		return Unknown
	}
	return Uncounted
}

// pong answers a ping. Leases are for this node's own region only.
func (s *serverConn) pong(id, view uint64) error {
	t := s.transport
	var m pong
	home := s.client.region == t.config.Region
	if home {
		ok := false
		m.lease, m.others, ok = t.granted.pinged(s.client.id, s.number, view, func() uint64 { return t.view.Load().hash })
		if !ok {
			return s.queuePong(0, pong{}) // it says that this node is there, and nothing else
		}
		m.standing = t.standing(s.client.id)
	}
	if hook := t.config.OnOtherView; hook != nil && home && view < Guest && view != t.view.Load().hash {
		hook(s.client.id)
	}
	if p := t.Peer(s.client.id); p != nil && view < gone && p.Guest() != (view == Guest) {
		p.pingSoon() // its pong says so too, which is what counts
	}
	return s.queuePong(id, m)
}

func (s *serverConn) queuePong(id uint64, m pong) error {
	t := s.transport
	return s.writer.queue(0, nil, func(b []byte) []byte {
		m.instant = t.config.Clock.Instant()
		m.guest = t.view.Load().hash == Guest
		return appendPong(b, id, t.config.Clock.Physical(), m)
	})
}

// home reports whether the peer is in this node's region.
func (p *Peer) home() bool { return p.endpoint.Region == p.transport.config.Region }

// LeaseEnd returns the moment, on Config.Clock, when the last of the leases ends
// that the peer has granted. It counts from when the ping was sent that the peer
// answered, and is 1% shorter than what was granted, so that it ends here before
// it ends there, whatever the clocks say and unless their speeds differ by more.
// It is zero before the first, and before the first since this node was a guest: a guest's leases have
// ended, and the others did not wait for it.
func (p *Peer) LeaseEnd() expiry.Instant {
	l := p.lease.Load()
	if l == nil || l.view.stays != p.transport.view.Load().stays {
		return 0
	}
	return l.end
}

// A held is a lease that a peer has granted.
type held struct {
	view *view // of the ping that it was granted for
	end  expiry.Instant
}

// shortened is how long d, as measured by another node, is here at least.
func shortened(d time.Duration) time.Duration { return d - d/100 }

// settled is what the last pong said of the view that its ping had carried.
type settled struct {
	view  *view
	at    time.Time      // from when no lease granted under another view runs
	until expiry.Instant // from when the peer may grant others again, unless it is pinged
	agree expiry.Instant // the end of the last lease that was granted to a ping with this view
}

// Settled reports whether the peer knows that this is the present view of this
// node: it has answered a ping with this view, none with another has been sent
// since, and the peer has not forgotten it, as it does two leases after. It
// then grants leases under this view only, and at is the moment from which no
// node has a lease of it that was granted under another view, and none under
// this since. For one connection and view, at only ever gets earlier.
func (p *Peer) Settled(view uint64) (at time.Time, ok bool) {
	s := p.settled.Load()
	if s == nil || s.view.hash != view || s.view != p.transport.view.Load() || p.transport.config.Clock.Instant() >= s.until {
		return time.Time{}, false
	}
	return s.at, true
}

// Agreed returns until when this node holds a lease that the peer has granted for this very
// view, the present one. To grant it the peer must have had the same view. It is zero
// where there is none.
func (p *Peer) Agreed(view uint64) expiry.Instant {
	s := p.settled.Load()
	if s == nil || s.view.hash != view || s.view != p.transport.view.Load() {
		return 0
	}
	return s.agree
}

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
	t := p.transport
	now := time.Now()
	p.rtt.Store(int64(p.trips.add(max(now.Sub(sent.at), 1))))
	says := uint32(m.flags())
	news = p.says.Swap(says) != says
	end := sent.instant.Add(shortened(m.lease))
	if m.lease > 0 { // what was granted before runs on
		p.lease.Store(&held{sent.view, end})
	}
	if p.home() {
		s := &settled{view: sent.view, at: now.Add(m.others), until: sent.instant.Add(shortened(t.granted.memory()))}
		// As long as the peer has not forgotten the view in between, what it
		// said of it before still holds.
		last := p.settled.Load()
		if last != nil && last.view == s.view {
			if last.at.Before(s.at) && t.config.Clock.Instant() < last.until {
				s.at = last.at
			}
			s.agree = last.agree
		}
		if m.lease > 0 {
			s.agree = end
		}
		p.settled.Store(s)
	}
	return true, news
}
