package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/keylock"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

// This file is a write at the node that is asked to be the key's owner.

// ownerWrites carries out a group's writes as their keys' owner.
type committer struct {
	g    *Group
	keys keylock.Locks // held while a key is stamped
}

// write carries out a write of this process as the key's owner. ctx bounds the
// wait; once the write is stamped it goes on, and the error is ErrUnconfirmed.
func (cm *committer) commit(ctx context.Context, req *message.WriteRequest) (message.WriteReply, error) {
	b, err := cm.begin(ctx, req, noDeadline)
	switch {
	case b.writes == nil:
		return b.reply, err
	case cm.g.cache.transport == nil: // nobody is to be told
		return b.reply, nil
	}
	done := make(chan error, 1)
	if !cm.g.cache.spawn(func() { done <- cm.complete(b) }) {
		return b.reply, b.unconfirmed()
	}
	if req.AckOwner {
		return b.reply, nil
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = b.unconfirmed()
	}
	return b.reply, err
}

// begun is a write that is stamped and that the region is still to be told of. If there is nothing
// to be told it has no notes.
type pending struct {
	writes []*message.Write
	reply  message.WriteReply
	term   term // of a Swap: under which it was stamped; otherwise zero
}

// unconfirmed is the error of a write that the region has not been told of in time. A Swap may be
// lost yet: whoever owns the key next, and has not been told, may swap the same value.
func (b pending) unconfirmed() error {
	if b.term.view != nil {
		return ErrUncertain
	}
	return ErrUnconfirmed
}

// begin does what comes before the region is told.
func (cm *committer) begin(ctx context.Context, req *message.WriteRequest, deadline expiry.Instant) (b pending, err error) {
	if cm.g.cache.shutting.Load() {
		return b, ErrClosed
	}
	if req.Op == message.Swap {
		var ok bool
		if b.term, ok = cm.swapTerm(req); !ok {
			return pending{reply: message.WriteReply{Late: true}}, nil
		}
	}
	w, err := cm.stamp(ctx, req, deadline, b.term)
	switch {
	case errors.Is(err, errNotSwapped):
		return b, nil
	case errors.Is(err, errLate) && !errors.Is(err, ErrOverloaded):
		return pending{reply: message.WriteReply{Late: true}}, nil
	case err != nil:
		return b, err
	}
	b.writes = []*message.Write{w}
	for _, key := range req.Keys {
		if w, err = cm.stamp(ctx, &message.WriteRequest{Op: req.Op, Key: key, First: req.First, Unleased: req.Unleased}, noDeadline, term{}); err != nil {
			if stamped := b; cm.g.cache.transport != nil {
				cm.g.cache.spawn(func() { cm.complete(stamped) }) // those that have been begun
			}
			return pending{}, fmt.Errorf("%w: not all of the keys: %w", ErrUncertain, err)
		}
		b.writes = append(b.writes, w)
	}
	b.reply = message.WriteReply{Stamp: b.writes[len(b.writes)-1].Stamp, Swapped: true}
	return b, nil
}

// writeTimeout is for how long a region is told of a write after its caller has
// gone. A node that could not be told by then, and stayed in the view all the time,
// has failed in a way that its heartbeats do not show.
const writeTimeout = time.Minute

// errNotSwapped says that a Swap found another value than it expected.
var errNotSwapped = errors.New("the value has changed")

// errLate says that a write came too late, or waited for too long.
var errLate = errors.New("the request was under way for too long")

// noDeadline is for a write that nobody else may have been asked for meanwhile.
const noDeadline = expiry.Instant(math.MaxInt64)

// stamp does the part of a write that is one step: nobody else writes the key here
// meanwhile. ctx bounds the wait for that. A Swap takes place in a tenure.
func (cm *committer) stamp(ctx context.Context, req *message.WriteRequest, deadline expiry.Instant, in term) (*message.Write, error) {
	held, err := cm.keys.Lock(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	switch {
	case deadline != noDeadline && cm.g.cache.clock.Instant() >= deadline, req.Op == message.Swap && !cm.g.cache.inTerm(in):
		return nil, errLate
	case req.Op == message.Swap && !cm.matchesExpected(req):
		return nil, errNotSwapped
	}
	takes := cm.g.origin.takes(req.Op)
	queues := takes && cm.g.origin.queue != nil
	if takes && !queues {
		if err := cm.g.origin.through(ctx, req); err != nil {
			return nil, err
		}
		// That takes its time. If there is another owner by now, it may have swapped the same value.
		if req.Op == message.Swap && !cm.g.cache.inTerm(in) {
			cm.g.origin.distrustLocked(req.Key)
			return nil, cm.g.located(errDisputed)
		}
		deadline = noDeadline // the origin has it, so that nobody else is asked
	}
	w := &message.Write{Group: cm.g.name, Key: req.Key, Scope: req.Scope(), Clear: req.Op == message.Clear}
	if req.Op == message.Set || req.Op == message.Swap {
		w.HasValue, w.Value, w.Tagged = true, req.Value, req.Tagged
		w.Life = cm.g.life(req.Key, false, req.Life)
	}
	// Stamped after the origin has it: a load that sees the origin without it
	// has begun before.
	if queues {
		err = cm.queueLocked(ctx, w, req, deadline)
	} else {
		err = cm.stampLocked(w, req, deadline)
	}
	// Who comes to own the key after the tenure has ended finds the floor in this node's journal, if
	// it was raised before the end.
	if err == nil && req.Op == message.Swap && !cm.g.cache.inTerm(in) {
		cm.g.cache.spawn(func() { cm.complete(pending{writes: []*message.Write{w}}) })
		err = cm.g.located(errDisputed)
	}
	return w, err
}

// errDisputed is the error of a Swap during which the members of the region changed.
var errDisputed = fmt.Errorf("%w: the key may have another owner now", ErrUncertain)

// swaps returns the tenure in which this node may compare a key's value and swap it: it owns the
// key, and takes the same region for the key's home as whoever sends the Swap.
func (cm *committer) swapTerm(req *message.WriteRequest) (term, bool) {
	t, ok := cm.g.cache.term()
	return t, ok && cm.g.servesAsOwner(t.view.home, req.Key) && (req.Regions == 0 || req.Regions == t.view.regionsHash)
}

// queueLocked is stampLocked for what the origin gets later. It waits for room, but for a Swap: that
// must not outlast its tenure, and is asked for again.
func (cm *committer) queueLocked(ctx context.Context, w *message.Write, req *message.WriteRequest, deadline expiry.Instant) error {
	var cancel context.CancelFunc
	switch {
	case req.Op == message.Swap:
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	case deadline < noDeadline:
		ctx, cancel = context.WithTimeoutCause(ctx, deadline.Sub(cm.g.cache.clock.Instant()), errLate)
		defer cancel()
	}
	for retry := false; ; retry = true {
		begun := cm.g.cache.clock.Instant()
		superseded, err := cm.assignStamp(w, req, deadline)
		if err == nil && !superseded { // else the origin gets what has superseded it
			err = cm.g.origin.enqueue(ctx, w)
		}
		switch {
		case err != nil && retry:
			return fmt.Errorf("%w: %w", ErrUncertain, err) // the first may be in the origin by now
		case err != nil:
			return err
		case cm.g.cache.clock.Instant().Sub(begun) <= cm.g.cache.config.MaxDrift:
			cm.publish(w)
			return nil
		}
		// What was loaded while it waited would pass for newer.
	}
}

// stampLocked makes n the latest write of its key: stamps it, takes it in here,
// and sends it on its way to the other regions. The key's lock is held.
func (cm *committer) stampLocked(w *message.Write, req *message.WriteRequest, deadline expiry.Instant) error {
	_, err := cm.assignStamp(w, req, deadline)
	if err == nil {
		cm.publish(w)
	}
	return err
}

// assignStamp stamps n, the note of w. A write that is sent again may already have happened at
// another node, and others may have read it and written since, in other regions too. It must not come
// after those, whether this node has heard of them or not. So it gets its own earlier stamp, if that
// is still the key's floor, and else one of the time at which it was first sent. If anything that is
// known here has been written since, it is superseded.
//
// If its sender may not have known of every write by that time, a removal gets a new stamp: it can
// do no worse than to drop a value. Which of two Sets is to stay is not known then.
//
// The deadline is looked at afterwards: what is stamped in time has its place before the same
// write at another node, however long this process is stopped now.
func (cm *committer) assignStamp(w *message.Write, req *message.WriteRequest, deadline expiry.Instant) (superseded bool, err error) {
	w.Age = 0
	w.Stamp = expiry.Stamp{Generation: cm.g.cache.clock.Now(), Origin: req.ID}
	if req.First != 0 && (w.HasValue || !req.Unleased) {
		floor := cm.g.floors.FloorOf(w.Subject())
		superseded = floor.Generation >= req.First
		switch {
		case w.HasValue && floor.Origin == req.ID:
			w.Stamp, superseded = floor, false
		case superseded && req.Unleased:
			return false, cm.g.located(fmt.Errorf("%w: something else has been written since", ErrUncertain))
		default:
			w.Stamp.Generation = req.First
		}
	}
	if !w.HasValue {
		w.Stamp = expiry.Removal(w.Stamp.Generation)
	}
	if deadline != noDeadline && cm.g.cache.clock.Instant() >= deadline {
		return false, errLate
	}
	return superseded, nil
}

func (cm *committer) publish(w *message.Write) {
	if cm.g.cache.transport == nil {
		cm.g.apply(w, 0, cm.g.cache.self)
		return
	}
	at := cm.g.cache.clock.Instant()
	cm.g.apply(w, 0, cm.g.cache.self)
	// Which other regions the origin has yet to hear of is not their concern.
	elsewhere := *w
	elsewhere.Dirty = false
	cm.g.cache.replicator.add(&elsewhere, at)
}

// expected reports whether the key's present value is the one that the Swap
// expects: it has not been written since, nor removed by whatever name, nor loaded anew. The
// key's lock is held.
//
// It may have left memory since, for want of room or because it was removed. Then what the
// Swap tells of it is judged as if it came here now.
func (cm *committer) matchesExpected(req *message.WriteRequest) bool {
	e, ok := cm.g.store.Peek(req.Key)
	if ok && cm.g.fresh.current(e, cm.g.floors.Floor(req.Key), cm.g.cache.clock.Instant()) {
		return e.Absent() == req.Absent && (e.Absent() || e.Stamp == req.Expected)
	}
	return cm.g.fresh.admissible(cm.g.store.NewEntry(store.Item{
		Key:    req.Key,
		Value:  store.AppendTags(nil, req.Tags),
		Tagged: true,
		Stamp:  req.Expected,
		Born:   req.Born,
	}), false, anySeq)
}

// complete returns when no node in this region serves what is older than what has been begun,
// whoever still waits for that.
func (cm *committer) complete(b pending) error {
	ctx, cancel := context.WithTimeout(cm.g.cache.ctx, writeTimeout)
	defer cancel()
	s := cm.g.cache.newBroadcast(b.writes)
	s.sender, s.term = cm.g.cache.self, b.term
	if err := s.run(ctx); errors.Is(err, ErrUncertain) {
		return err
	} else if err != nil {
		return b.unconfirmed()
	}
	return nil
}

// writeLifetime is for how long a Write may be under way. Whoever has sent it to a node
// that then could not be reached does not ask another before that is over: a request
// that lay in a buffer and is carried out late would bring an old value back, above all
// that has been written since.
func (c *Cache) writeLifetime() time.Duration { return c.config.Lease }

// errStranger says that the node that was asked for a write does not see all of the region.
var errIncompleteView = errors.New("the key's owner does not see all nodes of the region")

// takeWrite answers a Write. Who asks for one may see more than this node, which would not tell
// all of the region: it is not seen itself, though it has stood there, or this node has just come.
func (cm *committer) handle(ctx context.Context, req *message.WriteRequest, call *peers.Call) peers.Answer {
	v := cm.g.cache.view.Load()
	unknown := req.Member && !v.has(call.From) || cm.g.cache.leases.IsUnknownPeer(v.View, call.From)
	if call.Region == cm.g.cache.node.Region && (unknown || cm.g.cache.leases.DefersWrites(v.View)) {
		return peers.Answer{Value: message.WriteReply{IncompleteView: true}.Append(nil)}
	}
	req.Born = cm.g.cache.clock.Instant().Add(-req.Age - call.Transit)
	life := cm.g.cache.writeLifetime()
	life -= life / 10 // the sender's clock may be faster
	b, err := cm.begin(ctx, req, cm.g.cache.clock.Instant().Add(life-call.Transit))
	switch {
	case err != nil:
	case b.writes == nil:
	case req.AckOwner:
		unconfirmed := b
		b.reply.Unconfirmed = !cm.g.cache.spawn(func() { cm.complete(unconfirmed) })
	default: // on this goroutine, which has nothing else to do
		if err = cm.complete(b); errors.Is(err, ErrUnconfirmed) {
			b.reply.Unconfirmed, b.reply.OwnerLeft, err = true, cm.g.cache.isGuest(), nil
		}
	}
	if err != nil {
		return cm.g.reply(answer{err: err})
	}
	return peers.Answer{Value: b.reply.Append(nil)}
}
