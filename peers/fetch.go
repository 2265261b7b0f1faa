package peers

import (
	"context"
	"fmt"

	"github.com/geocache/geocache/expiry"
)

// Fetch asks the peer for a key and waits for the answer. The time that is
// left until ctx's deadline travels with the request, and if ctx ends first
// the peer is told to stop.
//
// The error is nil if the answer is CodeOK, CodeNotFound or CodeMiss. It is
// ctx.Err() if ctx has ended. Otherwise it is an *Error. A peer that is down
// is answered for at once, with CodeUnavailable: Fetch never waits for a
// connection to be made.
//
// Writing can hold Fetch up beyond ctx's deadline, but only if the peer has
// stopped reading, and then for no longer than it takes to be found down.
func (p *Peer) Fetch(ctx context.Context, req Request) (Answer, error) {
	p.requests.Add(1)
	ans, err := p.fetch(ctx, req)
	if err != nil {
		p.failures.Add(1)
	}
	return ans, err
}

func (p *Peer) fetch(ctx context.Context, req Request) (Answer, error) {
	if err := ctx.Err(); err != nil {
		return Answer{}, err
	}
	c := p.conn.Load()
	if c == nil {
		return Answer{}, p.inferred(CodeUnavailable, p.Err())
	}
	if err := c.check(req.Group, req.Key); err != nil {
		return Answer{}, err
	}
	cl, _ := p.transport.calls.Get().(*call)
	if cl == nil {
		cl = &call{results: make(chan result, 1)}
	}
	cl.sent = p.transport.config.Clock.Instant()
	keys := [1]Key{{Key: req.Key, Floor: req.Floor}}
	sp, err := c.send(ctx, cl, fetch{hop: req.Hop, peek: req.Peek}, req.Group, keys[:], 0)
	if err != nil {
		return Answer{}, err
	}
	select {
	case r := <-cl.results:
		sent := cl.sent
		p.transport.calls.Put(cl)
		return p.outcome(r, sent)
	case <-ctx.Done():
		c.cancel(cl, sp)
		return Answer{}, ctx.Err()
	}
}

// FetchMany asks the peer for several keys, in one frame unless the limits ask
// for more, and calls answered once for each, with its index in batch.Keys, as
// the answers come and in whatever order they do. It calls it on the caller's
// goroutine and returns after the last. Answers and errors are those of Fetch.
func (p *Peer) FetchMany(ctx context.Context, batch Batch, answered func(i int, ans Answer, err error)) {
	p.requests.Add(uint64(len(batch.Keys)))
	p.fetchMany(ctx, batch, func(i int, ans Answer, err error) {
		if err != nil {
			p.failures.Add(1)
		}
		answered(i, ans, err)
	})
}

func (p *Peer) fetchMany(ctx context.Context, batch Batch, answered func(i int, ans Answer, err error)) {
	waiting := make([]bool, len(batch.Keys)) // sent and not answered
	left := 0                                // how many are
	cl := &call{sent: p.transport.config.Clock.Instant(), results: make(chan result, len(batch.Keys))}
	c := p.conn.Load()
	var spans []span
	for i := 0; i < len(batch.Keys); {
		n, err := 1, ctx.Err()
		if err == nil && c == nil {
			err = p.inferred(CodeUnavailable, p.Err())
		}
		if err == nil {
			err = c.check(batch.Group, batch.Keys[i].Key)
		}
		if err == nil {
			n = c.fitting(batch.Group, batch.Keys[i:])
			var sp span
			sp, err = c.send(ctx, cl, fetch{hop: batch.Hop, peek: batch.Peek}, batch.Group, batch.Keys[i:i+n], i)
			spans = append(spans, sp)
		}
		for range n {
			if err != nil {
				answered(i, Answer{}, err)
			} else {
				waiting[i] = true
				left++
			}
			i++
		}
	}
	for ; left > 0; left-- {
		select {
		case r := <-cl.results:
			waiting[r.i] = false
			ans, err := p.outcome(r, cl.sent)
			answered(r.i, ans, err)
		case <-ctx.Done():
			c.cancel(cl, spans...)
			for i := range waiting {
				if waiting[i] {
					answered(i, Answer{}, ctx.Err())
				}
			}
			return
		}
	}
}

// check returns an error for a request that the peer would close the
// connection for.
func (c *clientConn) check(group, key string) error {
	switch {
	case len(group) > maxName:
		return c.peer.inferred(CodeBadRequest, fmt.Errorf("the group's name has %d bytes, at most %d are allowed", len(group), maxName))
	case len(key) > int(c.server.maxKey):
		return c.peer.inferred(CodeTooLarge, fmt.Errorf("the key has %d bytes, the node takes %d", len(key), c.server.maxKey))
	}
	return nil
}

// fitting returns how many of the keys go into one frame: those before the
// first that check would refuse, as far as the limits allow, and one at least.
func (c *clientConn) fitting(group string, keys []Key) int {
	size := fetchSize + len(group)
	for n, k := range keys {
		size += keySize + len(k.Key)
		if n > 0 && (n == int(c.server.maxKeys) || size > maxRequest || len(k.Key) > int(c.server.maxKey)) {
			return n
		}
	}
	return len(keys)
}

// outcome turns the result of a request sent then into what the caller gets.
//
// The answer was some time under way, which nobody can measure without
// comparing clocks. But it was no more than the whole exchange has taken here,
// less what the peer held the request for, and by that its age is raised: too
// much by the time the request took to get there, never too little.
func (p *Peer) outcome(r result, sent expiry.Instant) (Answer, error) {
	switch {
	case r.err != nil:
		return Answer{}, r.err
	case r.ans.Code.carriesValue():
		r.ans.Age += max(p.transport.config.Clock.Instant().Sub(sent)-r.held, 0)
		return r.ans, nil
	}
	return Answer{}, &Error{Node: p.endpoint.ID, Region: p.endpoint.Region, Code: r.ans.Code, Text: r.ans.Text}
}

// inferred returns an error that this node concludes from err.
func (p *Peer) inferred(code Code, err error) error {
	return &Error{Node: p.endpoint.ID, Region: p.endpoint.Region, Code: code, Inferred: true, err: err}
}
