package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/testcluster/loopback"
	"github.com/geocache/geocache/regions"
)

// A fleet is the processes, and what is known of them. Nothing waits for them beyond the end of ctx.
type fleet struct {
	options
	ctx    context.Context
	config nodeConfig
	origin origin

	slots []*process // those that run now, by slot; nil for one that does not
	ever  []*process // all that there have been

	tally tally // of all processes, of the steps that are over
}

func newFleet(ctx context.Context, o options) (*fleet, error) {
	addresses, err := loopback.FreeAddresses(o.nodes)
	if err != nil {
		return nil, err
	}
	f := &fleet{
		options: o,
		ctx:     ctx,
		config:  nodeConfig{Lease: o.lease, Keys: o.floors, Hot: o.hot, Copies: o.copies, Verbose: o.verbose},
		slots:   make([]*process, o.nodes),
	}
	for i, address := range addresses {
		n := regions.Node{ID: fmt.Sprint("node-", i), Region: "here", Address: address}
		f.config.Nodes = append(f.config.Nodes, n)
	}
	f.origin, err = newOrigin()
	return f, err
}

// launch starts processes in slots that have none.
func (f *fleet) launch(slots ...int) (launched []*process, err error) {
	for _, slot := range slots {
		config := f.config
		config.Slot = slot
		p, err := startProcess(config, f.origin)
		if err != nil {
			return launched, err
		}
		f.slots[slot] = p
		f.ever = append(f.ever, p)
		launched = append(launched, p)
	}
	return launched, nil
}

// running returns the processes that run, in order of their slots, without some.
func (f *fleet) running(without ...*process) (all []*process) {
	for _, p := range f.slots {
		if p != nil && !slices.Contains(without, p) {
			all = append(all, p)
		}
	}
	return all
}

// killAll ends whatever still runs.
func (f *fleet) killAll() {
	for _, p := range f.running() {
		p.kill()
	}
	_ = f.origin.file.Close()
}

// A cost is what processes have used since they began, and seen since they last reported.
type cost struct {
	at       time.Time
	cpu      time.Duration
	bytes    float64            // between them, and from and to others
	received map[string]float64 // bytes, by who has received them
	held     int
	tally    tally
}

func (c *cost) add(id string, r report) {
	c.cpu += r.CPU
	for peer, t := range r.Traffic {
		c.bytes += float64(t.BytesIn + t.BytesOut)
		c.received[id] += float64(t.BytesIn)
		c.received[peer] += float64(t.BytesOut)
	}
	c.held += r.Held
	c.tally.add(r.Tally)
}

// since returns the processor time and the bytes that processes have taken since an earlier cost of theirs.
func (c *cost) since(earlier cost) (cpu time.Duration, bytes float64) {
	return c.cpu - earlier.cpu, c.bytes - earlier.bytes
}

// order has processes carry out an order at the same time, and adds up what they report.
func (f *fleet) order(to []*process, o order) (cost, error) {
	var mu sync.Mutex
	sum := cost{received: make(map[string]float64)}
	var errs []error
	var wg sync.WaitGroup
	for _, p := range to {
		wg.Go(func() {
			r, err := p.order(f.ctx, o)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			sum.add(p.id, r)
		})
	}
	wg.Wait()
	sum.at = time.Now()
	f.tally.add(sum.tally)
	return sum, errors.Join(errs...)
}

// report is an order for nothing but what has been used and seen.
func (f *fleet) report(of []*process) (cost, error) { return f.order(of, order{Do: errandReport}) }

// loads returns how often all processes that there have been have loaded from the origin, by their last
// reports.
func (f *fleet) loads() (n int) {
	for _, p := range f.ever {
		n += p.loaded()
	}
	return n
}

// loadLightly has processes read and write steadily, each its share of the light load of the whole fleet.
func (f *fleet) loadLightly(by []*process) error { return f.load(by, f.reads/5, f.writes/10) }

// loadHeavily is loadLightly for the load of deploys.
func (f *fleet) loadHeavily(by []*process) error { return f.load(by, f.reads, f.writes) }

func (f *fleet) load(by []*process, reads, writes float64) error {
	n := float64(f.nodes)
	_, err := f.order(by, order{Do: errandLoad, Reads: reads / n, Writes: writes / n})
	return err
}

// errNotBack says that copies did not come back.
var errNotBack = errors.New("copies did not come back")

// await waits until these processes have served copies for some time from now on, and have agreed that they
// are so many.
func (f *fleet) await(of []*process, nodes int, steady time.Duration) error {
	const every = 10 * time.Millisecond
	begun, patience := time.Now(), f.lease+f.patience
	for {
		away, unsettled := 0, 0
		for _, p := range of {
			select {
			case <-p.ended:
				return p.endedByItself()
			default:
			}
			switch serves, settled := p.serves(nodes, begun, steady); {
			case !serves:
				away++
			case !settled:
				unsettled++
			}
		}
		if away+unsettled == 0 {
			return nil
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("%w: after %v, %d of %d processes serve none; "+
				"%d others have just begun to, or do not see all",
				errNotBack, patience, away, len(of), unsettled)
		}
		if err := f.sleep(every); err != nil {
			return err
		}
	}
}

func (f *fleet) sleep(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-f.ctx.Done():
		return context.Cause(f.ctx)
	}
}
