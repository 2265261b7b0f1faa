package engine

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file compares floors with the other regions, and repairs what no other mechanism has caught.

const (
	// compareEvery is the average time between two comparisons with one node of each other region.
	compareEvery = 5 * time.Second

	// compareSettled is how old a floor must be to be compared: younger ones may still be on their way.
	compareSettled = 3 * time.Second

	// compareSlices bounds the digests that stand for the floors of a group. compareFine is the width of
	// the slices that cover the latest floors. Slices that cover all floors that matter may be hours wide,
	// and only whole ones are compared.
	compareSlices = 64
	compareFine   = 2 * time.Second
)

// compare compares floors with the other regions until Close.
func (c *Cache) compare() {
	for {
		select {
		case <-time.After(compareEvery/2 + rand.N(compareEvery)):
		case <-c.ctx.Done():
			return
		}
		if c.isGuest() { // it is told of no writes, so it would always lack some
			continue
		}
		for _, r := range c.topology().Remote {
			n := r.Nodes[rand.IntN(len(r.Nodes))]
			for _, g := range *c.groups.Load() {
				ctx, cancel := context.WithTimeout(c.ctx, compareEvery)
				err := g.journal.compareWith(ctx, n, compareFine)
				if coarse := compareWidth(g.journal.relevance()); err == nil && coarse > compareFine {
					err = g.journal.compareWith(ctx, n, coarse)
				}
				if err != nil {
					c.log.Debug("floors not compared", "group", g.name, "node", n.ID, "err", err)
				}
				cancel()
			}
		}
	}
}

// compareWith fetches from a node of another region the floors that this node lacks, and tells its own
// region of them. It compares slices of the given width.
func (j *journal) compareWith(ctx context.Context, n regions.Node, width time.Duration) error {
	// The slices reach from the oldest floor that matters, or as far back as they can, to the youngest
	// that has settled. They begin at round times, so that a floor is in the same slice each time.
	//
	// Nodes differ in which floors they have forgotten. All slices are younger than those: floors are kept
	// for longer than they matter, see retention.
	now := j.g.cache.clock.Read()
	oldest := now.Add(-min(j.relevance(), (compareSlices-1)*width))
	from := expiry.At(max(oldest, j.g.floors.Group()).Time().Truncate(width))
	slices := int(now.Add(-compareSettled).Sub(from) / width)
	m := message.CompareRequest{Group: j.g.name, From: from, Width: width}
	if slices > 0 {
		m.Digests = j.g.floors.Digest(from, width, slices)
	}
	f, err := j.ask(ctx, n, message.MethodCompare, m.Append(nil))
	if err != nil {
		return err
	}
	missing := j.apply(&f, false)
	for i := range missing {
		j.g.stats.repaired.Add(1)
		if err := j.g.cache.broadcast(ctx, &missing[i]); err != nil {
			return err
		}
	}
	return nil
}

// handleCompare answers a CompareRequest.
func (j *journal) handleCompare(m *message.CompareRequest) peers.Answer {
	f := message.Floors{Cleared: j.g.floors.Cleared()}
	size := 0
	for i, d := range j.g.floors.Digest(m.From, m.Width, len(m.Digests)) {
		if d == m.Digests[i] || size >= j.replySize() {
			continue // the same, or no room left: it comes the next time
		}
		from := m.From.Add(time.Duration(i) * m.Width)
		size += j.addFloors(&f, j.g.floors.Between(from, from.Add(m.Width), journalPage))
	}
	return peers.Answer{Value: f.Append(nil)}
}

// compareWidth returns how wide the slices must be to cover d, rounded to whole seconds.
func compareWidth(d time.Duration) time.Duration {
	return (d/(compareSlices-1) + time.Second).Truncate(time.Second)
}
