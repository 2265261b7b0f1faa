package peers

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/geocache/geocache/expiry"
)

// Call sends the peer a payload and waits for the reply, which belongs to the caller and has at most Limits.MaxValue
// bytes and a MiB. Deadlines, cancellation and errors are those of Fetch, except that every Code but CodeOK is an
// error. A payload that is too large for the peer fails at once, with CodeTooLarge.
func (p *Peer) Call(ctx context.Context, method uint8, payload []byte) (reply []byte, err error) {
	a, err := p.begin(ctx, func(c *clientConn, w *waiter) (span, error) {
		return c.sendCall(timeLeft(ctx), w, method, payload)
	})
	if err != nil {
		return nil, err
	}
	ans, err := a.wait(ctx, true)
	if err != nil {
		return nil, err
	}
	return ans.Value, nil
}

// Post is Call for a caller that does not wait. done is called once, with what Call would return. The peer has limit to
// answer, and is told so; then it is told to stop, and the error is context.DeadlineExceeded. done runs on a goroutine
// that the connection needs, so it must not block. Post may: it writes. If Post returns an error, done is not called.
func (p *Peer) Post(limit time.Duration, method uint8, payload []byte, done func(reply []byte, err error)) error {
	p.requests.Add(1)
	a := &post{peer: p, done: done}
	a.w.sent, a.w.post = p.transport.config.Clock.Instant(), a
	for {
		c := p.conn.Load()
		if c == nil {
			p.failures.Add(1)
			return p.inferred(CodeUnavailable, p.downErr())
		}
		sp, err := c.sendCall(limit, &a.w, method, payload)
		switch {
		case err == errRenewed:
			continue
		case err != nil:
			p.failures.Add(1)
			return err
		}
		a.expireAfter(limit, c, sp)
		return nil
	}
}

// A post is a call under way for which nobody waits. Whoever removes its slot calls end.
type post struct {
	peer  *Peer
	w     waiter
	done  func(reply []byte, err error)
	timer *time.Timer // gives it up; guarded by clientConn.mu while it has its slot
}

// expireAfter bounds the time in which the answer must come.
func (a *post) expireAfter(limit time.Duration, c *clientConn, sp span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slots[sp.first].waiter != &a.w {
		return // it has come
	}
	a.timer = time.AfterFunc(limit, func() {
		if c.cancel(&a.w, sp) {
			a.end(result{err: context.DeadlineExceeded})
		}
	})
}

// end tells the outcome. The connection's lock must not be held.
func (a *post) end(r result) {
	if a.timer != nil {
		a.timer.Stop()
	}
	ans, err := a.peer.outcome(context.Background(), r, a.w.sent, true)
	if err != nil {
		a.peer.failures.Add(1)
	}
	a.done(ans.Value, err)
}

func (c *clientConn) sendCall(limit time.Duration, w *waiter, method uint8, payload []byte) (span, error) {
	if uint64(len(payload)) > uint64(c.server.maxCall) {
		return span{}, c.peer.inferred(CodeTooLarge, fmt.Errorf("the payload has %d bytes, the node takes %d", len(payload), c.server.maxCall))
	}
	m := call{method: method, timeout: limit, instant: c.serverInstant(), payload: payload}
	clock := c.peer.transport.config.Clock
	return c.send(w, 1, 0, payload, func(b []byte, first uint64) []byte {
		return appendCall(b, first, clock.Read(), m)
	})
}

// serverInstant returns the server's present Instant, or an earlier one: what
// it told last, and what has passed since that came. Monotonic time, because it
// must not be too much: a step of this node's wall clock, which its own Instant
// takes for time passed, is none of the server's.
func (c *clientConn) serverInstant() expiry.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.instant.Add(time.Since(c.told))
}

// handleCall answers a call by Handler.Take, or else by Handler.Call on a
// goroutine of its own. A call whose number is that of one still in flight is
// a duplicate: the answer to the first serves both.
func (s *serverConn) handleCall(h header, body []byte, owned bool) error {
	t := s.transport
	m, err := decodeCall(body)
	if err != nil {
		return malformed(h.kind, err)
	}
	if s.running(h.id) == kindFetch {
		return refuse(ReasonProtocol, "a call with the number of a fetch that is in flight")
	}
	switch again, late := s.calls.repeated(h.id); {
	case late:
		return s.answer(h.id, &errTooMany)
	case again:
		return nil
	}
	t.requests.Add(1)
	s.call = Call{
		Method:  m.method,
		Payload: m.payload,
		From:    s.client.id,
		Region:  s.client.region,
		Transit: max(t.config.Clock.Instant().Sub(m.instant), 0),
	}
	if ans, ok := t.config.Handler.Take(&s.call); ok {
		t.hits.Add(1)
		ans.reply = true
		return s.answer(h.id, &ans)
	}
	ctx := s.begin(h.id, kindCall, m.timeout)
	if ctx == nil {
		return s.answer(h.id, &errTooMany)
	}
	call := s.call
	if !owned {
		call.Payload = bytes.Clone(call.Payload)
	}
	s.finish(h.id, func() Answer {
		ans := t.config.Handler.Call(ctx, &call)
		ans.reply = true
		return ans
	})
	return nil
}

// numbers remembers which of the latest numbers have come, so that a call is carried out once even if its frame
// comes twice.
type numbers struct {
	highest uint64
	came    [64]uint64 // a bit for each of the 4096 up to highest
}

// repeated notes that the call with this number has come, and reports whether
// it had before, or is so far behind the others that this is not known any more.
func (n *numbers) repeated(number uint64) (again, late bool) {
	const window = 64 * 64
	if number > n.highest {
		if number-n.highest >= window {
			n.came = [64]uint64{}
		} else {
			for i := n.highest + 1; i <= number; i++ {
				n.came[i%window/64] &^= 1 << (i % 64)
			}
		}
		n.highest = number
	}
	if n.highest-number >= window {
		return false, true
	}
	word, bit := &n.came[number%window/64], uint64(1)<<(number%64)
	was := *word&bit != 0
	*word |= bit
	return was, false
}
