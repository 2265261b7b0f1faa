package engine

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// fillMany answers a read of many keys that memory could not: fill for all of
// them, with one request for each owner. It calls answered once for each key,
// on this goroutine. The keys are distinct.
func (g *Group) fillMany(ctx context.Context, keys []string, answered func(key string, a answer)) {
	home := g.cache.topology().Home
	type waiting struct {
		in     *flights
		flight *flight
		floor  expiry.Stamp
		known  expiry.Mark
	}
	var all []waiting
	batches := map[string]*batch{}
	together := g.gather(1) // the one who gives out the tickets
	for _, key := range keys {
		if a := refused(ctx, key); a.err != nil {
			answered(key, a)
			continue
		}
		key = strings.Clone(key) // as in fill
		done, err := g.waitFor(ctx, key, false)
		if err != nil {
			answered(key, answer{err: err})
			continue
		}
		defer done()
		known, floor := g.floors.Mark(), g.floors.Floor(key)
		owner := g.ownerFor(home, key)
		if owner.ID == g.cache.node.ID {
			f := g.beginOwn(key, floor, known, together.ticket(key))
			all = append(all, waiting{g.owns, f, floor, known})
			continue
		}
		f, leads := g.joinAsk(key, floor, known)
		all = append(all, waiting{g.asks, f, floor, known})
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
	together.leave()
	for _, b := range batches {
		if !g.cache.spawn(func() { g.askMany(b) }) {
			for _, f := range b.flights {
				g.asks.finish(f, answer{err: ErrClosed})
			}
		}
	}
	for _, w := range all {
		a := g.orStaleFor(ctx, w.flight.key, w.floor, w.in.wait(ctx, w.flight))
		if g.isLate(w.flight, a, w.known) {
			a = g.fillAbove(ctx, w.flight.key, g.fresh.floorOf(a.entry)) // as fly does, so that they share it
		}
		answered(w.flight.key, a)
	}
}

// A batch is the flights of one GetMany whose keys have the same owner.
type batch struct {
	home    *regions.Region
	owner   regions.Node
	flights []*flight
}

// BatchKeys is how many keys of a batch are asked for at the same time: well
// below what a node takes from one connection before it calls itself busy.
const BatchKeys = 1024

// askMany is the work of all flights in b: one request to the owner at a time,
// and for the keys that it does not answer what ask does.
func (g *Group) askMany(b *batch) {
	for flights := range slices.Chunk(b.flights, BatchKeys) {
		g.askChunk(b, flights)
	}
}

func (g *Group) askChunk(b *batch, flights []*flight) {
	// The request is for all of them, so it ends when all have ended.
	ctx, cancel := context.WithTimeout(g.asks.parent, g.asks.limit)
	defer cancel()
	var left atomic.Int64
	left.Store(int64(len(flights)))

	var requests []request
	req := peers.Batch{Group: g.name, Hop: peers.HopOwner}
	for _, f := range flights {
		context.AfterFunc(g.asks.context(f), func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
		req.Keys = append(req.Keys, peers.Key{Key: f.key, Floor: f.floor})
		requests = append(requests, copyOf(f.key, f.floor))
		requests[len(requests)-1].began = g.mark()
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
		if a, rest := g.conclude(ctx, f, b.home, requests[i], b.owner, ans, err); rest == nil {
			g.asks.finish(f, a)
		} else {
			g.asks.start(f, rest)
		}
	})
}
