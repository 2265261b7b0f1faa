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
func (j *journal) writeOf(f *message.Floor) message.Write {
	e, ok := j.g.store.Peek(f.Key)
	if ok && e.Stamp == f.Stamp && !e.Absent() && j.g.cache.clock.Instant() < e.Expires {
		return j.g.writeOf(e)
	}
	return message.Write{Group: j.g.name, Key: f.Key, Scope: f.Scope, Stamp: f.Stamp}
}

// dead returns the generation before which everything is dead by age, wherever
// it is, so that floors do not matter, and are not needed for comparing them either.
func (j *journal) deadBefore() expiry.Generation { return j.g.cache.clock.Read().Add(-j.retention()) }

// relevance is for how long a floor matters: a value that is older may be alive somewhere.
func (j *journal) relevance() time.Duration {
	return max(j.g.config.TTL+j.g.fresh.staleness, j.g.config.OriginLag) + j.g.viaOwner.Limit() + j.g.cache.config.MaxDrift
}

// retention is for how long floors are kept. The first of the slices in which those that matter are
// compared begins up to a slice before them, and clocks differ.
func (j *journal) retention() time.Duration { return j.relevance() + 2*compareWidth(j.relevance()) }
