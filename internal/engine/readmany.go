package engine

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// fillMany answers a read of many keys that memory could not: fill for all of
// them, with one request for each owner. It calls answered once for each key,
// on this goroutine. The keys are distinct.
func (g *Group) fillMany(ctx context.Context, keys []string, answered func(key string, a answer)) {
	home := g.cache.topology().Home
	type waiting struct {
		fill
		in     *flight.Table[answer]
		flight *flight.Flight[answer]
		known  expiry.Seq
	}
	var all []waiting
	batches := map[string]*ownerBatch{}
	together := g.loader.batch(1) // the one who gives out the tickets
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
		known, f := g.floors.Seq(), g.newFill(key)
		owner := g.readsFrom(home, key)
		if owner.ID == g.cache.node.ID {
			f.ticket = together.ticket(key)
			all = append(all, waiting{f, g.asOwner, f.beginAsOwner(known), known})
			continue
		}
		fl, leads := g.joinViaOwner(key, f.floor, known)
		all = append(all, waiting{f, g.viaOwner, fl, known})
		if !leads {
			continue
		}
		b := batches[owner.ID]
		if b == nil {
			b = &ownerBatch{g: g, home: home, owner: owner}
			batches[owner.ID] = b
		}
		b.flights = append(b.flights, fl)
	}
	together.leave()
	for _, b := range batches {
		if !g.cache.spawn(func() { b.ask() }) {
			for _, f := range b.flights {
				g.viaOwner.Finish(f, answer{err: ErrClosed})
			}
		}
	}
	for _, w := range all {
		a := w.orStaleFor(ctx, awaitFlight(ctx, w.in, w.flight))
		if g.isLate(w.flight, a, w.known) {
			a = w.above(g.fresh.floorOf(a.entry)).run(ctx) // as fly does, so that they share it
		}
		answered(w.key, a)
	}
}

// A batch is the flights of one GetMany whose keys have the same owner.
type ownerBatch struct {
	g       *Group
	home    *regions.Region
	owner   regions.Node
	flights []*flight.Flight[answer]
}

// BatchKeys is how many keys of a batch are asked for at the same time: well
// below what a node takes from one connection before it calls itself busy.
const BatchKeys = 1024

// ask is the work of all flights in b: one request to the owner at a time,
// and for the keys that it does not answer what ask does.
func (b *ownerBatch) ask() {
	for flights := range slices.Chunk(b.flights, BatchKeys) {
		b.askChunk(flights)
	}
}

func (b *ownerBatch) askChunk(flights []*flight.Flight[answer]) {
	// The request is for all of them, so it ends when all have ended.
	g, fs := b.g, b.g.viaOwner
	ctx, cancel := context.WithTimeout(fs.Parent(), fs.Limit())
	defer cancel()
	var left atomic.Int64
	left.Store(int64(len(flights)))

	var requests []request
	batch := peers.Batch{Group: g.name, Hop: peers.HopOwner}
	for _, fl := range flights {
		context.AfterFunc(fs.Context(fl), func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
		batch.Keys = append(batch.Keys, peers.Key{Key: fl.Key(), Floor: fl.Floor()})
		requests = append(requests, fill{g: g, key: fl.Key(), floor: fl.Floor()}.copyRequest())
	}
	peer := g.cache.transport.Peer(b.owner.ID)
	if peer == nil {
		for i, fl := range flights {
			fs.Start(fl, func(ctx context.Context) answer { return requests[i].askSuccessor(ctx, b.home) })
		}
		return
	}
	peer.FetchMany(ctx, batch, func(i int, ans peers.Answer, err error) {
		if a, rest := requests[i].conclude(ctx, b.home, b.owner, ans, err); rest == nil {
			fs.Finish(flights[i], a)
		} else {
			fs.Start(flights[i], rest)
		}
	})
}
