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

// This file carries out a write at the node that is asked to act as the key's owner.

// A committer carries out a group's writes as the owner of their keys.
type committer struct {
	g    *Group
	keys keylock.Locks // held while a key's write is stamped
}

// commit carries out a write of this process as the key's owner. ctx bounds the wait. Once the write is
// stamped it goes on without the caller, who gets the error of pending.unconfirmed.
func (cm *committer) commit(ctx context.Context, req *message.WriteRequest) (message.WriteReply, error) {
	p, err := cm.begin(ctx, req, noDeadline)
	switch {
	case p.writes == nil:
		return p.reply, err
	case cm.g.cache.transport == nil: // there is nobody to tell
		return p.reply, nil
	}
	if req.AckOwner {
		if !cm.g.cache.spawn(func() { cm.completeAlone(p) }) {
			err = p.unconfirmed()
		}
		return p.reply, err
	}
	return p.reply, cm.complete(ctx, p)
}

// A pending is a write that is stamped and that the region has yet to be told of. It has no writes if there
// is nothing to tell.
type pending struct {
	writes []*message.Write
	reply  message.WriteReply
	term   term // the term in which a Swap was stamped; zero for other writes
}

// unconfirmed returns the error of a write that the region was not told of in time. A Swap may still be
// lost: the key's next owner may not have been told, and swap the same value.
func (p pending) unconfirmed() error {
	if p.term.view != nil {
		return ErrUncertain
	}
	return ErrUnconfirmed
}

// confirmed returns the error of a write whose broadcast has ended with err.
func (p pending) confirmed(err error) error {
	if err == nil || errors.Is(err, ErrUncertain) {
		return err
	}
	return p.unconfirmed()
}

// begin does everything that comes before the region is told.
func (cm *committer) begin(
	ctx context.Context, req *message.WriteRequest, deadline expiry.Instant,
) (p pending, err error) {
	if cm.g.cache.shuttingDown.Load() {
		return p, ErrClosed
	}
	if req.Op == message.Swap {
		var ok bool
		if p.term, ok = cm.swapTerm(req); !ok {
			return pending{reply: message.WriteReply{Late: true}}, nil
		}
	}
	w, err := cm.stamp(ctx, req, deadline, p.term)
	switch {
	case errors.Is(err, errNotSwapped):
		return p, nil
	case errors.Is(err, errLate) && !errors.Is(err, ErrOverloaded):
		return pending{reply: message.WriteReply{Late: true}}, nil
	case err != nil:
		return p, err
	}
	p.writes = []*message.Write{w}
	for _, key := range req.Keys {
		next := &message.WriteRequest{Op: req.Op, Key: key, First: req.First, Unleased: req.Unleased}
		if w, err = cm.stamp(ctx, next, noDeadline, term{}); err != nil {
			if stamped := p; cm.g.cache.transport != nil {
				cm.g.cache.spawn(func() { cm.completeAlone(stamped) }) // the keys that have been stamped
			}
			return pending{}, fmt.Errorf("%w: not all of the keys: %w", ErrUncertain, err)
		}
		p.writes = append(p.writes, w)
	}
	p.reply = message.WriteReply{Stamp: p.writes[len(p.writes)-1].Stamp, Swapped: true}
	return p, nil
}

// writeTimeout bounds how long a node goes on telling the region of a write whose caller has gone. A node
// that cannot be told within it although it stays in the view has failed in a way that its heartbeats do
// not show.
const writeTimeout = time.Minute

// errNotSwapped means that a Swap found a value other than the one it expected.
var errNotSwapped = errors.New("the value has changed")

// errLate means that a write arrived too late, or waited too long.
var errLate = errors.New("the request was under way for too long")

// noDeadline is the deadline of a write that no other node may have been asked for in the meantime.
const noDeadline = expiry.Instant(math.MaxInt64)

// stamp does the part of a write that is one step: it holds the key's lock, so nobody else writes the key
// here meanwhile. ctx bounds the wait for the lock. A Swap happens within a term (rule 11 of package
// lease).
func (cm *committer) stamp(
	ctx context.Context, req *message.WriteRequest, deadline expiry.Instant, in term,
) (*message.Write, error) {
	held, err := cm.keys.Lock(ctx, req.Key)
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	switch {
	case deadline != noDeadline && cm.g.cache.clock.Instant() >= deadline,
		req.Op == message.Swap && !cm.g.cache.inTerm(in):
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
		// The origin took its time. If the key has another owner by now, that one may have swapped the
		// same value.
		if req.Op == message.Swap && !cm.g.cache.inTerm(in) {
			cm.g.origin.distrustLocked(req.Key)
			return nil, cm.g.located(errDisputed)
		}
		deadline = noDeadline // the origin has the write, so the caller asks no other node
	}
	w := &message.Write{Group: cm.g.name, Key: req.Key, Scope: req.Scope(), Clear: req.Op == message.Clear}
	if req.Op == message.Set || req.Op == message.Swap {
		w.HasValue, w.Value, w.Tagged = true, req.Value, req.Tagged
		w.Life = cm.g.life(req.Key, false, req.Life)
	}
	// Stamp only once the origin has the write: a load that sees the origin without it then began before.
	if queues {
		err = cm.queueLocked(ctx, w, req, deadline)
	} else {
		err = cm.stampLocked(w, req, deadline)
	}
	// If the floor was raised before the term ended, the next owner of the key finds it in this node's
	// journal.
	if err == nil && req.Op == message.Swap && !cm.g.cache.inTerm(in) {
		cm.g.cache.spawn(func() { cm.completeAlone(pending{writes: []*message.Write{w}}) })
		err = cm.g.located(errDisputed)
	}
	return w, err
}

// errDisputed is the error of a Swap during which the membership of the region changed.
var errDisputed = fmt.Errorf("%w: the key may have another owner now", ErrUncertain)

// swapTerm returns the term in which this node may compare and swap the key's value. It needs to own the
// key, and to agree with the sender of the Swap on the regions, and so on the key's home.
func (cm *committer) swapTerm(req *message.WriteRequest) (term, bool) {
	t, ok := cm.g.cache.term()
	return t, ok && cm.g.servesAsOwner(t.view.home, req.Key) &&
		(req.Regions == 0 || req.Regions == t.view.regionsHash)
}

// queueLocked is stampLocked for a write that the origin gets later. It waits for room in the queue,
// except for a Swap: that must not outlast its term, and its sender asks again.
func (cm *committer) queueLocked(
	ctx context.Context, w *message.Write, req *message.WriteRequest, deadline expiry.Instant,
) error {
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
		if err == nil && !superseded { // otherwise the origin gets the write that superseded it
			err = cm.g.origin.enqueue(ctx, w)
		}
		switch {
		case err != nil && retry:
			return fmt.Errorf("%w: %w", ErrUncertain, err) // the origin may already have the first one
		case err != nil:
			return err
		case cm.g.cache.clock.Instant().Sub(begun) <= cm.g.cache.config.MaxDrift:
			cm.publish(w)
			return nil
		}
		// A value loaded during the wait would pass for newer than this stamp: stamp again.
	}
}

// stampLocked makes w the latest write of its key: it stamps w, applies it here, and sends it on its way
// to the other regions. The caller holds the key's lock.
func (cm *committer) stampLocked(
	w *message.Write, req *message.WriteRequest, deadline expiry.Instant,
) error {
	_, err := cm.assignStamp(w, req, deadline)
	if err == nil {
		cm.publish(w)
	}
	return err
}

// assignStamp stamps w, the write that req asks for. A request that is sent again may already have been
// carried out by another node, and others may have read the result and written since, in other regions
// too. The write must not come after theirs, whether this node has heard of them or not. So it keeps its
// own earlier stamp if that is still the key's floor, and otherwise gets one of the time at which it was
// first sent. It is superseded if this node knows of a later write.
//
// If the sender may have missed some of the writes of that time, a removal gets a new stamp: the worst it
// can do is to drop a value. For a Set nobody can know which of the two should stay, so it fails with
// ErrUncertain.
//
// The deadline is checked last: whatever is stamped in time precedes the same write at another node,
// however long this process is paused afterwards.
func (cm *committer) assignStamp(
	w *message.Write, req *message.WriteRequest, deadline expiry.Instant,
) (superseded bool, err error) {
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

// publish applies w here and puts it into the outboxes of the other regions.
func (cm *committer) publish(w *message.Write) {
	if cm.g.cache.transport == nil {
		cm.g.apply(w, 0, cm.g.cache.self)
		return
	}
	at := cm.g.cache.clock.Instant()
	cm.g.apply(w, 0, cm.g.cache.self)
	// Other regions need not know that this one's origin does not have the write yet.
	elsewhere := *w
	elsewhere.Dirty = false
	cm.g.cache.replicator.add(&elsewhere, at)
}

// matchesExpected reports whether the key's present value is the one that the Swap expects: it has not been
// written since, removed under any name, or loaded anew. The caller holds the key's lock.
//
// The value may have left memory since, by eviction or by a removal. Then it is judged from what the Swap
// says of it, as if it arrived here now.
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
	}), provenance{}, anySeq)
}

// complete returns when no node of this region serves anything older than the pending write. If ctx ends
// before that, the rest of the region is told without the caller.
func (cm *committer) complete(ctx context.Context, p pending) error {
	b := cm.newBroadcast(p)
	err := b.run(ctx)
	if err != nil && ctx.Err() != nil {
		cm.g.cache.spawn(func() { _ = b.runOn() })
	}
	return p.confirmed(err)
}

// completeAlone is complete for a write whose caller does not wait.
func (cm *committer) completeAlone(p pending) error { return p.confirmed(cm.newBroadcast(p).runOn()) }

func (cm *committer) newBroadcast(p pending) *broadcast {
	b := cm.g.cache.newBroadcast(p.writes)
	b.term = p.term
	return b
}

// writeLifetime is how long a write request may be under way. A caller that cannot reach the node it has
// asked waits that long before it asks another. Otherwise a request stuck in a buffer could be carried out
// late and bring back an old value over everything written since.
func (c *Cache) writeLifetime() time.Duration { return c.config.Lease }

// errIncompleteView means that the node that was asked for a write does not see the whole region.
var errIncompleteView = errors.New("the key's owner does not see all nodes of the region")

// handle answers a WriteRequest. It declines if the sender may see more of the region than this node,
// which then would not tell everybody: the sender is a member that this node does not see, or this node is
// new (rule 9 of package lease).
func (cm *committer) handle(ctx context.Context, req *message.WriteRequest, call *peers.Call) peers.Answer {
	v := cm.g.cache.view.Load()
	unknown := req.Member && !v.has(call.From) || cm.g.cache.leases.IsUnknownPeer(v.View, call.From)
	if call.Region == cm.g.cache.node.Region && (unknown || cm.g.cache.leases.DefersWrites(v.View)) {
		return peers.Answer{Value: message.WriteReply{IncompleteView: true}.Append(nil)}
	}
	req.Born = cm.g.cache.clock.Instant().Add(-req.Age - call.Transit)
	owner, gate := v.home.Owner(req.Key), gateway{cm.g.cache}
	if gate.serves(call.Region) && owner.ID != cm.g.cache.node.ID {
		return cm.forward(ctx, req, owner)
	}
	life := cm.g.cache.writeLifetime()
	life -= life / 10 // the sender's clock may run faster
	p, err := cm.begin(ctx, req, cm.g.cache.clock.Instant().Add(life-call.Transit))
	switch {
	case err != nil:
	case p.writes == nil:
	case req.AckOwner:
		unconfirmed := p
		p.reply.Unconfirmed = !cm.g.cache.spawn(func() { cm.completeAlone(unconfirmed) })
	default: // on this goroutine, which has nothing else to do
		if err = cm.complete(ctx, p); errors.Is(err, ErrUnconfirmed) {
			left := cm.g.cache.isGuest() || cm.g.cache.shuttingDown.Load()
			p.reply.Unconfirmed, p.reply.OwnerLeft, err = true, left, nil
		}
	}
	if err != nil {
		return cm.g.reply(answer{err: err})
	}
	return peers.Answer{Value: p.reply.Append(nil)}
}
