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

// This file is the last look that every read of this process takes at a value: Get, unless the value is
// at hand, GetItem and GetMany; Peek and All; Memoize, which is Get; and what Update gives its function.
//
// It comes when nothing is left to do that takes time: all keys of the read are here, and all values are
// decoded. While a codec works, a caller is late to wake up on a busy machine, or GetMany waits for other
// keys, what has been looked at before grows older. So does it while a value that has come too late is filled
// once more. After that, all is looked at again.
//
// What happens between the look and the return is beyond it: a process that is stopped there goes on with
// what it has.

// A Decode decodes the value of an entry for its reader, and leaves it in the entry.
type Decode func(e *store.Entry) error

// Hit returns the entry of key if it is in memory, alive, and may be served. Call CountHit when its
// value is at hand.
func (g *Group) Hit(key string) (*store.Entry, bool) {
	e, ok := g.store.Get(key)
	return e, ok && g.fresh.servesUnexpired(e) && g.cache.coarse.before(e.Expires)
}

// CountHit counts a hit. It reports false if the entry has turned out to have expired.
func (g *Group) CountHit(e *store.Entry) bool {
	if g.stats.hits.add() && !g.cache.coarse.exactlyBefore(e.Expires) {
		return false
	}
	if g.config.RefreshAhead > 0 && g.cache.coarse.reached(e.Expires.Add(-g.config.RefreshAhead)) {
		g.refreshing.ahead(e)
	}
	return true
}

// A Read is what a read has found.
type Read struct {
	Entry  *store.Entry
	Source Source
	At     expiry.Instant // of the last look
}

// Age returns how old the value was at the last look.
func (r Read) Age() time.Duration { return r.At.Sub(r.Entry.Born()) }

// Expires returns when the value expires, by the wall clock.
func (g *Group) Expires(r Read) time.Time {
	return g.cache.clock.Wall().Add(r.Entry.Expires.Sub(r.At))
}

// Read answers a read of this process, and counts it. decode is called for each entry that may be
// the answer, the last one for the answer.
func (g *Group) Read(ctx context.Context, key string, decode Decode) (Read, error) {
	a, ok := g.atHand(key)
	begun := g.cache.clock.Instant()
	if !ok {
		a = g.fill(ctx, key)
	}
	for {
		a = g.decodeOrLoad(ctx, a, decode)
		at := g.cache.clock.Instant()
		if at < g.until(a, begun) {
			a = g.marked(a, at)
			return Read{a.entry, a.source, at}, g.counted(ctx, a)
		}
		a = g.fill(ctx, key)
	}
}

// ReadMany answers a read of many keys with one request to each owner. decode is called for each key
// that has a value, and forget for one whose value, which has been decoded, is asked for again.
func (g *Group) ReadMany(ctx context.Context, keys []string, decode func(key string) Decode, forget func(key string)) KeyErrors {
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
			until = min(until, g.until(f.answer, begun))
		}
		if at = g.cache.clock.Instant(); at < until { // the last look, at all of them
			break
		}
		missed = missed[:0]
		all = slices.DeleteFunc(all, func(f found) bool {
			late := at >= g.until(f.answer, begun)
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
		if err := g.counted(ctx, g.marked(f.answer, at)); err != nil && !errors.Is(err, ErrNotFound) {
			errs.Add(f.key, err)
		}
	}
	return errs
}

// until returns the instant from which on an answer is too late for a read that began at another.
//
// What was loaded since the read began is never too late. If it has expired, then loading, or what else
// the read waits for, takes longer than it lives: it is what there is, and is marked. Hence reads end, since
// what is from before comes no more when it has expired everywhere. When a value was loaded is told by its
// age, not by its generation, which another node's clock may have made.
func (g *Group) until(a answer, begun expiry.Instant) expiry.Instant {
	switch e := a.entry; {
	case a.err != nil || e.Born() >= begun.Add(-ageRounding):
		return math.MaxInt64
	case e.Expires <= e.Born(): // an absence not to be kept
		return math.MaxInt64
	case a.source != SourceStale:
		return e.Expires
	case a.revalidated:
		return e.Expires.Add(g.config.Revalidate)
	default:
		return e.Expires.Add(g.fresh.staleness)
	}
}

// ageRounding is by how much a value may seem older than it is: ages travel in whole microseconds, rounded
// up, from a region's owner to this one's and from there.
const ageRounding = 2 * time.Microsecond

// marked returns a as it is at the last look.
func (g *Group) marked(a answer, at expiry.Instant) answer {
	if a.err == nil && !a.entry.Absent() && at >= a.entry.Expires {
		a.source = SourceStale
	}
	return a
}

// counted counts what a read has come to, and returns its error.
func (g *Group) counted(ctx context.Context, a answer) error {
	switch {
	case a.err != nil:
		g.stats.errors.Add(1)
		var known *Error
		if a.err == errNoContext {
			return a.err
		}
		if err := ctx.Err(); err != nil && !errors.As(a.err, &known) {
			return err // the caller's own end, not the load's
		}
		return a.err
	case a.entry.Absent():
		g.stats.notFound.Add(1)
		return ErrNotFound
	}
	if a.source == SourceStore {
		if g.stats.hits.add() { // as in CountHit, or its turn to do it might never come
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

// Alive reports whether an entry of this group has not expired yet. What has expired while it was decoded
// may not be served.
func (g *Group) Alive(e *store.Entry) bool { return !g.fresh.expired(e, g.cache.clock.Instant()) }

// All returns the entries whose values may be served now, in the order of eviction if the policy has one.
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

// Len returns the number of entries that All would return.
func (g *Group) Len() int {
	n := 0
	for e := range g.store.All() {
		if !e.Absent() && g.fresh.serves(e, g.cache.clock.Instant()) {
			n++
		}
	}
	return n
}

// MaxKey is the longest key, in bytes. It holds for a Cache that is alone too:
// what works there must work in a cluster.
const MaxKey = message.MaxKey

// refused returns the error of a read for which nothing should be started.
func refused(ctx context.Context, key string) answer {
	if ctx == nil {
		return answer{err: errNoContext}
	}
	if len(key) > MaxKey {
		return answer{err: fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", ErrTooLarge, len(key), MaxKey)}
	}
	return answer{err: ctx.Err()}
}
