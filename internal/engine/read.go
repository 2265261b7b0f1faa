package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
)

// This file has the final check of every local read: Get except for plain hits, GetItem and GetMany, Peek
// and All, Memoize, which uses Get, and the value that Update passes to its function.
//
// The check comes after everything that takes time: when all keys of the read have been found and all
// values decoded. While a codec runs, a caller on a busy machine waits to be scheduled, or GetMany waits
// for other keys, values that were checked earlier age further. A value that turns out to be too old is
// filled again, which takes time too. So then everything is checked again.
//
// What happens between the check and the return is out of reach: a process that is stopped there continues
// with the value it has.

// A Decode decodes an entry's value for the reader and stores the result in the entry.
type Decode func(e *store.Entry) error

// Hit returns the entry of key if it is in memory, alive, and may be served. Call CountHit once the value
// is decoded.
func (g *Group) Hit(key string) (*store.Entry, bool) {
	e, ok := g.store.Get(key)
	return e, ok && g.fresh.servesHit(e)
}

// CountHit counts a hit. It returns false if the entry turns out to have expired.
func (g *Group) CountHit(e *store.Entry) bool {
	if g.stats.hits.add() && !g.cache.coarse.exactlyBefore(e.Expires) {
		return false
	}
	if g.config.RefreshAhead > 0 && g.cache.coarse.reached(e.Expires.Add(-g.config.RefreshAhead)) {
		g.refreshing.ahead(e)
	}
	return true
}

// A Read is the result of a read.
type Read struct {
	Entry  *store.Entry
	Source Source
	At     expiry.Instant // the time of the final check

	Unconfirmed bool // see freshness.isUnconfirmed
}

// Age returns the age of the value at the final check.
func (r Read) Age() time.Duration { return r.At.Sub(r.Entry.Born()) }

// Expires returns the wall-clock time at which the value expires.
func (g *Group) Expires(r Read) time.Time {
	return g.cache.clock.Wall().Add(r.Entry.Expires.Sub(r.At))
}

// Read answers a local read and counts it. It calls decode for each entry that may become the answer, last
// for the one that does.
func (g *Group) Read(ctx context.Context, key string, decode Decode) (Read, error) {
	unconfirmed := g.cache.leases.Unconfirmed()
	a, ok := g.atHand(key)
	begun := g.cache.clock.Instant()
	if !ok {
		a = g.fill(ctx, key)
	}
	return finishRead(ctx, g, key, nil, a, begun, unconfirmed, decode)
}

// ReadAfter is Read for a value that is not older than the writes that concern the key.
func (g *Group) ReadAfter(ctx context.Context, key string, writes []After, decode Decode) (Read, error) {
	b, err := newBound(g, key, writes)
	if err != nil {
		g.stats.errors.Add(1)
		return Read{}, err
	}
	if b.isNone() {
		return g.Read(ctx, key, decode)
	}
	unconfirmed := g.cache.leases.Unconfirmed()
	a, ok := g.atHand(key)
	begun := g.cache.clock.Instant()
	if !ok || !b.allows(&g.fresh, a.entry, begun) {
		a = b.fillFrom(ctx, g, key, begun)
	}
	return finishRead(ctx, g, key, &b, a, begun, unconfirmed, decode)
}

// finishRead decodes, checks and counts the answer of a read that began at begun. It fills the key again if
// that one has become too old. b is nil for a read that need not come after any write.
func finishRead(
	ctx context.Context, g *Group, key string, b *bound, a answer, begun expiry.Instant, unconfirmed bool,
	decode Decode,
) (Read, error) {
	for {
		a = g.decodeOrLoad(ctx, a, decode)
		at := g.cache.clock.Instant()
		if at < g.servableUntil(a, begun) {
			a = g.markStale(a, at)
			unconfirmed = unconfirmed && a.source != SourceGetter || g.fresh.isUnconfirmed(a)
			return Read{a.entry, a.source, at, unconfirmed}, g.countRead(ctx, a)
		}
		if b == nil {
			a = g.fill(ctx, key)
		} else {
			a = b.fillFrom(ctx, g, key, begun)
		}
	}
}

// ReadMany answers a local read of many keys, with one request to each owner. It calls decode for each key
// that has a value. It calls forget for a key whose decoded value turned out to be too old, before it fills
// the key again.
func (g *Group) ReadMany(
	ctx context.Context, keys []string, decode func(key string) Decode, forget func(key string),
) KeyErrors {
	type found struct {
		key string
		answer
	}
	begun := g.cache.clock.Instant()
	seen := make(map[string]bool, len(keys))
	missed := keys[:0:0]
	all := make([]found, 0, len(keys))
	for _, key := range keys {
		if seen[key] {
			continue
		}
		seen[key] = true
		if a, ok := g.atHand(key); ok {
			all = append(all, found{key, a})
		} else {
			missed = append(missed, key)
		}
	}
	var at expiry.Instant
	for decoded := 0; ; {
		if len(missed) > 0 {
			g.fillMany(ctx, missed, func(key string, a answer) { all = append(all, found{key, a}) })
		}
		until := expiry.Instant(math.MaxInt64)
		for i := range all {
			f := &all[i]
			if i >= decoded {
				f.answer = g.decodeOrLoad(ctx, f.answer, decode(f.key))
			}
			until = min(until, g.servableUntil(f.answer, begun))
		}
		if at = g.cache.clock.Instant(); at < until { // the final check, of all values
			break
		}
		missed = missed[:0]
		all = slices.DeleteFunc(all, func(f found) bool {
			late := at >= g.servableUntil(f.answer, begun)
			if late {
				forget(f.key)
				missed = append(missed, f.key)
			}
			return late
		})
		decoded = len(all)
	}
	var errs KeyErrors
	for _, f := range all {
		if err := g.countRead(ctx, g.markStale(f.answer, at)); err != nil && !errors.Is(err, ErrNotFound) {
			errs.Add(f.key, err)
		}
	}
	return errs
}

// servableUntil returns the instant from which on an answer is too old for a read that began at begun.
//
// A value that was loaded after the read began is never too old. If it has expired, then loading it, or
// whatever else the read waits for, takes longer than it lives; it is the best there is, and is marked as
// stale. Hence reads end: once the values from before the read have expired everywhere, no more of them
// arrive. The age tells when a value was loaded, not the generation, which may come from another node's
// clock.
func (g *Group) servableUntil(a answer, begun expiry.Instant) expiry.Instant {
	switch e := a.entry; {
	case a.err != nil || e.Born() >= begun.Add(-ageRounding):
		return math.MaxInt64
	case e.Expires <= e.Born(): // an absence that is not remembered
		return math.MaxInt64
	case a.source != SourceStale:
		return e.Expires
	case a.revalidated:
		return e.Expires.Add(g.config.Revalidate)
	default:
		return e.Expires.Add(g.fresh.staleness)
	}
}

// ageRounding bounds how much rounding adds to a value's age: ages travel in whole microseconds, rounded
// up, from a region's owner to this region's owner and from there to this node.
const ageRounding = 2 * time.Microsecond

// markStale returns a, with the source SourceStale if its value has expired by at, the time of the
// final check.
func (g *Group) markStale(a answer, at expiry.Instant) answer {
	if a.err == nil && !a.entry.Absent() && at >= a.entry.Expires {
		a.source = SourceStale
	}
	return a
}

// countRead counts the result of a read and returns its error.
func (g *Group) countRead(ctx context.Context, a answer) error {
	switch {
	case a.err != nil:
		g.stats.errors.Add(1)
		var known *Error
		if a.err == errNoContext {
			return a.err
		}
		if err := ctx.Err(); err != nil && !errors.As(a.err, &known) {
			return err // the caller's context ended, not the load's
		}
		return a.err
	case a.entry.Absent():
		g.stats.notFound.Add(1)
		return ErrNotFound
	}
	if a.source == SourceStore {
		if g.stats.hits.add() { // as in CountHit, or this turn to read the exact clock would be lost
			g.cache.coarse.exactlyBefore(a.entry.Expires)
		}
	} else {
		g.stats.bySource[a.source].Add(1)
	}
	return nil
}

// Peek returns the entry of key if it is in memory and its value may be served now.
func (g *Group) Peek(key string) (*store.Entry, bool) {
	e, ok := g.store.Peek(key)
	return e, ok && !e.Absent() && g.fresh.serves(e, g.cache.clock.Instant())
}

// Alive reports whether e, an entry of this group, has not expired. A value that expired while it was being
// decoded must not be served.
func (g *Group) Alive(e *store.Entry) bool { return !g.fresh.expired(e, g.cache.clock.Instant()) }

// All returns the entries whose values may be served now, in eviction order if the policy has one.
func (g *Group) All() iter.Seq[*store.Entry] {
	return func(yield func(*store.Entry) bool) {
		entries := g.store.All()
		if g.config.Policy != store.S3FIFO {
			entries = slices.Values(g.store.InOrder())
		}
		for e := range entries {
			if !e.Absent() && g.fresh.serves(e, g.cache.clock.Instant()) && !yield(e) {
				return
			}
		}
	}
}

// Len returns the number of entries that All would yield.
func (g *Group) Len() int {
	n := 0
	for e := range g.store.All() {
		if !e.Absent() && g.fresh.serves(e, g.cache.clock.Instant()) {
			n++
		}
	}
	return n
}

// MaxKey is the maximum length of a key, in bytes. It also applies to a Cache that is alone: code that
// works there must work in a cluster.
const MaxKey = message.MaxKey

// checkRead returns an answer whose error says why a read must not start, or is nil.
func checkRead(ctx context.Context, key string) answer {
	if ctx == nil {
		return answer{err: errNoContext}
	}
	if len(key) > MaxKey {
		err := fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", ErrTooLarge, len(key), MaxKey)
		return answer{err: err}
	}
	return answer{err: ctx.Err()}
}
