package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/groupcache/groupcache-go/v3/transport"

	"github.com/geocache/geocache"
)

const (
	missNodes  = 9
	originTime = 20 * time.Millisecond
)

// An origin takes its time, and counts.
type origin struct{ loads atomic.Int64 }

func (o *origin) get(ctx context.Context, key string) ([]byte, error) {
	o.loads.Add(1)
	select {
	case <-time.After(originTime):
		return makeValue(len(key), 1<<10), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A reader reads through one of a cluster's nodes.
type reader func(node int, key string) (bytes int, err error)

// storm has so many callers read at the same moment, spread over the nodes, and returns what
// each has waited for.
func storm(o *origin, read reader, callers int, key func(caller int) string) (sample, error) {
	o.loads.Store(0)
	took, sizes, errs := make([]time.Duration, callers), make([]int, callers), make([]error, callers)
	var ready, wg sync.WaitGroup
	start := make(chan struct{})
	for c := range callers {
		ready.Add(1)
		wg.Go(func() {
			ready.Done()
			<-start
			begun := time.Now()
			sizes[c], errs[c] = read(c%missNodes, key(c))
			took[c] = time.Since(begun)
		})
	}
	ready.Wait()
	begun := time.Now()
	close(start)
	wg.Wait()
	all := time.Since(begun)
	if err := errors.Join(errs...); err != nil {
		return sample{}, err
	}
	s := sample{did: work{reads: int64(callers), hits: int64(callers)}}
	for _, n := range sizes {
		s.did.bytes += int64(n)
	}
	slices.Sort(took)
	s.quantities = map[string]float64{
		"origin loads": float64(o.loads.Load()),
		"p50":          millis(quantile(took, .5)),
		"p99":          millis(quantile(took, .99)),
		"all done":     millis(all),
	}
	return s, nil
}

func benchMiss(b *bench) error {
	var ours, others origin
	c, err := openCluster(here(missNodes), ours.get, geocache.WithTTL(ttl), geocache.WithMaxLoads(20_000))
	defer c.close()
	if err != nil {
		return err
	}
	them, groups, err := openTheirs(missNodes, others.get)
	defer them.close()
	if err != nil {
		return err
	}
	sides := []struct {
		name string
		o    *origin
		read reader
	}{
		{"geocache", &ours, func(node int, key string) (int, error) {
			v, err := c[node].Get(ctx, key)
			return len(v), err
		}},
		{"groupcache-go", &others, func(node int, key string) (int, error) {
			var v transport.ByteView
			err := groups[node].Get(ctx, key, transport.ByteViewSink(&v))
			return v.Len(), err
		}},
	}
	round := 0
	run := func(name string, callers int, key func(round, caller int) string, loads float64, quantities ...quantity) error {
		var all []side
		for _, s := range sides {
			all = append(all, side{name: s.name, run: func() (sample, error) {
				round++
				return storm(s.o, s.read, callers, func(caller int) string { return key(round, caller) })
			}})
		}
		all = append(all, side{name: "the origin alone", floor: true, run: func() (sample, error) {
			took := millis(originTime)
			return sample{
				quantities: map[string]float64{"origin loads": loads, "p50": took, "p99": took, "all done": took},
				did:        work{reads: int64(callers), hits: int64(callers), bytes: int64(callers) << 10},
			}, nil
		}})
		return b.compare(name, quantities, all...)
	}
	err = run("1,000 callers of one cold key", 1000, func(round, _ int) string { return fmt.Sprint("stampede-", round) }, 1,
		quantity{"origin loads", "", false}, quantity{"p50", "ms", false}, quantity{"p99", "ms", false})
	if err != nil {
		return err
	}
	many := 10_000
	return run("10,000 cold keys at once", many, func(round, caller int) string { return fmt.Sprintf("cold-%d-%d", round, caller) }, float64(many),
		quantity{"origin loads", "", false}, quantity{"p99", "ms", false}, quantity{"all done", "ms", false})
}
