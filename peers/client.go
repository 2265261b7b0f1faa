package peers

import (
	"bytes"
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/geocache/geocache/expiry"
	"github.com/geocache/geocache/internal/lease"
)

// A clientConn is a connection that requests go out on.
type clientConn struct {
	*conn
	peer   *Peer
	server welcome // its limits

	pingSoon chan struct{} // has room for one: heartbeat is to ping at once

	mu       sync.Mutex      // guards the following
	slots    map[uint64]slot // requests that wait for an answer
	next     uint64          // number of the next request
	draining error           // if not nil: why the connection ends when slots is empty
	ended    error           // if not nil: why the connection has ended
	pings    [8]ping         // the last, by number
	pinged   uint64          // number of the last ping
	ponged   uint64          // of the last that was answered
	turns    turns
	instant  expiry.Instant // of the server, as it sent its last frame that tells
	told     time.Time      // when that came
}

// A slot says where the answer to a request goes.
type slot struct {
	waiter *waiter
	i      int
}

// A waiter is a caller of Fetch, FetchMany, Call or Post.
type waiter struct {
	sent    expiry.Instant // no later than its first frame
	reads   bool           // it waits at once, and can read its answer itself
	results chan result    // has room for all answers, so that no sender waits

	// For one request only, and for one goroutine at a time.
	result result // if ready
	ready  bool
	timer  *time.Timer // of Await; kept from one request to the next

	post *post // whose waiter it is; takes the place of results. Nil if it is not one of Post.
}

// give hands w the result of a request whose slot has been removed. The lock must not be held.
func (w *waiter) give(r result) {
	if w.post != nil {
		w.post.end(r)
	} else {
		w.results <- r
	}
}

// A result is the answer to request i of a waiter.
type result struct {
	i    int
	ans  Answer
	held time.Duration // by the peer, before it answered
	err  error
}

// A span is n requests with consecutive numbers.
type span struct {
	first uint64
	n     int
}

// A ping waits for its pong.
type ping struct {
	number uint64
	lease.Ping
}

func newClientConn(p *Peer, nc *conn, m welcome) *clientConn {
	return &clientConn{
		conn: nc, peer: p, server: m, pingSoon: make(chan struct{}, 1),
		slots: make(map[uint64]slot), next: 1, instant: m.instant, told: time.Now(),
		turns: turns{back: make(chan struct{}, 1)},
	}
}

// run reads frames until the connection ends, and returns why.
func (c *clientConn) run() error {
	c.reader.accept = c.acceptAnswers
	c.reader.setIdle(silence(c.peer.transport.config.Lease))
	c.reader.until, c.reader.waiting = time.Time{}, time.Time{}
	for {
		k, err := c.readFrame()
		if err == nil && k == kindAnswer {
			err = c.stepAside()
		}
		if err != nil {
			return err
		}
	}
}

// readFrame reads a frame and handles it. Whoever's turn it is calls it, see turns.
func (c *clientConn) readFrame() (kind, error) {
	h, body, owned, err := c.reader.next()
	if err == nil {
		err = c.peer.transport.merge(h)
	}
	if err == nil {
		err = c.handle(h, body, owned)
	}
	return h.kind, err
}

func (c *clientConn) acceptAnswers(k kind) (int, bool) {
	switch k {
	case kindAnswer:
		return answerSize + c.peer.transport.config.Limits.maxCall(), true
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
			return malformed(h.kind, err)
		}
		return c.deliver(h.id, ans, held, owned)
	case kindPong:
		m, err := decodePong(body)
		if err != nil {
			return refuse(ReasonProtocol, "a pong that is malformed")
		}
		c.mu.Lock()
		c.instant, c.told = m.instant, time.Now()
		sent := c.pings[h.id%uint64(len(c.pings))]
		c.ponged = max(c.ponged, h.id)
		c.mu.Unlock()
		if sent.number == h.id && h.id != 0 {
			c.peer.ponged(c, sent, m)
		}
		return nil
	case kindGoodbye:
		if err := decodeGoodbye(body); err != nil {
			return malformed(h.kind, err)
		}
		c.peer.leaving(c)
		return nil
	}
	refused, err := decodeRefused(body)
	if err != nil {
		return malformed(h.kind, err)
	}
	return refused
}

// deliver gives an answer to the caller that waits for it. There may be none, since the answer may have crossed
// with a cancel.
func (c *clientConn) deliver(id uint64, ans Answer, held time.Duration, owned bool) error {
	c.mu.Lock()
	s, waiting := c.slots[id]
	delete(c.slots, id)
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
		s.waiter.give(result{i: s.i, ans: ans, held: held})
	}
	if drained != nil {
		c.close(drained)
	}
	return nil
}

// drainedLocked returns why the connection is to be closed now, or nil.
func (c *clientConn) drainedLocked() error {
	if len(c.slots) == 0 {
		return c.draining
	}
	return nil
}

// drain closes the connection as soon as no request waits for an answer. Until then it takes no others.
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

// fail ends all requests because the connection has ended.
func (c *clientConn) fail(why error) {
	c.mu.Lock()
	slots := c.slots
	c.slots = nil
	c.ended = why
	c.mu.Unlock()
	for _, s := range slots {
		s.waiter.give(result{i: s.i, err: c.peer.inferred(CodeUnavailable, why)})
	}
}

func (c *clientConn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.slots)
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
		case <-c.pingSoon:
		case <-c.closed:
			return
		}
	}
}

// ping sends a ping. Several can be on their way: a round trip may be longer
// than the time between two of them.
func (c *clientConn) ping() error {
	clock := c.peer.transport.config.Clock
	sent := ping{Ping: c.peer.transport.leases.Ping()}
	view := sent.Hash()
	if !c.peer.home() {
		view = 0
	}
	c.mu.Lock()
	c.pinged++
	sent.number = c.pinged
	c.pings[sent.number%uint64(len(c.pings))] = sent
	c.returnLocked()
	c.mu.Unlock()
	err := c.writer.queue(0, nil, func(b []byte) []byte {
		return appendPing(b, sent.number, clock.Physical(), view)
	})
	c.writer.flush(false)
	return err
}

// send sends one frame with n requests, the first of which is request i of w: what encode makes of its number, and
// then value. If it returns no error, every request gets its result. errRenewed means that the caller has to send it
// over the connection that has taken this one's place.
func (c *clientConn) send(w *waiter, n, i int, value []byte, encode func(b []byte, first uint64) []byte) (span, error) {
	sp := span{n: n}
	c.mu.Lock()
	if c.draining == errRenewed {
		c.mu.Unlock()
		return sp, errRenewed
	}
	if err := cmp.Or(c.ended, c.draining); err != nil {
		c.mu.Unlock()
		return sp, c.peer.inferred(CodeUnavailable, err)
	}
	sp.first = c.next
	c.next += uint64(n)
	for j := range n {
		c.slots[sp.first+uint64(j)] = slot{waiter: w, i: i + j}
	}
	company := len(c.slots) > n
	if company {
		c.turns.alone = 0
	}
	if company || !w.reads {
		c.returnLocked()
	}
	c.mu.Unlock()

	err := c.writer.queue(c.peer.transport.config.Limits.maxQueued, value, func(b []byte) []byte {
		return encode(b, sp.first)
	})
	if err == errQueueFull && len(c.forget(w, sp)) > 0 {
		return sp, c.peer.inferred(CodeBusy, err)
	}
	// Any other error is the connection's end, of which fail tells w.
	c.writer.flush(company)
	return sp, nil
}

// timeLeft is how much time a request may say that it has: zero is without
// limit.
func timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(time.Until(deadline), time.Microsecond)
	}
	return 0
}

// cancel tells the peer to stop working for a caller that no longer waits. It does not wait itself. It returns false
// if the caller has all its results.
func (c *clientConn) cancel(w *waiter, sp span) bool {
	ids := c.forget(w, sp)
	cancelled := len(ids) > 0
	const most = maxRequest / 8
	for len(ids) > 0 {
		some := ids[:min(len(ids), most)]
		ids = ids[len(some):]
		_ = c.writer.queue(0, nil, func(b []byte) []byte {
			return appendCancel(b, c.peer.transport.config.Clock.Read(), some)
		})
		c.writer.flushSoon()
	}
	return cancelled
}

// forget removes those requests of sp that still wait, and returns their
// numbers.
func (c *clientConn) forget(w *waiter, sp span) []uint64 {
	var ids []uint64
	c.mu.Lock()
	for id := sp.first; id < sp.first+uint64(sp.n); id++ {
		if c.slots[id].waiter == w {
			delete(c.slots, id)
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
