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

// A request asks another node for a fill's value.
type request struct {
	fill
	hop     peers.Hop
	peek    bool
	class   store.Class // of the entry that is kept
	discard bool        // no entry is kept: the answer is wanted as it is there, even if a newer one is here
	start   fillStart   // taken before the request is sent
}

// copyRequest returns the request of a node that does not own the key to one that answers as its owner.
func (f fill) copyRequest() request {
	return request{fill: f, hop: peers.HopOwner, class: store.Copy, start: f.g.startFill()}
}

// ownerRequest returns the request of the key's owner to another node.
func (f fill) ownerRequest(hop peers.Hop, peek bool) request {
	return request{fill: f, hop: hop, peek: peek, class: store.Owned, start: f.g.startFill()}
}

// wire returns the request as a peer is sent it.
func (r request) wire() peers.Request {
	return peers.Request{Group: r.g.name, Key: r.key, Floor: r.floor, Hop: r.hop, Peek: r.peek}
}

// send asks a node and keeps what it answers. It reports false if the node did not answer the question, so that
// another one should be asked: it cannot be reached, is closing or not ready, or its value is too old.
func (r request) send(ctx context.Context, n regions.Node) (answer, bool) {
	r.start = r.g.startFill()
	// A value from memory may expire on its way. The next node would load the key a second time, so the same
	// one is asked again.
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
		case overtaken: // the node may not know of a write to a tag that this one knows
			r.fill = r.above(r.g.fresh.floorOf(a.entry))
			if !a.entry.Below(r.floor) && !r.g.floors.Floor(r.key).IsSet() {
				// It may be older than a write, which what is loaded from now on is not. But that would hide
				// what was set.
				r.floor = expiry.Removal(a.entry.Generation)
			}
		}
	}
	return answer{}, false
}

// A verdict says what to make of a peer's answer.
type verdict int

const (
	answered  verdict = iota // it answers the question, if only by an error
	expired                  // it was alive when the node took it from memory
	overtaken                // it may be from before a write that was known here before the node was asked
	unusable                 // another node should be asked
)

// judge turns what a peer said into an answer, and keeps its entry. ctx is the request's.
func (r request) judge(ctx context.Context, n regions.Node, ans peers.Answer, err error) (answer, verdict) {
	g := r.g
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
	if ans.Code == peers.CodeMiss || ans.Stamp.Below(r.floor) || ans.Tagged && !store.IsTagged(ans.Value) {
		return answer{}, unusable
	}
	// The age is measured: by the node that answered until it did, and by the transport since. No wall clock
	// is trusted with the time to live.
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
	if !g.fresh.admissible(e, false, r.start.known) {
		return answer{entry: e}, overtaken
	}
	e.SetSeen(r.start.known) // what was known by then has been held against its age too
	late := g.fresh.expired(e, now)
	switch {
	case r.hop == peers.HopRegion && g.lag.lags(n.Region) && g.lag.mayMiss(e):
		return answer{err: g.located(errLagging)}, answered // that region may not have heard of the write
	case ans.Stale:
		if !g.fresh.servesStale(e, r.floor, now) {
			return answer{}, unusable
		}
		if g.fresh.revalidates(e, now) {
			// It is being loaded there: the next read asks again.
			return answer{entry: e, source: SourceStale, revalidated: true}, answered
		}
		g.retries.Store(r.key, now.Add(staleRetry))
		return g.admit(answer{entry: e, source: SourceStale}, r.start), answered
	case !late && r.discard:
		return answer{entry: e, source: sourceOf(ans.Source)}, answered
	case !late:
		return g.admit(answer{entry: e, source: sourceOf(ans.Source)}, r.start), answered
	case ans.Source == peers.SourceStore && e.Expires > e.Born():
		return answer{}, expired
	}
	// It was loaded for this request and has expired all the same: it lives shorter than loading it takes, or is
	// an absence not to be remembered. It is the answer, and is not kept.
	return answer{entry: e, source: sourceOf(ans.Source)}, answered
}

// sourceOf says where a value came from, as seen from here, that a peer had from s.
func sourceOf(s peers.Source) Source {
	switch s {
	case peers.SourceGetter:
		return SourceGetter
	case peers.SourceRegion:
		return SourceRegion
	}
	return SourceOwner
}

// askOwnerInline answers a flight in viaOwner that its caller has begun. As a rule that is one exchange with
// the key's owner, and a goroutine, a context and a timer cost as much as the exchange. So the
// caller makes it, and a goroutine takes over only when there is more to do, or when the caller gives up:
// others may have joined.
func (f fill) askOwnerInline(ctx context.Context, fl *flight.Flight[answer], home *regions.Region, owner regions.Node) answer {
	fs := f.g.viaOwner
	// Another flight may have ended between the miss and this one's beginning.
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

// conclude returns what a flight in viaOwner ends with after the owner has answered, or what has still to be
// done. ctx is the request's.
func (r request) conclude(ctx context.Context, home *regions.Region, owner regions.Node, ans peers.Answer, err error) (a answer, rest func(context.Context) answer) {
	a, verdict := r.judge(ctx, owner, ans, err)
	switch verdict {
	case expired, overtaken:
		return a, func(ctx context.Context) answer { return r.askOwner(ctx, home, owner) }
	case unusable:
		return a, func(ctx context.Context) answer { return r.askSuccessor(ctx, home) }
	}
	return r.orStale(ctx, a), nil
}
