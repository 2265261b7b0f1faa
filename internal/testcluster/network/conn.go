package network

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// addr is the address of an end of a connection, name:port.
type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }

func opError(op string, source, address net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: source, Addr: address, Err: err}
}

// conn implements net.Conn: one end of a connection.
type conn struct {
	local  addr
	remote addr
	in     *pipe // what the other end has sent
	out    *pipe // what this end sends

	// The network's mu guards the following fields.
	host          *Host
	changed       sync.Cond // on any change that a Read or Write waits for
	writing       bool      // a Write is in progress; others wait, so that their bytes do not mix
	closed        bool      // by Close
	reset         bool      // by a RST that has arrived, or by a crash of the host
	readDeadline  deadline
	writeDeadline deadline
}

// newConn returns one end, without pipes.
func newConn(h *Host, local string) *conn {
	return &conn{local: addr(local), host: h, changed: sync.Cond{L: &h.net.mu}}
}

// join connects two ends with pipes.
func join(a, b *conn) {
	a.remote, b.remote = b.local, a.local
	a.out, b.out = newPipe(a, b), newPipe(b, a)
	a.in, b.in = b.out, a.out
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) Read(b []byte) (int, error) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	for {
		if err := c.usableLocked(&c.readDeadline); err != nil {
			return 0, c.opError("read", err)
		}
		if len(b) == 0 {
			return 0, nil
		}
		if !c.host.frozen {
			switch {
			case c.in.arrived.Len() > 0:
				return c.in.readLocked(b), nil
			case c.reset:
				return 0, c.opError("read", syscall.ECONNRESET)
			case c.in.eof:
				return 0, io.EOF
			}
		}
		c.changed.Wait()
	}
}

func (c *conn) Write(b []byte) (int, error) {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if err := c.awaitLocked(func() bool { return !c.writing }); err != nil || len(b) == 0 {
		return 0, err
	}
	c.writing = true
	defer func() {
		c.writing = false
		c.changed.Broadcast()
	}()
	written := 0
	for written < len(b) {
		if err := c.awaitLocked(func() bool { return !c.host.frozen && c.out.spaceLocked() > 0 }); err != nil {
			return written, err
		}
		some := b[written:min(len(b), written+c.out.spaceLocked())]
		c.out.writeLocked(some)
		written += len(some)
	}
	return written, nil
}

// awaitLocked waits until a Write may go on, and fails if it cannot.
func (c *conn) awaitLocked(ready func() bool) error {
	for {
		if err := c.usableLocked(&c.writeDeadline); err != nil {
			return c.opError("write", err)
		}
		if c.reset && !c.host.frozen {
			return c.opError("write", syscall.ECONNRESET)
		}
		if ready() {
			return nil
		}
		c.changed.Wait()
	}
}

// usableLocked returns the error of a Read or Write that this end itself has made impossible. As on
// a real connection, that takes precedence over data that has arrived.
func (c *conn) usableLocked(d *deadline) error {
	switch {
	case c.closed:
		return net.ErrClosed
	case d.passed():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Close ends all Reads and Writes. What was written is still sent, followed by a FIN. If data has
// arrived that nobody has read, it sends a RST instead.
func (c *conn) Close() error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.readDeadline.stop()
	c.writeDeadline.stop()
	c.changed.Broadcast()
	if !c.host.frozen {
		c.finishLocked()
	}
	return nil
}

// finishLocked tells the other end that this one has been closed.
func (c *conn) finishLocked() {
	delete(c.host.conns, c)
	switch {
	case c.reset: // it cannot be told any more
	case c.in.arrived.Len() > 0:
		c.out.resetLocked()
	default:
		c.out.sendLocked(segment{kind: fin})
	}
}

// abortLocked makes this end fail. Data that has arrived can still be read.
func (c *conn) abortLocked() {
	c.reset = true
	c.changed.Broadcast()
}

// killLocked ends a connection that its program will not close: the program has crashed, or never
// accepted it.
func (c *conn) killLocked() {
	delete(c.host.conns, c)
	c.out.resetLocked()
	c.abortLocked()
}

// goneLocked reports whether there is nobody to receive what arrives here.
func (c *conn) goneLocked() bool { return c.closed || c.reset }

func (c *conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline, &c.writeDeadline)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.writeDeadline)
}

func (c *conn) setDeadlines(t time.Time, deadlines ...*deadline) error {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	for _, d := range deadlines {
		d.stop()
		d.at = t
		if left := time.Until(t); !t.IsZero() && left > 0 {
			d.timer = time.AfterFunc(left, c.wake)
		}
	}
	c.changed.Broadcast()
	return nil
}

// wake makes all waiters check again. It takes the lock because a Read that has found its deadline
// not passed must be waiting before the wake-up comes.
func (c *conn) wake() {
	c.host.net.mu.Lock()
	defer c.host.net.mu.Unlock()
	c.changed.Broadcast()
}

func (c *conn) opError(op string, err error) error {
	return opError(op, c.local, c.remote, err)
}

// A deadline is one of a conn's two deadlines, with the timer that wakes the conn.
type deadline struct {
	at    time.Time // zero if there is none
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}
