package peers

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// A memory is a network in memory, for tests under synctest: buffered, with a
// latency, and with what goes wrong on networks.
type memory struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
	latency   time.Duration // of one way
	cut       bool          // nothing arrives, and nobody is told
	conns     []*memoryConn
	dials     int
}

func newMemory() *memory { return &memory{listeners: make(map[string]*memoryListener)} }

func (m *memory) listen(address string) net.Listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &memoryListener{memory: m, address: address, accept: make(chan net.Conn), closed: make(chan struct{})}
	m.listeners[address] = l
	return l
}

func (m *memory) dial(ctx context.Context, address string) (net.Conn, error) {
	m.mu.Lock()
	m.dials++
	l, cut := m.listeners[address], m.cut
	m.mu.Unlock()
	if cut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, errors.New("connection refused")
	}
	a, b := &memoryHalf{}, &memoryHalf{}
	a.changed, b.changed = make(chan struct{}), make(chan struct{})
	client, server := &memoryConn{memory: m, in: a, out: b}, &memoryConn{memory: m, in: b, out: a}
	m.mu.Lock()
	m.conns = append(m.conns, client, server)
	m.mu.Unlock()
	select {
	case l.accept <- server:
		return client, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *memory) setCut(cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = cut
}

func (m *memory) setLatency(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latency = d
}

func (m *memory) dialled() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials
}

// breakAll ends every connection there is, as if the cables were pulled and
// the machines had noticed.
func (m *memory) breakAll() {
	m.mu.Lock()
	conns := m.conns
	m.conns = nil
	m.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

type memoryListener struct {
	memory  *memory
	address string
	accept  chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.memory.mu.Lock()
		defer l.memory.mu.Unlock()
		close(l.closed)
		delete(l.memory.listeners, l.address)
	})
	return nil
}

func (l *memoryListener) Addr() net.Addr { return &net.UnixAddr{Name: l.address, Net: "memory"} }

// A memoryHalf is one direction of a connection.
type memoryHalf struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced on every change
	pieces   []memoryPiece
	closed   bool
	deadline time.Time // of reading
}

type memoryPiece struct {
	data []byte
	at   time.Time // of arrival
}

func (h *memoryHalf) change(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	close(h.changed)
	h.changed = make(chan struct{})
}

type memoryConn struct {
	memory  *memory
	in, out *memoryHalf
}

func (c *memoryConn) Read(b []byte) (int, error) {
	for {
		h := c.in
		h.mu.Lock()
		now, changed, wake := time.Now(), h.changed, h.deadline
		if len(h.pieces) > 0 {
			p := &h.pieces[0]
			if !p.at.After(now) {
				n := copy(b, p.data)
				if p.data = p.data[n:]; len(p.data) == 0 {
					h.pieces = h.pieces[1:]
				}
				h.mu.Unlock()
				return n, nil
			}
			if wake.IsZero() || p.at.Before(wake) {
				wake = p.at
			}
		}
		closed, deadline := h.closed, h.deadline
		h.mu.Unlock()
		if closed {
			return 0, io.EOF
		}
		if !deadline.IsZero() && !deadline.After(now) {
			return 0, os.ErrDeadlineExceeded
		}
		var timer <-chan time.Time
		if !wake.IsZero() {
			timer = time.After(wake.Sub(now))
		}
		select {
		case <-changed:
		case <-timer:
		}
	}
}

func (c *memoryConn) Write(b []byte) (int, error) {
	c.memory.mu.Lock()
	cut, latency := c.memory.cut, c.memory.latency
	c.memory.mu.Unlock()
	var err error
	c.out.change(func() {
		if c.out.closed {
			err = net.ErrClosed
		} else if !cut {
			c.out.pieces = append(c.out.pieces, memoryPiece{data: append([]byte{}, b...), at: time.Now().Add(latency)})
		}
	})
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *memoryConn) Close() error {
	c.memory.mu.Lock()
	cut := c.memory.cut
	c.memory.mu.Unlock()
	c.in.change(func() { c.in.closed = true; c.in.pieces = nil })
	if !cut {
		c.out.change(func() { c.out.closed = true })
	}
	return nil
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.deadline = t })
	return nil
}
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memoryConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *memoryConn) LocalAddr() net.Addr              { return &net.UnixAddr{Name: "memory", Net: "memory"} }
func (c *memoryConn) RemoteAddr() net.Addr             { return c.LocalAddr() }

// A stringConn is a connection that brings data in pieces and then ends.
type stringConn struct {
	net.Conn
	data  []byte
	piece int
}

func (c *stringConn) Read(b []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), c.piece)], c.data)
	c.data = c.data[n:]
	return n, nil
}

func (c *stringConn) SetReadDeadline(time.Time) error { return nil }

// memoryPair returns a client and a server that are connected by a network in
// memory, for use in a synctest bubble, in which both are closed.
func memoryPair(t *testing.T, change func(*Config)) (network *memory, client, server *node) {
	t.Helper()
	network = newMemory()
	both := func(c *Config) {
		c.Dial = network.dial
		if change != nil {
			change(c)
		}
	}
	server = newNode(t, "server", both)
	server.Serve(network.listen("server:1"))
	server.address = "server:1"
	client = newNode(t, "client", both)
	client.connect(t, server)
	return network, client, server
}
