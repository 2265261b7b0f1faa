package peers

import (
	"context"
	"fmt"
	"time"

	"github.com/geocache/geocache/expiry"
)

// Fetch asks the peer for a key and waits for the answer. The time until ctx's deadline travels with the request,
// and if ctx ends first the peer is told to stop.
//
// The error is nil if the answer is CodeOK, CodeNotFound or CodeMiss, and ctx.Err() if ctx has ended. Otherwise it is an
// *Error. If the peer is down Fetch fails at once, with CodeUnavailable: it never waits for a connection to be made.
//
// Writing can keep Fetch beyond ctx's deadline, but only if the peer has stopped reading, and then for no longer than it
// takes to find that the peer is down.
func (p *Peer) Fetch(ctx context.Context, req Request) (Answer, error) {
	f, err := p.beginFetch(ctx, timeLeft(ctx), req)
	if err != nil {
		return Answer{}, err
	}
	return f.Wait(ctx)
}

// A PendingFetch is a Fetch under way.
type PendingFetch struct{ pending }

// BeginFetch is the part of Fetch before it waits. limit is how much time the peer is told to have.
func (p *Peer) BeginFetch(limit time.Duration, req Request) (PendingFetch, error) {
	return p.beginFetch(context.Background(), limit, req)
}

func (p *Peer) beginFetch(ctx context.Context, limit time.Duration, req Request) (PendingFetch, error) {
	keys := [1]Key{{Key: req.Key, Floor: req.Floor}}
	a, err := p.begin(ctx, func(c *clientConn, w *waiter) (span, error) {
		if err := c.check(req.Group, req.Key); err != nil {
			return span{}, err
		}
		return c.sendFetch(limit, w, fetch{hop: req.Hop, peek: req.Peek}, req.Group, keys[:], 0)
	})
	return PendingFetch{a}, err
}

// Await waits until the answer is there, so that Wait returns at once, and reports
// whether it is. It gives up after limit, or when ctx ends: nothing has been
// cancelled then, and Wait is still to be called, by any goroutine.
func (f PendingFetch) Await(ctx context.Context, limit time.Duration) bool {
	w := f.w
	if f.conn.readFor(ctx, w, limit) {
		return w.ready
	}
	if w.timer == nil {
		w.timer = time.NewTimer(limit)
	} else {
		w.timer.Reset(limit)
	}
	defer w.timer.Stop()
	select {
	case w.result = <-w.results:
		w.ready = true
	case <-ctx.Done():
	case <-w.timer.C:
	}
	return w.ready
}

// Wait is the rest of Fetch. It must be called, once.
func (f PendingFetch) Wait(ctx context.Context) (Answer, error) { return f.wait(ctx, false) }

// A pending is a request under way.
type pending struct {
	peer *Peer
	conn *clientConn
	w    *waiter
	span span
}

// begin sends a request, for whose answer its caller is going to wait at once.
func (p *Peer) begin(ctx context.Context, send func(*clientConn, *waiter) (span, error)) (a pending, err error) {
	p.requests.Add(1)
	defer func() {
		if err != nil {
			p.failures.Add(1)
		}
	}()
	if err := ctx.Err(); err != nil {
		return a, err
	}
	a = pending{peer: p}
	for {
		if a.conn = p.conn.Load(); a.conn == nil {
			return a, p.inferred(CodeUnavailable, p.downErr())
		}
		if a.w == nil {
			a.w, _ = p.transport.waiters.Get().(*waiter)
		}
		if a.w == nil {
			a.w = &waiter{reads: true, results: make(chan result, 1)}
		}
		a.w.sent = p.transport.config.Clock.Instant()
		if a.span, err = send(a.conn, a.w); err != errRenewed {
			return a, err
		}
	}
}

// wait must be called once for what begin has returned without an error. call says that it was a call.
func (a *pending) wait(ctx context.Context, call bool) (ans Answer, err error) {
	w := a.w
	if !w.ready {
		a.conn.readFor(ctx, w, 0)
	}
	if !w.ready {
		select {
		case w.result = <-w.results:
			w.ready = true
		case <-ctx.Done():
			a.conn.cancel(w, a.span)
			a.peer.failures.Add(1)
			return Answer{}, ctx.Err()
		}
	}
	r, sent := w.result, w.sent
	w.result, w.ready = result{}, false
	a.peer.transport.waiters.Put(w)
	if ans, err = a.peer.outcome(ctx, r, sent, call); err != nil {
		a.peer.failures.Add(1)
	}
	return ans, err
}

// FetchMany asks the peer for several keys, in one frame unless the limits require more. It calls answered once for each
// key, with its index in batch.Keys, in the order in which the answers come, on the caller's goroutine, and returns
// after the last. Answers and errors are those of Fetch.
func (p *Peer) FetchMany(ctx context.Context, batch Batch, answered func(i int, ans Answer, err error)) {
	p.requests.Add(uint64(len(batch.Keys)))
	p.fetchMany(ctx, batch, func(i int, ans Answer, err error) {
		if err != nil {
			p.failures.Add(1)
		}
		answered(i, ans, err)
	})
}

// A part is what one frame asks for.
type part struct {
	conn *clientConn
	span span
}

func (p *Peer) fetchMany(ctx context.Context, batch Batch, answered func(i int, ans Answer, err error)) {
	waiting := make([]bool, len(batch.Keys)) // sent and not answered
	left := 0                                // how many are
	w := &waiter{sent: p.transport.config.Clock.Instant(), results: make(chan result, len(batch.Keys))}
	c := p.conn.Load()
	var sent []part
	for i := 0; i < len(batch.Keys); {
		n, err := 1, ctx.Err()
		if err == nil && c == nil {
			err = p.inferred(CodeUnavailable, p.downErr())
		}
		if err == nil {
			err = c.check(batch.Group, batch.Keys[i].Key)
		}
		if err == nil {
			n = c.fitting(batch.Group, batch.Keys[i:])
			var sp span
			sp, err = c.sendFetch(timeLeft(ctx), w, fetch{hop: batch.Hop}, batch.Group, batch.Keys[i:i+n], i)
			if err == errRenewed {
				c = p.conn.Load()
				continue
			}
			sent = append(sent, part{c, sp})
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
		case r := <-w.results:
			waiting[r.i] = false
			ans, err := p.outcome(ctx, r, w.sent, false)
			answered(r.i, ans, err)
		case <-ctx.Done():
			for _, part := range sent {
				part.conn.cancel(w, part.span)
			}
			for i := range waiting {
				if waiting[i] {
					answered(i, Answer{}, ctx.Err())
				}
			}
			return
		}
	}
}

// sendFetch sends one frame that asks for keys, the first of which is key i of w.
func (c *clientConn) sendFetch(timeout time.Duration, w *waiter, m fetch, group string, keys []Key, i int) (span, error) {
	m.timeout = timeout
	clock := c.peer.transport.config.Clock
	return c.send(w, len(keys), i, nil, func(b []byte, first uint64) []byte {
		return appendFetch(b, first, clock.Read(), m, group, keys)
	})
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

// outcome turns the result of a request sent then into what the caller gets, and
// counts how long that took if it is no error.
//
// The answer was some time under way, which nobody can measure without
// comparing clocks. But it was no more than the whole exchange has taken here,
// less what the peer held the request for, and by that its age is raised: too
// much by the time the request took to get there, never too little.
//
// When the caller's time is up it is up for the peer too, and what either says
// of that comes at the same moment. The caller's own word goes first. Its context may
// not have ended yet, since timers are late; it has when outcome says so, for the caller
// looks there for the cause.
func (p *Peer) outcome(ctx context.Context, r result, sent expiry.Instant, call bool) (Answer, error) {
	took := p.transport.config.Clock.Instant().Sub(sent)
	switch {
	case r.err != nil:
	case call && r.ans.Code == CodeOK:
		p.calls.Record(took)
		return r.ans, nil
	case !call && r.ans.Code.carriesValue():
		p.fetches.Record(took)
		r.ans.Age += max(took-r.held, 0)
		return r.ans, nil
	}
	deadline, limited := ctx.Deadline()
	switch {
	case ctx.Err() != nil || limited && !time.Now().Before(deadline):
		<-ctx.Done()
		return Answer{}, ctx.Err()
	case r.err != nil:
		return Answer{}, r.err
	}
	return Answer{}, p.answered(r.ans)
}

// answered returns an answer that is an error as one.
func (p *Peer) answered(ans Answer) error {
	return &Error{Node: p.endpoint.ID, Region: p.endpoint.Region, Code: ans.Code, Text: ans.Text}
}

// inferred returns an error that this node concludes from err.
func (p *Peer) inferred(code Code, err error) error {
	return &Error{Node: p.endpoint.ID, Region: p.endpoint.Region, Code: code, Inferred: true, err: err}
}
