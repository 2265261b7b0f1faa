package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file brings nodes up to date with the floors of a group that they have not been told of: nodes that
// join or come back, and regions that were cut off.

// A journal gives the floors of a group to other nodes, and fetches theirs. What is sent is what differs: the
// asking node sends a digest of the floors that it holds.
type journal struct {
	g *Group

	// turn holds one while this node fetches from a node of its region. Others that want to fetch wait, and
	// then find that little differs any more.
	turn chan struct{}
}

func newJournal(g *Group) journal { return journal{g, make(chan struct{}, 1)} }

const (
	// wideSlices bounds the wide slices of a digest.
	wideSlices = 512

	// settledAfter is how old a floor must be to be compared between regions: younger ones may still be on
	// their way. The narrow slices cover younger ones, up to a time that no clock is ahead of.
	settledAfter  = 3 * time.Second
	narrowSeconds = 5
)

// digest returns the digest of the floors that this node holds and that still matter. recent says whether
// it covers those that may still be on their way, and asks for what is later.
func (j *journal) digest(recent bool) expiry.Digest {
	now := j.g.cache.clock.Read()
	end := now.Add(-settledAfter).Time().Unix()
	// Nodes differ in which floors they have forgotten. All slices are younger than those: floors are kept
	// for longer than they matter, see retention.
	begin := max(now.Add(-j.relevance()), j.g.floors.Group()).Time().Unix()
	width := int64(j.sliceWidth() / time.Second)
	wide := (max(end-begin, 0) + width - 1) / width
	narrow := 0
	if recent {
		narrow = int(narrowSeconds * time.Second / expiry.NarrowSlice)
	}
	d := j.g.floors.Digest(uint64(end-wide*width), uint64(width), int(wide), narrow)
	d.Later = recent
	return d
}

// fetchAll fetches the floors of the groups from nodes of this region: from one after the other, so that what
// one has sent the next need not send. It tries all nodes, whatever fails: what has come is not sent again
// the next time.
func (c *Cache) fetchAll(ctx context.Context, nodes []regions.Node, groups map[string]*Group) error {
	nodes = slices.Clone(nodes)
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	var fetching errgroup.Group
	fetching.SetLimit(fetchedAtOnce)
	for _, g := range groups {
		fetching.Go(func() (err error) {
			for _, n := range nodes {
				err = errors.Join(err, g.journal.fetchHome(ctx, n))
			}
			return err
		})
	}
	return fetching.Wait()
}

const (
	// fetchedAtOnce is how many groups a node fetches at the same time.
	fetchedAtOnce = 4

	// givenAtOnce is how many nodes a node answers at the same time. Others wait their turn.
	givenAtOnce = 2

	// pageTimeout bounds the wait for one page of floors.
	pageTimeout = 10 * time.Second

	// journalPage is how many floors are read in one go. Even with the longest keys, a page is smaller than
	// what a reply may hold beyond the largest value.
	journalPage = 250
)

// fetchRemote fetches the floors of a group from one node of each other region, as far as they can be had:
// this may be the first node of its own.
func (c *Cache) fetchRemote(ctx context.Context, g *Group) {
	for _, r := range c.topology().Remote {
		n := r.Nodes[rand.IntN(len(r.Nodes))]
		if err := g.journal.fetch(ctx, n, g.journal.digest(true), nil); err != nil {
			c.log.Debug("floors not fetched", "group", g.name, "node", n.ID, "err", err)
		}
	}
}

// fetchHome fetches the floors that this node lacks from a node of its region.
func (j *journal) fetchHome(ctx context.Context, n regions.Node) error {
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := j.fetch(ctx, n, j.digest(true), nil); err != nil {
		return fmt.Errorf("from %s: %w", n.ID, err)
	}
	return nil
}

// fetch fetches and applies the floors that a node holds and that a digest of this node's lacks. took, unless
// it is nil, is called with those that this node did lack, page by page; its error ends the fetch.
func (j *journal) fetch(
	ctx context.Context, n regions.Node, d expiry.Digest, took func([]message.Write) error,
) error {
	m := message.JournalRequest{Group: j.g.name, Digest: d}
	var parted []expiry.Hashes
	for {
		f, err := j.ask(ctx, n, &m)
		if err != nil {
			return err
		}
		parted = append(parted, f.Hashes...)
		news := j.apply(f, n.Region == j.g.cache.node.Region)
		if took != nil {
			if err := took(news); err != nil {
				return err
			}
		}
		switch {
		case f.More:
			m.Cursor = f.Next
			continue
		case len(m.Selected) > 0:
			return nil
		}
		selected := j.g.floors.Differing(parted, d.Width)
		if len(selected) == 0 {
			return nil
		}
		m = message.JournalRequest{Group: j.g.name, Digest: expiry.Digest{Width: d.Width}, Selected: selected}
	}
}

// ask asks a node for a page of its floors.
func (j *journal) ask(ctx context.Context, n regions.Node, m *message.JournalRequest) (*message.Floors, error) {
	peer := j.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return nil, errNoPeer
	}
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	reply, err := peer.Call(ctx, message.MethodJournal, m.Append(nil))
	if err != nil {
		return nil, err
	}
	f, err := message.DecodeFloors(reply)
	return &f, err
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

// handle answers a JournalRequest. Requests queue here, so that a node that many ask at the same moment, after
// a change of the members, is not overrun.
func (j *journal) handle(ctx context.Context, m *message.JournalRequest) peers.Answer {
	giving := j.g.cache.journals.giving
	select {
	case giving <- struct{}{}:
		defer func() { <-giving }()
	case <-ctx.Done():
		return peers.Answer{Code: peers.CodeBusy, Text: "too many nodes ask for journals"}
	}
	return peers.Answer{Value: j.page(m).Append(nil)}
}

// page returns the page of floors that a JournalRequest asks for.
func (j *journal) page(m *message.JournalRequest) message.Floors {
	f := message.Floors{Next: m.Cursor}
	if m.Cursor == (expiry.Cursor{}) && len(m.Selected) == 0 {
		f.Hashes = j.g.floors.Hashes(&m.Digest)
	}
	for size := len(f.Hashes) * message.HashesSize; ; {
		var held []expiry.KeyFloor
		if len(m.Selected) > 0 {
			held, f.Next, f.More = j.g.floors.Selected(m.Selected, m.Width, f.Next, journalPage)
		} else {
			held, f.Next, f.More = j.g.floors.Missing(&m.Digest, f.Next, journalPage)
		}
		for _, w := range held {
			k := message.FloorOf(w)
			f.Keys = append(f.Keys, k)
			size += k.Size()
		}
		if !f.More || size >= j.replySize() {
			break
		}
	}
	// Read after the page: a floor that is collapsed in between is in at least one of the two.
	f.Cleared, f.ClearedBy = j.g.floors.ClearedBy()
	f.Group = j.g.floors.Group()
	return f
}

// replySize bounds the bytes of floors in one reply, to within a page.
func (j *journal) replySize() int { return min(j.g.cache.config.Limits.MaxValue, 1<<20) }

// each calls visit for the floors of keys and scopes.
func (j *journal) each(visit func(expiry.KeyFloor)) {
	for cursor, more := uint64(0), true; more; {
		var held []expiry.KeyFloor
		held, cursor, more = j.g.floors.Journal(cursor, journalPage)
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

// retention returns how long floors are kept. It exceeds relevance, because the first slice of a digest begins
// up to a slice earlier, and clocks differ.
func (j *journal) retention() time.Duration { return j.relevance() + 2*j.sliceWidth() }

// sliceWidth returns how long the wide slices of a digest are, in whole seconds, so that wideSlices of them cover
// all floors that matter.
func (j *journal) sliceWidth() time.Duration {
	return (j.relevance()/wideSlices + time.Second).Truncate(time.Second)
}
