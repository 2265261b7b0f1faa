package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/note"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is a write at the node whose user has called for it.

// callerWrites brings the writes of this process's callers to the keys' owners.
type callerWrites struct{ g *Group }

// mutate brings a write to the key's owner and waits for as much as o asks.
func (cw *callerWrites) mutate(ctx context.Context, w *note.Write, o *WriteOptions) error {
	if o.Receipt != nil {
		*o.Receipt = Receipt{}
	}
	err := cw.refuse(ctx, w, o)
	if err == nil {
		w.Group, w.Key = cw.g.name, strings.Clone(w.Key)
		w.Life, w.Quick = o.TTL, o.Ack == AckOwner
		if w.Op == note.Set {
			w.Tagged = len(o.Tags) > 0
			w.Value = WithTags(o.Tags, w.Value)
		}
		var done func()
		if done, err = cw.g.waitFor(ctx, w.Key, true); err == nil {
			err = cw.run(ctx, w, o.Ack, o.Receipt)
			done()
		}
	}
	cw.g.stats.writes.Add(1)
	if err != nil {
		cw.g.stats.writeErrors.Add(1)
	}
	return err
}

// refuseWrite returns the error of a write for which nothing should be started.
func (cw *callerWrites) refuse(ctx context.Context, w *note.Write, o *WriteOptions) error {
	name := w.Subject().Name()
	switch most := cw.g.cache.config.Limits.MaxValue; {
	case ctx == nil:
		return errNoContext
	case cw.g.cache.ctx.Err() != nil:
		return ErrClosed
	case len(name) > MaxKey && w.Scope():
		return fmt.Errorf("%w: a prefix of %d bytes, at most %d are allowed, as of a key", ErrTooLarge, len(name), MaxKey)
	case len(name) > MaxKey:
		return fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", ErrTooLarge, len(name), MaxKey)
	case len(w.Value) > most:
		return fmt.Errorf("%w: a value of %d bytes, at most %d are allowed", ErrTooLarge, len(w.Value), most)
	case o.Invalid != nil:
		return o.Invalid
	}
	return ctx.Err()
}

// carryOut has the owner do the write, and waits for as much as ack asks. result may be nil.
func (cw *callerWrites) run(ctx context.Context, w *note.Write, ack Ack, result *Receipt) error {
	var remote []string
	if ack == AckWorld { // before the write: a region that comes later need not have heard of it
		remote = cw.g.cache.remoteRegions()
	}
	wrote, owner, err := cw.route(ctx, w, cw.g.cache.topology().Home.Name)
	if result == nil {
		if err == nil && !wrote.Unconfirmed && ack != AckWorld {
			return nil
		}
		result = new(Receipt)
	}
	result.Generation = wrote.Stamp.Generation
	home := cw.g.cache.node.Region
	switch {
	case err != nil:
		return err
	case wrote.Unconfirmed:
		result.Pending = append(result.Pending, home)
		return fmt.Errorf("%w: not by all of %s", ErrUnconfirmed, home)
	case ack == AckOwner:
		return nil
	}
	result.Confirmed = append(result.Confirmed, home)
	if ack == AckRegion {
		return nil
	}
	return cw.awaitAll(ctx, w, owner, remote, result)
}

// awaitAll waits until the owner has heard from each of the regions that it has
// been told of w, or ctx ends.
func (cw *callerWrites) awaitAll(ctx context.Context, w *note.Write, owner string, names []string, result *Receipt) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(cw.g.cache.awaiting, cancel)()
	confirmed := make(map[string]chan error, len(names))
	for _, region := range names {
		done := make(chan error, 1)
		confirmed[region] = done
		going := cw.g.cache.spawn(func() {
			var all errgroup.Group // the keys of a RemoveMany are on their way together
			all.SetLimit(64)
			for _, key := range append([]string{w.Key}, w.Keys...) {
				all.Go(func() error {
					return cw.awaitRegion(ctx, owner, note.Await{Group: cw.g.name, Key: key, Scope: w.Scope(), Region: region})
				})
			}
			done <- all.Wait()
		})
		if !going {
			done <- ErrClosed
		}
	}
	for _, region := range names {
		if err := <-confirmed[region]; err == nil { // it ends with ctx, or Close
			result.Confirmed = append(result.Confirmed, region)
		} else {
			result.Pending = append(result.Pending, region)
		}
	}
	if len(result.Pending) > 0 {
		return fmt.Errorf("%w: not yet by %s", ErrUnconfirmed, strings.Join(result.Pending, ", "))
	}
	return nil
}

// confirmed asks the owner, which may be this node, and returns nil when the region
// has confirmed what it was sent about the key.
func (cw *callerWrites) awaitRegion(ctx context.Context, owner string, m note.Await) error {
	if owner == cw.g.cache.node.ID {
		return cw.g.cache.replicator.awaitConfirmed(ctx, &m)
	}
	peer := cw.g.cache.transport.Peer(owner)
	if peer == nil {
		return ErrUnconfirmed
	}
	_, err := peer.Call(ctx, note.MethodAwait, m.Append(nil))
	return err
}

// route asks the owner of the key in a region to carry the write out. If that one
// goes away it asks whoever is the owner then, for as long as the group's load
// timeout, but not before the first can no longer do it. The write must happen once. If it
// happens twice, writes made in between must still win (see giveStamp). A Swap, and a write to the origin, is not asked for again
// once it may have been done. route returns which node has done it.
func (cw *callerWrites) route(ctx context.Context, w *note.Write, region string) (wrote note.Wrote, by string, err error) {
	w.ID = cw.g.cache.self
	if cw.g.cache.transport == nil && !cw.g.backing.any() { // nobody else can do it, and there is nothing to wait for
		wrote, _, err := cw.ask(ctx, w, cw.g.cache.node)
		return wrote, cw.g.cache.node.ID, err
	}
	begun := cw.g.cache.clock.Now()
	w.ID = expiry.OriginOf(cw.g.cache.node.ID, begun)
	w.Untold = !cw.g.cache.inStanding()
	caller := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, cw.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	once := w.Op == note.Swap || cw.g.backing.takes(w.Op) && cw.g.backing.behind == nil
	maybe := false
	for again := true; again; {
		changed := cw.g.cache.standing.changed.wait()
		var sent time.Time // to the last that was asked
		err = errNoOwner
		if r := cw.g.cache.topology().Region(region); r != nil {
			for _, n := range r.Owners(w.Key, 2) {
				var o outcome
				sent = time.Now()
				wrote, o, err = cw.ask(ctx, w, n)
				by = n.ID
				again = o == refusedToBe || o == notYet || o == lost && !once
				switch o {
				case lost:
					maybe, changed = true, nil
					w.First = begun
				case left:
					maybe, again = true, !once
					w.First = begun
				}
				if o != refusedToBe {
					break
				}
			}
			if errors.Is(err, peers.CodeUnknownGroup) && region == cw.g.cache.node.Region {
				// As with reads: nobody whose it is has the group yet.
				wrote, _, err = cw.ask(ctx, w, cw.g.cache.node)
				by, again = cw.g.cache.node.ID, false
			}
		}
		if again {
			// The owner is on its way out of the view, or has just come.
			pause := routeAgain
			if changed == nil {
				// By the monotonic clock: to an Instant a step of the wall clock is time passed.
				pause = time.Until(sent.Add(cw.g.cache.writeLife()))
			}
			select {
			case <-changed:
			case <-time.After(pause):
			case <-ctx.Done():
				again = false
			}
		}
	}
	switch {
	case err == nil || caller.Err() == nil || errors.Is(err, ErrUncertain): // the node's own word
	case errors.Is(err, ErrOverloaded):
		err = fmt.Errorf("%w: %w", ErrOverloaded, caller.Err())
	default:
		err = caller.Err()
	}
	if err != nil && maybe {
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return wrote, by, err
}

// routeAgain is the pause before the owner of a key is asked once more.
const routeAgain = 50 * time.Millisecond

var errNoOwner = errors.New("no node of the region can be reached")

// An outcome is what came of asking a node for a write.
type outcome int

const (
	final       outcome = iota // it has done it, or failed to, and said so
	refusedToBe                // it does not act as an owner now: it has not done it
	notYet                     // it has not done it: it had no room, or no time left
	lost                       // it may have done it
	left                       // it has done it, but the next owner has to see to it that all are told
)

// request asks one node, which may be this one, to carry out a write.
func (cw *callerWrites) ask(ctx context.Context, w *note.Write, n regions.Node) (note.Wrote, outcome, error) {
	if n.ID == cw.g.cache.node.ID {
		if cw.g.cache.leavesWrites(cw.g.cache.standing.view.Load()) {
			return note.Wrote{}, refusedToBe, errStranger
		}
		wrote, err := cw.g.writes.carryOut(ctx, w)
		switch {
		case w.Op == note.Swap && errors.Is(err, ErrOverloaded):
			return note.Wrote{}, notYet, err // it does not wait for room itself
		case errors.Is(err, ErrUncertain):
			return note.Wrote{}, final, err
		case wrote.Stamp.Generation != 0:
			wrote.Unconfirmed, err = err != nil, nil
		}
		if wrote.Unconfirmed && cw.g.cache.isGuest() {
			return wrote, left, nil
		}
		return wrote, final, err
	}
	peer := cw.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return note.Wrote{}, refusedToBe, errNoOwner
	}
	w.Age = cw.g.cache.clock.Instant().Sub(w.Born)
	w.Standing = !cw.g.cache.isNew() && !cw.g.cache.isGuest() // which it may have become since the first request
	if ctx.Err() != nil {
		return note.Wrote{}, notYet, context.Cause(ctx)
	}
	reply, err := peer.Call(ctx, note.MethodWrite, w.Append(nil))
	if err == nil {
		wrote, err := note.DecodeWrote(reply)
		switch {
		case wrote.Late && w.Op == note.Swap: // the home may be another one by now: it is read again
			return note.Wrote{}, final, nil
		case wrote.Late:
			return note.Wrote{}, notYet, errLate
		case wrote.Stranger:
			return note.Wrote{}, refusedToBe, errStranger
		case wrote.Left:
			return wrote, left, err
		}
		return wrote, final, err
	}
	var pe *peers.Error
	if !errors.As(err, &pe) { // ctx has ended, and the peer may not have noticed
		return note.Wrote{}, lost, context.Cause(ctx)
	}
	switch pe.Code {
	case peers.CodeClosing, peers.CodeUnknownGroup:
		return note.Wrote{}, refusedToBe, fromPeer(err)
	case peers.CodeBusy:
		return note.Wrote{}, notYet, fromPeer(err)
	case peers.CodeUnavailable:
		return note.Wrote{}, lost, fromPeer(err)
	}
	return note.Wrote{}, final, fromPeer(err)
}
