package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is about the home of a key: the one region in which its Updates are carried out, and where an
// Update reads. WithHomeRegion fixes it. Otherwise the key picks one of the present regions. When a region
// joins, keys move to it. Each of them must have one home at a time, and the new home must have what the
// old one had:
//
//   - The regions are part of a view, so all nodes of a region whose Swaps may be carried out know the same
//     ones (see term). A Swap names the regions that its sender knows, and is refused if they differ.
//   - Before the owner in a new home answers the read of an Update, it asks the other regions for the key's
//     last write (see recall). They answer only if they know the same regions: then they carry out no more
//     Swaps of the key.
//   - A region is established once every other region has been known to know of it. It need not ask any more
//     once everything written before that has expired: regions that join take keys from it, and give it
//     none.

// homes finds the home regions of a group's keys, and asks other regions for what they know of keys whose
// home has moved here.
type homes struct {
	g        *Group
	recalled *xsync.Map[string, struct{}] // keys whose last write the other regions have been asked for
}

// region returns the key's home: the region of the view with the highest hash of its name and the key, so
// that a change of the regions moves as few keys as possible. This is rendezvous hashing (Thaler and
// Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998).
func (h *homes) region(v *view, key string) string {
	if h.g.config.HomeRegion != "" {
		return h.g.config.HomeRegion
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

// read reads the key in its home region, for an Update. It retries as long as nodes of that region answer or
// have yet to be tried, since one of them must become the key's owner soon.
func (h *homes) read(ctx context.Context, key, home string) (a answer, err error) {
	for {
		changed := h.g.cache.changed.wait()
		r := h.g.cache.topology().Region(home)
		if r == nil && !h.g.cache.members.MayStand(home) {
			return answer{}, homeError(home, errNoOwner)
		}
		var ok bool
		if r != nil {
			a, ok = h.ask(ctx, r, key)
		}
		switch {
		case ok && a.err == nil && a.source == SourceStale:
			err = errors.New("only a stale value is available")
			if !h.g.fresh.revalidates(a.entry, h.g.cache.clock.Instant()) {
				return a, err
			}
			// A fresh value is on its way.
		case ok && errors.Is(a.err, errNotRecalled):
			err = homeError(home, a.err)
		case ok:
			return a, a.err
		}
		select {
		case <-changed:
		case <-time.After(routeRetryPause):
		case <-ctx.Done():
			if err != nil {
				return a, err
			}
			return answer{}, homeError(home, errNoOwner)
		}
	}
}

// ask asks the key's owner in its home region. It reports false if that node does not answer.
func (h *homes) ask(ctx context.Context, home *regions.Region, key string) (answer, bool) {
	f := h.g.newFill(key)
	owner := home.Owner(key)
	if owner.ID == h.g.cache.node.ID {
		return f.asHome(ctx), true
	}
	req := f.copyRequest()
	req.hop, req.discard = peers.HopUpdate, true
	return req.send(ctx, owner)
}

// homeError marks an error that means that the home region cannot be reached.
func homeError(home string, err error) error {
	if errors.Is(err, errNoOwner) || errors.Is(err, errNotRecalled) {
		return fmt.Errorf("%w: %s: %w", ErrHomeUnreachable, home, err)
	}
	return err
}

// asHome answers the read of an Update as the key's owner. An Update computes the next value from what it
// reads, so it must not miss the last write just because a node does not answer: then the error is
// errNotRecalled.
func (f fill) asHome(ctx context.Context) answer {
	g := f.g
	if err := g.home.recall(ctx, f.key); err != nil {
		return answer{err: g.located(err)}
	}
	f = f.above(g.floors.Floor(f.key))
	if _, ok := f.fromStore(); !ok {
		if _, all := f.peekFormerOwners(ctx, g.cache.topology()); !all {
			return answer{err: g.located(fmt.Errorf("%w: a former owner", errNotRecalled))}
		}
	}
	return f.asOwner(ctx)
}

// errNotRecalled means that a node that may have a key's last write has not said what it knows.
var errNotRecalled = errors.New(
	"another node may have a later value: it does not answer, or does not know of all regions yet")

// An establishment is what a node knows about whether its region may be the home of keys. A region is
// established once every other region has been known to know of it. From then on no other region is the
// home of its keys: regions that join take keys away, and give it none.
type establishment struct {
	mu     sync.Mutex      // guards the following
	agreed map[string]bool // regions that know of this one
	done   bool
	since  expiry.Instant // set if done
	asked  expiry.Instant // when nodes of this region were last asked
}

// agree notes that a region knows of this one.
func (e *establishment) agree(region string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.agreed == nil {
		e.agreed = make(map[string]bool)
	}
	e.agreed[region] = true
}

// finish notes that the region has been established since an instant.
func (e *establishment) finish(since expiry.Instant) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.done || since < e.since {
		e.done, e.since = true, since
	}
}

// get returns the instant since which the region has been established, and whether it is.
func (e *establishment) get() (since expiry.Instant, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.since, e.done
}

// missing returns the regions that have not agreed.
func (e *establishment) missing(regions []string) (names []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, region := range regions {
		if !e.agreed[region] {
			names = append(names, region)
		}
	}
	return names
}

// longAgo is an instant so early that no value is that old.
const longAgo = expiry.Instant(math.MinInt64 / 2)

// mustRecall reports whether the other regions must be asked for the last write of a key: they may have
// been its home before this one, and alone know of it.
func (h *homes) mustRecall(v *view, key string) bool {
	if h.g.config.HomeRegion != "" || len(v.regions) == 1 || !h.mayRecall() {
		return false
	}
	_, done := h.recalled.Load(key)
	return !done
}

// mayRecall reports whether mustRecall may be true of any key: the region has been established for less
// time than a value lives.
func (h *homes) mayRecall() bool {
	since, ok := h.g.cache.membership.established.get()
	return !ok || h.g.cache.clock.Instant().Sub(since) < h.g.journal.relevance()
}

// recall asks the other regions for the last write of key if one of them may have been its home.
func (h *homes) recall(ctx context.Context, key string) error {
	c, v := h.g.cache, h.g.cache.view.Load()
	if len(v.regions) == 1 && c.membership.found.Load() {
		c.membership.established.finish(longAgo)
	}
	if h.mustRecall(v, key) {
		c.membership.askEstablished(ctx, v)
	}
	if !h.mustRecall(v, key) {
		return nil
	}
	ctx, cancel := share(ctx, 3, 4)
	defer cancel()
	others := slices.DeleteFunc(slices.Clone(v.regions), func(region string) bool {
		return region == c.node.Region
	})
	var mu sync.Mutex
	var silent []string
	var asking sync.WaitGroup
	for _, region := range others {
		asking.Go(func() {
			if !h.recallFrom(ctx, v, region, key) {
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, region)
			}
		})
	}
	asking.Wait()
	if len(silent) > 0 {
		slices.Sort(silent)
		return fmt.Errorf("%w: %s", errNotRecalled, strings.Join(silent, ", "))
	}
	if len(c.membership.established.missing(others)) == 0 {
		c.membership.established.finish(c.clock.Instant())
	}
	if h.recalled.Size() >= floorLimit(h.g.config.MaxBytes) {
		h.recalled.Clear() // each key is asked for once more
	}
	h.recalled.Store(key, struct{}{})
	return nil
}

// recallFrom applies the last write of key that another region knows of. It reports false if that region
// has not said what it knows.
func (h *homes) recallFrom(ctx context.Context, v *view, region, key string) bool {
	r := h.g.cache.topology().Region(region)
	if r == nil {
		return false
	}
	sent := h.g.cache.clock.Instant()
	recalled, unknown, ok := gateway{h.g.cache}.askKeepers(ctx, r,
		message.RecallRequest{Group: h.g.name, Key: key, Regions: v.regionsHash})
	if !ok && !unknown {
		return false
	}
	h.g.cache.membership.established.agree(region) // nodes say that they lack the group only if they agree
	w := &recalled.Write
	if w.Stamp.Generation != 0 && w.Group == h.g.name && w.Key == key && !w.Clear && !w.Scope {
		if e, ok := h.g.store.Peek(key); ok && e.IsLoad() && w.HasValue {
			h.g.store.DeleteIf(e) // loaded here meanwhile, from an origin that lacks the write
		}
		_ = h.g.origin.supersede(w) // drops what is older; fails only for a dirty write
		h.g.apply(w, h.g.cache.clock.Instant().Sub(sent), 0)
	}
	return true
}

// handleRecall answers a RecallRequest.
func (c *Cache) handleRecall(ctx context.Context, call *peers.Call, m message.RecallRequest) peers.Answer {
	if gate := (gateway{c}); gate.serves(call.Region) && !c.view.Load().keeps(m.Key, c.node.ID) {
		return gate.recall(ctx, m)
	}
	disagrees := peers.Answer{Value: message.RecallReply{}.Append(nil)}
	t, ok := c.term()
	if !ok || t.view.regionsHash != m.Regions || !t.view.keeps(m.Key, c.node.ID) {
		return disagrees
	}
	g := c.group(m.Group)
	if g == nil {
		return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}
	}
	if !g.fresh.caughtUp.Load() && len(t.view.home.Nodes) > 1 {
		return disagrees
	}
	f := g.newFill(m.Key)
	if _, ok := f.fromStore(); !ok {
		if _, all := f.peekFormerOwners(ctx, c.topology()); !all {
			return disagrees
		}
	}
	w := g.journal.writeOf(&message.Floor{Key: m.Key, Stamp: g.floors.Floor(m.Key)})
	if !c.inTerm(t) {
		return disagrees
	}
	return peers.Answer{Value: message.RecallReply{Agrees: true, Write: w}.Append(nil)}
}
