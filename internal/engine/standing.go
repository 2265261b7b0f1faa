package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is how a node knows that it is told of every write in its region, and
// how a writer knows that those who are not told serve no copies. See "Who can still
// serve what is older?" in docs/design.md.

// A view is what a node takes for the cluster as far as all nodes of its region must agree on
// it: the ring of the nodes that answer, itself included, and which regions there are. The one
// decides who owns a key, the other where the key is updated.
type view struct {
	home    *regions.Region // without this node if that is a guest, see regions.Members
	guest   bool
	regions []string // all, whether they answer or not, in order
	list    uint64   // stands for the regions in the messages of an Update
	hash    uint64   // stands for the view in pings
}

func newView(top *regions.Topology, names []string) *view {
	var b []byte
	for _, name := range names {
		b = append(append(b, byte(len(name))), name...)
	}
	list := xxh3.Hash(b)
	v := &view{home: top.Home, guest: top.Guest, regions: names, list: max(list, 1), hash: peers.Guest}
	if !v.guest {
		ring := binary.BigEndian.AppendUint64(nil, v.home.Ring())
		v.hash = peers.ViewOf(xxh3.Hash(binary.BigEndian.AppendUint64(ring, list)))
	}
	return v
}

// same reports whether two views are of the same cluster from the same place in it.
func (v *view) same(w *view) bool {
	return v.hash == w.hash && v.list == w.list && v.home.Ring() == w.home.Ring()
}

// standing is what a node knows about its place in its region.
type leaseState struct {
	view atomic.Pointer[view]

	// copies is the instant until which copies may be served: until the
	// earliest of the leases that the other nodes of the view have granted.
	// Invariant: while it is in the future, this node has been told of every
	// write that has been completed in its region.
	end atomic.Int64

	// period numbers the times for which that was so without a break. A copy
	// that was asked for in one is not kept in the next.
	epoch atomic.Uint64

	changed signal // something that a writer may wait for

	// turns counts how often this node has become a guest of its region or ceased to be one. It is odd
	// while the node is a guest: from before the others hear so until they have heard otherwise. The result
	// of a fill that began under another number, or under an odd one, is not kept.
	guestEpoch atomic.Uint64

	mu sync.Mutex // guards the following
	// back is when this node last ceased to be a guest.
	back time.Time
	// held is the end of the leases that have been held without a break since
	// a resume has begun; 0 while none is under way.
	held expiry.Instant
	// journals are those of nodes of the view that have been taken, or are being, since the nodes
	// came into it. What they have written before, without this node, is in there.
	journals map[string]*fetchedJournal
	// orphaned is whether there may be floors whose sender is gone, which takeOver has not seen:
	// a process of the region has gone since, or journals have come.
	orphaned bool
}

// A takenJournal is that of one node, from when it is asked for.
type fetchedJournal struct{ all bool } // all of it has come; guarded by standing.mu

// follow has this node follow a change of the topology. It must not block.
func (c *Cache) follow() {
	c.following.Lock()
	defer c.following.Unlock()
	defer c.lease.changed.raise()
	c.replicator.open()
	top := c.topology()
	was := c.lease.view.Load()
	v := newView(top, c.allRegions())
	if was != nil && was.same(v) {
		return
	}
	if c.transport == nil {
		c.lease.view.Store(v)
		return
	}
	wasGuest := was != nil && was.guest
	switch {
	case v.guest && !wasGuest:
		c.giveUpLease(top.Home)
	case wasGuest && !v.guest:
		c.lease.mu.Lock()
		c.lease.back = time.Now()
		c.lease.mu.Unlock()
	}
	// First, so that whoever finds v here finds no lease that was granted under another later.
	c.transport.SetView(v.hash)
	c.lease.view.Store(v)
	for _, g := range *c.groups.Load() {
		g.reclass(top.Home)
	}
	if v.guest != wasGuest {
		c.guestChanged(v)
	}
	c.lease.mu.Lock()
	maps.DeleteFunc(c.lease.journals, func(id string, _ *fetchedJournal) bool { return !v.has(id) })
	if was != nil && slices.ContainsFunc(was.home.Nodes, func(n regions.Node) bool { return !v.has(n.ID) }) {
		c.lease.orphaned = true
	}
	c.lease.mu.Unlock()
	c.renewLease()
	c.spawn(func() { c.reown(); c.takeOver() })
}

// reown has queued writes follow their keys. One pass is made at a time, and after it
// another if it has been called meanwhile.
func (c *Cache) reown() {
	if c.reowns.Add(1) > 1 {
		return
	}
	for {
		calls := c.reowns.Load()
		for _, g := range *c.groups.Load() {
			g.origin.reown()
		}
		if c.reowns.Add(-calls) == 0 {
			return
		}
	}
}

// servesAsOwner reports whether this node may serve the key as its owner. One that has
// just come may take itself for the owner of keys that others write without it: they
// have to see it first.
func (g *Group) servesAsOwner(home *regions.Region, key string) bool {
	if home.Owner(key).ID != g.cache.node.ID {
		return false
	}
	return g.fresh.caughtUp.Load() || len(home.Nodes) == 1 && !g.cache.topology().Guest
}

// ownsOnRing reports whether this node owns the key by its ring.
func (g *Group) ownsOnRing(key string) bool {
	return g.cache.topology().Home.Owner(key).ID == g.cache.node.ID
}

// reclass marks which of the entries that this node has as an owner are its own
// now. The others it has for the owner's successor or former owner that it is, and
// serves them as it does copies.
func (g *Group) reclass(home *regions.Region) {
	for e := range g.store.All() {
		if e.Class() == store.Owned {
			e.SetLeased(!g.servesAsOwner(home, e.Key()))
		}
	}
}

// setSynced notes that this node has been told of everything that concerns the
// group, unless it has become a guest since it began to ask, when turns was as given.
func (g *Group) setCaughtUp(turns uint64) {
	if g.fresh.caughtUp.Load() {
		return
	}
	g.cache.following.Lock() // so that of two who reclass the later home is last
	defer g.cache.following.Unlock()
	if g.cache.lease.guestEpoch.Load() == turns && !g.fresh.caughtUp.Swap(true) {
		g.reclass(g.cache.topology().Home)
	}
}

// ponged is told of each pong.
func (c *Cache) onPong(p *peers.Peer) {
	if p.Region() != c.node.Region {
		return
	}
	c.renewLease()
	c.lease.changed.raise()
}

// renew moves the end of the copy lease to where the nodes of the view have granted it. A lease
// that has run out comes back only by resume.
func (c *Cache) renewLease() {
	s := &c.lease
	v := s.view.Load()
	if v == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end := c.leasesEnd(v)
	now := c.clock.Instant() // after end was read: what has passed meanwhile has passed
	switch {
	case end <= now || c.shutting.Load() || isOdd(s.guestEpoch.Load()):
	case int64(now) < s.end.Load():
		s.end.Store(max(s.end.Load(), int64(end)))
		c.fetchJournalsLocked(v)
	case s.held == 0:
		s.held = end
		if !c.spawn(c.resumeLease) {
			s.held = 0
		}
	case now < s.held:
		s.held = max(s.held, end)
	}
}

// forgoCopies ends the copy lease for good: the others are told so when the transport
// closes, and do not wait for its end. With the lease goes this node's view, so a write
// that it has not completed by then it does not complete.
func (c *Cache) endLease() {
	c.lease.mu.Lock()
	c.lease.end.Store(0)
	c.lease.mu.Unlock()
	c.lease.changed.raise()
}

// acquaintLocked takes the journals of nodes that have come into the view. There may have been
// two parts of the region that did not see each other: each has written without
// the other.
func (c *Cache) fetchJournalsLocked(v *view) {
	s := &c.lease
	for _, n := range c.others(v) {
		if s.journals[n.ID] != nil {
			continue
		}
		j := new(fetchedJournal)
		s.journals[n.ID] = j
		c.spawn(func() {
			ctx, cancel := context.WithTimeout(c.ctx, journalTimeout)
			defer cancel()
			var err error
			for _, g := range *c.groups.Load() {
				err = errors.Join(err, g.journal.fetch(ctx, n))
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if j.all = err == nil; j.all {
				s.orphaned = true
				c.spawn(c.takeOver)
			} else if s.journals[n.ID] == j {
				delete(s.journals, n.ID) // the next pong tries again
			}
		})
	}
}

// acquainted reports whether the journals of all other nodes of v have been taken.
func (c *Cache) hasJournals(v *view) bool {
	s := &c.lease
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range v.home.Nodes {
		if j := s.journals[n.ID]; n.ID != c.node.ID && (j == nil || !j.all) {
			return false
		}
	}
	return true
}

// leasesEnd returns the earliest end of the leases that the other nodes of v have
// granted, or 0 if there are none: a node that sees no other has nobody to tell it
// of writes.
func (c *Cache) leasesEnd(v *view) expiry.Instant {
	var end expiry.Instant
	for _, n := range v.home.Nodes {
		if n.ID == c.node.ID {
			continue
		}
		p := c.transport.Peer(n.ID)
		if p == nil {
			return 0
		}
		if l := p.LeaseEnd(); end == 0 || l < end {
			end = l
		}
	}
	return end
}

// resume brings the copy lease back after a lapse. The leases are there; what was
// written without this node is in the journals, which are taken after: from the
// grants on, writes wait for this node.
func (c *Cache) resumeLease() {
	ctx, cancel := context.WithTimeout(c.ctx, journalTimeout)
	defer cancel()
	s := &c.lease
	turns := s.guestEpoch.Load()
	groups := *c.groups.Load()
	v := s.view.Load()
	err := c.fetchJournals(ctx, v, groups)

	if err == nil {
		s.epoch.Add(1) // first: what was asked for before must not come in after the sweep
		for _, g := range groups {
			g.store.Sweep(store.Removed, func(e *store.Entry) bool {
				return e.Class() == store.Copy || g.fresh.maybeOlder(e, g.fresh.floorOf(e)) // a late write leaves no trace in the journals
			})
			g.setCaughtUp(turns)
		}
	}
	s.mu.Lock()
	if s.guestEpoch.Load() != turns { // held is another one's
		s.mu.Unlock()
		return
	}
	resumed := err == nil && c.clock.Instant() < s.held && !c.shutting.Load()
	if resumed {
		if s.view.Load() == v {
			for _, n := range c.others(v) {
				s.journals[n.ID] = &fetchedJournal{all: true}
			}
		}
		s.end.Store(int64(s.held))
		s.orphaned = true
	}
	s.held = 0
	s.mu.Unlock()
	if !resumed {
		c.log.Debug("no copies are served yet", "err", err)
		return
	}
	s.changed.raise()
	c.takeOver()
}

// journalTimeout bounds how long one attempt to take the journals may last.
const journalTimeout = 10 * time.Second

// join gives a new group the floors that the others in the region have, before it
// serves anything. Copies wait for more than that, see syncGroup.
func (c *Cache) join(g *Group) {
	if c.transport == nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, max(c.config.JoinWait, time.Second))
	defer cancel()
	if err := c.fetchJournals(ctx, c.lease.view.Load(), map[string]*Group{g.name: g}); err != nil {
		c.log.Warn("a new group could not learn of all recent writes", "group", g.name, "err", err)
	}
	c.spawn(func() { c.syncGroup(g) })
}

// syncGroup has a new group serve copies when this node has been told of every write
// to it.
func (c *Cache) syncGroup(g *Group) {
	for {
		changed := c.lease.changed.wait()
		if g.fresh.caughtUp.Load() {
			return
		}
		period, turns := c.lease.epoch.Load(), c.lease.guestEpoch.Load()
		if int64(c.clock.Instant()) < c.lease.end.Load() {
			ctx, cancel := context.WithTimeout(c.ctx, journalTimeout)
			err := c.fetchJournals(ctx, c.lease.view.Load(), map[string]*Group{g.name: g})
			cancel()
			if err == nil && int64(c.clock.Instant()) < c.lease.end.Load() && c.lease.epoch.Load() == period {
				g.setCaughtUp(turns)
				c.takeOverIn(g)
				return
			}
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-c.ctx.Done():
			return
		}
	}
}

// settle waits until no node outside of v can serve copies, and reports whether v is
// still this node's view then. The error is ctx's, or that this node is leaving.
func (c *Cache) settle(ctx context.Context, v *view) (bool, error) {
	for {
		changed := c.lease.changed.wait()
		if c.lease.view.Load() != v {
			return false, nil
		}
		if c.shutting.Load() {
			return false, ErrClosed // its view counts no more, see forgoCopies
		}
		if v.guest {
			return false, errGuest
		}
		// Looked at each time: who has stood still for two leases is forgotten by
		// the others, who may have granted leases to others since.
		at, known := c.settledAt(v)
		var timer <-chan time.Time
		if known {
			left := time.Until(at)
			if left <= 0 {
				return true, nil
			}
			timer = time.After(left)
		}
		select {
		case <-changed:
		case <-timer:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// isNew reports whether this node has never stood in its region. Others may see it whom it has not
// found, and who own keys and hold leases among themselves. So it completes no write while one
// that it does not see pings it, however long that lasts: its discovery may be the one that is
// wrong. Among those whom it does see it soon finds the others too, see otherView.
//
// A node that stands in its region does not reckon with such a stranger: that is one
// that has just come, serves nothing by itself, and must not hold up writes until all
// have found it.
func (c *Cache) isNew() bool { return c.lease.epoch.Load() == 0 }

// isStranger reports whether this node is new and does not see the given node of its region, which may own
// keys and hold leases. A guest does neither, and need not be told of writes.
func (c *Cache) isUnknownPeer(v *view, id string) bool {
	return c.transport != nil && c.isNew() && !v.has(id) && !c.transport.HearsGuest(id)
}

// strangersEnd returns until when nodes that v lacks are to be reckoned with; the zero
// time if there are none.
func (c *Cache) unknownPeersEnd(v *view) time.Time {
	if c.transport == nil || !c.isNew() {
		return time.Time{}
	}
	return c.transport.StrangersEnd(v.has)
}

// leavesWrites reports whether this node leaves writes of its keys to others that it sees: it has just
// come, and has to reckon with nodes that it does not see, or it is a guest. Those others see more.
func (c *Cache) defersWrites(v *view) bool {
	return v.guest || len(v.home.Nodes) > 1 && !c.unknownPeersEnd(v).IsZero()
}

// settledAt returns when v is settled, if that is known by now.
func (c *Cache) settledAt(v *view) (time.Time, bool) {
	if c.transport == nil {
		return time.Time{}, true
	}
	if v.guest { // nobody tells it what has been granted
		return time.Time{}, false
	}
	at := c.transport.OwnLeasesEnd(v.hash)
	for _, end := range []time.Time{c.unknownPeersEnd(v), c.guestsEnd(v)} {
		if end.After(at) {
			at = end
		}
	}
	for _, n := range v.home.Nodes {
		if n.ID == c.node.ID {
			continue
		}
		p := c.transport.Peer(n.ID)
		if p == nil {
			return at, false
		}
		t, ok := p.Settled(v.hash)
		if !ok {
			return at, false
		}
		if t.After(at) {
			at = t
		}
	}
	return at, true
}

// has reports whether the node is in the view.
func (v *view) has(id string) bool {
	return slices.ContainsFunc(v.home.Nodes, func(n regions.Node) bool { return n.ID == id })
}
