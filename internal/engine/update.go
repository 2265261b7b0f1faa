package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/origin"
	"github.com/geocache/geocache/internal/store"
)

// An UpdateFunc returns what is to take the place of old; ok is false if there is no value. current is the
// entry that old was decoded from, or nil if another function of the same round has made old.
type UpdateFunc func(old any, ok bool, current *store.Entry) (any, error)

// ErrUnchanged is what an UpdateFunc returns that leaves the value as it is. Update returns it, and counts
// no error.
var ErrUnchanged = errors.New("the value stays as it is")

// ErrNextRound is what an UpdateFunc returns that has to see the value's entry.
var ErrNextRound = errors.New("the value has no generation yet")

// Update replaces the value of key by what f makes of it, atomically, in the key's home region. It
// returns the new value.
func (g *Group) Update(ctx context.Context, key string, f UpdateFunc, o *WriteOptions) (any, error) {
	key = strings.Clone(key)
	u := &update{f: f, options: o, lock: make(chan struct{}, 1), done: make(chan struct{})}
	err := g.router.validate(ctx, &message.WriteRequest{Key: key}, o)
	if f == nil {
		err = errors.New("the function is nil")
	}
	for _, write := range []bool{false, true} { // it does both
		if err == nil {
			var done func()
			if done, err = g.waitFor(ctx, key, write); err == nil {
				defer done()
			}
		}
	}
	if err == nil {
		err = g.updates.add(key, u)
	}
	if err == nil {
		select {
		case <-u.done:
			u.abandon() // if the round has left it behind, it is not called any more when Update returns
			err = u.err
			if err == nil && o.Ack == AckWorld {
				err = g.updates.awaitWorld(ctx, key, u.by, u.regions, &u.receipt)
			}
		case <-ctx.Done():
			if err = ctx.Err(); u.abandon() {
				err = fmt.Errorf("%w: %w", ErrUncertain, err)
			}
			u = &update{} // the other one may still be written to
		}
	}
	if o.Receipt != nil {
		*o.Receipt = u.receipt
	}
	g.stats.writes.Add(1)
	if err != nil && err != ErrUnchanged {
		g.stats.writeErrors.Add(1)
	}
	return u.value, err
}

// An update is one call of Update.
type update struct {
	options *WriteOptions

	lock    chan struct{} // has one while somebody has the following; also while f is called, which may take long
	f       UpdateFunc    // nil once the caller has gone
	applied bool          // f has returned a value that may be written

	// The following are set before done is closed.
	done    chan struct{}
	value   any
	by      string   // the node that has written it
	regions []string // that there were before
	receipt Receipt
	err     error
}

// updates are the calls of Update in this process. Those of one key go together:
// who comes while a round is under way waits for the next, in which all their
// functions are applied one after the other to one value, and one Swap brings
// home what comes out. However many callers there are, the home region sees one of this
// process at a time.
type updates struct {
	g *Group

	mu      sync.Mutex
	waiting map[string][]*update // guarded by mu; there for a key as long as a round is under way
}

// add has u take part in the next round.
func (us *updates) add(key string, u *update) error {
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.waiting == nil {
		us.waiting = make(map[string][]*update)
	}
	queue, running := us.waiting[key]
	if !running && !us.g.cache.spawn(func() { us.run(key) }) {
		return ErrClosed
	}
	us.waiting[key] = append(queue, u)
	return nil
}

// run makes rounds until nobody waits.
func (us *updates) run(key string) {
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

		us.runRound(key, round)
	}
}

// runRound makes a round.
func (us *updates) runRound(key string, round []*update) {
	ctx, cancel := context.WithTimeoutCause(us.g.cache.ctx, us.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	us.applyRound(ctx, key, round)
	for _, u := range round {
		if u.err == ErrNextRound {
			us.mu.Lock()
			us.waiting[key] = append(us.waiting[key], u)
			us.mu.Unlock()
			continue
		}
		close(u.done)
	}
}

// round applies the updates and has the home region take the result.
func (us *updates) applyRound(ctx context.Context, key string, round []*update) {
	round = slices.Clone(round) // those who still take part
	fail := func(err error) {
		for _, u := range round {
			if u.err == nil {
				u.err = err
			}
		}
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		v := us.g.cache.view.Load() // the regions are those that there are before the Swap
		home := us.g.home.region(v, key)
		req, err := us.compute(ctx, key, home, round)
		if errors.Is(err, origin.ErrGoexit) {
			// The others begin anew without the one whose function it was. If it was the codec, nobody can.
			all := len(round)
			round = slices.DeleteFunc(round, func(u *update) bool { return errors.Is(u.err, origin.ErrGoexit) })
			if len(round) < all {
				continue
			}
		}
		if err != nil {
			fail(err)
			return
		}
		if req == nil { // all have failed by themselves
			return
		}
		if us.g.config.HomeRegion == "" {
			req.Regions = v.regionsHash
		}
		reply, by, err := us.g.router.route(ctx, req, home)
		if err != nil {
			fail(homeError(home, inRound(ctx, err)))
			return
		}
		if reply.Swapped {
			for _, u := range round {
				u.by, u.regions = by, v.regions
			}
			us.applyInOwnRegion(ctx, req, reply, home, by, round, fail)
			return
		}
		us.g.stats.updateRetries.Add(1)
		select {
		case <-time.After(rand.N(pause)):
		case <-ctx.Done():
			fail(endOf(context.Cause(ctx)))
			return
		}
	}
}

// inRound is err with the reason for which the context of a round ended in place of the context's own
// error, which the callers would take for that of theirs.
func inRound(ctx context.Context, err error) error {
	end := ctx.Err()
	switch {
	case end == nil || !errors.Is(err, end):
		return err
	case errors.Is(err, ErrUncertain):
		return fmt.Errorf("%w: %w", ErrUncertain, endOf(context.Cause(ctx)))
	}
	return endOf(context.Cause(ctx))
}

// compute reads the value and applies the updates to it. It returns nil if none
// of them changes it, and origin.ErrGoexit if one of the user's functions has called that.
func (us *updates) compute(ctx context.Context, key, home string, round []*update) (*message.WriteRequest, error) {
	for begun := us.g.cache.clock.Instant(); ; {
		a, err := us.g.home.read(ctx, key, home)
		if err != nil {
			return nil, err
		}
		r := &roundResult{values: make([]any, len(round)), errs: make([]error, len(round))}
		done, ok := origin.Go(&us.g.guard, us.g.cache.spawn, "codec or function of Update", key,
			origin.NoValue(func() error { return us.apply(r, a, begun, key, round) }))
		if !ok {
			return nil, ErrClosed
		}
		o, ok := origin.Await(ctx, done)
		if !ok {
			return nil, endOf(context.Cause(ctx)) // r is being written to yet
		}
		for i, u := range round {
			u.value, u.err = r.values[i], r.errs[i]
		}
		switch {
		case o.Err != nil:
			return nil, o.Err
		case r.late:
			continue
		case !r.changed:
			return nil, nil
		}
		req := &message.WriteRequest{Group: us.g.name, Key: key, Op: message.Swap, Expected: a.entry.Stamp, Absent: a.entry.Absent(),
			Tags: a.entry.Tags(), Born: a.entry.Born(), Life: r.life, Value: r.value, Tagged: len(r.tags) > 0}
		err = us.g.router.validate(us.g.cache.ctx, req, &WriteOptions{}) // tags come on top of the largest value
		req.Value = WithTags(r.tags, req.Value)
		return req, err
	}
}

// applied is what comes of applying the updates of a round. It is written on a goroutine that may be
// left behind, and then read by nobody.
type roundResult struct {
	values []any // of each update
	errs   []error

	late    bool // the value was too old by then
	changed bool
	value   []byte   // the last one, encoded
	tags    []string // of the last one
	life    time.Duration
}

// apply applies the updates to an answer that was asked for at an instant.
func (us *updates) apply(r *roundResult, a answer, begun expiry.Instant, key string, round []*update) (err error) {
	var value any
	current := a.entry
	there := !a.entry.Absent()
	if there {
		if value, err = us.g.config.Codec.Decode(a.entry); err != nil {
			return fmt.Errorf("the value does not decode: %w", err)
		}
	}
	if r.late = us.g.cache.clock.Instant() >= us.g.until(a, begun); r.late {
		return nil
	}
	for i, u := range round {
		r.errs[i] = fmt.Errorf("the function %w", origin.ErrGoexit) // what stands if it does not return
		next, err := u.apply(&us.g.guard, key, value, there, current)
		if r.errs[i] = err; err != nil {
			continue
		}
		value, there, r.changed, current = next, true, true, nil
		r.values[i], r.tags = next, u.options.Tags
		if u.options.TTL > 0 && (r.life == 0 || u.options.TTL < r.life) {
			r.life = u.options.TTL
		}
	}
	if !r.changed {
		return nil
	}
	r.value, err = origin.Call(&us.g.guard, "codec", key, func() ([]byte, error) { return us.g.config.Codec.Encode(value) })
	if err != nil {
		err = fmt.Errorf("the value cannot be encoded: %w", err)
	}
	return err
}

// apply calls the user's function.
func (u *update) apply(guard *origin.Guard, key string, old any, ok bool, current *store.Entry) (v any, err error) {
	u.lock <- struct{}{}
	defer func() { <-u.lock }()
	if u.f == nil {
		return v, context.Canceled // for nobody
	}
	v, err = origin.Call(guard, "function of Update", key, func() (any, error) { return u.f(old, ok, current) })
	u.applied = u.applied || err == nil
	return v, err
}

// abandon has the user's function not be called any more. It reports whether what it
// has returned may be written, or has been.
func (u *update) abandon() (applied bool) {
	u.lock <- struct{}{}
	defer func() { <-u.lock }()
	u.f = nil
	return u.applied
}

// applyInOwnRegion has this process's own region take in what the home region has, and
// says what came of the round.
func (us *updates) applyInOwnRegion(ctx context.Context, req *message.WriteRequest, reply message.WriteReply, home, by string, round []*update, fail func(error)) {
	result := Receipt{Generation: reply.Stamp.Generation, Confirmed: []string{home}}
	if reply.Unconfirmed {
		result.Confirmed, result.Pending = nil, []string{home}
	}
	if own := us.g.cache.node.Region; own != home {
		w := message.Write{Group: us.g.name, Key: req.Key, Stamp: reply.Stamp, HasValue: true, Value: req.Value, Tagged: req.Tagged, Life: us.g.life(req.Key, false, req.Life)}
		_ = us.g.origin.supersede(&w) // drops what is older, there is nothing to keep
		us.g.apply(&w, 0, 0)
		err := us.g.cache.broadcast(ctx, &w)
		if errors.Is(err, errGuest) { // which waits for others to tell its region
			err = us.g.router.awaitRegion(ctx, by, message.AwaitRequest{Group: us.g.name, Key: req.Key, Region: own})
		}
		if err == nil {
			result.Confirmed = append([]string{own}, result.Confirmed...)
		} else {
			result.Pending = append(result.Pending, own)
		}
	}
	for _, u := range round {
		if u.err == nil {
			u.receipt = result
		}
	}
	if len(result.Pending) > 0 {
		fail(fmt.Errorf("%w: not by all of %s", ErrUnconfirmed, strings.Join(result.Pending, ", ")))
	}
}

// awaitWorld waits for those of the regions that have not confirmed yet.
func (us *updates) awaitWorld(ctx context.Context, key, by string, regions []string, result *Receipt) error {
	var names []string
	for _, region := range regions {
		if !slices.Contains(result.Confirmed, region) {
			names = append(names, region)
		}
	}
	result.Confirmed = slices.Clone(result.Confirmed) // the others of the round share it
	return us.g.router.awaitRegions(ctx, &message.WriteRequest{Key: key}, by, names, result)
}
