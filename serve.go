package geocache

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/geocache/geocache/peers"
)

// handler answers the requests of peers.
type handler struct{ cache *Cache }

// Lookup answers from memory, on the goroutine that reads the connection.
func (h handler) Lookup(req *peers.Request) (peers.Answer, bool) {
	g := h.cache.group(req.Group)
	if g == nil {
		return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}, true
	}
	a, ok := g.lookup(req.Key)
	if !ok || a.entry.Generation <= req.Floor {
		return peers.Answer{}, false
	}
	g.stats.served.Add(1)
	return g.reply(a), true
}

// Load answers by a fill, in the role that the asker gave this node.
func (h handler) Load(ctx context.Context, req *peers.Request) peers.Answer {
	g := h.cache.group(req.Group)
	if g == nil {
		return peers.Answer{Code: peers.CodeUnknownGroup, Text: "no such group here"}
	}
	key := strings.Clone(req.Key)
	floor := max(req.Floor, g.floors.Floor(key))
	g.stats.served.Add(1)
	switch req.Hop {
	case peers.HopOwner:
		return g.reply(g.own(ctx, key, floor))
	case peers.HopRegion:
		return g.reply(g.loadFor(ctx, key, floor))
	}
	return peers.Answer{Code: peers.CodeBadRequest, Text: "unknown hop"}
}

// reply puts an answer into the words of the wire.
func (g *group) reply(a answer) peers.Answer {
	if a.err != nil {
		code := peers.CodeFailed
		switch {
		case errors.Is(a.err, ErrClosed):
			code = peers.CodeClosing
		case errors.Is(a.err, ErrTooLarge):
			code = peers.CodeTooLarge
		case errors.Is(a.err, ErrTimeout):
			code = peers.CodeTimeout
		}
		return peers.Answer{Code: code, Text: rootText(a.err)}
	}
	e, now := a.entry, g.cache.clock.Instant()
	ans := peers.Answer{
		Code:       peers.CodeOK,
		Generation: e.Generation,
		// In whole microseconds and never too young.
		Age:   now.Sub(e.Born) + time.Microsecond - 1,
		At:    now,
		Life:  e.Expires.Sub(e.Born),
		Value: e.Value,
	}
	if e.Absent {
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

// rootText is the text of err without the places it arose at, which the asker
// knows, or is told by the transport.
func rootText(err error) string {
	if e, ok := err.(*Error); ok {
		err = e.Err
	}
	return err.Error()
}
