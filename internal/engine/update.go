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

// An UpdateFunc returns the value that replaces old; ok is false if there is none. current is the entry
// that old was decoded from, or nil if old was returned by another function of the same round.
type UpdateFunc func(old any, ok bool, current *store.Entry) (any, error)

// ErrUnchanged is returned by an UpdateFunc that leaves the value as it is. Update returns it, and does
// not count it as an error.
var ErrUnchanged = errors.New("the value stays as it is")

// ErrNextRound is returned by an UpdateFunc that decides nothing on a value that has not been written yet: it is
// called again in the next round.
var ErrNextRound = errors.New("the value has no generation yet")

// Update atomically replaces the value of key by what f makes of it, in the key's home region. It returns
// the new value. f is called again if the value has changed before the result could be written.
func (g *Group) Update(ctx context.Context, key string, f UpdateFunc, o *WriteOptions) (any, error) {
	key = strings.Clone(key)
	u := &update{f: f, options: o, lock: make(chan struct{}, 1), done: make(chan struct{})}
	err := g.router.validate(ctx, &message.WriteRequest{Key: key}, o)
	if f == nil {
		err = errors.New("the function is nil")
	}
	for _, write := range []bool{false, true} { // an Update both reads and writes
		if err == nil {
			var done func()
			if done, err = g.trackWait(ctx, key, write); err == nil {
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
			u.abandon() // a call that the round left behind must not go on after Update returns
			err = u.err
			if err == nil && o.Ack == AckWorld {
				err = g.updates.awaitWorld(ctx, key, u.by, u.regions, &u.receipt)
			}
		case <-ctx.Done():
			if err = ctx.Err(); u.abandon() {
				err = fmt.Errorf("%w: %w", ErrUncertain, err)
			}
			u = &update{} // the round may still write to the other one
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

	// lock is a mutex: it is full while somebody uses the following two, which may take long, since f is
	// called while it is held.
	lock    chan struct{}
	f       UpdateFunc // nil once the caller has gone
	applied bool       // f has returned a value that may be written

	// The following are set before done is closed.
	done    chan struct{}
	value   any
	by      string   // the ID of the node that wrote the value
	regions []string // those of the view before the write
	receipt Receipt
	err     error
}

// updates are the calls of Update in this process. Those of one key are combined: whoever comes while a
// round is under way waits for the next, which applies all their functions to one value in turn and sends
// the result to the home region in one Swap. So the home region sees one request of this process at a
// time, however many callers there are.
type updates struct {
	g *Group

	mu      sync.Mutex
	waiting map[string][]*update // guarded by mu; has a key while a round is under way for it
}

// add queues u for the next round.
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

// run runs rounds until nobody waits.
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

// runRound runs one round, and tells its callers how it ended.
func (us *updates) runRound(key string, round []*update) {
	ctx, cancel := context.WithTimeoutCause(us.g.cache.ctx, us.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	us.applyRound(ctx, key, round)
	for _, u := range round {
		if u.err == ErrNextRound {
			u.err = nil // the next round may end before it calls the function again
			us.mu.Lock()
			us.waiting[key] = append(us.waiting[key], u)
			us.mu.Unlock()
			continue
		}
		close(u.done)
	}
}

// applyRound applies the updates, and has the home region swap in the result. It retries until the Swap
// succeeds.
func (us *updates) applyRound(ctx context.Context, key string, round []*update) {
	round = slices.Clone(round) // those that still take part
	fail := func(err error) {
		for _, u := range round {
			if u.err == nil {
				u.err = err
			}
		}
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		v := us.g.cache.view.Load() // before the Swap, which names its regions
		home := us.g.home.region(v, key)
		req, err := us.compute(ctx, key, home, round)
		if errors.Is(err, origin.ErrGoexit) {
			// Retry without the caller whose function called Goexit. If it was the codec, nobody can go on.
			all := len(round)
			round = slices.DeleteFunc(round, func(u *update) bool {
				return errors.Is(u.err, origin.ErrGoexit)
			})
			if len(round) < all {
				continue
			}
		}
		if err != nil {
			fail(err)
			return
		}
		if req == nil { // no function returned a value
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
			fail(contextError(context.Cause(ctx)))
			return
		}
	}
}

// inRound returns err with the context's own error replaced by the reason for which a round's context
// ended. The callers would otherwise take it for the end of their own context.
func inRound(ctx context.Context, err error) error {
	end := ctx.Err()
	switch {
	case end == nil || !errors.Is(err, end):
		return err
	case errors.Is(err, ErrUncertain):
		return fmt.Errorf("%w: %w", ErrUncertain, contextError(context.Cause(ctx)))
	}
	return contextError(context.Cause(ctx))
}

// compute reads the value and applies the updates to it. It returns nil if none of them changes it, and
// origin.ErrGoexit if a function of the user's called runtime.Goexit.
func (us *updates) compute(
	ctx context.Context, key, home string, round []*update,
) (*message.WriteRequest, error) {
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
			return nil, contextError(context.Cause(ctx)) // r may still be written to
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
		req := &message.WriteRequest{
			Group: us.g.name, Key: key, Op: message.Swap,
			Expected: a.entry.Stamp, Absent: a.entry.Absent(), Tags: a.entry.Tags(), Born: a.entry.Born(),
			Life: r.life, Value: r.value, Tagged: len(r.tags) > 0,
		}
		// Before the tags are added: the limit is on the value without them.
		err = us.g.router.validate(us.g.cache.ctx, req, &WriteOptions{})
		req.Value = WithTags(r.tags, req.Value)
		return req, err
	}
}

// A roundResult is the result of applying the updates of a round. The goroutine that writes it may be
// abandoned; then nobody reads it.
type roundResult struct {
	values []any // one for each update
	errs   []error

	late    bool // the value had become too old to apply the updates to
	changed bool
	value   []byte   // the last value, encoded
	tags    []string // of the last value
	life    time.Duration
}

// apply applies the updates to a, an answer that was asked for at begun.
func (us *updates) apply(
	r *roundResult, a answer, begun expiry.Instant, key string, round []*update,
) (err error) {
	var value any
	current := a.entry
	there := !a.entry.Absent()
	if there {
		if value, err = us.g.config.Codec.Decode(a.entry); err != nil {
			return fmt.Errorf("the value does not decode: %w", err)
		}
	}
	if r.late = us.g.cache.clock.Instant() >= us.g.servableUntil(a, begun); r.late {
		return nil
	}
	for i, u := range round {
		r.errs[i] = fmt.Errorf("the function %w", origin.ErrGoexit) // stands if the call does not return
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
	r.value, err = origin.Call(&us.g.guard, "codec", key, func() ([]byte, error) {
		return us.g.config.Codec.Encode(value)
	})
	if err != nil {
		err = fmt.Errorf("the value cannot be encoded: %w", err)
	}
	return err
}

// apply calls the user's function, unless its caller has gone.
func (u *update) apply(
	guard *origin.Guard, key string, old any, ok bool, current *store.Entry,
) (v any, err error) {
	u.lock <- struct{}{}
	defer func() { <-u.lock }()
	if u.f == nil {
		return v, context.Canceled // nobody reads it
	}
	v, err = origin.Call(guard, "function of Update", key, func() (any, error) {
		return u.f(old, ok, current)
	})
	u.applied = u.applied || err == nil
	return v, err
}

// abandon makes sure that the user's function is not called any more. It reports whether the function has
// returned a value that has been written, or may yet be.
func (u *update) abandon() (applied bool) {
	u.lock <- struct{}{}
	defer func() { <-u.lock }()
	u.f = nil
	return u.applied
}

// applyInOwnRegion applies to this process's own region what the home region has, and sets the receipts of
// the round.
func (us *updates) applyInOwnRegion(
	ctx context.Context, req *message.WriteRequest, reply message.WriteReply, home, by string,
	round []*update, fail func(error),
) {
	result := Receipt{Generation: reply.Stamp.Generation, Confirmed: []string{home}}
	if reply.Unconfirmed {
		result.Confirmed, result.Pending = nil, []string{home}
	}
	if own := us.g.cache.node.Region; own != home {
		w := message.Write{
			Group: us.g.name, Key: req.Key, Stamp: reply.Stamp,
			HasValue: true, Value: req.Value, Tagged: req.Tagged, Life: us.g.life(req.Key, false, req.Life),
		}
		_ = us.g.origin.supersede(&w) // drops what is older; fails only for a dirty write
		us.g.apply(&w, 0, 0)
		err := us.g.cache.broadcast(ctx, &w)
		if errors.Is(err, errGuest) { // a guest waits for others to tell its region
			err = us.g.router.awaitRegion(ctx, by, message.AwaitRequest{
				Group: us.g.name, Key: req.Key, Region: own,
			})
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

// awaitWorld waits for those regions that have not confirmed yet.
func (us *updates) awaitWorld(ctx context.Context, key, by string, regions []string, result *Receipt) error {
	var names []string
	for _, region := range regions {
		if !slices.Contains(result.Confirmed, region) {
			names = append(names, region)
		}
	}
	result.Confirmed = slices.Clone(result.Confirmed) // the other callers of the round share it
	return us.g.router.awaitRegions(ctx, &message.WriteRequest{Key: key}, by, names, result)
}
