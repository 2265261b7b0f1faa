package geocache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// A WarmOption changes one Warm. If one is given twice, the last wins.
type WarmOption interface{ applyWarm(*warmConfig) }

type warmOption func(*warmConfig)

func (o warmOption) applyWarm(c *warmConfig) { o(c) }

type warmConfig struct {
	rate        float64
	concurrency int
}

// minWarmRate keeps the time to the next key far from what a Duration does not hold.
const minWarmRate = 1. / (24 * 60 * 60)

// WarmRate sets how many keys are asked for in a second, on average and at most. Default 1,000, at
// least one a day.
func WarmRate(perSecond float64) WarmOption {
	return warmOption(func(c *warmConfig) { c.rate = perSecond })
}

// WarmConcurrency sets how many keys are asked for at the same time at most. With a
// BatchGetter it bounds the keys of a query, too. Default 64, at most 1,024.
func WarmConcurrency(n int) WarmOption {
	return warmOption(func(c *warmConfig) { c.concurrency = n })
}

func (c *warmConfig) check() error {
	var errs []error
	if !(c.rate >= minWarmRate) { // NaN too
		errs = append(errs, fmt.Errorf("WarmRate(%v): must be positive, one key a day at least", c.rate))
	}
	if c.concurrency < 1 || c.concurrency > batchKeys {
		errs = append(errs, fmt.Errorf("WarmConcurrency(%d): must be from 1 to %d", c.concurrency, batchKeys))
	}
	return errors.Join(errs...)
}

// WarmStats is what a Warm has come to, in keys.
type WarmStats struct {
	Loaded  int // were loaded
	Present int // were in the owner's memory already
	Missing int // are not in the origin
	Failed  int // could not be loaded
}

// Warm loads keys before anybody reads them, each at the node of this region that owns
// it, and no faster than WarmRate says. One call on any one node warms the region; what
// is in the owners' memory already is not loaded again, so it does no harm if several nodes
// call it. Copies are not made, nor are other regions warmed. A BatchGetter is called
// for many keys at once.
//
// Warm returns when keys has ended and all is loaded, or when ctx ends. keys is called on the
// caller's goroutine. Keys that the origin does not have are skipped. The error joins the first
// errors of keys that could not be loaded, ctx's own, and what is wrong with the options.
func (g *group) Warm(ctx context.Context, keys iter.Seq[string], opts ...WarmOption) (WarmStats, error) {
	config := warmConfig{rate: 1000, concurrency: 64}
	var err error
	for i, o := range opts {
		if o == nil {
			err = errors.Join(err, errNilOption(i))
			continue
		}
		o.applyWarm(&config)
	}
	err = errors.Join(err, config.check())
	if g.get == nil {
		err = errors.Join(err, errors.New("the group has no getter"))
	}
	if keys == nil {
		err = errors.Join(err, errors.New("keys is nil"))
	}
	if ctx == nil {
		err = errors.Join(err, errNoContext)
	}
	if err != nil {
		return WarmStats{}, fmt.Errorf("geocache: warm %s: %w", g.name, err)
	}
	w := &warming{g: g}
	room := semaphore.NewWeighted(int64(config.concurrency))
	next := time.Now()
	// ask reports whether to go on.
	ask := func(chunk []string) bool {
		n := int64(len(chunk))
		if !sleepUntil(ctx, next) || room.Acquire(ctx, n) != nil {
			return false
		}
		if now := time.Now(); now.After(next) {
			next = now
		}
		next = next.Add(time.Duration(float64(n) / config.rate * float64(time.Second)))
		going := g.cache.spawn(func() {
			defer room.Release(n)
			w.ask(ctx, chunk)
		})
		if !going {
			room.Release(n)
		}
		return going
	}
	// A tenth of a second's worth goes together.
	most := max(1, min(config.concurrency, int(min(config.rate/10, batchKeys))))
	var chunk []string
	going := true
	for key := range keys {
		if chunk = append(chunk, strings.Clone(key)); len(chunk) == most {
			if going = ask(chunk); !going {
				break
			}
			chunk = nil
		}
	}
	if going && len(chunk) > 0 {
		going = ask(chunk)
	}
	_ = room.Acquire(context.WithoutCancel(ctx), int64(config.concurrency)) // those under way end with ctx
	return w.result(ctx, going)
}

// sleepUntil reports whether it was not ended by ctx.
func sleepUntil(ctx context.Context, at time.Time) bool {
	select {
	case <-time.After(time.Until(at)):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// A warming is one call of Warm.
type warming struct {
	g *group

	mu    sync.Mutex // guards the following
	stats WarmStats
	errs  []error
}

// result returns what has come of it. going is false if it has been broken off.
func (w *warming) result(ctx context.Context, going bool) (WarmStats, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := w.errs
	if more := w.stats.Failed - len(errs); more > 0 && len(errs) == maxErrors {
		errs = append(errs, fmt.Errorf("geocache: warm %s: %d more keys could not be loaded", w.g.name, more))
	}
	switch {
	case ctx.Err() != nil:
		errs = append(errs, fmt.Errorf("geocache: warm %s: %w", w.g.name, ctx.Err()))
	case !going:
		errs = append(errs, fmt.Errorf("geocache: warm %s: %w", w.g.name, ErrClosed))
	}
	return w.stats, errors.Join(errs...)
}

// count counts the answer of a key.
func (w *warming) count(ctx context.Context, key string, a answer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case a.err != nil:
		if w.stats.Failed++; len(w.errs) < maxErrors && ctx.Err() == nil {
			w.errs = append(w.errs, inCall("Warm", w.g.name, key, a.err))
		}
	case a.entry.Absent():
		w.stats.Missing++
	case a.source == SourceGetter || a.source == SourceRegion:
		w.stats.Loaded++
	default:
		w.stats.Present++
	}
}

// ask has keys loaded by their owners, all at the same time.
func (w *warming) ask(ctx context.Context, keys []string) {
	g := w.g
	home := g.cache.topology().Home
	var own []*flight
	others := map[regions.Node][]request{}
	together := g.gather(1)
	for _, key := range keys {
		if a := refused(ctx, key); a.err != nil {
			w.count(ctx, key, a)
			continue
		}
		done, err := g.waitFor(ctx, key, false)
		if err != nil {
			w.count(ctx, key, answer{err: err})
			continue
		}
		defer done()
		known, floor := g.floors.Mark(), g.floors.Floor(key)
		if owner := g.ownerFor(home, key); owner.ID == g.cache.node.ID {
			own = append(own, g.beginOwn(key, floor, known, together.ticket(key)))
		} else {
			req := copyOf(key, floor)
			req.apart, req.began = true, g.mark() // what it owns is kept there
			others[owner] = append(others[owner], req)
		}
	}
	together.leave()
	var wg sync.WaitGroup
	for owner, requests := range others {
		wg.Go(func() { w.askOwner(ctx, owner, requests) })
	}
	for _, f := range own {
		w.count(ctx, f.key, g.owns.wait(ctx, f))
	}
	wg.Wait()
}

// askOwner asks one owner for keys; those that it does not answer are filled as a read
// would.
func (w *warming) askOwner(ctx context.Context, owner regions.Node, requests []request) {
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
		within, cancel := context.WithTimeout(ctx, g.asks.limit)
		defer cancel()
		peer.FetchMany(within, batch, func(i int, ans peers.Answer, err error) {
			key := requests[i].key
			if a, verdict := g.judge(within, requests[i], owner, ans, err); verdict == answered {
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
