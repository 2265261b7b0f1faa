package engine

import (
	"cmp"
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

// This file carries out a write at the node whose user asks for it.

// A router brings the writes of this process's callers to the owners of their keys.
type router struct{ g *Group }

// mutate brings a write to the key's owner and waits for as much as o asks for.
func (rt *router) mutate(ctx context.Context, req *message.WriteRequest, o *WriteOptions) error {
	if o.Receipt != nil {
		*o.Receipt = Receipt{}
	}
	err := rt.validate(ctx, req, o)
	if err == nil {
		req.Group, req.Key = rt.g.name, strings.Clone(req.Key)
		req.Life, req.AckOwner = o.TTL, o.Ack == AckOwner
		if req.Op == message.Set {
			req.Tagged = len(o.Tags) > 0
			req.Value = WithTags(o.Tags, req.Value)
		}
		var done func()
		if done, err = rt.g.trackWait(ctx, req.Key, true); err == nil {
			err = rt.run(ctx, req, o.Ack, o.Receipt)
			done()
		}
	}
	rt.g.stats.writes.Add(1)
	if err != nil {
		rt.g.stats.writeErrors.Add(1)
	}
	return err
}

// validate returns the error of a write that is not to be started.
func (rt *router) validate(ctx context.Context, req *message.WriteRequest, o *WriteOptions) error {
	name := req.Subject().Name()
	switch most := rt.g.cache.config.Limits.MaxValue; {
	case ctx == nil:
		return errNoContext
	case rt.g.cache.ctx.Err() != nil:
		return ErrClosed
	case len(name) > MaxKey && req.Scope():
		return fmt.Errorf("%w: a prefix of %d bytes, at most %d are allowed, like in a key",
			ErrTooLarge, len(name), MaxKey)
	case len(name) > MaxKey:
		return fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", ErrTooLarge, len(name), MaxKey)
	case len(req.Value) > most:
		return fmt.Errorf("%w: a value of %d bytes, at most %d are allowed",
			ErrTooLarge, len(req.Value), most)
	case o.Invalid != nil:
		return o.Invalid
	}
	if err := rt.g.cache.clock.Merge(o.After); err != nil { // the request brings the clock to the owner
		return fmt.Errorf("After: the write is from the future: %w", err)
	}
	return ctx.Err()
}

// run has the owner carry out the write, and waits for as much as ack asks for. result may be nil.
func (rt *router) run(ctx context.Context, req *message.WriteRequest, ack Ack, result *Receipt) error {
	var remote []string
	if ack == AckWorld { // read before the write: a region that comes later need not have heard of it
		remote = rt.g.cache.remoteRegions()
	}
	reply, owner, err := rt.route(ctx, req, rt.g.cache.topology().Home.Name)
	if result == nil {
		if err == nil && !reply.Unconfirmed && ack != AckWorld {
			return nil
		}
		result = new(Receipt)
	}
	result.Generation = reply.Stamp.Generation
	home := rt.g.cache.node.Region
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
	return rt.awaitRegions(ctx, req, owner, remote, result)
}

// awaitRegions waits until each of the regions has confirmed the write to the owner, or ctx or the cache
// ends. It adds the regions to result's Confirmed and Pending.
func (rt *router) awaitRegions(
	ctx context.Context, req *message.WriteRequest, owner string, names []string, result *Receipt,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(rt.g.cache.remoteWaits, cancel)()
	confirmed := make(map[string]chan error, len(names))
	for _, region := range names {
		done := make(chan error, 1)
		confirmed[region] = done
		going := rt.g.cache.spawn(func() {
			var all errgroup.Group // the keys of a RemoveMany travel together
			all.SetLimit(64)
			for _, key := range append([]string{req.Key}, req.Keys...) {
				all.Go(func() error {
					return rt.awaitRegion(ctx, owner, message.AwaitRequest{
						Group: rt.g.name, Key: key, Scope: req.Scope(), Region: region,
					})
				})
			}
			done <- all.Wait()
		})
		if !going {
			done <- ErrClosed
		}
	}
	for _, region := range names {
		if err := <-confirmed[region]; err == nil { // ends with ctx, or on Close
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

// awaitRegion asks the owner, which may be this node, and returns nil once the region has confirmed what
// it was sent about the key.
func (rt *router) awaitRegion(ctx context.Context, owner string, m message.AwaitRequest) error {
	if owner == rt.g.cache.node.ID {
		return rt.g.cache.replicator.awaitConfirmed(ctx, &m)
	}
	peer := gateway{rt.g.cache}.reach(owner)
	if peer == nil {
		return ErrUnconfirmed
	}
	m.By = owner
	_, err := peer.Call(ctx, message.MethodAwait, m.Append(nil))
	return err
}

// route asks the key's owner in a region to carry out the write, and returns by, the ID of the node that
// has.
//
// If that node goes away, route asks whichever node owns the key by then, for as long as the group's load
// timeout, but not before the first node can no longer carry it out. The write should happen once; if it
// happens twice, writes made in between must still win (see assignStamp). A Swap and a write-through are
// not sent again once they may have been carried out.
func (rt *router) route(
	ctx context.Context, req *message.WriteRequest, region string,
) (reply message.WriteReply, by string, err error) {
	req.ID = rt.g.cache.self
	if rt.g.cache.transport == nil && !rt.g.origin.any() { // no other node, and nothing to wait for
		reply, _, err := rt.ask(ctx, req, rt.g.cache.node)
		return reply, rt.g.cache.node.ID, err
	}
	begun := rt.g.cache.clock.Now()
	req.ID = expiry.OriginOf(rt.g.cache.node.ID, begun)
	req.Unleased = !rt.g.cache.holdsLease()
	caller := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, rt.g.config.LoadTimeout, ErrTimeout)
	defer cancel()
	atMostOnce := req.Op == message.Swap || rt.g.origin.takes(req.Op) && rt.g.origin.queue == nil
	uncertain := false
	for retry := true; retry; {
		changed := rt.g.cache.changed.wait()
		var sent time.Time // when the last node was asked
		err = errNoOwner
		if r := rt.g.cache.topology().Region(region); r != nil {
			for _, n := range r.Owners(req.Key, 2) {
				var o outcome
				sent = time.Now()
				reply, o, err = rt.ask(ctx, req, n)
				by = cmp.Or(reply.By, n.ID)
				retry = o == notOwner || o == notYet || o == lost && !atMostOnce
				switch o {
				case lost:
					uncertain, changed = true, nil
					req.First = begun
				case ownerLeft:
					uncertain, retry = true, !atMostOnce
					req.First = begun
				}
				if o != notOwner {
					break
				}
			}
			if errors.Is(err, peers.CodeUnknownGroup) && region == rt.g.cache.node.Region {
				// As with reads: no owner has the group yet, so this node acts as one.
				reply, _, err = rt.ask(ctx, req, rt.g.cache.node)
				by, retry = rt.g.cache.node.ID, false
			}
		}
		if retry {
			// The owner is about to leave the view, or has just joined.
			pause := routeRetryPause
			if changed == nil {
				// By the monotonic clock: an Instant counts a step of the wall clock as time passed.
				pause = time.Until(sent.Add(rt.g.cache.writeLifetime()))
			}
			select {
			case <-changed:
			case <-time.After(pause):
			case <-ctx.Done():
				retry = false
			}
		}
	}
	switch {
	case err == nil || caller.Err() == nil || errors.Is(err, ErrUncertain): // what the node itself said
	case errors.Is(err, ErrOverloaded):
		err = fmt.Errorf("%w: %w", ErrOverloaded, caller.Err())
	default:
		err = caller.Err()
	}
	if err != nil && uncertain {
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return reply, by, err
}

// routeRetryPause is the pause before a key's owner is asked again.
const routeRetryPause = 50 * time.Millisecond

// errNoOwner means that no node could be asked as the owner of a key.
var errNoOwner = errors.New("no node of the region can be reached")

// An outcome says what came of asking a node for a write.
type outcome int

const (
	final     outcome = iota // the node carried it out, or failed, and said so
	notOwner                 // the node does not act as the owner now, and has not carried it out
	notYet                   // the node had no room, or no time left, and has not carried it out
	lost                     // the node may have carried it out
	ownerLeft                // the node carried it out, but the next owner must see to it that all are told
)

// ask asks one node, which may be this one, to carry out a write.
func (rt *router) ask(
	ctx context.Context, req *message.WriteRequest, n regions.Node,
) (message.WriteReply, outcome, error) {
	if n.ID == rt.g.cache.node.ID {
		if rt.g.cache.leases.DefersWrites(rt.g.cache.view.Load().View) {
			return message.WriteReply{}, notOwner, errIncompleteView
		}
		reply, err := rt.g.committer.commit(ctx, req)
		switch {
		case req.Op == message.Swap && errors.Is(err, ErrOverloaded):
			return message.WriteReply{}, notYet, err // a Swap does not wait for room by itself
		case errors.Is(err, ErrUncertain):
			return message.WriteReply{}, final, err
		case reply.Stamp.Generation != 0:
			reply.Unconfirmed, err = err != nil, nil
		}
		if reply.Unconfirmed && rt.g.cache.isGuest() {
			return reply, ownerLeft, nil
		}
		return reply, final, err
	}
	peer := rt.g.cache.transport.Peer(n.ID)
	if peer == nil {
		return message.WriteReply{}, notOwner, errNoOwner
	}
	req.Age = rt.g.cache.clock.Instant().Sub(req.Born)
	// Computed for each request: the node may have become a guest since the first.
	req.Member = !rt.g.cache.leases.IsNew() && !rt.g.cache.isGuest()
	if ctx.Err() != nil {
		return message.WriteReply{}, notYet, context.Cause(ctx)
	}
	reply, err := peer.Call(ctx, message.MethodWrite, req.Append(nil))
	if err == nil {
		reply, err := message.DecodeWriteReply(reply)
		switch {
		case reply.Late && req.Op == message.Swap: // the home may have moved: the Update reads again
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
	if !errors.As(err, &pe) { // ctx has ended; the peer may not have noticed
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
