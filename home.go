package geocache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is the home of a key: the one region in which its Updates take place, and where
// an Update reads. With WithHomeRegion there is nothing to it. Otherwise the key chooses among
// the regions that there are. When one comes, keys move to it, and for each of them there must
// be one home at a time, which has what the one before it had:
//
//   - The regions are part of a view, so that all nodes of a region whose Swaps may take place
//     know the same ones (see tenure). A Swap carries what its sender knows, and is refused
//     where that differs.
//   - Before the owner in a new home answers the read of an Update, it asks the other regions for
//     the key's last write (recall). They answer only if they know the same regions: then they
//     take no Swap of the key any more.

// home returns the region in which updates of the key take place: of those in the view the
// one with the highest hash of its name and the key, so that a region more or less
// moves no more keys than it must. Rendezvous hashing: Thaler, Ravishankar, "Using
// Name-Based Mappings to Increase Hit Rates", 1998.
func (g *group) home(v *view, key string) string {
	if g.config.homeRegion != "" {
		return g.config.homeRegion
	}
	var home string
	var highest uint64
	hash := xxh3.HashString(key)
	for _, region := range v.regions {
		if h := xxh3.HashStringSeed(region, hash); home == "" || h > highest {
			home, highest = region, h
		}
	}
	return home
}

// readHome reads the key where its updates take place. While there are nodes in that
// region, one of which must be the key's owner soon, it goes on trying.
func (g *group) readHome(ctx context.Context, key, home string) (a answer, err error) {
	for {
		changed := g.cache.standing.changed.wait()
		r := g.cache.topology().Region(home)
		if r == nil {
			return answer{}, homeError(home, errNoOwner)
		}
		a, ok := g.askHome(ctx, r, key)
		switch {
		case ok && a.err == nil && a.source == SourceStale:
			if err = errors.New("there is only a stale value"); !g.revalidates(a.entry, g.cache.clock.Instant()) {
				return a, err
			} // a fresh one is on its way
		case ok && errors.Is(a.err, errNotRecalled):
			err = homeError(home, a.err)
		case ok:
			return a, a.err
		}
		select {
		case <-changed:
		case <-time.After(routeAgain):
		case <-ctx.Done():
			if err != nil {
				return a, err
			}
			return answer{}, homeError(home, errNoOwner)
		}
	}
}

// askHome asks the key's owner in its home region. It reports false if that does not
// answer.
func (g *group) askHome(ctx context.Context, home *regions.Region, key string) (answer, bool) {
	floor := g.floors.Floor(key)
	owner := home.Owner(key)
	if owner.ID == g.cache.node.ID {
		return g.ownForUpdate(ctx, key, floor), true
	}
	return g.fetch(ctx, owner, request{key: key, floor: floor, hop: peers.HopUpdate, class: store.Copy, apart: true})
}

func homeError(home string, err error) error {
	if errors.Is(err, errNoOwner) || errors.Is(err, errNotRecalled) {
		return fmt.Errorf("%w: %s: %w", ErrHomeUnreachable, home, err)
	}
	return err
}

// ownForUpdate answers the read of an Update as the key's owner. An Update makes the next value of
// what it reads, so the last write must not be missed because somebody does not answer: then
// the error is errNotRecalled.
func (g *group) ownForUpdate(ctx context.Context, key string, floor expiry.Stamp) answer {
	if err := g.recall(ctx, key); err != nil {
		return answer{err: g.located(err)}
	}
	floor = floor.Max(g.floors.Floor(key))
	if _, ok := g.remembered(key, floor); !ok {
		if _, all := g.peekFormer(ctx, g.cache.topology(), key, floor); !all {
			return answer{err: g.located(errNotRecalled)}
		}
	}
	return g.own(ctx, key, floor)
}

var errNotRecalled = errors.New("whether another node has a later value is not known: it does not answer, or does not know of all regions yet")

// homes is which other regions are known to know the same regions as this node.
type homes struct {
	mu    sync.Mutex // guards the following
	known uint64     // a hash of these regions
	// agreed has when each of the others was first known to know the same.
	agreed map[string]expiry.Instant
	// asked is whether a node of this region has been asked what it knows of that.
	asked bool
}

// ofLocked makes h be about the regions of v.
func (h *homes) ofLocked(v *view) {
	if known := hashOfRegions(v.regions); h.agreed == nil || h.known != known {
		h.known, h.agreed, h.asked = known, make(map[string]expiry.Instant), false
	}
}

// agree notes that a region has been known since an instant to know the regions of v.
func (h *homes) agree(v *view, region string, since expiry.Instant) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ofLocked(v)
	if was, ok := h.agreed[region]; !ok || since < was {
		h.agreed[region] = since
	}
}

// since returns when each region was first known to know the regions of v.
func (h *homes) since(v *view) map[string]expiry.Instant {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ofLocked(v)
	return maps.Clone(h.agreed)
}

// formerHomes returns the regions that may have been the home of keys of this one not long ago:
// what they have written then may still be alive.
func (g *group) formerHomes(v *view) (names []string) {
	if g.config.homeRegion != "" || len(v.regions) == 1 {
		return nil
	}
	agreed, now := g.cache.homes.since(v), g.cache.clock.Instant()
	for _, region := range v.regions {
		since, ok := agreed[region]
		if region != g.cache.node.Region && (!ok || now.Sub(since) < g.retention()) {
			names = append(names, region)
		}
	}
	return names
}

// toRecall returns the former homes that this node has still to ask for the key's last write.
func (g *group) toRecall(v *view, key string) (names []string) {
	if names = g.formerHomes(v); len(names) == 0 {
		return nil
	}
	if of, ok := g.recalled.Load(key); ok && of == hashOfRegions(v.regions) {
		return nil
	}
	return names
}

// recall asks the regions that may have been the key's home for its last write.
func (g *group) recall(ctx context.Context, key string) error {
	v := g.cache.standing.view.Load()
	if len(g.toRecall(v, key)) > 0 {
		g.cache.askWhoAgrees(ctx, v)
	}
	names := g.toRecall(v, key)
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := share(ctx, 3, 4)
	defer cancel()
	errs := make(chan error, len(names))
	for _, region := range names {
		going := g.cache.spawn(func() { errs <- g.recallFrom(ctx, v, region, key) })
		if !going {
			return ErrClosed
		}
	}
	var err error
	for range names {
		err = errors.Join(err, <-errs)
	}
	if err == nil {
		g.recalled.Store(key, hashOfRegions(v.regions))
	}
	return err
}

// recallFrom takes in the last write of key that another region knows.
func (g *group) recallFrom(ctx context.Context, v *view, region, key string) error {
	r := g.cache.topology().Region(region)
	if r == nil {
		return fmt.Errorf("%w: %s", errNotRecalled, region)
	}
	m := note.Recall{Group: g.name, Key: key, Regions: hashOfRegions(v.regions)}.Append(nil)
	for _, n := range r.Owners(key, 2) {
		peer := g.cache.transport.Peer(n.ID)
		if peer == nil {
			continue
		}
		reply, err := peer.Call(ctx, note.MethodRecall, m)
		if err != nil {
			continue
		}
		recalled, err := note.DecodeRecalled(reply)
		if err != nil || !recalled.Agrees {
			continue
		}
		g.cache.homes.agree(v, region, g.cache.clock.Instant())
		for i := range recalled.Notes {
			n := &recalled.Notes[i]
			if e, ok := g.store.Peek(key); ok && e.IsLoad() && n.HasValue {
				g.store.DeleteIf(e) // loaded here meanwhile, from an origin that knows nothing of it
			}
			_ = g.takeDirty(n) // drops what is older, there is nothing to keep
			g.take(n, 0, 0)
		}
		return nil
	}
	return fmt.Errorf("%w: %s", errNotRecalled, region)
}

// takeRecall answers a Recall.
func (c *Cache) takeRecall(ctx context.Context, m note.Recall) peers.Answer {
	answer := func(m note.Recalled) peers.Answer { return peers.Answer{Value: m.Append(nil)} }
	t, ok := c.tenure()
	if !ok || hashOfRegions(t.view.regions) != m.Regions {
		return answer(note.Recalled{})
	}
	g := c.group(m.Group)
	if g == nil {
		return answer(note.Recalled{Agrees: true})
	}
	floor := g.floors.Floor(m.Key)
	if _, ok := g.remembered(m.Key, floor); !ok {
		if _, all := g.peekFormer(ctx, c.topology(), m.Key, floor); !all {
			return answer(note.Recalled{})
		}
	}
	n := g.present(&note.Floor{Key: m.Key, Stamp: g.floors.Floor(m.Key)})
	if !c.holds(t) || !t.view.heir(m.Key, c.node.ID) {
		return answer(note.Recalled{})
	}
	if n.Stamp.Generation == 0 {
		return answer(note.Recalled{Agrees: true})
	}
	return answer(note.Recalled{Agrees: true, Notes: []note.Note{n}})
}
