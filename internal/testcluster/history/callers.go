package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/testcluster"
)

func counterKey(i int) string { return fmt.Sprintf("counter-%d", i) }

// call makes calls, with pauses, until the node or the history ends.
func (l *life) call(random *rand.Rand) {
	for {
		think := l.config.Think
		if l.calm.Load() {
			think = 5 * time.Second
		}
		select {
		case <-time.After(time.Duration(random.ExpFloat64() * float64(think))):
		case <-l.ctx.Done():
			return
		case <-l.leaving:
			return
		case <-l.done:
			return
		}
		if !l.isFrozen() {
			l.callOnce(random)
		}
	}
}

func (l *life) isFrozen() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen
}

// awaitThaw waits while the process is paused.
func (l *life) awaitThaw() {
	for l.isFrozen() {
		time.Sleep(time.Millisecond)
	}
}

// callOnce makes one call of a random kind.
func (l *life) callOnce(random *rand.Rand) {
	limit := 10 * time.Second
	if random.IntN(10) == 0 { // the caller gives up early
		limit = time.Duration(random.Int64N(int64(time.Second)))
	}
	ack := geocache.AckRegion
	switch x := random.Float64(); {
	case x < l.config.WorldAcks:
		ack = geocache.AckWorld
	case x < l.config.WorldAcks+0.1:
		ack = geocache.AckOwner
	}
	k := l.config.keyOf(random.IntN(l.config.Keys))
	counter := counterKey(random.IntN(l.config.Counters))
	isCounter := random.Float64() < l.config.Counting
	isWrite := random.Float64() < l.config.Writes && !l.calm.Load()
	switch x := random.Float64(); {
	case l.config.Updating > 0 && !l.calm.Load() && random.Float64() < l.config.Updating:
		l.update(k, time.Duration(random.Float64()*float64(l.config.UpdateTime)), limit)
	case isCounter && isWrite:
		l.increment(counter, limit)
	case isCounter:
		l.count(counter, limit)
	case isWrite && x < l.config.Clears:
		l.clear(ack, limit)
	case isWrite && x < l.config.Clears+l.config.Removes:
		l.remove(k, removals[random.IntN(len(removals))], ack, limit)
	case isWrite:
		var life time.Duration
		if random.IntN(10) == 0 {
			life = 1 + time.Duration(random.Int64N(int64(l.config.TTL)))
		}
		if l.config.ReadBeforeSet > 0 && random.Float64() < l.config.ReadBeforeSet {
			l.read(GetItem, k, limit)
		}
		l.set(k, ack, life, limit)
	case x < 0.2:
		l.read(Peek, k, limit)
	case x < 0.3:
		l.readAfter(GetItem, k, limit, l.oneWritten(random, k))
	case x < 0.35:
		l.readAfter(Get, k, limit, l.oneWritten(random, k))
	case x < 0.5:
		l.read(GetItem, k, limit)
	case x < 0.65:
		l.readMany(random.Perm(l.config.Keys)[:1+random.IntN(l.config.Keys)], limit)
	default:
		l.read(Get, k, limit)
	}
}

// op executes and records one operation. Nobody knows what a process that has died was told: its
// reads are left out, and its writes may have happened.
func (l *life) op(o *Op, limit time.Duration, do func(ctx context.Context) error) {
	ctx, cancel := context.WithTimeout(l.ctx, limit)
	defer cancel()
	o.Node, o.Region, o.Limit = l.name, l.region, limit
	o.Begin = l.now()
	if o.Kind == Set {
		o.Value = testcluster.Value{Key: o.Key, Begun: l.start.Add(o.Begin),
			By: fmt.Sprintf("set at %v on %s", o.Begin, l.name)}
	}
	before := l.cache.Stats()
	err := do(ctx)
	if o.Kind != GetItem {
		o.Unconfirmed = isUnconfirmed(before, o.Value) || isUnconfirmed(l.cache.Stats(), o.Value)
	}
	l.awaitThaw() // a paused caller does not see the result yet
	o.End = l.now()
	writes := o.isWrite() || o.Kind == Increment
	switch {
	case l.ctx.Err() != nil && writes:
		o.Outcome = Uncertain
	case l.ctx.Err() != nil:
		return
	case err == nil && o.Outcome == "":
		o.Outcome = OK
	case err == nil: // do has set it
	case errors.Is(err, geocache.ErrUncertain):
		o.Outcome = Uncertain
	case errors.Is(err, geocache.ErrUnconfirmed):
		o.Outcome = Unconfirmed
	case errors.Is(err, geocache.ErrNotFound) && !writes:
		o.Outcome = NotFound
	default:
		o.Outcome = Failed
	}
	if err != nil {
		o.Err = err.Error()
	}
	if o.After != nil && errors.Is(err, geocache.ErrNotArrived) {
		return // it may be so
	}
	l.record(o)
}

func (l *life) read(kind Kind, key string, limit time.Duration) { l.readAfter(kind, key, limit, nil) }

// readAfter is a read that is not to be older than a write, unless that is nil.
func (l *life) readAfter(kind Kind, key string, limit time.Duration, w *Op) {
	o := &Op{Kind: kind, Key: key, After: w}
	var opts []geocache.ReadOption
	if w != nil {
		opts = append(opts, geocache.After(w.written))
	}
	l.op(o, limit, func(ctx context.Context) (err error) {
		var v string
		switch kind {
		case Peek:
			var ok bool
			if v, ok = l.group.Peek(key); !ok {
				o.Outcome = Empty
				return nil
			}
		case Get:
			v, err = l.group.Get(ctx, key, opts...)
		case GetItem:
			var item geocache.Item[string]
			item, err = l.group.GetItem(ctx, key, opts...)
			v, o.Generation = item.Value, expiry.Generation(item.Generation)
			o.Stale, o.Unconfirmed = item.Source == geocache.SourceStale, item.Unconfirmed
		}
		o.Value, _ = testcluster.ParseValue(v)
		return err
	})
}

// isUnconfirmed reports whether a value that was just read may be older than a write that the node was not
// told of, as GetItem would have said.
func isUnconfirmed(s geocache.Stats, v testcluster.Value) bool {
	return s.Unconfirmed || !s.ServesCopies && !v.Loaded()
}

// readMany is a GetMany, recorded as a read of each key that it has returned.
func (l *life) readMany(keys []int, limit time.Duration) {
	var names []string
	for _, i := range keys {
		names = append(names, l.config.keyOf(i))
	}
	ctx, cancel := context.WithTimeout(l.ctx, limit)
	defer cancel()
	begin, before := l.now(), l.cache.Stats()
	values, _ := l.group.GetMany(ctx, names) // keys that could not be read are missing
	stats := l.cache.Stats()
	l.awaitThaw()
	end := l.now()
	if l.ctx.Err() != nil {
		return
	}
	for k, v := range values {
		o := &Op{Node: l.name, Region: l.region, Kind: GetMany, Key: k, Begin: begin, End: end, Outcome: OK}
		o.Value, _ = testcluster.ParseValue(v)
		o.Unconfirmed = isUnconfirmed(before, o.Value) || isUnconfirmed(stats, o.Value)
		l.record(o)
	}
}

func (l *life) set(key string, ack geocache.AckLevel, life, limit time.Duration) {
	o := &Op{Kind: Set, Key: key, Ack: ack, Life: l.config.TTL}
	own := []geocache.WriteOption{geocache.WithTags(testcluster.TagsOf(key)...)}
	if life > 0 {
		o.Life, own = life, append(own, geocache.WithItemTTL(life))
	}
	l.sets.notify(l, key)
	l.write(o, limit, own, func(ctx context.Context, opts []geocache.WriteOption) error {
		return l.group.Set(ctx, key, o.Value.String(), opts...)
	})
}

// A removal is one way to remove a key. All ways promise the same.
type removal struct {
	name string
	do   func(g *geocache.Group[string], ctx context.Context, key string, opts ...geocache.WriteOption) error
}

var removals = []removal{
	{"remove", (*geocache.Group[string]).Remove},
	{"prefix", (*geocache.Group[string]).RemovePrefix},
	{"many", func(
		g *geocache.Group[string], ctx context.Context, key string, opts ...geocache.WriteOption,
	) error {
		return g.RemoveMany(ctx, []string{key}, opts...)
	}},
	{"tag", func(
		g *geocache.Group[string], ctx context.Context, key string, opts ...geocache.WriteOption,
	) error {
		return g.RemoveTag(ctx, testcluster.TagsOf(key)[0], opts...)
	}},
}

func (l *life) remove(key string, how removal, ack geocache.AckLevel, limit time.Duration) {
	o := &Op{Kind: Remove, How: how.name, Key: key, Ack: ack}
	l.write(o, limit, nil, func(ctx context.Context, opts []geocache.WriteOption) error {
		if l.config.Writing == Beside {
			o.Version = l.c.Origin.Put(key, fmt.Sprintf("put at %v on %s", o.Begin, l.name))
		}
		return how.do(l.group, ctx, key, opts...)
	})
}

func (l *life) clear(ack geocache.AckLevel, limit time.Duration) {
	o := &Op{Kind: Clear, Ack: ack}
	l.write(o, limit, nil, func(ctx context.Context, opts []geocache.WriteOption) error {
		return l.group.Clear(ctx, opts...)
	})
}

func (l *life) write(
	o *Op, limit time.Duration, opts []geocache.WriteOption,
	do func(ctx context.Context, opts []geocache.WriteOption) error,
) {
	l.op(o, limit, func(ctx context.Context) error {
		var w geocache.Receipt
		err := do(ctx, append(opts, geocache.WithAck(o.Ack), geocache.WithReceipt(&w)))
		o.Generation, o.Confirmed, o.written = expiry.Generation(w.Generation), w.Confirmed, w.Written
		return err
	})
	if o.Outcome == OK && !o.written.IsZero() {
		l.wrote(o)
	}
}

// update updates a key, with a function that takes this long.
func (l *life) update(key string, takes, limit time.Duration) {
	o := &Op{Kind: Update, Key: key, Life: l.config.TTL}
	l.op(o, limit, func(ctx context.Context) error {
		var w geocache.Receipt
		v, err := l.group.Update(ctx, key, func(old string, ok bool) (string, error) {
			a := Attempt{Begin: l.now(), Had: ok}
			a.Base, _ = testcluster.ParseValue(old)
			a.By = fmt.Sprintf("update at %v on %s", a.Begin, l.name)
			select {
			case <-time.After(takes):
			case <-ctx.Done(): // Update waits for its function
			}
			a.End = l.now()
			o.Attempts = append(o.Attempts, a)
			return testcluster.Value{Key: key, Begun: l.start.Add(a.Begin), By: a.By}.String(), nil
		}, geocache.WithReceipt(&w), geocache.WithTags(testcluster.TagsOf(key)...))
		o.Value, _ = testcluster.ParseValue(v)
		o.Generation, o.Confirmed = expiry.Generation(w.Generation), w.Confirmed
		return err
	})
}

func (l *life) count(key string, limit time.Duration) {
	o := &Op{Kind: Count, Key: key}
	l.op(o, limit, func(ctx context.Context) (err error) {
		o.Number, err = l.counters.Get(ctx, key)
		return err
	})
}

func (l *life) increment(key string, limit time.Duration) {
	o := &Op{Kind: Increment, Key: key}
	l.op(o, limit, func(ctx context.Context) (err error) {
		var w geocache.Receipt
		o.Number, err = l.counters.Update(ctx, key, func(old int, _ bool) (int, error) {
			return old + 1, nil
		}, geocache.WithReceipt(&w))
		o.Generation, o.Confirmed = expiry.Generation(w.Generation), w.Confirmed
		return err
	})
}
