package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is how floors get to nodes that have not been told: when a node joins
// or comes back, when one dies with notes unsent, and for whatever else may have gone wrong.

// A journal is what a group's nodes tell each other of its floors: to a node that joins or comes back, and to another
// region that compares.
type journal struct{ g *Group }

// takeJournals takes the floors of the groups from every other node of the view, and
// as far as they can be had, from one node of each other region: this may be the
// first node of its own. The error is that of the nodes of the view.
func (c *Cache) fetchJournals(ctx context.Context, v *view, groups map[string]*Group) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	from := func(n regions.Node, required bool) {
		wg.Go(func() {
			for _, g := range groups {
				if err := g.journal.fetch(ctx, n); err != nil && required {
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
func (j *journal) fetch(ctx context.Context, n regions.Node) error {
	peer := j.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return errors.New("no such peer")
	}
	m := message.JournalRequest{Group: j.g.name}
	for {
		reply, err := peer.Call(ctx, message.MethodJournal, m.Append(nil))
		if err != nil {
			return err
		}
		f, err := message.DecodeFloors(reply)
		if err != nil {
			return err
		}
		j.apply(&f, n.Region == j.g.cache.node.Region)
		if !f.More {
			return nil
		}
		m.Cursor = f.Next
	}
}

// takeFloors takes in floors that this node may not have, and returns those that it had
// not. What a node of another region has folded into the floor of a group is a
// matter of that region.
func (j *journal) apply(f *message.Floors, home bool) (news []message.Write) {
	take := func(w message.Write, sender uint64) {
		if !home {
			sender = 0
		}
		j.g.apply(&w, 0, sender)
		news = append(news, w)
	}
	if f.Cleared > j.g.floors.Cleared() {
		take(message.Write{Group: j.g.name, Clear: true, Stamp: expiry.Removal(f.Cleared)}, f.ClearedBy)
	}
	if home && f.Group > j.g.floors.Group() {
		j.g.apply(&message.Write{Group: j.g.name, Clear: true, Collapsed: true, Stamp: expiry.Removal(f.Group)}, 0, 0)
	}
	for _, k := range f.Keys {
		w := message.Write{Group: j.g.name, Key: k.Key, Scope: k.Scope, Stamp: k.Stamp}
		if j.g.floors.FloorOf(w.Subject()).Below(w.Stamp) {
			_ = j.g.origin.supersede(&w) // drops what is older, there is nothing to keep
			take(w, k.Sender)
		}
	}
	return news
}

// giveJournal answers a Journal.
func (j *journal) handle(m *message.JournalRequest) peers.Answer {
	f := message.Floors{Next: m.Cursor, More: true}
	for size := 0; f.More && size < j.replySize(); {
		var held []expiry.KeyFloor
		held, f.Next, f.More = j.g.floors.Journal(0, f.Next, journalPage)
		size += j.addFloors(&f, held)
	}
	// After the page: a floor that was folded in between is in one of the two.
	f.Cleared, f.ClearedBy = j.g.floors.ClearedBy()
	f.Group = j.g.floors.Group()
	return peers.Answer{Value: f.Append(nil)}
}

// replySize is how many bytes of floors are sent at once, but for one page.
func (j *journal) replySize() int { return min(j.g.cache.config.Limits.MaxValue, 1<<20) }

func (j *journal) addFloors(f *message.Floors, held []expiry.KeyFloor) (size int) {
	for _, w := range held {
		k := message.FloorOf(w)
		f.Keys = append(f.Keys, k)
		size += k.Size()
	}
	return size
}

// senderOf returns what stands for a process among the senders of floors: for its node, and for
// when it started, since what one process has not sent the next one does not know.
func senderOf(id string, epoch expiry.Generation) uint64 { return expiry.OriginOf(id, epoch) }

// takeOver sends to the other regions what processes that are gone may not have
// sent: the floors of keys that this node owns, if their sender is no member of the region any more. All
// nodes of the region have the floors, and this one has the value too if it was the
// successor. Much of it has been sent before, and changes nothing there. It does not matter when
// the sender has gone, or who has owned the key in the meantime.
//
// A node that has just come back first takes the journals: others may have been told what it
// has not.
func (c *Cache) takeOver() {
	f := &c.journals
	f.mu.Lock()
	due := f.orphaned && c.holdsLease()
	if due { // else resumeLease calls again
		f.orphaned = false
	}
	f.mu.Unlock()
	if due {
		c.takeOverIn(slices.Collect(maps.Values(*c.groups.Load()))...)
	}
}

// takeOverIn is takeOver for some groups, on a node that has been told of everything.
func (c *Cache) takeOverIn(groups ...*Group) {
	v := c.view.Load()
	members := map[uint64]bool{c.self: true}
	for _, n := range c.others(v) {
		if p := c.transport.Peer(n.ID); p != nil {
			members[senderOf(n.ID, p.Epoch())] = true
		}
	}
	gone := func(sender uint64) bool { return sender != 0 && !members[sender] }
	for _, g := range groups {
		g.journal.takeOver(v, gone)
	}
}

// restarted is told that the process of a node is another one than before. It must not block.
func (c *Cache) onRestart(p *peers.Peer) {
	if p.Region() != c.node.Region {
		return
	}
	c.journals.orphan()
	c.spawn(c.takeOver)
}

func (j *journal) takeOver(v *view, gone func(sender uint64) bool) {
	now := j.g.cache.clock.Instant // read before the age of a value is
	if through := j.g.floors.TakeCollapsed(gone); through > 0 {
		// Which keys' floors they were nobody knows any more.
		j.g.cache.replicator.add(&message.Write{Group: j.g.name, Clear: true, Collapsed: true, Stamp: expiry.Removal(through)}, now())
	}
	owns := func(key string) bool { return v.home.Owner(key).ID == j.g.cache.node.ID }
	if cleared, by := j.g.floors.ClearedBy(); cleared > 0 && gone(by) && owns("") {
		j.g.cache.replicator.add(&message.Write{Group: j.g.name, Clear: true, Stamp: expiry.Removal(cleared)}, now())
		j.g.floors.AdoptClear(cleared, j.g.cache.self)
	}
	j.each(func(k expiry.KeyFloor) {
		if f := message.FloorOf(k); gone(k.Sender) && owns(f.Key) {
			at := now()
			w := j.present(&f)
			j.g.cache.replicator.add(&w, at)
			j.g.floors.Adopt(k, j.g.cache.self)
		}
	})
}

// eachFloor passes the floors of keys and scopes to visit.
func (j *journal) each(visit func(expiry.KeyFloor)) {
	for cursor, more := uint64(0), true; more; {
		var held []expiry.KeyFloor
		held, cursor, more = j.g.floors.Journal(0, cursor, journalPage)
		for _, w := range held {
			visit(w)
		}
	}
}

// present returns the note of the write that a floor is of: with its value, if
// that is here. No value has the stamp of a scope's removal.
func (j *journal) present(f *message.Floor) message.Write {
	e, ok := j.g.store.Peek(f.Key)
	if ok && e.Stamp == f.Stamp && !e.Absent() && j.g.cache.clock.Instant() < e.Expires {
		return j.g.writeOf(e)
	}
	return message.Write{Group: j.g.name, Key: f.Key, Scope: f.Scope, Stamp: f.Stamp}
}

const (
	// compareEvery is how often a node compares its floors with one node of each other
	// region, on average.
	compareEvery = 5 * time.Second

	// compareSettled is how old a floor must be to be compared: younger ones may be on
	// their way.
	compareSettled = 3 * time.Second

	// compareSlices is how many digests stand for the floors of a group at most. Those of all
	// floors that matter may be hours wide, and only whole ones are compared: compareFine is how
	// wide those for the last floors are.
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
		if c.isGuest() { // it is told of nothing, so there would be no end of news
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

// compareWith takes from a node of another region the floors that this one lacks, and
// tells its own region of them.
func (j *journal) compareWith(ctx context.Context, n regions.Node, width time.Duration) error {
	peer := j.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return errors.New("no such peer")
	}
	// The slices reach from the oldest floor that matters, or as far back as they can, to the
	// youngest that has settled. They begin at round times, so that a floor is in the
	// same slice each time.
	//
	// Nodes differ in which floors they have forgotten. All slices are younger: floors are
	// kept for longer than they matter, see retention.
	now := j.g.cache.clock.Read()
	oldest := now.Add(-min(j.relevance(), (compareSlices-1)*width))
	from := expiry.At(max(oldest, j.g.floors.Group()).Time().Truncate(width))
	slices := int(now.Add(-compareSettled).Sub(from) / width)
	m := message.CompareRequest{Group: j.g.name, From: from, Width: width}
	if slices > 0 {
		m.Digests = j.g.floors.Digest(from, width, slices)
	}
	reply, err := peer.Call(ctx, message.MethodCompare, m.Append(nil))
	if err != nil {
		return err
	}
	f, err := message.DecodeFloors(reply)
	if err != nil {
		return err
	}
	news := j.apply(&f, false)
	for i := range news {
		j.g.stats.repaired.Add(1)
		if err := j.g.cache.broadcast(ctx, &news[i]); err != nil {
			return err
		}
	}
	return nil
}

// giveDifference answers a Compare.
func (j *journal) handleCompare(m *message.CompareRequest) peers.Answer {
	f := message.Floors{Cleared: j.g.floors.Cleared()}
	size := 0
	for i, d := range j.g.floors.Digest(m.From, m.Width, len(m.Digests)) {
		if d == m.Digests[i] || size >= j.replySize() {
			continue // the next time, then
		}
		from := m.From.Add(time.Duration(i) * m.Width)
		size += j.addFloors(&f, j.g.floors.Between(from, from.Add(m.Width), journalPage))
	}
	return peers.Answer{Value: f.Append(nil)}
}

// dead returns the generation before which everything is dead by age, wherever
// it is, so that floors do not matter, and are not needed for comparing them either.
func (j *journal) dead() expiry.Generation { return j.g.cache.clock.Read().Add(-j.retention()) }

// relevance is for how long a floor matters: a value that is older may be alive somewhere.
func (j *journal) relevance() time.Duration {
	return max(j.g.config.TTL+j.g.fresh.staleness, j.g.config.OriginLag) + j.g.viaOwner.Limit() + j.g.cache.config.MaxDrift
}

// retention is for how long floors are kept. The first of the slices in which those that matter are
// compared begins up to a slice before them, and clocks differ.
func (j *journal) retention() time.Duration { return j.relevance() + 2*compareWidth(j.relevance()) }

// compareWidth returns how wide slices must be to cover d, in whole seconds.
func compareWidth(d time.Duration) time.Duration {
	return (d/(compareSlices-1) + time.Second).Truncate(time.Second)
}
