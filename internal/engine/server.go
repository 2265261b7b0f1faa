package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/message"
	"github.com/geocache/geocache/internal/store"
	"github.com/geocache/geocache/peers"
)

// A handler answers requests from peers.
type handler struct{ cache *Cache }

// Lookup answers a read from memory, on the goroutine that reads the connection. It returns false if Load
// has to answer.
func (h handler) Lookup(req *peers.Request) (peers.Answer, bool) {
	g := h.cache.group(req.Group)
	if g == nil {
		return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}, true
	}
	if req.Hop == peers.HopUpdate && g.home.mustRecall(h.cache.view.Load(), req.Key) {
		return peers.Answer{}, false
	}
	a, ok := g.lookup(req.Key)
	if !ok && req.Hop == peers.HopOwner {
		a, ok = g.heldAsOwner(req.Key)
	}
	if !ok {
		a, ok = g.origin.queued(req.Key, req.Floor)
	}
	if !ok && (req.Hop == peers.HopOwner || req.Hop == peers.HopConfirmed) && !req.Peek {
		a, ok = g.refreshing.whileRevalidating(req.Key)
	}
	if !ok || a.entry.Below(req.Floor) {
		return peers.Answer{}, false
	}
	g.stats.served.Add(1)
	return h.reply(g, req.Floor, a), true
}

// heldAsOwner answers a node of this region with an entry that this node has as the key's owner, former
// owner or successor, even if it may not serve it to its own readers: the asker knows the key's floor, and
// would otherwise load the key.
func (g *Group) heldAsOwner(key string) (answer, bool) {
	e, ok := g.store.Peek(key)
	if !ok || !g.fresh.servesAsOwner(e, g.floors.Floor(key), g.cache.clock.Instant()) {
		return answer{}, false
	}
	return answer{entry: e, source: SourceStore}, true
}

// Load answers a read with a fill, in the role that the request gives this node.
func (h handler) Load(ctx context.Context, req *peers.Request) peers.Answer {
	g := h.cache.group(req.Group)
	if g == nil {
		return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}
	}
	if h.cache.isGuest() {
		return guestAnswer
	}
	key := strings.Clone(req.Key)
	floor := req.Floor.Max(g.floors.Floor(key))
	if gate := (gateway{h.cache}); gate.serves(req.Region) {
		ask := *req
		ask.Floor, ask.Together = floor, nil
		if ans, ok := gate.fetch(ctx, g, ask); ok {
			ans.SinceClear = ans.SinceClear && ask.Floor == req.Floor
			return ans
		}
	}
	g.stats.served.Add(1)
	switch req.Hop {
	case peers.HopOwner:
		return h.reply(g, req.Floor, fill{g, key, floor, g.loader.ticket(req.Together, key)}.asOwner(ctx))
	case peers.HopConfirmed:
		return h.reply(g, req.Floor, fill{g: g, key: key, floor: floor}.loadUnleased(ctx))
	case peers.HopRegion:
		return h.reply(g, req.Floor, fill{g: g, key: key, floor: floor}.localOrStale(ctx))
	case peers.HopUpdate:
		a := fill{g: g, key: key, floor: floor}.asHome(ctx)
		if errors.Is(a.err, errNotRecalled) {
			return peers.Answer{Code: peers.CodeUnsettled, Text: rootText(a.err)}
		}
		return h.reply(g, req.Floor, a)
	}
	return peers.Answer{Code: peers.CodeBadRequest, Text: "unknown hop"}
}

// reply is Group.reply for a read of what is not below a floor.
func (h handler) reply(g *Group, floor expiry.Stamp, a answer) peers.Answer {
	ans := g.reply(a)
	ans.SinceClear = a.err == nil && h.isSinceClear(g, a.entry, floor)
	return ans
}

// isSinceClear reports whether a floor is that of the last Clear, and e was not loaded before it. That is so
// once the Clear has left nothing older in the store, if e is still there. The order of the checks matters.
func (h handler) isSinceClear(g *Group, e *store.Entry, floor expiry.Stamp) bool {
	if !g.fresh.maybeOlder(e, floor) || floor != expiry.Removal(g.floors.Cleared()) || g.clearing.Load() > 0 {
		return false
	}
	there, ok := g.store.Peek(e.Key())
	return ok && there == e
}

// Take answers broadcasts from nodes of this region, on the goroutine that reads the connection: applying
// one only waits for locks. It returns false if Call has to answer.
func (h handler) Take(call *peers.Call) (peers.Answer, bool) {
	if call.Method != message.MethodBroadcast {
		return peers.Answer{}, false
	}
	quick := true
	ans := decoded(call, message.DecodeBroadcast, func(m message.Broadcast) peers.Answer {
		// A Clear goes through the whole store.
		quick = !slices.ContainsFunc(m.Writes, func(w message.Write) bool { return w.Clear })
		if !quick {
			return peers.Answer{}
		}
		return h.cache.handleBroadcast(m, call.Transit)
	})
	return ans, quick
}

// Call answers all other calls.
func (h handler) Call(ctx context.Context, call *peers.Call) peers.Answer {
	c := h.cache
	if c.isGuest() && !slices.Contains(guestMethods, call.Method) {
		return guestAnswer
	}
	switch call.Method {
	case message.MethodBroadcast:
		return decoded(call, message.DecodeBroadcast, func(m message.Broadcast) peers.Answer {
			return c.handleBroadcast(m, call.Transit)
		})
	case message.MethodPush:
		return decoded(call, message.DecodePush, func(m message.Push) peers.Answer {
			return c.replicator.handlePush(ctx, call, m)
		})
	case message.MethodWrite:
		return decoded(call, message.DecodeWriteRequest, func(m message.WriteRequest) peers.Answer {
			return c.inGroup(m.Group, func(g *Group) peers.Answer {
				return g.committer.handle(ctx, &m, call)
			})
		})
	case message.MethodJournal:
		return decoded(call, message.DecodeJournalRequest, func(m message.JournalRequest) peers.Answer {
			if g := c.group(m.Group); g != nil {
				return g.journal.handle(ctx, &m)
			}
			// Without the group, this node has nothing that the asker could miss.
			return peers.Answer{Value: message.Floors{}.Append(nil)}
		})
	case message.MethodHandoff:
		return c.handleHandoff(call)
	case message.MethodFlushed:
		return decoded(call, message.DecodeFlushed, func(m message.Flushed) peers.Answer {
			return c.inGroup(m.Group, func(g *Group) peers.Answer { return g.origin.handleFlushed(&m) })
		})
	case message.MethodMembers:
		return decoded(call, message.DecodeMembersRequest, c.membership.handle)
	case message.MethodRecall:
		return decoded(call, message.DecodeRecallRequest, func(m message.RecallRequest) peers.Answer {
			return c.handleRecall(ctx, call, m)
		})
	case message.MethodOffer:
		return decoded(call, message.DecodeOffer, c.handleOffer)
	case message.MethodAwait:
		return decoded(call, message.DecodeAwaitRequest, func(m message.AwaitRequest) peers.Answer {
			return gateway{c}.await(ctx, call, m)
		})
	}
	return peers.Answer{Code: peers.CodeBadRequest, Text: "unknown method"}
}

// decoded decodes a call's payload and passes it to answer.
func decoded[M any](
	call *peers.Call, decode func([]byte) (M, error), answer func(M) peers.Answer,
) peers.Answer {
	m, err := decode(call.Payload)
	if err != nil {
		return peers.Answer{Code: peers.CodeBadRequest, Text: err.Error()}
	}
	return answer(m)
}

// inGroup passes the named group to answer, if this node has it.
func (c *Cache) inGroup(name string, answer func(*Group) peers.Answer) peers.Answer {
	if g := c.group(name); g != nil {
		return answer(g)
	}
	return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}
}

// reply converts an answer to its form on the wire.
func (g *Group) reply(a answer) peers.Answer {
	if a.err != nil {
		code := peers.CodeFailed
		switch {
		case errors.Is(a.err, ErrUncertain):
			code = peers.CodeUncertain
		case errors.Is(a.err, ErrClosed):
			code = peers.CodeClosing
		case errors.Is(a.err, ErrTooLarge):
			code = peers.CodeTooLarge
		case errors.Is(a.err, ErrOverloaded):
			code = peers.CodeBusy
		case errors.Is(a.err, ErrTimeout):
			code = peers.CodeTimeout
		}
		return peers.Answer{Code: code, Text: rootText(a.err)}
	}
	e, now := a.entry, g.cache.clock.Instant()
	ans := peers.Answer{
		Code:  peers.CodeOK,
		Stamp: e.Stamp,
		// In whole microseconds, rounded up so that the value never seems younger than it is.
		Age:   now.Sub(e.Born()) + time.Microsecond - 1,
		At:    now,
		Life:  e.Expires.Sub(e.Born()),
		Value: e.Value(),

		Tagged: e.Tagged(),

		Unconfirmed: g.fresh.isUnconfirmed(a),
	}
	if e.Absent() {
		ans.Code = peers.CodeNotFound
	}
	switch a.source {
	case SourceStore, SourceOwner:
		ans.Source = peers.SourceStore
	case SourceRegion:
		ans.Source = peers.SourceRegion
	case SourceGetter:
		ans.Source = peers.SourceGetter
	case SourceStale:
		ans.Source, ans.Stale = peers.SourceStore, true
	}
	return ans
}

// rootText returns the text of err without its location, which the asker knows or learns from the
// transport.
func rootText(err error) string {
	if e, ok := err.(*Error); ok {
		err = e.Err
	}
	return err.Error()
}
