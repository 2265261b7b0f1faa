package geocache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
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

// read answers a read of this process, and counts it. It returns the instant of the last look, too.
func (g *Group[V]) read(ctx context.Context, op, key string) (v V, a answer, at expiry.Instant, err error) {
	a, ok := g.atHand(key)
	begun := g.cache.clock.Instant()
	if !ok {
		a = g.fill(ctx, key)
	}
	for {
		v, a = g.decodeOrLoad(ctx, a)
		if at = g.cache.clock.Instant(); at < g.until(a, begun) {
			break
		}
		a = g.fill(ctx, key)
	}
	a = g.marked(a, at)
	return v, a, at, g.counted(ctx, op, key, a)
}

// until returns the instant from which on an answer is too late for a read that began at another.
//
// What was loaded since the read began is never too late. If it has expired, then loading, or what else
// the read waits for, takes longer than it lives: it is what there is, and is marked. Hence reads end, since
// what is from before comes no more when it has expired everywhere. When a value was loaded is told by its
// age, not by its generation, which another node's clock may have made.
func (g *group) until(a answer, begun expiry.Instant) expiry.Instant {
	switch e := a.entry; {
	case a.err != nil || e.Born() >= begun.Add(-ageRounding):
		return math.MaxInt64
	case e.Expires <= e.Born(): // an absence not to be kept
		return math.MaxInt64
	case a.source != SourceStale:
		return e.Expires
	case a.revalidated:
		return e.Expires.Add(g.config.revalidate)
	default:
		return e.Expires.Add(g.config.staleness())
	}
}

// ageRounding is by how much a value may seem older than it is: ages travel in whole microseconds, rounded
// up, from a region's owner to this one's and from there.
const ageRounding = 2 * time.Microsecond

// marked returns a as it is at the last look.
func (g *group) marked(a answer, at expiry.Instant) answer {
	if a.err == nil && !a.entry.Absent() && at >= a.entry.Expires {
		a.source = SourceStale
	}
	return a
}

// counted counts what a read has come to, and returns its error.
func (g *group) counted(ctx context.Context, op, key string, a answer) error {
	switch {
	case a.err != nil:
		g.stats.errors.Add(1)
		var known *Error
		if a.err == errNoContext {
			return inCall(op, g.name, key, a.err)
		}
		if err := ctx.Err(); err != nil && !errors.As(a.err, &known) {
			a.err = err // the caller's own end, not the load's
		}
		return inCall(op, g.name, key, a.err)
	case a.entry.Absent():
		g.stats.notFound.Add(1)
		return inCall(op, g.name, key, ErrNotFound)
	}
	if a.source == SourceStore {
		if g.stats.hits.add() { // as in Get, or its turn to do it might never come
			g.cache.exactlyBefore(a.entry.Expires)
		}
	} else {
		g.stats.bySource[a.source].Add(1)
	}
	return nil
}

// living returns the value of an entry of the store that may be served. What has expired while it
// was decoded may not.
func (g *Group[V]) living(e *store.Entry) (v V, ok bool) {
	if e.Absent() || !g.alive(e) {
		return v, false
	}
	decoded, err := g.decode(e)
	if err != nil || g.cache.clock.Instant() >= e.Expires {
		return v, false
	}
	return decoded, true
}

// maxKey is the longest key, in bytes. It holds for a Cache that is alone too:
// what works there must work in a cluster.
const maxKey = note.MaxKey

var errNoContext = errors.New("the context is nil")

// refused returns the error of a read for which nothing should be started.
func refused(ctx context.Context, key string) answer {
	if ctx == nil {
		return answer{err: errNoContext}
	}
	if len(key) > maxKey {
		return answer{err: fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", ErrTooLarge, len(key), maxKey)}
	}
	return answer{err: ctx.Err()}
}
