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

// fillMany is fill for many keys, with one request to each owner. It calls answered once for each key, on
// the calling goroutine. The keys must be distinct.
func (g *Group) fillMany(ctx context.Context, keys []string, answered func(key string, a answer)) {
	if !g.unleased.hearsAll(ctx) {
		g.unleased.fillMany(ctx, keys, answered)
		return
	}
	home := g.cache.topology().Home
	type waiting struct {
		fill
		in     *flight.Table[answer]
		flight *flight.Flight[answer]
		known  expiry.Seq
	}
	var all []waiting
	batches := map[string]*ownerBatch{}
	together := g.loader.batch(1) // 1: for this function, which hands out the tickets
	for _, key := range keys {
		if a := checkRead(ctx, key); a.err != nil {
			answered(key, a)
			continue
		}
		key = strings.Clone(key) // as in fill
		done, err := g.trackWait(ctx, key, false)
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
		fl, leads := g.viaOwner.Join(key, f.floor, known)
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
		a := w.orStaleForWaiter(ctx, awaitFlight(ctx, w.in, w.flight))
		if g.isOutdated(w.flight, a, w.known) {
			a = w.above(g.fresh.floorOf(a.entry)).run(ctx) // like untilCurrent, so that readers share it
		}
		answered(w.key, a)
	}
}

// An ownerBatch has the flights of one fillMany whose keys have the same owner.
type ownerBatch struct {
	g       *Group
	home    *regions.Region
	owner   regions.Node
	flights []*flight.Flight[answer]
}

// BatchKeys is the maximum number of keys that a batch requests at a time: well below what a node accepts
// from one connection before it reports that it is busy.
const BatchKeys = 1024

// ask does the work of all flights in b. It sends the owner one request at a time, and continues with
// askOwner or askSuccessor for the keys that the owner did not answer.
func (b *ownerBatch) ask() {
	for flights := range slices.Chunk(b.flights, BatchKeys) {
		b.askChunk(flights)
	}
}

func (b *ownerBatch) askChunk(flights []*flight.Flight[answer]) {
	// The request serves all flights, so it ends only when all of them have ended.
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
