package engine

import (
	"context"
	"errors"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// A request asks another node for the value that a fill needs.
type request struct {
	fill
	hop     peers.Hop
	peek    bool
	class   store.Class // of the entry to store
	discard bool        // do not store the answer
	start   fillStart   // taken before the request is sent
}

// copyRequest returns the request of a node that does not own the key to one that answers as the owner.
func (f fill) copyRequest() request {
	return request{fill: f, hop: peers.HopOwner, class: store.Copy, start: f.g.startFill()}
}

// ownerRequest returns the request of the key's owner to another node.
func (f fill) ownerRequest(hop peers.Hop, peek bool) request {
	return request{fill: f, hop: hop, peek: peek, class: store.Owned, start: f.g.startFill()}
}

// wire returns the request in the form that peers are sent.
func (r request) wire() peers.Request {
	return peers.Request{Group: r.g.name, Key: r.key, Floor: r.floor, Hop: r.hop, Peek: r.peek}
}

// send asks a node and stores its answer. It returns false if another node should be asked: this one cannot
// be reached, is closing or not ready, or its value is too old.
func (r request) send(ctx context.Context, n regions.Node) (answer, bool) {
	r.start = r.g.startFill()
	// A value from memory may expire on the way. The next node would load the key a second time, so ask the
	// same one again.
	for range 2 {
		peer := r.g.cache.transport.Peer(n.ID)
		if peer == nil {
			return answer{}, false
		}
		ans, err := peer.Fetch(ctx, r.wire())
		a, verdict := r.judge(ctx, n, ans, err)
		switch verdict {
		case answered, unusable:
			return a, verdict == answered
		case overtaken: // the node may not know of a write to a tag that this node knows of
			r.fill = r.above(r.g.fresh.floorOf(a.entry))
			if !a.entry.Below(r.floor) && !r.g.floors.Floor(r.key).IsSet() {
				// The value may be older than a write. Whatever is loaded from now on is not, so ask for
				// that. But not if the key was Set: a load would hide what was set.
				r.floor = expiry.Removal(a.entry.Generation)
			}
		}
	}
	return answer{}, false
}

// A verdict says what to do with a peer's answer.
type verdict int

const (
	answered  verdict = iota // it answers the question, possibly with an error
	expired                  // it was alive when the node took it from memory
	overtaken                // it may predate a write that was known here before the node was asked
	unusable                 // ask another node
)

// isFinal reports whether an error is the outcome of a read. With any other, another node may do better.
func isFinal(code peers.Code) bool {
	switch code {
	case peers.CodeFailed, peers.CodeTimeout, peers.CodeTooLarge, peers.CodeBusy, peers.CodeUnsettled:
		return true
	}
	return false
}

// judge converts a peer's response into an answer and stores its entry. ctx is the request's.
func (r request) judge(
	ctx context.Context, n regions.Node, ans peers.Answer, err error,
) (answer, verdict) {
	g := r.g
	if err != nil {
		var pe *peers.Error
		if !errors.As(err, &pe) { // this node's own context ended
			return answer{err: g.located(contextError(context.Cause(ctx)))}, answered
		}
		if isFinal(pe.Code) {
			return answer{err: fromPeer(err)}, answered
		}
		g.stats.unanswered.Add(1)
		g.cache.log.Debug("no answer from peer",
			"group", g.name, "node", n.ID, "region", n.Region, "err", err)
		return answer{}, unusable
	}
	if ans.Code == peers.CodeMiss || ans.Stamp.Below(r.floor) || ans.Tagged && !store.IsTagged(ans.Value) {
		return answer{}, unusable
	}
	// The age is measured, by the answering node until it answered and by the transport since. No wall
	// clock is trusted with the time to live.
	now := g.cache.clock.Instant()
	born := now.Add(-ans.Age)
	absent := ans.Code == peers.CodeNotFound
	e := g.store.NewEntry(store.Item{
		Key:     r.key,
		Value:   ans.Value,
		Stamp:   ans.Stamp,
		Born:    born,
		Expires: born.Add(min(ans.Life, g.life(r.key, absent, 0))),
		Class:   r.class,
		Absent:  absent,
		Tagged:  ans.Tagged,
	})
	var from provenance
	if ans.SinceClear {
		from.cleared = r.floor.Generation
	}
	if !g.fresh.admissible(e, from, r.start.known) {
		return answer{entry: e}, overtaken
	}
	e.SetSeen(r.start.known) // admissible has checked it against all writes known by then
	late := g.fresh.expired(e, now)
	if ans.Unconfirmed && !late && !ans.Stale { // it is not kept: this node may hear of more
		return answer{entry: e, source: sourceOf(ans.Source), unconfirmed: true}, answered
	}
	switch {
	case r.hop == peers.HopRegion && g.lag.lags(n.Region) && g.lag.mayMiss(e):
		return answer{err: g.located(errLagging)}, answered // that region may not have received the write
	case ans.Stale:
		if !g.fresh.servesStale(e, r.floor, now) {
			return answer{}, unusable
		}
		if g.fresh.revalidates(e, now) {
			// The owner is loading it: the next read asks again.
			return answer{entry: e, source: SourceStale, revalidated: true}, answered
		}
		g.retries.Store(r.key, now.Add(staleRetry))
		return g.admit(answer{entry: e, source: SourceStale}, r.start), answered
	case !late && r.discard:
		return answer{entry: e, source: sourceOf(ans.Source)}, answered
	case !late:
		return g.admit(answer{entry: e, source: sourceOf(ans.Source), provenance: from}, r.start), answered
	case ans.Source == peers.SourceStore && e.Expires > e.Born():
		return answer{}, expired
	}
	// It was loaded for this request and has already expired: it lives for less time than loading takes, or
	// is an absence not to be remembered. Return it without storing it.
	return answer{entry: e, source: sourceOf(ans.Source)}, answered
}

// sourceOf maps the source that a peer reports to the source of a read on this node.
func sourceOf(s peers.Source) Source {
	switch s {
	case peers.SourceGetter:
		return SourceGetter
	case peers.SourceRegion:
		return SourceRegion
	}
	return SourceOwner
}

// askOwnerInline answers a viaOwner flight that its caller has begun. Usually that takes one exchange with
// the key's owner, and a goroutine, a context and a timer cost as much as the exchange itself. So the
// caller does it, and a goroutine takes over only when there is more to do, or when the caller gives up:
// others may have joined the flight.
func (f fill) askOwnerInline(
	ctx context.Context, fl *flight.Flight[answer], home *regions.Region, owner regions.Node,
) answer {
	fs := f.g.viaOwner
	// Another flight may have ended between the miss and the start of this one.
	if a, ok := f.g.lookup(f.key); ok && !a.entry.Below(f.floor) && a.fresh() {
		fs.Finish(fl, a)
		return a
	}
	peer := f.g.cache.transport.Peer(owner.ID)
	if peer == nil {
		fs.Start(fl, func(ctx context.Context) answer { return f.askSuccessor(ctx, home) })
		return awaitFlight(ctx, fs, fl)
	}
	req := f.copyRequest()
	var ans peers.Answer
	call, err := peer.BeginFetch(fs.Limit(), req.wire())
	if err == nil {
		if !call.Await(ctx, fs.Limit()) {
			fs.Start(fl, func(ctx context.Context) answer {
				ans, err := call.Wait(ctx)
				a, rest := req.conclude(ctx, home, owner, ans, err)
				if rest != nil {
					a = rest(ctx)
				}
				return a
			})
			return awaitFlight(ctx, fs, fl)
		}
		ans, err = call.Wait(context.Background())
	}
	a, rest := req.conclude(context.Background(), home, owner, ans, err)
	if rest != nil {
		fs.Start(fl, rest)
		return awaitFlight(ctx, fs, fl)
	}
	fs.Finish(fl, a)
	return a
}

// conclude returns the answer that ends a viaOwner flight after the owner has responded, or a function for
// the work that remains. ctx is the request's.
func (r request) conclude(
	ctx context.Context, home *regions.Region, owner regions.Node, ans peers.Answer, err error,
) (a answer, rest func(context.Context) answer) {
	a, verdict := r.judge(ctx, owner, ans, err)
	switch verdict {
	case expired, overtaken:
		return a, func(ctx context.Context) answer { return r.askOwner(ctx, home, owner) }
	case unusable:
		return a, func(ctx context.Context) answer { return r.askSuccessor(ctx, home) }
	}
	return r.orStale(ctx, a), nil
}
