package geocache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache/internal/note"
)

// ErrHomeUnreachable says that an Update could not reach the home region of its
// key.
var ErrHomeUnreachable = errors.New("geocache: the key's home region cannot be reached")

// Update replaces the value of key by what f makes of it, atomically: no other
// Update of this key comes in between, from whichever region. ok is false if
// there is no value; old comes from memory or from the getter. Update returns the new
// value.
//
// Updates of a key take place in its home region: the one named by
// WithHomeRegion, else one of those known, chosen by the key. If that cannot be
// reached the error is ErrHomeUnreachable: a second home would be a second truth.
// When a region joins it becomes the home of some keys, and takes over their values. For a time to live
// after that, the first Update of each key there needs the other regions too.
// Set and Remove take place everywhere, and may come in between. As with Set, the value is not
// safe from eviction, or from the loss of both nodes that keep it in the home region,
// unless an origin has it.
//
// f may be called several times, on any goroutine, and its last result counts;
// it must be quick and must not use the group. It is not called any more once Update has
// returned. So if ctx ends while f runs, Update waits for f. If it returns an error nothing is written and Update returns that error, in
// an *Error; if it panics, a *PanicError.
//
// The value's life begins anew, the group's or ItemTTL's, whatever that of the old one was.
//
// With WithSetter, an Update whose key gets another owner while the setter runs is
// ErrUncertain.
func (g *Group[V]) Update(ctx context.Context, key string, f func(old V, ok bool) (V, error), opts ...WriteOption) (V, error) {
	config := configOf(opts)
	key = strings.Clone(key)
	u := &update[V]{f: f, config: config, done: make(chan struct{})}
	err := g.refuseWrite(ctx, &note.Write{Key: key}, &config)
	if f == nil {
		err = errors.New("the function is nil")
	}
	if err == nil {
		err = g.updates.add(g, key, u)
	}
	if err == nil {
		select {
		case <-u.done:
			err = u.err
			if err == nil && config.ack == World {
				err = g.confirmedByWorld(ctx, key, u.by, u.regions, &u.result)
			}
		case <-ctx.Done():
			if err = ctx.Err(); u.abandon() {
				err = fmt.Errorf("%w: %w", ErrUncertain, err)
			}
			u = &update[V]{} // the other one may still be written to
		}
	}
	if config.into != nil {
		*config.into = u.result
	}
	g.stats.writes.Add(1)
	if err != nil {
		g.stats.writeErrors.Add(1)
	}
	return u.value, inWrite("Update", g.name, key, err)
}

// An update is one call of Update.
type update[V any] struct {
	config writeConfig

	mu      sync.Mutex               // guards the following; held while f is called
	f       func(V, bool) (V, error) // nil once the caller has gone
	applied bool                     // f has returned a value that may be written

	// The following are set before done is closed.
	done    chan struct{}
	value   V
	by      string   // the node that has written it
	regions []string // that there were before
	result  Written
	err     error
}

// updates are the calls of Update in this process. Those of one key go together:
// who comes while a round is under way waits for the next, in which all their
// functions are applied one after the other to one value, and one Swap brings
// home what comes out. However many callers there are, the home region sees one of this
// process at a time.
type updates[V any] struct {
	mu      sync.Mutex
	waiting map[string][]*update[V] // guarded by mu; there for a key as long as a round is under way
}

// add has u take part in the next round.
func (us *updates[V]) add(g *Group[V], key string, u *update[V]) error {
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.waiting == nil {
		us.waiting = make(map[string][]*update[V])
	}
	queue, running := us.waiting[key]
	if !running && !g.cache.spawn(func() { us.run(g, key) }) {
		return ErrClosed
	}
	us.waiting[key] = append(queue, u)
	return nil
}

// run makes rounds until nobody waits.
func (us *updates[V]) run(g *Group[V], key string) {
	for {
		us.mu.Lock()
		round := us.waiting[key]
		if len(round) == 0 {
			delete(us.waiting, key)
			us.mu.Unlock()
			return
		}
		us.waiting[key] = nil
		us.mu.Unlock()

		us.round(g, key, round)
	}
}

// round makes a round. It always ends those in it, even if one of their functions ends the
// goroutine: then the others wait for the next round, on another one.
func (us *updates[V]) round(g *Group[V], key string, round []*update[V]) {
	ctx, cancel := context.WithTimeoutCause(g.cache.ctx, g.config.loadTimeout, ErrTimeout)
	returned := false
	defer func() {
		cancel()
		if !returned {
			round = us.restart(g, key, round)
		}
		for _, u := range round {
			close(u.done)
		}
	}()
	g.round(ctx, key, round)
	returned = true
}

// restart has another goroutine make the rounds of a key, and returns those of the
// last round who do not take part any more.
func (us *updates[V]) restart(g *Group[V], key string, round []*update[V]) (ended []*update[V]) {
	us.mu.Lock()
	defer us.mu.Unlock()
	var again []*update[V]
	for _, u := range round {
		if u.err != nil {
			ended = append(ended, u)
		} else {
			again = append(again, u)
		}
	}
	us.waiting[key] = append(again, us.waiting[key]...)
	if !g.cache.spawn(func() { us.run(g, key) }) {
		for _, u := range us.waiting[key] {
			u.err = ErrClosed
			ended = append(ended, u)
		}
		delete(us.waiting, key)
	}
	return ended
}

// round applies the updates and has the home region take the result.
func (g *Group[V]) round(ctx context.Context, key string, round []*update[V]) {
	fail := func(err error) {
		for _, u := range round {
			if u.err == nil {
				u.err = err
			}
		}
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		v := g.cache.standing.view.Load() // the regions are those that there are before the Swap
		home := g.home(v, key)
		w, err := g.compute(ctx, key, home, round)
		if err != nil {
			fail(err)
			return
		}
		if w == nil { // all have failed by themselves
			return
		}
		if g.config.homeRegion == "" {
			w.Regions = v.list
		}
		wrote, by, err := g.route(ctx, w, home)
		if err != nil {
			fail(homeError(home, err))
			return
		}
		if wrote.Swapped {
			for _, u := range round {
				u.by, u.regions = by, v.regions
			}
			g.bringHome(ctx, w, wrote, home, round, fail)
			return
		}
		g.stats.retried.Add(1)
		select {
		case <-time.After(rand.N(pause)):
		case <-ctx.Done():
			fail(endOf(context.Cause(ctx)))
			return
		}
	}
}

// compute reads the value and applies the updates to it. It returns nil if none
// of them changes it.
func (g *Group[V]) compute(ctx context.Context, key, home string, round []*update[V]) (*note.Write, error) {
	var a answer
	var value V
	ok := false
	for begun, late := g.cache.clock.Instant(), true; late; late = g.cache.clock.Instant() >= g.until(a, begun) {
		var err error
		if a, err = g.readHome(ctx, key, home); err != nil {
			return nil, err
		}
		if ok = !a.entry.Absent(); ok {
			if value, err = g.decode(a.entry); err != nil {
				return nil, fmt.Errorf("the value does not decode: %w", err)
			}
		}
	}
	w := &note.Write{Group: g.name, Key: key, Op: note.Swap, Expected: a.entry.Stamp, Absent: !ok,
		Tags: a.entry.Tags(), Born: a.entry.Born()}
	changed := false
	var tags []string // of the last
	for _, u := range round {
		u.err = errUpdateGoexit // what stands if f does not return
		next, err := u.apply(value, ok)
		if u.err = err; err != nil {
			continue
		}
		value, ok, changed = next, true, true
		u.value = next
		tags = u.config.tags
		if u.config.ttl > 0 && (w.Life == 0 || u.config.ttl < w.Life) {
			w.Life = u.config.ttl
		}
	}
	if !changed {
		return nil, nil
	}
	var err error
	w.Value, err = g.codec.Encode(value)
	if err != nil {
		return nil, fmt.Errorf("the value cannot be encoded: %w", err)
	}
	w.Tagged = len(tags) > 0
	err = g.refuseWrite(g.cache.ctx, w, &writeConfig{}) // tags come on top of the largest value
	w.Value = withTags(tags, w.Value)
	return w, err
}

// apply calls the user's function. A panic is the caller's error: it is not on
// the goroutine that would have been its to bring down.
func (u *update[V]) apply(old V, ok bool) (v V, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.f == nil {
		return v, context.Canceled // for nobody
	}
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		u.applied = u.applied || err == nil
	}()
	return u.f(old, ok)
}

// abandon has the user's function not be called any more. It reports whether what it
// has returned may be written, or has been.
func (u *update[V]) abandon() (applied bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.f = nil
	return u.applied
}

var errUpdateGoexit = errors.New("the function called runtime.Goexit")

// bringHome has this process's own region take in what the home region has, and
// says what came of the round.
func (g *Group[V]) bringHome(ctx context.Context, w *note.Write, wrote note.Wrote, home string, round []*update[V], fail func(error)) {
	result := Written{Generation: wrote.Stamp.Generation, Confirmed: []string{home}}
	if wrote.Unconfirmed {
		result.Confirmed, result.Pending = nil, []string{home}
	}
	if own := g.cache.node.Region; own != home {
		n := note.Note{Group: g.name, Key: w.Key, Stamp: wrote.Stamp, HasValue: true, Value: w.Value, Tagged: w.Tagged, Life: g.life(w.Key, false, w.Life)}
		_ = g.takeDirty(&n) // drops what is older, there is nothing to keep
		g.take(&n, 0, 0)
		if err := g.cache.spread(ctx, &n); err == nil {
			result.Confirmed = append([]string{own}, result.Confirmed...)
		} else {
			result.Pending = append(result.Pending, own)
		}
	}
	for _, u := range round {
		if u.err == nil {
			u.result = result
		}
	}
	if len(result.Pending) > 0 {
		fail(fmt.Errorf("%w: not by all of %s", ErrUnconfirmed, strings.Join(result.Pending, ", ")))
	}
}

// confirmedByWorld waits for those of the regions that have not confirmed yet.
func (g *group) confirmedByWorld(ctx context.Context, key, by string, regions []string, result *Written) error {
	var names []string
	for _, region := range regions {
		if !slices.Contains(result.Confirmed, region) {
			names = append(names, region)
		}
	}
	result.Confirmed = slices.Clone(result.Confirmed) // the others of the round share it
	return g.awaitAll(ctx, &note.Write{Key: key}, by, names, result)
}
