package geocache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is how floors get to nodes that have not been told: when a node joins
// or comes back, when one dies with notes unsent, and for whatever else may have gone wrong.

// takeJournals takes the floors of the groups from every other node of the view, and
// as far as they can be had, from one node of each other region: this may be the
// first node of its own. The error is that of the nodes of the view.
func (c *Cache) takeJournals(ctx context.Context, v *view, groups map[string]*group) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	from := func(n regions.Node, required bool) {
		wg.Go(func() {
			for _, g := range groups {
				if err := g.takeJournal(ctx, n); err != nil && required {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, fmt.Errorf("from %s: %w", n.ID, err))
					return
				}
			}
		})
	}
	for _, n := range v.home.Nodes {
		if n.ID != c.node.ID {
			from(n, true)
		}
	}
	for _, r := range c.topology().Remote {
		from(r.Nodes[rand.IntN(len(r.Nodes))], false)
	}
	wg.Wait()
	return errors.Join(errs...)
}

// journalPage is how many floors are looked at in one go. With the longest keys
// they are less than what a reply may have beyond the largest value.
const journalPage = 250

// takeJournal takes the floors of one node.
func (g *group) takeJournal(ctx context.Context, n regions.Node) error {
	peer := g.cache.transport.Peer(n.ID)
	if peer == nil {
		return errors.New("no such peer")
	}
	m := note.Journal{Group: g.name}
	for {
		reply, err := peer.Call(ctx, note.MethodJournal, m.Append(nil))
		if err != nil {
			return err
		}
		f, err := note.DecodeFloors(reply)
		if err != nil {
			return err
		}
		g.takeFloors(&f, n.Region == g.cache.node.Region)
		if !f.More {
			return nil
		}
		m.Cursor = f.Next
	}
}

// takeFloors takes in floors that this node may not have, and returns those that it had
// not. What a node of another region has folded into the floor of a group is a
// matter of that region.
func (g *group) takeFloors(f *note.Floors, home bool) (news []note.Note) {
	raise := func(n note.Note) {
		if g.floors.FloorOf(n.Subject()).Below(n.Stamp) {
			_ = g.takeDirty(&n) // drops what is older, there is nothing to keep
			g.take(&n, 0)
			news = append(news, n)
		}
	}
	if f.Cleared > g.floors.Cleared() {
		n := note.Note{Group: g.name, Clear: true, Stamp: expiry.Removal(f.Cleared)}
		g.take(&n, 0)
		news = append(news, n)
	}
	if home && f.Group > g.floors.Group() {
		g.take(&note.Note{Group: g.name, Clear: true, Folded: true, Stamp: expiry.Removal(f.Group)}, 0)
	}
	for _, k := range f.Keys {
		raise(note.Note{Group: g.name, Key: k.Key, Scope: k.Scope, Stamp: k.Stamp})
	}
	return news
}

// giveJournal answers a Journal.
func (g *group) giveJournal(m *note.Journal) peers.Answer {
	f := note.Floors{Next: m.Cursor, More: true}
	for size := 0; f.More && size < g.replySize(); {
		var held []expiry.Written
		held, f.Next, f.More = g.floors.Journal(0, f.Next, journalPage)
		size += g.addFloors(&f, held)
	}
	// After the page: a floor that was folded in between is in one of the two.
	f.Cleared, f.Group = g.floors.Cleared(), g.floors.Group()
	return peers.Answer{Value: f.Append(nil)}
}

// replySize is how many bytes of floors are sent at once, but for one page.
func (g *group) replySize() int { return min(g.cache.config.limits.MaxValue, 1<<20) }

func (g *group) addFloors(f *note.Floors, held []expiry.Written) (size int) {
	for _, w := range held {
		k := note.FloorOf(w)
		f.Keys = append(f.Keys, k)
		size += k.Size()
	}
	return size
}

// succeed sends to the other regions what nodes that have left the view may not
// have sent: the floors of the keys that they owned and that this node owns now. All
// nodes of the region have the floors, and this one has the value too if it was the
// successor. Most of it has been sent before, and changes nothing there.
//
// A node that has just come back first takes the journals: others may have been told what it
// has not.
func (c *Cache) succeed() {
	s := &c.standing
	s.mu.Lock()
	if s.departed = s.departed[max(0, len(s.departed)-maxDeparted):]; !c.inStanding() {
		s.mu.Unlock()
		return // resume calls again
	}
	departed := s.departed
	s.departed = nil
	s.mu.Unlock()
	now := c.standing.view.Load()
	for _, was := range departed {
		gone := false
		for _, n := range was.home.Nodes {
			gone = gone || !now.has(n.ID)
		}
		if !gone {
			continue
		}
		for _, g := range *c.groups.Load() {
			g.succeed(was, now)
		}
	}
}

// maxDeparted is how many earlier views are kept by a node that is not told of all
// writes for long. What the oldest had unsent is left to the comparing of floors.
const maxDeparted = 100

// inStanding reports whether this node has been told of every write that has been
// completed in its region.
func (c *Cache) inStanding() bool {
	v := c.standing.view.Load()
	return len(v.home.Nodes) == 1 && c.strangersEnd(v).IsZero() || int64(c.clock.Instant()) < c.standing.copies.Load()
}

func (g *group) succeed(was, now *view) {
	self := g.cache.node.ID
	inherited := func(key string) bool {
		return now.home.Owner(key).ID == self && !now.has(was.home.Owner(key).ID)
	}
	if cleared := g.floors.Cleared(); cleared > 0 && inherited("") {
		g.cache.replicate(&note.Note{Group: g.name, Clear: true, Stamp: expiry.Removal(cleared)})
	}
	for cursor, more := uint64(0), true; more; {
		var held []expiry.Written
		held, cursor, more = g.floors.Journal(0, cursor, journalPage)
		for _, w := range held {
			if f := note.FloorOf(w); inherited(f.Key) {
				n := g.present(&f)
				g.cache.replicate(&n)
			}
		}
	}
}

// present returns the note of the write that a floor is of: with its value, if
// that is here. No value has the stamp of a scope's removal.
func (g *group) present(f *note.Floor) note.Note {
	e, ok := g.store.Peek(f.Key)
	if ok && e.Stamp == f.Stamp && !e.Absent() && g.cache.clock.Instant() < e.Expires {
		return g.noteOf(e)
	}
	return note.Note{Group: g.name, Key: f.Key, Scope: f.Scope, Stamp: f.Stamp}
}

const (
	// compareEvery is how often a node compares its floors with one node of each other
	// region, on average.
	compareEvery = 5 * time.Second

	// compareSettled is how old a floor must be to be compared: younger ones may be on
	// their way.
	compareSettled = 3 * time.Second

	// compareSlices is how many digests stand for the floors of a group, and
	// compareFine how wide the slices are for the last floors: all of them together
	// have slices that may be hours wide, and only whole ones are compared.
	compareSlices = 64
	compareFine   = 2 * time.Second
)

// compare compares floors with the other regions until Close. It repairs what no
// other mechanism has caught.
func (c *Cache) compare() {
	for {
		select {
		case <-time.After(compareEvery/2 + rand.N(compareEvery)):
		case <-c.ctx.Done():
			return
		}
		for _, r := range c.topology().Remote {
			n := r.Nodes[rand.IntN(len(r.Nodes))]
			for _, g := range *c.groups.Load() {
				ctx, cancel := context.WithTimeout(c.ctx, compareEvery)
				err := g.compareWith(ctx, n, compareFine)
				if coarse := g.retention() / compareSlices; err == nil && coarse > compareFine {
					err = g.compareWith(ctx, n, coarse)
				}
				if err != nil {
					c.log.Debug("floors not compared", "group", g.name, "node", n.ID, "err", err)
				}
				cancel()
			}
		}
	}
}

// compareWith takes from a node of another region the floors that this one lacks, and
// tells its own region of them.
func (g *group) compareWith(ctx context.Context, n regions.Node, width time.Duration) error {
	peer := g.cache.transport.Peer(n.ID)
	if peer == nil {
		return errors.New("no such peer")
	}
	// The slices reach from the oldest floor that matters to the youngest
	// that has settled. They begin at round times, so that a floor is in the
	// same slice each time.
	//
	// Nodes differ in what they have forgotten, because it is too old or was folded.
	// That is none of this, so the slices are all younger.
	now := g.cache.clock.Read()
	width = max(width.Truncate(time.Second), time.Second)
	oldest := max(g.dead(), g.floors.Group(), now.Add(-compareSlices*width))
	from := expiry.At(oldest.Time().Truncate(width).Add(width))
	slices := int(now.Add(-compareSettled).Sub(from) / width)
	m := note.Compare{Group: g.name, From: from, Width: width}
	if slices > 0 {
		m.Digests = g.floors.Digest(from, width, slices)
	}
	reply, err := peer.Call(ctx, note.MethodCompare, m.Append(nil))
	if err != nil {
		return err
	}
	f, err := note.DecodeFloors(reply)
	if err != nil {
		return err
	}
	news := g.takeFloors(&f, false)
	for i := range news {
		g.stats.repaired.Add(1)
		if err := g.cache.spread(ctx, &news[i]); err != nil {
			return err
		}
	}
	return nil
}

// giveDifference answers a Compare.
func (g *group) giveDifference(m *note.Compare) peers.Answer {
	f := note.Floors{Cleared: g.floors.Cleared()}
	size := 0
	for i, d := range g.floors.Digest(m.From, m.Width, len(m.Digests)) {
		if d == m.Digests[i] || size >= g.replySize() {
			continue // the next time, then
		}
		from := m.From.Add(time.Duration(i) * m.Width)
		size += g.addFloors(&f, g.floors.Between(from, from.Add(m.Width), journalPage))
	}
	return peers.Answer{Value: f.Append(nil)}
}

// dead returns the generation before which everything is dead by age, wherever
// it is, so that floors do not matter.
func (g *group) dead() expiry.Generation { return g.cache.clock.Read().Add(-g.retention()) }

func (g *group) retention() time.Duration {
	return max(g.config.ttl+g.config.staleness(), g.config.originLag) + g.asks.limit + g.cache.config.maxDrift
}
