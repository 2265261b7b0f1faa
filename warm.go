package geocache

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/geocache/geocache/internal/engine"
)

// A WarmOption changes one Warm. If one is given twice, the last wins.
type WarmOption interface{ applyWarm(*warmConfig) }

type warmOption func(*warmConfig)

func (o warmOption) applyWarm(c *warmConfig) { o(c) }

type warmConfig struct {
	rate        float64
	concurrency int
}

// minWithWarmRate keeps the time to the next key far from what a Duration does not hold.
const minWithWarmRate = 1. / (24 * 60 * 60)

// WithWarmRate limits the keys that are asked for in a second, on average. Default 1,000, at least one a day.
func WithWarmRate(perSecond float64) WarmOption {
	return warmOption(func(c *warmConfig) { c.rate = perSecond })
}

// WithWarmConcurrency limits the keys that are asked for at the same time. With a BatchGetter it also bounds
// the keys of one query. Default 64, at most 1,024.
func WithWarmConcurrency(n int) WarmOption {
	return warmOption(func(c *warmConfig) { c.concurrency = n })
}

func (c *warmConfig) check() error {
	var errs []error
	if !(c.rate >= minWithWarmRate) { // NaN too
		errs = append(errs, fmt.Errorf("WithWarmRate(%v): must be positive, one key a day at least", c.rate))
	}
	if c.concurrency < 1 || c.concurrency > engine.BatchKeys {
		errs = append(errs, fmt.Errorf("WithWarmConcurrency(%d): must be from 1 to %d", c.concurrency, engine.BatchKeys))
	}
	return errors.Join(errs...)
}

// WarmStats counts the keys of a Warm by what became of them.
type WarmStats struct {
	Loaded  int // were loaded
	Present int // were in the owner's memory already
	Missing int // are not in the origin
	Failed  int // could not be loaded
}

// Warm loads keys before anybody reads them, each at the node of this region that owns it, no faster than
// WithWarmRate says. One call on any node warms the region. What the owners have in memory is not loaded again, so
// it does no harm if several nodes call it. Warm makes no copies and does not warm other regions. A BatchGetter
// is called for many keys at once.
//
// Warm returns when keys has ended and everything is loaded, or when ctx ends. It ranges over keys on the caller's
// goroutine. Keys that the origin does not have are skipped. The error joins the first errors of keys that could
// not be loaded, ctx's own, and what is wrong with the options.
func (g *Group[V]) Warm(ctx context.Context, keys iter.Seq[string], opts ...WarmOption) (WarmStats, error) {
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
	if !g.core.HasGetter() {
		err = errors.Join(err, errors.New("the group has no getter"))
	}
	if keys == nil {
		err = errors.Join(err, errors.New("keys is nil"))
	}
	if ctx == nil {
		err = errors.Join(err, errNoContext)
	}
	if err != nil {
		return WarmStats{}, fmt.Errorf("geocache: warm %s: %w", g.Name(), err)
	}
	stats, failed, err := g.core.Warm(ctx, keys, config.rate, config.concurrency)
	errs := []error{joined("Warm", g.Name(), failed, "%d more keys could not be loaded")}
	if err != nil {
		errs = append(errs, fmt.Errorf("geocache: warm %s: %w", g.Name(), err))
	}
	return WarmStats(stats), errors.Join(errs...)
}
