package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file hands a group's floors to nodes that have not been told of them: nodes that join or come back.

// A journal gives the floors of a group to other nodes: to one that joins or comes back, and to another
// region that compares them with its own.
type journal struct{ g *Group }

// fetchJournals fetches the floors of the groups from every other node of the view, and, if possible, from
// one node of each other region: this may be the first node of its own. The error is about the nodes of
// the view only.
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

// journalPage is how many floors are read in one go. Even with the longest keys, a page is smaller than
// what a reply may hold beyond the largest value.
const journalPage = 250

// fetch fetches and applies the floors of one node.
func (j *journal) fetch(ctx context.Context, n regions.Node) error {
	m := message.JournalRequest{Group: j.g.name}
	for {
		f, err := j.ask(ctx, n, message.MethodJournal, m.Append(nil))
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

// ask calls a method of a node that is answered with floors.
func (j *journal) ask(
	ctx context.Context, n regions.Node, method message.Method, payload []byte,
) (f message.Floors, err error) {
	peer := j.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return f, errors.New("no such peer")
	}
	reply, err := peer.Call(ctx, method, payload)
	if err != nil {
		return f, err
	}
	return message.DecodeFloors(reply)
}

// apply applies floors that this node may lack, and returns the writes of those that it did lack, except
// for a collapsed floor of the group. home says whether they come from this node's own region. The floors
// that another region has collapsed into a group's floor are that region's own matter.
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
		collapsed := message.Write{
			Group: j.g.name, Clear: true, Collapsed: true, Stamp: expiry.Removal(f.Group),
		}
		j.g.apply(&collapsed, 0, 0)
	}
	for _, k := range f.Keys {
		w := message.Write{Group: j.g.name, Key: k.Key, Scope: k.Scope, Stamp: k.Stamp}
		if j.g.floors.FloorOf(w.Subject()).Below(w.Stamp) {
			_ = j.g.origin.supersede(&w) // drops what is older; fails only for a dirty write
			take(w, k.Sender)
		}
	}
	return news
}

// handle answers a JournalRequest.
func (j *journal) handle(m *message.JournalRequest) peers.Answer {
	f := message.Floors{Next: m.Cursor, More: true}
	for size := 0; f.More && size < j.replySize(); {
		var held []expiry.KeyFloor
		held, f.Next, f.More = j.g.floors.Journal(0, f.Next, journalPage)
		size += j.addFloors(&f, held)
	}
	// Read after the page: a floor that is collapsed in between is in at least one of the two.
	f.Cleared, f.ClearedBy = j.g.floors.ClearedBy()
	f.Group = j.g.floors.Group()
	return peers.Answer{Value: f.Append(nil)}
}

// replySize bounds the bytes of floors in one reply, to within a page.
func (j *journal) replySize() int { return min(j.g.cache.config.Limits.MaxValue, 1<<20) }

// addFloors adds floors to f, and returns the size of what it added.
func (j *journal) addFloors(f *message.Floors, held []expiry.KeyFloor) (size int) {
	for _, w := range held {
		k := message.FloorOf(w)
		f.Keys = append(f.Keys, k)
		size += k.Size()
	}
	return size
}

// each calls visit for the floors of keys and scopes.
func (j *journal) each(visit func(expiry.KeyFloor)) {
	for cursor, more := uint64(0), true; more; {
		var held []expiry.KeyFloor
		held, cursor, more = j.g.floors.Journal(0, cursor, journalPage)
		for _, w := range held {
			visit(w)
		}
	}
}

// writeOf returns the write that a floor belongs to, with its value if that is here. A scope gets none:
// no entry has the stamp of a scope's removal.
func (j *journal) writeOf(f *message.Floor) message.Write {
	e, ok := j.g.store.Peek(f.Key)
	if ok && e.Stamp == f.Stamp && !e.Absent() && j.g.cache.clock.Instant() < e.Expires {
		return j.g.writeOf(e)
	}
	return message.Write{Group: j.g.name, Key: f.Key, Scope: f.Scope, Stamp: f.Stamp}
}

// deadBefore returns the generation before which every value has expired, wherever it is. Older floors do
// not matter, and are not needed for comparisons either.
func (j *journal) deadBefore() expiry.Generation { return j.g.cache.clock.Read().Add(-j.retention()) }

// relevance returns how long a floor matters: an older value may be live somewhere.
func (j *journal) relevance() time.Duration {
	return max(j.g.config.TTL+j.g.fresh.staleness, j.g.config.OriginLag) +
		j.g.viaOwner.Limit() + j.g.cache.config.MaxDrift
}

// retention returns how long floors are kept. It exceeds relevance, because the first slice that is
// compared begins up to a slice earlier, and clocks differ.
func (j *journal) retention() time.Duration { return j.relevance() + 2*compareWidth(j.relevance()) }
