package engine

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// A fill answers a miss. It has three levels, each with its own table of shared flights:
//
//	viaOwner  a reader's fill on a node that does not own the key:
//	          asks the owner, else its successor, else runs asOwner
//	asOwner   the fill on the owner, or on a node asked to stand in for it:
//	          the origin region, local, the other regions, a stale value
//	local     what a node can do without asking anyone who might ask it:
//	          its memory, the former owners' memory, the getter
//
// On a node without a lease another level, unleased, takes the place of the first, see unleased.go.
//
// Invariant: a flight waits only for flights of a lower level, here or on another node. Requests from nodes
// of the same region are answered by asOwner, requests from other regions by local, and peeks from memory
// alone. So no cycle of nodes waits for itself, however much the nodes' views differ, and one flight in
// front of the getter serves everyone who wants the key from this node.
//
// A load that failed where it should have succeeded is not repeated: the owner's report about its getter is
// the answer. Only a node that gives no answer is replaced by the next. A caller's deadline ends that
// caller's wait, not the steps: a step cut short because one caller is in a hurry would start a second load
// beside the first.
type fill struct {
	g      *Group
	key    string
	floor  expiry.Stamp // Invariant: the answer is not below it.
	ticket *ticket      // the key's place in a batch; nil without one
}

const (
	// maxGetters is how many regions' getters a read tries. If two have failed, the origin is down, and a
	// third would only add a call to every read. Any other region may still have the value in memory.
	maxGetters = 2

	// staleRetry is how long a stale value is served before the origin is tried again.
	staleRetry = time.Second
)

// newFill returns a fill for the key's current value.
func (g *Group) newFill(key string) fill { return fill{g: g, key: key, floor: g.floors.Floor(key)} }

// above returns f with its floor raised to at least floor.
func (f fill) above(floor expiry.Stamp) fill {
	f.floor = f.floor.Max(floor)
	return f
}

// fill answers a local read that missed in memory.
func (g *Group) fill(ctx context.Context, key string) answer {
	if a := checkRead(ctx, key); a.err != nil {
		return a
	}
	key = strings.Clone(key) // it may be part of a large string, which a flight would keep alive
	done, err := g.trackWait(ctx, key, false)
	if err != nil {
		return answer{err: err}
	}
	defer done()
	if !g.unleased.hearsAll(ctx) {
		return g.newFill(key).askUnleased(ctx)
	}
	return g.newFill(key).run(ctx)
}

// run answers a local reader.
func (f fill) run(ctx context.Context) answer {
	home := f.g.cache.topology().Home
	owner := f.g.readsFrom(home, f.key)
	switch {
	case f.g.cache.transport == nil:
		// Nobody asks this node, so one level is enough. (A miss costs 11 µs instead of 17.)
		return f.localOrStale(ctx)
	case owner.ID == f.g.cache.node.ID:
		return f.asOwner(ctx)
	}
	return f.untilCurrent(func(f fill, known expiry.Seq) (*flight.Flight[answer], answer) {
		fl, leads := f.g.viaOwner.Join(f.key, f.floor, known)
		if leads {
			return fl, f.askOwnerInline(ctx, fl, home, owner)
		}
		return fl, awaitFlight(ctx, f.g.viaOwner, fl)
	})
}

// readsFrom returns the node that answers this node's reads of a key: normally the owner. A node that has
// just joined and considers itself the owner asks the previous owner instead: the other nodes may not see
// the new node yet and write without it.
func (g *Group) readsFrom(home *regions.Region, key string) regions.Node {
	owner := home.Owner(key)
	if owner.ID == g.cache.node.ID && len(home.Nodes) > 1 && !g.servesAsOwner(home, key) {
		return home.Owners(key, 2)[1]
	}
	return owner
}

// untilCurrent calls join, which joins or begins a flight and returns its answer. It calls join again as
// long as the answer may be older than a write that was known when the flight was joined.
//
// A flight's floor does not ensure that. The tags of a value are known only once it has arrived, and a
// write that arrives late, below the floor, raises no floor. So a flight may return a value from before a
// write that its caller already knew of.
func (f fill) untilCurrent(join func(f fill, known expiry.Seq) (*flight.Flight[answer], answer)) answer {
	for {
		known := f.g.floors.Seq()
		fl, a := join(f, known)
		if !f.g.isOutdated(fl, a, known) {
			return a
		}
		f = f.above(f.g.fresh.floorOf(a.entry))
	}
}

// isOutdated reports whether a, the answer of fl, may be older than a write that was known at the Seq known
// but not when fl began.
func (g *Group) isOutdated(fl *flight.Flight[answer], a answer, known expiry.Seq) bool {
	return fl.Known() < known && a.err == nil && g.fresh.overtaken(a.entry, fl.Known(), known)
}

// joinOrRun returns the answer of the flight for f's key. It starts one with run if there is none that f
// may join.
func (f fill) joinOrRun(
	ctx context.Context, fs *flight.Table[answer], run func(context.Context, fill) answer,
) answer {
	return f.untilCurrent(func(f fill, known expiry.Seq) (*flight.Flight[answer], answer) {
		fl, leads := fs.JoinOrStart(f.key, f.floor, known, func(ctx context.Context) answer {
			return run(ctx, f)
		})
		if !leads {
			f.ticket.leave()
		}
		return fl, awaitFlight(ctx, fs, fl)
	})
}

// awaitFlight returns the flight's answer, or the reason why ctx ended first.
func awaitFlight(ctx context.Context, fs *flight.Table[answer], fl *flight.Flight[answer]) answer {
	a, ok := fs.Wait(ctx, fl)
	if !ok {
		return answer{err: contextError(context.Cause(ctx))}
	}
	return a
}

// askOwner asks the owner, then its successor, then fills as the owner itself.
func (f fill) askOwner(ctx context.Context, home *regions.Region, owner regions.Node) answer {
	if a, ok := f.copyRequest().send(ctx, owner); ok {
		return f.orStale(ctx, a)
	}
	return f.askSuccessor(ctx, home)
}

// askSuccessor continues askOwner after the owner has given no answer.
func (f fill) askSuccessor(ctx context.Context, home *regions.Region) answer {
	if owners := home.Owners(f.key, 2); len(owners) == 2 && owners[1].ID != f.g.cache.node.ID {
		if a, ok := f.copyRequest().send(ctx, owners[1]); ok {
			return f.orStale(ctx, a)
		}
	}
	f.g.stats.fallbacks.Add(1)
	return f.asOwner(ctx)
}

// asOwner fills as the key's owner.
func (f fill) asOwner(ctx context.Context) answer {
	a := f.joinOrRun(ctx, f.g.asOwner, func(ctx context.Context, f fill) answer {
		defer f.ticket.leave()
		return f.runAsOwner(ctx)
	})
	return f.orStaleForWaiter(ctx, a)
}

// beginAsOwner starts or joins the flight of asOwner without waiting for it.
func (f fill) beginAsOwner(known expiry.Seq) *flight.Flight[answer] {
	fl, leads := f.g.asOwner.JoinOrStart(f.key, f.floor, known, func(ctx context.Context) answer {
		defer f.ticket.leave()
		return f.runAsOwner(ctx)
	})
	if !leads {
		f.ticket.leave()
	}
	return fl
}

// runAsOwner does the work of an asOwner flight.
func (f fill) runAsOwner(ctx context.Context) answer {
	if a, ok := f.fromStore(); ok {
		return a
	}
	if a, ok := f.g.origin.unwritten(ctx, f.key, f.floor); ok {
		return a
	}
	top := f.g.cache.topology()
	if f.g.lag.covers(f.key) {
		return f.fromPrimary(ctx, top)
	}
	var origin *regions.Region
	if name := f.g.config.OriginRegion; name != "" && name != top.Home.Name {
		origin = top.Region(name)
	}
	failed := 0
	if origin != nil {
		if a, _ := f.peekFormerOwners(ctx, top); a.entry != nil {
			return a
		}
		a, ok := f.askRegion(ctx, origin, false)
		switch {
		case ok && a.fresh():
			return a
		case ok:
			failed = 1
		}
	}
	return f.loadOrAskRegions(ctx, top, origin, failed)
}

// fromPrimary asks the primary region, whose origin has every write. It is called when this region's origin
// may lack the key's last write.
func (f fill) fromPrimary(ctx context.Context, top *regions.Topology) answer {
	if r := top.Region(f.g.lag.primary); r != nil {
		if a, ok := f.askRegion(ctx, r, false); ok {
			return f.orStale(ctx, a)
		}
	}
	return f.orStale(ctx, answer{err: f.g.located(errLagging)})
}

// loadOrAskRegions loads the key here. If that fails it asks the other regions, except asked, which has
// been tried. failed is how many getters have failed so far.
func (f fill) loadOrAskRegions(
	ctx context.Context, top *regions.Topology, asked *regions.Region, failed int,
) answer {
	loadCtx, cancel := ctx, context.CancelFunc(func() {})
	if len(top.Remote) > 0 {
		loadCtx, cancel = share(ctx, 3, 4)
	}
	a := f.local(loadCtx)
	cancel()
	switch {
	case a.err == nil:
		return a
	case errors.Is(a.err, errLagging):
		return f.fromPrimary(ctx, top)
	}
	failed++
	for _, r := range top.Remote {
		if r == asked {
			continue
		}
		b, ok := f.askRegion(ctx, r, failed >= maxGetters)
		switch {
		case ok && b.fresh():
			return b
		case ok:
			failed++
		}
	}
	return f.orStale(ctx, a)
}

// local answers from what this node can get without asking anyone who might ask it.
func (f fill) local(ctx context.Context) answer {
	return f.joinOrRun(ctx, f.g.local, func(ctx context.Context, f fill) answer { return f.runLocal(ctx) })
}

// runLocal does the work of a local flight.
func (f fill) runLocal(ctx context.Context) answer {
	if a, ok := f.fromStore(); ok {
		return a
	}
	if a, _ := f.peekFormerOwners(ctx, f.g.cache.topology()); a.entry != nil {
		return a
	}
	if a, ok := f.g.origin.unwritten(ctx, f.key, f.floor); ok {
		return a
	}
	if f.g.lag.covers(f.key) {
		return answer{err: f.g.located(errLagging)}
	}
	if f.ticket != nil {
		return f.ticket.load(ctx)
	}
	return f.g.loader.call(ctx, f.key)
}

// localOrStale answers another region, or a local reader if there is nobody to ask. A stale value is better
// than none for another region, too: it is passed on marked as stale.
func (f fill) localOrStale(ctx context.Context) answer { return f.orStaleForWaiter(ctx, f.local(ctx)) }

// askRegion asks the key's owner in another region, or the owner's successor, within half of the time left.
func (f fill) askRegion(ctx context.Context, r *regions.Region, peek bool) (answer, bool) {
	ctx, cancel := share(ctx, 1, 2)
	defer cancel()
	req := f.ownerRequest(peers.HopRegion, peek)
	for _, n := range r.Owners(f.key, 2) {
		if a, ok := req.send(ctx, n); ok {
			if a.fresh() {
				a.source = SourceRegion
			}
			return a, true
		}
	}
	return answer{}, false
}

// fromStore answers from the store, in case another flight ended between the miss and the start of this
// one. It is for nodes that act as the key's owner.
func (f fill) fromStore() (answer, bool) {
	if f.g.cache.isGuest() {
		return answer{}, false // a guest hears of no writes
	}
	e, ok := f.g.store.Get(f.key)
	if !ok || !f.g.fresh.servesAsOwner(e, f.floor, f.g.cache.clock.Instant()) {
		return answer{}, false
	}
	return answer{entry: e, source: SourceStore}, true
}

// orStale returns a, or if that is an error, an expired value that the group may serve instead. ctx is the
// fill's own: if it was cancelled because nobody waits any more, that says nothing about the origin.
func (f fill) orStale(ctx context.Context, a answer) answer {
	if a.err == nil || errors.Is(ctx.Err(), context.Canceled) {
		return a
	}
	g := f.g
	e, ok := g.store.Peek(f.key)
	now := g.cache.clock.Instant()
	if !ok || !g.fresh.servesStale(e, f.floor, now) {
		return a
	}
	if !g.fresh.expired(e, now) {
		if g.fresh.hearsOf(e, now) { // a write stored it while the load was failing
			return answer{entry: e, source: SourceStore}
		}
		if g.config.StaleIfError == 0 {
			return a
		}
	}
	g.cache.log.Debug("serving stale",
		"group", g.name, "key", f.key, "age", now.Sub(e.Born()), "err", a.err)
	g.retries.Store(f.key, now.Add(staleRetry))
	return answer{entry: e, source: SourceStale}
}

// orStaleForWaiter is orStale for a caller that has waited for a flight: whoever began the flight may not
// have accepted a stale value, or not one this old. ctx is the waiter's: that it has ended says nothing
// about the origin.
func (f fill) orStaleForWaiter(ctx context.Context, a answer) answer {
	if ctx.Err() != nil {
		return a
	}
	return f.orStale(ctx, a)
}

// share returns a context with num/den of the time that ctx has left.
func share(ctx context.Context, num, den int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)*time.Duration(num)/time.Duration(den))
}

// contextError maps a context's error to one of this package's.
func contextError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrTimeout
	}
	return err
}
