package engine

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/regions"
)

// This file compares floors with other nodes, and repairs what no other mechanism has caught.

// compareEvery is the average time between two comparisons with one node of each region.
const compareEvery = 5 * time.Second

// compare compares floors with other nodes until Close.
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
		var nodes []regions.Node
		if others := c.others(c.view.Load()); len(others) > 0 {
			nodes = append(nodes, others[rand.IntN(len(others))])
		}
		for _, r := range c.topology().Remote {
			nodes = append(nodes, r.Nodes[rand.IntN(len(r.Nodes))])
		}
		for _, n := range nodes {
			for _, g := range *c.groups.Load() {
				ctx, cancel := context.WithTimeout(c.ctx, compareEvery)
				if err := g.journal.compareWith(ctx, n); err != nil {
					c.log.Debug("floors not compared", "group", g.name, "node", n.ID, "err", err)
				}
				cancel()
			}
		}
	}
}

// compareWith fetches the floors that this node lacks, except for recent ones. What comes from another region it
// tells its own of. In its own region each node compares for itself.
func (j *journal) compareWith(ctx context.Context, n regions.Node) error {
	return j.fetch(ctx, n, j.digest(false), func(missing []message.Write) error {
		j.g.stats.repaired.Add(uint64(len(missing)))
		if n.Region == j.g.cache.node.Region {
			return nil
		}
		for i := range missing {
			if err := j.g.cache.broadcast(ctx, &missing[i]); err != nil {
				return err
			}
		}
		return nil
	})
}
