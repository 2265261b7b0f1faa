package peers

import (
	"bytes"
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
)

// A clientConn is a connection that requests go out on.
type clientConn struct {
	*conn
	peer   *Peer
	server welcome // its limits

	mu       sync.Mutex      // guards the following
	calls    map[uint64]slot // requests that wait for an answer
	next     uint64          // number of the next request
	draining error           // if not nil: why the connection ends when calls is empty
	ended    error           // if not nil: why the connection has ended
	pings    [8]ping         // the last, by number
	pinged   uint64          // number of the last ping
}

// A slot is where the answer to a request belongs.
type slot struct {
	call *call
	i    int
}

// A call is what a caller of Fetch or FetchMany waits for.
type call struct {
	sent    expiry.Instant // no later than its first frame
	results chan result    // has room for all answers, so that no sender waits
}

// A result is the answer to key i of a call.
type result struct {
	i    int
	ans  Answer
	held time.Duration // by the peer, before it answered
	err  error
}

// A span is n requests with numbers from first on.
type span struct {
	first uint64
	n     int
}

// A ping is one that waits for its pong.
type ping struct {
	number  uint64
	at      time.Time
	instant expiry.Instant
}

func newClientConn(p *Peer, nc *conn, m welcome) *clientConn {
	return &clientConn{conn: nc, peer: p, server: m, calls: make(map[uint64]slot), next: 1}
}

// run reads frames until the connection ends, and returns why.
func (c *clientConn) run() error {
	t := c.peer.transport
	c.reader.accept = c.acceptAnswers
	c.reader.idle = t.config.Lease
	c.reader.until = time.Time{}
	for {
		h, body, owned, err := c.reader.next()
		if err != nil {
			return err
		}
		if err := t.merge(h); err != nil {
			return err
		}
		if err := c.handle(h, body, owned); err != nil {
			return err
		}
	}
}

func (c *clientConn) acceptAnswers(k kind) (int, bool) {
	switch k {
	case kindAnswer:
		return answerSize + max(c.peer.transport.config.Limits.MaxValue, maxText), true
	case kindPong, kindGoodbye, kindRefused:
		return maxHandshake, true
	}
	return 0, false
}

func (c *clientConn) handle(h header, body []byte, owned bool) error {
	switch h.kind {
	case kindAnswer:
		ans, held, err := decodeAnswer(body)
		if err != nil {
			return refuse(ReasonProtocol, "an answer that is malformed")
		}
		return c.deliver(h.id, ans, held, owned)
	case kindPong:
		lease, err := decodePong(body)
		if err != nil {
			return refuse(ReasonProtocol, "a pong that is malformed")
		}
		c.mu.Lock()
		sent := c.pings[h.id%uint64(len(c.pings))]
		c.mu.Unlock()
		if sent.number == h.id && h.id != 0 {
			c.peer.ponged(sent, lease)
		}
		return nil
	case kindGoodbye:
		if err := decodeEmpty(body); err != nil {
			return refuse(ReasonProtocol, "a goodbye that is malformed")
		}
		c.peer.leaving(c)
		return nil
	}
	refused, err := decodeRefused(body)
	if err != nil {
		return refuse(ReasonProtocol, "a refusal that is malformed")
	}
	return refused
}

// deliver gives an answer to who waits for it. Nobody may, since it can have
// crossed with a cancel.
func (c *clientConn) deliver(id uint64, ans Answer, held time.Duration, owned bool) error {
	c.mu.Lock()
	s, waiting := c.calls[id]
	delete(c.calls, id)
	unasked := id >= c.next
	drained := c.drainedLocked()
	c.mu.Unlock()
	if unasked {
		return refuse(ReasonProtocol, "an answer to a request that was never made")
	}
	if waiting {
		if !owned {
			ans.Value = bytes.Clone(ans.Value)
		}
		s.call.results <- result{i: s.i, ans: ans, held: held}
	}
	if drained != nil {
		c.close(drained)
	}
	return nil
}

// drainedLocked returns why the connection is to be closed now, or nil.
func (c *clientConn) drainedLocked() error {
	if len(c.calls) == 0 {
		return c.draining
	}
	return nil
}

// drain closes the connection as soon as no request waits for an answer, and
// makes it take no others.
func (c *clientConn) drain(why error) {
	c.mu.Lock()
	if c.draining == nil {
		c.draining = why
	}
	drained := c.drainedLocked()
	c.mu.Unlock()
	if drained != nil {
		c.close(drained)
	}
}

// fail ends all calls because the connection has ended.
func (c *clientConn) fail(why error) {
	c.mu.Lock()
	calls := c.calls
	c.calls = nil
	c.ended = why
	c.mu.Unlock()
	for _, s := range calls {
		s.call.results <- result{i: s.i, err: c.peer.inferred(CodeUnavailable, why)}
	}
}

func (c *clientConn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// heartbeat pings the peer until the connection is closed.
func (c *clientConn) heartbeat() {
	ticker := time.NewTicker(max(c.peer.transport.config.Lease/4, 1))
	defer ticker.Stop()
	for {
		if c.ping() != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-c.closed:
			return
		}
	}
}

// ping sends a ping. Several can be on their way: a round trip may be longer
// than the time between two of them.
func (c *clientConn) ping() error {
	clock := c.peer.transport.config.Clock
	c.mu.Lock()
	c.pinged++
	number := c.pinged
	c.pings[number%uint64(len(c.pings))] = ping{number: number, at: time.Now(), instant: clock.Instant()}
	c.mu.Unlock()
	err := c.writer.queue(0, nil, func(b []byte) []byte {
		return appendEmpty(b, kindPing, number, clock.Physical())
	})
	c.writer.flush(false)
	return err
}

// send sends one frame that asks for keys, the first of which is key i of the
// call. If it returns no error, every key gets its result.
func (c *clientConn) send(ctx context.Context, cl *call, m fetch, group string, keys []Key, i int) (span, error) {
	if deadline, ok := ctx.Deadline(); ok {
		m.timeout = max(time.Until(deadline), time.Microsecond)
	}
	sp := span{n: len(keys)}
	c.mu.Lock()
	if err := cmp.Or(c.ended, c.draining); err != nil {
		c.mu.Unlock()
		return sp, c.peer.inferred(CodeUnavailable, err)
	}
	sp.first = c.next
	c.next += uint64(sp.n)
	for j := range keys {
		c.calls[sp.first+uint64(j)] = slot{call: cl, i: i + j}
	}
	company := len(c.calls) > len(keys)
	c.mu.Unlock()

	config := &c.peer.transport.config
	err := c.writer.queue(config.Limits.MaxQueued, nil, func(b []byte) []byte {
		return appendFetch(b, sp.first, config.Clock.Read(), m, group, keys)
	})
	if err == errQueueFull {
		c.forget(cl, sp)
		return sp, c.peer.inferred(CodeBusy, err)
	}
	// Any other error is the connection's end, of which fail tells the call.
	c.writer.flush(company)
	return sp, nil
}

// cancel makes the peer stop working for a caller that no longer waits. It
// does not wait either.
func (c *clientConn) cancel(cl *call, spans ...span) {
	var ids []uint64
	for _, sp := range spans {
		ids = append(ids, c.forget(cl, sp)...)
	}
	const most = maxRequest / 8
	for len(ids) > 0 {
		some := ids[:min(len(ids), most)]
		ids = ids[len(some):]
		_ = c.writer.queue(0, nil, func(b []byte) []byte {
			return appendCancel(b, c.peer.transport.config.Clock.Read(), some)
		})
		c.writer.flushSoon()
	}
}

// forget removes those requests of sp that still wait, and returns their
// numbers.
func (c *clientConn) forget(cl *call, sp span) []uint64 {
	var ids []uint64
	c.mu.Lock()
	for id := sp.first; id < sp.first+uint64(sp.n); id++ {
		if c.calls[id].call == cl {
			delete(c.calls, id)
			ids = append(ids, id)
		}
	}
	drained := c.drainedLocked()
	c.mu.Unlock()
	if drained != nil {
		c.close(drained)
	}
	return ids
}
