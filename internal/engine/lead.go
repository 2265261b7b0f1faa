package engine

import (
	"context"

	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is a flight in asks as long as its first caller works for it.

// lead answers a flight that its caller has begun. As a rule that is one exchange with the key's
// owner, and for that a goroutine, a context and a timer cost as much as the
// exchange. So the caller makes it, and a goroutine takes over only when there is
// more to do, or when the caller gives up: others may have joined.
func (g *Group) lead(ctx context.Context, f *flight, home *regions.Region, owner regions.Node) answer {
	// Another flight may have ended between the miss and this one's beginning.
	if a, ok := g.lookup(f.key); ok && !a.entry.Below(f.floor) && a.fresh() {
		g.asks.finish(f, a)
		return a
	}
	peer := g.cache.transport.Peer(owner.ID)
	if peer == nil {
		g.asks.start(f, func(ctx context.Context) answer { return g.askSuccessor(ctx, f.key, f.floor, home) })
		return g.asks.wait(ctx, f)
	}
	req := copyOf(f.key, f.floor)
	req.began = g.mark()
	var ans peers.Answer
	call, err := peer.BeginFetch(g.asks.limit, g.wire(req))
	if err == nil {
		if !call.Await(ctx, g.asks.limit) {
			g.asks.start(f, func(ctx context.Context) answer {
				ans, err := call.Wait(ctx)
				a, rest := g.conclude(ctx, f, home, req, owner, ans, err)
				if rest != nil {
					a = rest(ctx)
				}
				return a
			})
			return g.asks.wait(ctx, f)
		}
		ans, err = call.Wait(context.Background())
	}
	a, rest := g.conclude(context.Background(), f, home, req, owner, ans, err)
	if rest != nil {
		g.asks.start(f, rest)
		return g.asks.wait(ctx, f)
	}
	g.asks.finish(f, a)
	return a
}

// conclude returns what a flight in asks ends with after the owner has answered, or what has
// still to be done. ctx is that of the request.
func (g *Group) conclude(ctx context.Context, f *flight, home *regions.Region, req request, owner regions.Node, ans peers.Answer, err error) (a answer, rest func(context.Context) answer) {
	a, verdict := g.judge(ctx, req, owner, ans, err)
	switch verdict {
	case expired, overtaken:
		return a, func(ctx context.Context) answer { return g.ask(ctx, f.key, f.floor, home, owner) }
	case unusable:
		return a, func(ctx context.Context) answer { return g.askSuccessor(ctx, f.key, f.floor, home) }
	}
	return g.orStale(ctx, f.key, f.floor, a), nil
}

// wire returns a request as a peer is sent it.
func (g *Group) wire(req request) peers.Request {
	return peers.Request{Group: g.name, Key: req.key, Floor: req.floor, Hop: req.hop, Peek: req.peek}
}
