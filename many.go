package geocache

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// fillMany answers a read of many keys that memory could not: fill for all of
// them, with one request for each owner. It calls answered once for each key,
// on this goroutine. The keys are distinct.
func (g *group) fillMany(ctx context.Context, keys []string, answered func(key string, a answer)) {
	home := g.cache.topology().Home
	type waiting struct {
		in     *flights
		flight *flight
	}
	var all []waiting
	batches := map[string]*batch{}
	for _, key := range keys {
		key = strings.Clone(key) // as in fill
		floor := g.floors.Floor(key)
		owner := home.Owner(key)
		if owner.ID == g.cache.node.ID {
			all = append(all, waiting{g.owns, g.owns.begin(key, floor, g.owning(key, floor))})
			continue
		}
		f, leads := g.asks.join(key, floor)
		all = append(all, waiting{g.asks, f})
		if !leads {
			continue
		}
		b := batches[owner.ID]
		if b == nil {
			b = &batch{home: home, owner: owner}
			batches[owner.ID] = b
		}
		b.flights = append(b.flights, f)
	}
	for _, b := range batches {
		if !g.cache.spawn(func() { g.askMany(b) }) {
			for _, f := range b.flights {
				g.asks.finish(f, answer{err: ErrClosed})
			}
		}
	}
	for _, w := range all {
		answered(w.flight.key, w.in.wait(ctx, w.flight))
	}
}

// A batch is the flights of one GetMany whose keys have the same owner.
type batch struct {
	home    *regions.Region
	owner   regions.Node
	flights []*flight
}

// batchKeys is how many keys of a batch are asked for at the same time: well
// below what a node takes from one connection before it calls itself busy.
const batchKeys = 1024

// askMany is the work of all flights in b: one request to the owner at a time,
// and for the keys that it does not answer what ask does.
func (g *group) askMany(b *batch) {
	for flights := range slices.Chunk(b.flights, batchKeys) {
		g.askChunk(b, flights)
	}
}

func (g *group) askChunk(b *batch, flights []*flight) {
	// The request is for all of them, so it ends when all have ended.
	ctx, cancel := context.WithTimeout(g.asks.parent, g.asks.limit)
	defer cancel()
	var left atomic.Int64
	left.Store(int64(len(flights)))

	req := peers.Batch{Group: g.name, Hop: peers.HopOwner}
	for _, f := range flights {
		context.AfterFunc(f.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
		req.Keys = append(req.Keys, peers.Key{Key: f.key, Floor: f.floor})
	}
	successor := func(f *flight) {
		g.asks.start(f, func(ctx context.Context) answer { return g.askSuccessor(ctx, f.key, f.floor, b.home) })
	}
	peer := g.cache.transport.Peer(b.owner.ID)
	if peer == nil {
		for _, f := range flights {
			successor(f)
		}
		return
	}
	peer.FetchMany(ctx, req, func(i int, ans peers.Answer, err error) {
		f := flights[i]
		a, verdict := g.judge(ctx, copyOf(f.key, f.floor), b.owner, ans, err)
		switch verdict {
		case answered:
			g.asks.finish(f, g.orStale(f.ctx, f.key, f.floor, a))
		case expired:
			g.asks.start(f, func(ctx context.Context) answer { return g.ask(ctx, f.key, f.floor, b.home, b.owner) })
		case unusable:
			successor(f)
		}
	})
}
