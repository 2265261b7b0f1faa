package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/peers"
	"github.com/geocache/geocache/regions"
)

// This file is a write at the node whose user has called for it.

// callerWrites brings the writes of this process's callers to the keys' owners.
type router struct{ g *Group }

// mutate brings a write to the key's owner and waits for as much as o asks.
func (cw *router) mutate(ctx context.Context, req *message.WriteRequest, o *WriteOptions) error {
	if o.Receipt != nil {
		*o.Receipt = Receipt{}
	}
	err := cw.refuse(ctx, req, o)
	if err == nil {
		req.Group, req.Key = cw.g.name, strings.Clone(req.Key)
		req.Life, req.AckOwner = o.TTL, o.Ack == AckOwner
		if req.Op == message.Set {
			req.Tagged = len(o.Tags) > 0
			req.Value = WithTags(o.Tags, req.Value)
		}
		var done func()
		if done, err = cw.g.trackWait(ctx, req.Key, true); err == nil {
			err = cw.run(ctx, req, o.Ack, o.Receipt)
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
func (cw *router) refuse(ctx context.Context, req *message.WriteRequest, o *WriteOptions) error {
	name := req.Subject().Name()
	switch most := cw.g.cache.config.Limits.MaxValue; {
	case ctx == nil:
		return errNoContext
	case cw.g.cache.ctx.Err() != nil:
		return ErrClosed
	case len(name) > MaxKey && req.Scope():
		return fmt.Errorf("%w: a prefix of %d bytes, at most %d are allowed, as of a key", ErrTooLarge, len(name), MaxKey)
	case len(name) > MaxKey:
		return fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", ErrTooLarge, len(name), MaxKey)
	case len(req.Value) > most:
		return fmt.Errorf("%w: a value of %d bytes, at most %d are allowed", ErrTooLarge, len(req.Value), most)
	case o.Invalid != nil:
		return o.Invalid
	}
	return ctx.Err()
}

// carryOut has the owner do the write, and waits for as much as ack asks. result may be nil.
func (cw *router) run(ctx context.Context, req *message.WriteRequest, ack Ack, result *Receipt) error {
	var remote []string
	if ack == AckWorld { // before the write: a region that comes later need not have heard of it
		remote = cw.g.cache.remoteRegions()
	}
	reply, owner, err := cw.route(ctx, req, cw.g.cache.topology().Home.Name)
	if result == nil {
		if err == nil && !reply.Unconfirmed && ack != AckWorld {
			return nil
		}
		result = new(Receipt)
	}
	result.Generation = reply.Stamp.Generation
	home := cw.g.cache.node.Region
	switch {
	case err != nil:
		return err
	case reply.Unconfirmed:
		result.Pending = append(result.Pending, home)
		return fmt.Errorf("%w: not by all of %s", ErrUnconfirmed, home)
	case ack == AckOwner:
		return nil
	}
	result.Confirmed = append(result.Confirmed, home)
	if ack == AckRegion {
		return nil
	}
	return cw.awaitAll(ctx, req, owner, remote, result)
}

// awaitAll waits until the owner has heard from each of the regions that it has
// been told of w, or ctx ends.
func (cw *router) awaitAll(ctx context.Context, req *message.WriteRequest, owner string, names []string, result *Receipt) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(cw.g.cache.remoteWaits, cancel)()
	confirmed := make(map[string]chan error, len(names))
	for _, region := range names {
		done := make(chan error, 1)
		confirmed[region] = done
		going := cw.g.cache.spawn(func() {
			var all errgroup.Group // the keys of a RemoveMany are on their way together
			all.SetLimit(64)
			for _, key := range append([]string{req.Key}, req.Keys...) {
				all.Go(func() error {
					return cw.awaitRegion(ctx, owner, message.AwaitRequest{Group: cw.g.name, Key: key, Scope: req.Scope(), Region: region})
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
func (cw *router) awaitRegion(ctx context.Context, owner string, m message.AwaitRequest) error {
	if owner == cw.g.cache.node.ID {
		return cw.g.cache.replicator.awaitConfirmed(ctx, &m)
	}
	peer := cw.g.cache.transport.Peer(owner)
	if peer == nil {
		return ErrUnconfirmed
	}
	_, err := peer.Call(ctx, message.MethodAwait, m.Append(nil))
	return err
}

// route asks the owner of the key in a region to carry the write out. If that one
// goes away it asks whoever is the owner then, for as long as the group's load
// timeout, but not before the first can no longer do it. The write must happen once. If it
// happens twice, writes made in between must still win (see giveStamp). A Swap, and a write to the origin, is not asked for again
// once it may have been done. route returns which node has done it.
func (cw *router) route(ctx context.Context, req *message.WriteRequest, region string) (reply message.WriteReply, by string, err error) {
	req.ID = cw.g.cache.self
	if cw.g.cache.transport == nil && !cw.g.origin.any() { // nobody else can do it, and there is nothing to wait for
		reply, _, err := cw.ask(ctx, req, cw.g.cache.node)
		return reply, cw.g.cache.node.ID, err
	}
	begun := cw.g.cache.clock.Now()
	req.ID = expiry.OriginOf(cw.g.cache.node.ID, begun)
	req.Unleased = !cw.g.cache.holdsLease()
	caller := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, cw.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	once := req.Op == message.Swap || cw.g.origin.takes(req.Op) && cw.g.origin.queue == nil
	maybe := false
	for again := true; again; {
		changed := cw.g.cache.changed.wait()
		var sent time.Time // to the last that was asked
		err = errNoOwner
		if r := cw.g.cache.topology().Region(region); r != nil {
			for _, n := range r.Owners(req.Key, 2) {
				var o outcome
				sent = time.Now()
				reply, o, err = cw.ask(ctx, req, n)
				by = n.ID
				again = o == notOwner || o == notYet || o == lost && !once
				switch o {
				case lost:
					maybe, changed = true, nil
					req.First = begun
				case ownerLeft:
					maybe, again = true, !once
					req.First = begun
				}
				if o != notOwner {
					break
				}
			}
			if errors.Is(err, peers.CodeUnknownGroup) && region == cw.g.cache.node.Region {
				// As with reads: nobody whose it is has the group yet.
				reply, _, err = cw.ask(ctx, req, cw.g.cache.node)
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
	return reply, by, err
}

// routeAgain is the pause before the owner of a key is asked once more.
const routeAgain = 50 * time.Millisecond

var errNoOwner = errors.New("no node of the region can be reached")

// An outcome is what came of asking a node for a write.
type outcome int

const (
	final     outcome = iota // it has done it, or failed to, and said so
	notOwner                 // it does not act as an owner now: it has not done it
	notYet                   // it has not done it: it had no room, or no time left
	lost                     // it may have done it
	ownerLeft                // it has done it, but the next owner has to see to it that all are told
)

// request asks one node, which may be this one, to carry out a write.
func (cw *router) ask(ctx context.Context, req *message.WriteRequest, n regions.Node) (message.WriteReply, outcome, error) {
	if n.ID == cw.g.cache.node.ID {
		if cw.g.cache.leases.DefersWrites(cw.g.cache.view.Load().View) {
			return message.WriteReply{}, notOwner, errIncompleteView
		}
		reply, err := cw.g.committer.commit(ctx, req)
		switch {
		case req.Op == message.Swap && errors.Is(err, ErrOverloaded):
			return message.WriteReply{}, notYet, err // it does not wait for room itself
		case errors.Is(err, ErrUncertain):
			return message.WriteReply{}, final, err
		case reply.Stamp.Generation != 0:
			reply.Unconfirmed, err = err != nil, nil
		}
		if reply.Unconfirmed && cw.g.cache.isGuest() {
			return reply, ownerLeft, nil
		}
		return reply, final, err
	}
	peer := cw.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return message.WriteReply{}, notOwner, errNoOwner
	}
	req.Age = cw.g.cache.clock.Instant().Sub(req.Born)
	req.Member = !cw.g.cache.leases.IsNew() && !cw.g.cache.isGuest() // which it may have become since the first request
	if ctx.Err() != nil {
		return message.WriteReply{}, notYet, context.Cause(ctx)
	}
	reply, err := peer.Call(ctx, message.MethodWrite, req.Append(nil))
	if err == nil {
		reply, err := message.DecodeWriteReply(reply)
		switch {
		case reply.Late && req.Op == message.Swap: // the home may be another one by now: it is read again
			return message.WriteReply{}, final, nil
		case reply.Late:
			return message.WriteReply{}, notYet, errLate
		case reply.IncompleteView:
			return message.WriteReply{}, notOwner, errIncompleteView
		case reply.OwnerLeft:
			return reply, ownerLeft, err
		}
		return reply, final, err
	}
	var pe *peers.Error
	if !errors.As(err, &pe) { // ctx has ended, and the peer may not have noticed
		return message.WriteReply{}, lost, context.Cause(ctx)
	}
	switch pe.Code {
	case peers.CodeClosing, peers.CodeUnknownGroup:
		return message.WriteReply{}, notOwner, fromPeer(err)
	case peers.CodeBusy:
		return message.WriteReply{}, notYet, fromPeer(err)
	case peers.CodeUnavailable:
		return message.WriteReply{}, lost, fromPeer(err)
	}
	return message.WriteReply{}, final, fromPeer(err)
}
