package engine

import (
	"context"
	"iter"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/geocache/geocache/internal/flight"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// WarmStats counts the keys of a Warm by outcome.
type WarmStats struct {
	Loaded  int // loaded
	Present int // already in the owner's memory
	Missing int // not in the origin
	Failed  int // failed to load
}

// Warm makes the keys' owners load them, at most rate keys a second and concurrency at a time. The error is
// ctx's or ErrClosed; the errors of keys are in KeyErrors.
func (g *Group) Warm(
	ctx context.Context, keys iter.Seq[string], rate float64, concurrency int,
) (WarmStats, KeyErrors, error) {
	w := &warmUp{g: g}
	room := semaphore.NewWeighted(int64(concurrency))
	next := time.Now()
	// ask starts a chunk when its time has come. It returns false if Warm is to stop.
	ask := func(chunk []string) bool {
		n := int64(len(chunk))
		if !sleepUntil(ctx, next) || room.Acquire(ctx, n) != nil {
			return false
		}
		if now := time.Now(); now.After(next) {
			next = now
		}
		next = next.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		going := g.cache.spawn(func() {
			defer room.Release(n)
			w.ask(ctx, chunk)
		})
		if !going {
			room.Release(n)
		}
		return going
	}
	// A chunk has at most a tenth of a second's worth of keys.
	chunkSize := max(1, min(concurrency, int(min(rate/10, BatchKeys))))
	var chunk []string
	going := true
	for key := range keys {
		if chunk = append(chunk, strings.Clone(key)); len(chunk) == chunkSize {
			if going = ask(chunk); !going {
				break
			}
			chunk = nil
		}
	}
	if going && len(chunk) > 0 {
		going = ask(chunk)
	}
	_ = room.Acquire(context.WithoutCancel(ctx), int64(concurrency)) // keys under way end with ctx
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return w.stats, w.errs, ctx.Err()
	case !going:
		return w.stats, w.errs, ErrClosed
	}
	return w.stats, w.errs, nil
}

// sleepUntil waits until at. It returns false if ctx ended first.
func sleepUntil(ctx context.Context, at time.Time) bool {
	select {
	case <-time.After(time.Until(at)):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// A warmUp is one call of Warm.
type warmUp struct {
	g *Group

	mu    sync.Mutex // guards the following
	stats WarmStats
	errs  KeyErrors
}

// count counts the outcome of a key.
func (w *warmUp) count(ctx context.Context, key string, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case a.err != nil:
		if w.stats.Failed++; ctx.Err() == nil {
			w.errs.Add(key, a.err)
		}
	case a.entry.Absent():
		w.stats.Missing++
	case a.source == SourceGetter || a.source == SourceRegion:
		w.stats.Loaded++
	default:
		w.stats.Present++
	}
}

// ask makes the keys' owners load them, all at the same time.
func (w *warmUp) ask(ctx context.Context, keys []string) {
	g := w.g
	home := g.cache.topology().Home
	var own []*flight.Flight[answer]
	others := map[regions.Node][]request{}
	together := g.loader.batch(1)
	for _, key := range keys {
		if a := checkRead(ctx, key); a.err != nil {
			w.count(ctx, key, a)
			continue
		}
		done, err := g.trackWait(ctx, key, false)
		if err != nil {
			w.count(ctx, key, answer{err: err})
			continue
		}
		defer done()
		known, f := g.floors.Seq(), g.newFill(key)
		if owner := g.readsFrom(home, key); owner.ID == g.cache.node.ID {
			f.ticket = together.ticket(key)
			own = append(own, f.beginAsOwner(known))
		} else {
			req := f.copyRequest()
			req.discard = true // the owner keeps it
			others[owner] = append(others[owner], req)
		}
	}
	together.leave()
	var wg sync.WaitGroup
	for owner, requests := range others {
		wg.Go(func() { w.askOwner(ctx, owner, requests) })
	}
	for _, f := range own {
		w.count(ctx, f.Key(), awaitFlight(ctx, g.asOwner, f))
	}
	wg.Wait()
}

// askOwner asks one owner for keys. Those that it does not answer are filled as for a read.
func (w *warmUp) askOwner(ctx context.Context, owner regions.Node, requests []request) {
	g := w.g
	var left []string
	if peer := g.cache.transport.Peer(owner.ID); peer == nil {
		for _, r := range requests {
			left = append(left, r.key)
		}
	} else {
		batch := peers.Batch{Group: g.name, Hop: peers.HopOwner}
		for _, r := range requests {
			batch.Keys = append(batch.Keys, peers.Key{Key: r.key, Floor: r.floor})
		}
		within, cancel := context.WithTimeout(ctx, g.viaOwner.Limit())
		defer cancel()
		peer.FetchMany(within, batch, func(i int, ans peers.Answer, err error) {
			key := requests[i].key
			if a, verdict := requests[i].judge(within, owner, ans, err); verdict == answered {
				w.count(ctx, key, a)
			} else {
				left = append(left, key)
			}
		})
	}
	for _, key := range left {
		w.count(ctx, key, g.fill(ctx, key))
	}
}
