package mangle

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// conn is a net.Conn whose messages are mangled. It relies on how peers uses connections: one
// goroutine reads, and Writes do not overlap.
type conn struct {
	net.Conn
	out stream // of the goroutine that writes
	in  stream // of the goroutine that reads

	// ready is what Read returns next, and held are messages that come later, earliest first. Only
	// the goroutine that reads uses them.
	ready []byte
	held  []message

	// mu is held while the deadline of the inner connection is set, which is the earlier of these
	// two.
	mu       sync.Mutex
	deadline time.Time // of Read, as set by the user; zero if there is none
	due      time.Time // of the first held message; zero if there is none
}

// A message is a frame that was held back.
type message struct {
	frame []byte
	due   time.Time
}

func (m *Mangler) wrap(nc net.Conn) *conn {
	return &conn{Conn: nc, out: m.stream(nc.LocalAddr(), nc.RemoteAddr()),
		in: m.stream(nc.RemoteAddr(), nc.LocalAddr())}
}

// Write accepts all of b, and sends the frames that are complete. If a delayed message cannot be
// sent, the connection has ended, which others will notice.
func (c *conn) Write(b []byte) (int, error) {
	var now []byte
	c.out.feed(b, func(frame []byte, what fate, d time.Duration) {
		switch what {
		case lose:
		case delay:
			time.AfterFunc(d, func() { _, _ = c.Conn.Write(frame) })
		case duplicate:
			now = append(append(now, frame...), frame...)
		default:
			now = append(now, frame...)
		}
	})
	if len(now) > 0 {
		if _, err := c.Conn.Write(now); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// Read returns what has arrived, including messages that were held back.
func (c *conn) Read(b []byte) (int, error) {
	buffer := make([]byte, max(len(b), 1))
	for {
		c.release()
		if len(c.ready) > 0 || len(b) == 0 {
			n := copy(b, c.ready)
			c.ready = c.ready[n:]
			return n, nil
		}
		n, err := c.Conn.Read(buffer)
		c.in.feed(buffer[:n], c.arrived)
		if n > 0 {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.late() {
			continue // a message is due, or the deadline was moved
		}
		return 0, err
	}
}

// arrived handles a message that has arrived.
func (c *conn) arrived(frame []byte, what fate, d time.Duration) {
	switch what {
	case lose:
	case delay:
		m := message{frame, time.Now().Add(d)}
		i := len(c.held)
		for i > 0 && m.due.Before(c.held[i-1].due) {
			i--
		}
		c.held = append(c.held, message{})
		copy(c.held[i+1:], c.held[i:])
		c.held[i] = m
	case duplicate:
		c.ready = append(append(c.ready, frame...), frame...)
	default:
		c.ready = append(c.ready, frame...)
	}
}

// release moves what is due to ready, and makes the inner Read end when the next held message is
// due.
func (c *conn) release() {
	for len(c.held) > 0 && !c.held[0].due.After(time.Now()) {
		c.ready = append(c.ready, c.held[0].frame...)
		c.held = c.held[1:]
	}
	due := time.Time{}
	if len(c.held) > 0 {
		due = c.held[0].due
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if due != c.due {
		c.due = due
		_ = c.setLocked() // an error means a closed connection, which Read reports as well
	}
}

// late reports whether the user's own deadline has passed.
func (c *conn) late() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.deadline.IsZero() && !time.Now().Before(c.deadline)
}

func (c *conn) setLocked() error {
	at := c.deadline
	if at.IsZero() || !c.due.IsZero() && c.due.Before(at) {
		at = c.due
	}
	return c.Conn.SetReadDeadline(at)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.setLocked()
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
