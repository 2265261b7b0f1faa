package engine

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is the read path behind a miss. It has three levels, each with
// flights of its own:
//
//	asks    a reader's fill at a node that does not own the key:
//	        the owner, else its successor, else own
//	owns    the fill at the owner, or at whoever is asked to act as one:
//	        the origin region, load, the other regions, a stale value
//	loads   what a node does for its own region and for others that ask:
//	        a peek at former owners, the getter
//
// Invariant: a flight waits only for flights of a lower line in this list, here
// or on another node. A request to the region's own nodes is answered by owns,
// one from another region by loads, a peek by memory alone. So however the views
// of nodes differ, no circle of nodes waits for one another, and yet the getter
// is behind one flight for all who want the key from this node.
//
// There is no retry of a load that failed where it should have succeeded: what
// the owner says about its getter is passed on. Only a node that gives no answer
// is replaced by the next. A caller's deadline ends its wait, not the steps: a
// step that gave up early because one caller is in a hurry would start a second
// load elsewhere beside the first.

const (
	// maxGetters is how many regions' getters are tried for a read. If two have
	// failed it is the origin that is down, and a third would only be one more
	// call for each read; but any region may still have the value in memory.
	maxGetters = 2

	// staleRetry is how long a stale value is served without trying the
	// origin again.
	staleRetry = time.Second
)

// fill answers a read of this process that memory could not.
func (g *Group) fill(ctx context.Context, key string) answer {
	if a := refused(ctx, key); a.err != nil {
		return a
	}
	key = strings.Clone(key) // it may be a piece of something large, which a flight would keep and hand to others
	done, err := g.waitFor(ctx, key, false)
	if err != nil {
		return answer{err: err}
	}
	defer done()
	return g.fillAbove(ctx, key, g.floors.Floor(key))
}

// fillAbove is fill for a value that is not below a floor, which is not below the key's.
func (g *Group) fillAbove(ctx context.Context, key string, floor expiry.Stamp) answer {
	home := g.cache.topology().Home
	owner := g.ownerFor(home, key)
	switch {
	case g.cache.transport == nil && ticketOf(ctx) == nil:
		// Nobody else asks, so that one level will do. (A miss costs 11 µs instead of 17.)
		return g.loadFor(ctx, key, floor)
	case owner.ID == g.cache.node.ID:
		return g.own(ctx, key, floor)
	}
	return g.current(floor, func(floor expiry.Stamp, known expiry.Mark) (*flight, answer) {
		f, leads := g.joinAsk(key, floor, known)
		if leads {
			return f, g.lead(ctx, f, home, owner)
		}
		ticketOf(ctx).leave()
		return f, g.asks.wait(ctx, f)
	})
}

// ownerFor returns the node that this one's reads of a key go to: its owner. A node
// that has just come and takes itself for the owner asks whoever was it before: the
// others may not see it yet, and write without it.
func (g *Group) ownerFor(home *regions.Region, key string) regions.Node {
	owner := home.Owner(key)
	if owner.ID == g.cache.node.ID && len(home.Nodes) > 1 && !g.isMine(home, key) {
		return home.Owners(key, 2)[1]
	}
	return owner
}

// ask is the work of a flight in asks: the owner, its successor, own.
func (g *Group) ask(ctx context.Context, key string, floor expiry.Stamp, home *regions.Region, owner regions.Node) answer {
	if a, ok := g.fetch(ctx, owner, copyOf(key, floor)); ok {
		return g.orStale(ctx, key, floor, a)
	}
	return g.askSuccessor(ctx, key, floor, home)
}

// askSuccessor is the rest of ask when the owner has not answered.
func (g *Group) askSuccessor(ctx context.Context, key string, floor expiry.Stamp, home *regions.Region) answer {
	if owners := home.Owners(key, 2); len(owners) == 2 && owners[1].ID != g.cache.node.ID {
		if a, ok := g.fetch(ctx, owners[1], copyOf(key, floor)); ok {
			return g.orStale(ctx, key, floor, a)
		}
	}
	g.stats.takeovers.Add(1)
	return g.own(ctx, key, floor)
}

// own answers as the key's owner.
func (g *Group) own(ctx context.Context, key string, floor expiry.Stamp) answer {
	t := ticketOf(ctx)
	a := g.fly(ctx, g.owns, key, floor, func(ctx context.Context, floor expiry.Stamp) answer {
		defer t.leave()
		return g.owning(t.within(ctx), key, floor)
	})
	return g.orStaleFor(ctx, key, floor, a)
}

// owning is the work of a flight in owns.
func (g *Group) owning(ctx context.Context, key string, floor expiry.Stamp) answer {
	if a, ok := g.remembered(key, floor); ok {
		return a
	}
	if a, ok := g.dirty(ctx, key, floor); ok {
		return a
	}
	top := g.cache.topology()
	if g.lagging(key) {
		return g.fromPrimary(ctx, top, key, floor)
	}
	var origin *regions.Region
	if name := g.config.OriginRegion; name != "" && name != top.Home.Name {
		origin = top.Region(name)
	}
	failed := 0
	if origin != nil {
		if a, _ := g.peekFormer(ctx, top, key, floor); a.entry != nil {
			return a
		}
		a, ok := g.fetchRegion(ctx, origin, key, floor, false)
		switch {
		case ok && a.fresh():
			return a
		case ok:
			failed = 1
		}
	}
	return g.elsewhere(ctx, top, origin, failed, key, floor)
}

// fromPrimary asks the region whose origin has every write, because this
// region's may not have the key's last one yet.
func (g *Group) fromPrimary(ctx context.Context, top *regions.Topology, key string, floor expiry.Stamp) answer {
	if r := top.Region(g.primary()); r != nil {
		if a, ok := g.fetchRegion(ctx, r, key, floor, false); ok {
			return g.orStale(ctx, key, floor, a)
		}
	}
	return g.orStale(ctx, key, floor, answer{err: g.located(errLagging)})
}

// elsewhere loads here, and if that fails asks the other regions, but for the one
// that was asked already. failed is how many getters have failed so far.
func (g *Group) elsewhere(ctx context.Context, top *regions.Topology, asked *regions.Region, failed int, key string, floor expiry.Stamp) answer {
	loadCtx, cancel := ctx, context.CancelFunc(func() {})
	if len(top.Remote) > 0 {
		loadCtx, cancel = share(ctx, 3, 4)
	}
	a := g.load(loadCtx, key, floor)
	cancel()
	switch {
	case a.err == nil:
		return a
	case errors.Is(a.err, errLagging):
		return g.fromPrimary(ctx, top, key, floor)
	}
	failed++
	for _, r := range top.Remote {
		if r == asked {
			continue
		}
		b, ok := g.fetchRegion(ctx, r, key, floor, failed >= maxGetters)
		switch {
		case ok && b.fresh():
			return b
		case ok:
			failed++
		}
	}
	return g.orStale(ctx, key, floor, a)
}

// load answers with what this node can come by without asking anyone who might
// ask it: memory, its own and the former owners', and the getter.
func (g *Group) load(ctx context.Context, key string, floor expiry.Stamp) answer {
	t := ticketOf(ctx)
	return g.fly(ctx, g.loads, key, floor, func(ctx context.Context, floor expiry.Stamp) answer {
		return g.loadHere(ctx, t, key, floor)
	})
}

// loadHere is the work of a flight in loads. t may be nil.
func (g *Group) loadHere(ctx context.Context, t *ticket, key string, floor expiry.Stamp) answer {
	if a, ok := g.remembered(key, floor); ok {
		return a
	}
	if a, _ := g.peekFormer(ctx, g.cache.topology(), key, floor); a.entry != nil {
		return a
	}
	if a, ok := g.dirty(ctx, key, floor); ok {
		return a
	}
	if g.lagging(key) {
		return answer{err: g.located(errLagging)}
	}
	if t != nil {
		return t.load(ctx)
	}
	return g.callGetter(ctx, key)
}

// loadFor answers another region, or a reader here if there is nobody to ask. A stale value
// is better than none there too, where it is passed on as what it is.
func (g *Group) loadFor(ctx context.Context, key string, floor expiry.Stamp) answer {
	return g.orStaleFor(ctx, key, floor, g.load(ctx, key, floor))
}

// fetchRegion asks the key's owner in another region, or its successor, within
// half of the time that is left.
func (g *Group) fetchRegion(ctx context.Context, r *regions.Region, key string, floor expiry.Stamp, peek bool) (answer, bool) {
	ctx, cancel := share(ctx, 1, 2)
	defer cancel()
	for _, n := range r.Owners(key, 2) {
		if a, ok := g.fetch(ctx, n, request{key: key, floor: floor, hop: peers.HopRegion, peek: peek, class: store.Owned}); ok {
			if a.fresh() {
				a.source = SourceRegion
			}
			return a, true
		}
	}
	return answer{}, false
}

// request is what fetch asks a node for.
type request struct {
	key   string
	floor expiry.Stamp
	hop   peers.Hop
	peek  bool
	class store.Class // of the entry that is kept
	apart bool        // none is: the answer is wanted as it is there, be there a newer one here
	began mark        // when the request had not been sent
}

// copyOf is the request of a node that does not own the key to one that answers
// as if it did.
func copyOf(key string, floor expiry.Stamp) request {
	return request{key: key, floor: floor, hop: peers.HopOwner, class: store.Copy}
}

// fetch asks a node and keeps what it answers. It reports false if the node did
// not answer the question, so that another one should be asked: it cannot be
// reached, is closing or not ready, or has a value that is too old.
func (g *Group) fetch(ctx context.Context, n regions.Node, req request) (answer, bool) {
	// A value from memory may expire on its way. The next node would load the
	// key a second time, so the same one is asked again.
	req.began = g.mark()
	for range 2 {
		peer := g.cache.transport.Peer(n.ID)
		if peer == nil {
			return answer{}, false
		}
		ans, err := peer.Fetch(ctx, g.wire(req))
		a, verdict := g.judge(ctx, req, n, ans, err)
		switch verdict {
		case answered, unusable:
			return a, verdict == answered
		case overtaken: // of its tags the node may not know what this one does
			req.floor = req.floor.Max(g.fresh.floorOf(a.entry))
			if !a.entry.Below(req.floor) && !g.floors.Floor(req.key).IsSet() {
				// It is in doubt here, which what is loaded from now on is not. But that would hide what was set.
				req.floor = expiry.Removal(a.entry.Generation)
			}
		}
	}
	return answer{}, false
}

// A verdict says what to make of a peer's answer.
type verdict int

const (
	answered  verdict = iota // it answers the question, be it by an error
	expired                  // it was alive when the node took it from memory
	overtaken                // it may be from before a write that was known here before the node was asked
	unusable                 // another node should be asked
)

// judge turns what a peer said into an answer, and keeps its entry. ctx is that of
// the request.
func (g *Group) judge(ctx context.Context, req request, n regions.Node, ans peers.Answer, err error) (answer, verdict) {
	if err != nil {
		var pe *peers.Error
		if !errors.As(err, &pe) { // our own context ended
			return answer{err: g.located(endOf(context.Cause(ctx)))}, answered
		}
		switch pe.Code {
		case peers.CodeFailed, peers.CodeTimeout, peers.CodeTooLarge, peers.CodeBusy, peers.CodeUnsettled:
			return answer{err: fromPeer(err)}, answered
		}
		g.stats.unanswered.Add(1)
		g.cache.log.Debug("no answer from peer", "group", g.name, "node", n.ID, "region", n.Region, "err", err)
		return answer{}, unusable
	}
	if ans.Code == peers.CodeMiss || ans.Stamp.Below(req.floor) || ans.Tagged && !store.IsTagged(ans.Value) {
		return answer{}, unusable
	}
	// The age is measured: by the node that answered until it did, and by the
	// transport since. Nobody's wall clock is trusted with the time to live.
	now := g.cache.clock.Instant()
	born := now.Add(-ans.Age)
	absent := ans.Code == peers.CodeNotFound
	e := g.store.NewEntry(store.Item{
		Key:     req.key,
		Value:   ans.Value,
		Stamp:   ans.Stamp,
		Born:    born,
		Expires: born.Add(min(ans.Life, g.life(req.key, absent, 0))),
		Class:   req.class,
		Absent:  absent,
		Tagged:  ans.Tagged,
	})
	if !g.fresh.admissible(e, false, req.began.known) {
		return answer{entry: e}, overtaken
	}
	e.SetSeen(req.began.known) // what was known by then has been held against its age too
	switch {
	case req.hop == peers.HopRegion && g.lags(n.Region) && g.lagged(e):
		return answer{err: g.located(errLagging)}, answered // that region may not have heard of the write
	case ans.Stale:
		if !g.fresh.servesStale(e, req.floor, now) {
			return answer{}, unusable
		}
		if g.fresh.revalidates(e, now) {
			// It is being loaded there: the next read asks again.
			return answer{entry: e, source: SourceStale, revalidated: true}, answered
		}
		g.retries.Store(req.key, now.Add(staleRetry))
		return g.keep(answer{entry: e, source: SourceStale}, req.began), answered
	case now < e.Expires && req.apart:
		return answer{entry: e, source: sourceOf(ans.Source)}, answered
	case now < e.Expires:
		return g.keep(answer{entry: e, source: sourceOf(ans.Source)}, req.began), answered
	case ans.Source == peers.SourceStore && e.Expires > e.Born():
		return answer{}, expired
	}
	// It was loaded for this request and has expired all the same: it lives
	// shorter than loading it takes, or is an absence not to be remembered.
	// It is the answer, and is not kept.
	return answer{entry: e, source: sourceOf(ans.Source)}, answered
}

// sourceOf says where a value came from, as seen from here, that a peer had from
// s.
func sourceOf(s peers.Source) Source {
	switch s {
	case peers.SourceGetter:
		return SourceGetter
	case peers.SourceRegion:
		return SourceRegion
	}
	return SourceOwner
}

// keep puts the answer's entry into the store, or takes over what is there if it
// is newer and has not expired. began is the mark of when the fill had not yet looked
// at anything.
//
// A write may happen at any point of a fill. It (1) raises the floor, (2) drops the entry or
// puts another in. The floor is looked at under the store's lock, which (2) takes as
// well: if (1) comes before, the floor is seen and nothing is stored; if after, so
// does (2), and drops what is stored. Looking before storing would let an old value in
// for good; looking after it would show one to readers for a moment.
func (g *Group) keep(a answer, began mark) answer {
	e := a.entry
	there := g.insert(e, nil, func() bool {
		s := &g.cache.standing
		return s.turns.Load() == began.turns && !isOdd(began.turns) && g.fresh.admissible(e, a.here, anySeq) &&
			(e.Class() == store.Owned || s.period.Load() == began.period && g.fresh.leased(g.cache.clock.Instant()))
	})
	if there == nil || there == e || g.cache.clock.Instant() >= there.Expires || there.Below(g.fresh.floorOf(there)) {
		return a
	}
	if e.Below(there.Stamp) || !there.IsLoad() && !g.fresh.admissible(e, a.here, anySeq) {
		if a.source == SourceStale {
			a.source = SourceStore
		}
		return answer{entry: there, source: a.source}
	}
	return a
}

// remembered answers from the store, in case that another flight ended between
// the miss and this flight's beginning. It is for whoever acts as the key's owner:
// what it has as that it may answer with, since who asks knows the floor.
func (g *Group) remembered(key string, floor expiry.Stamp) (answer, bool) {
	if g.cache.isGuest() {
		return answer{}, false // it knows of no write
	}
	e, ok := g.store.Get(key)
	now := g.cache.clock.Instant()
	if !ok || !g.fresh.servesAsOwner(e, floor, now) {
		return answer{}, false
	}
	return answer{entry: e, source: SourceStore}, true
}

// orStale returns a, or if it is an error, an expired value that the group
// allows to be served in its place. That ctx, the fill's, was cancelled because
// nobody waits for it any more says nothing about the origin.
func (g *Group) orStale(ctx context.Context, key string, floor expiry.Stamp, a answer) answer {
	if a.err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return a
	}
	e, ok := g.store.Peek(key)
	now := g.cache.clock.Instant()
	if !ok || !g.fresh.servesStale(e, floor, now) {
		return a
	}
	if now < e.Expires { // a write has put it there while the load was failing
		return answer{entry: e, source: SourceStore}
	}
	g.cache.log.Debug("serving stale", "group", g.name, "key", key, "age", now.Sub(e.Born()), "err", a.err)
	g.retries.Store(key, now.Add(staleRetry))
	return answer{entry: e, source: SourceStale}
}

// orStaleFor is orStale for one who has waited for a flight: whoever has begun that may not
// have cared for a stale value, or not for as old a one, as who refreshes does not. That ctx,
// the waiter's, has ended says nothing about the origin.
func (g *Group) orStaleFor(ctx context.Context, key string, floor expiry.Stamp, a answer) answer {
	if ctx.Err() != nil {
		return a
	}
	return g.orStale(ctx, key, floor, a)
}

// life returns the time to live of a key, or of its absence. own is the item's
// own, or 0.
func (g *Group) life(key string, absent bool, own time.Duration) time.Duration {
	switch {
	case absent:
		return g.config.NegativeTTL
	case own > 0 && own < g.config.TTL:
		return own
	}
	return expiry.Life(g.config.TTL, xxh3.HashString(key))
}

// share returns a context with num/den of the time that ctx has left.
func share(ctx context.Context, num, den int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)*time.Duration(num)/time.Duration(den))
}

// endOf says in this package's words why a context ended.
func endOf(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrTimeout
	}
	return err
}
