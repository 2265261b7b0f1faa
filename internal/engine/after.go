package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file has reads that must not be older than a write that their caller names: its own, perhaps in
// another region, from which it has not arrived here yet.

// An After names such a write.
type After struct {
	Kind       AfterKind
	Group      uint64 // a hash of its name
	Key        uint64 // a hash of the key, if the write is of one
	Scope      string // the tag or the prefix, if it is of one
	Generation expiry.Generation
	Region     string // where it was written
}

// An AfterKind says what kind of write an After names.
type AfterKind uint8

// The kinds.
const (
	AfterSet AfterKind = iota + 1
	AfterRemove
	AfterRemoveTag
	AfterRemovePrefix
	AfterClear
)

// IsOfKey reports whether the write is of one key.
func (a *After) IsOfKey() bool { return a.Kind == AfterSet || a.Kind == AfterRemove }

// NewAfter names a write of a group: of a key, a tag or a prefix, or nothing if it is a Clear.
func NewAfter(g *Group, kind AfterKind, of string, generation expiry.Generation) After {
	a := After{Kind: kind, Group: hashGroup(g.name), Generation: generation, Region: g.cache.node.Region}
	if a.IsOfKey() {
		a.Key = hashKey(a.Group, of)
	} else {
		a.Scope = of
	}
	return a
}

func hashGroup(group string) uint64 { return xxh3.HashString(group) }

func hashKey(group uint64, key string) uint64 { return xxh3.HashStringSeed(key, group) }

// A bound is what the writes that a read must not be older than say of its key.
type bound struct {
	floor  expiry.Stamp // of its value
	set    bool         // floor is of a Set
	region string       // where that was written
	tags   []After      // removals of tags: they concern values that bear them
}

// newBound returns what the writes say of a key. It fails if one of them is further ahead than clocks may be.
func newBound(g *Group, key string, writes []After) (b bound, err error) {
	group := hashGroup(g.name)
	for i := range writes {
		w := &writes[i]
		if w.Group != group {
			continue
		}
		concerns := true
		floor := expiry.Removal(w.Generation)
		switch w.Kind {
		case AfterSet:
			concerns, floor = w.Key == hashKey(group, key), expiry.Loaded(w.Generation)
		case AfterRemove:
			concerns = w.Key == hashKey(group, key)
		case AfterRemovePrefix:
			concerns = strings.HasPrefix(key, w.Scope)
		}
		if !concerns {
			continue
		}
		// What is loaded from now on is newer.
		if err := g.cache.clock.Merge(w.Generation); err != nil {
			return bound{}, fmt.Errorf("After: the write is from the future: %w", err)
		}
		switch {
		case w.Kind == AfterRemoveTag:
			b.tags = append(b.tags, *w)
		case b.floor.Below(floor):
			b.floor, b.set, b.region = floor, w.Kind == AfterSet, w.Region
		}
	}
	return b, nil
}

// Split returns which of the keys the writes do not concern, and which they may.
func Split(g *Group, keys []string, writes []After) (free, bound []string) {
	if len(writes) == 0 {
		return keys, nil
	}
	for _, key := range keys {
		if b, err := newBound(g, key, writes); err == nil && b.isNone() {
			free = append(free, key)
		} else if !slices.Contains(bound, key) {
			bound = append(bound, key)
		}
	}
	return free, bound
}

func (b *bound) isNone() bool { return b.floor == expiry.Stamp{} && len(b.tags) == 0 }

// allows reports whether e may answer a read that began at begun. What was loaded since is no older than
// any write that its caller can name.
func (b *bound) allows(f *freshness, e *store.Entry, begun expiry.Instant) bool {
	if e.Below(b.floor) {
		return false
	}
	if e.IsLoad() && e.Born() >= begun.Add(-ageRounding) {
		return true
	}
	if f.maybeOlder(e, b.floor) {
		return false
	}
	for _, w := range b.tags {
		if removal := expiry.Removal(w.Generation); f.mayPrecede(e, removal) && slices.Contains(e.Tags(), w.Scope) {
			return false
		}
	}
	return true
}

// fillFrom answers a read that began at begun and that memory does not.
func (b *bound) fillFrom(ctx context.Context, g *Group, key string, begun expiry.Instant) answer {
	for range 3 {
		a := b.fill(ctx, g, key)
		if a.err != nil || b.allows(&g.fresh, a.entry, begun) {
			return a
		}
		// It was loaded before the read began, at about the time of the write. What is loaded anew is not.
		b.floor, b.set = b.floor.Max(expiry.Removal(a.entry.Generation)), false
	}
	return answer{err: g.located(ErrNotArrived)} // clocks differ by more than is allowed
}

// fill answers a read that memory does not.
func (b *bound) fill(ctx context.Context, g *Group, key string) answer {
	if a := checkRead(ctx, key); a.err != nil {
		return a
	}
	key = strings.Clone(key)
	done, err := g.trackWait(ctx, key, false)
	if err != nil {
		return answer{err: err}
	}
	defer done()
	hearsAll := g.unleased.hearsAll(ctx)
	f := g.newFill(key)
	arrived := !f.floor.Below(b.floor)
	f = f.above(b.floor)
	switch lags := g.lag.lags(g.cache.node.Region); {
	case !arrived && lags:
		return f.fromWhereItWas(ctx, g.lag.primary)
	case !arrived && b.set && !g.origin.any():
		return f.fromWhereItWas(ctx, b.region)
	case !hearsAll:
		return f.askUnleased(ctx)
	}
	return f.run(ctx)
}

// fromWhereItWas fills a key with what a region knows of it that has a write which has not arrived here: a
// load here would bring back what is older. The nodes of this region that keep the key are asked first: they
// hear of the write before others do.
func (f fill) fromWhereItWas(ctx context.Context, region string) answer {
	top := f.g.cache.topology()
	class := store.Copy
	if f.g.servesAsOwner(top.Home, f.key) {
		class = store.Owned
	}
	ask := func(nodes []regions.Node, hop peers.Hop, peek bool) (answer, bool) {
		for _, n := range nodes {
			if n.ID == f.g.cache.node.ID {
				continue
			}
			req := f.ownerRequest(hop, peek)
			req.class = class
			if a, ok := req.send(ctx, n); ok && a.fresh() {
				return a, true
			}
		}
		return answer{}, false
	}
	if a, ok := ask(top.Home.Owners(f.key, 2), peers.HopOwner, true); ok {
		return a
	}
	for _, r := range top.Remote {
		if a, ok := ask(r.Owners(f.key, 2), peers.HopRegion, r.Name != region); ok {
			a.source = SourceRegion
			return a
		}
	}
	return answer{err: f.g.located(ErrNotArrived)}
}
