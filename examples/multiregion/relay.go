package main

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A link is the line between two regions. Relays carry connections over it.
type link struct {
	delay time.Duration // one way

	mu sync.Mutex
	up chan struct{} // guarded by mu; closed while the link is up
}

func newLink(delay time.Duration) *link {
	l := &link{delay: delay, up: make(chan struct{})}
	close(l.up)
	return l
}

// cut makes the link a black hole: what is sent, or under way, arrives only
// after heal. No connection is broken, as nobody is there to break it.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		l.up = make(chan struct{})
	default: // cut already
	}
}

func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
	default:
		close(l.up)
	}
}

// wait waits until the link is up.
func (l *link) wait(ctx context.Context) error {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A relay accepts connections on an address of its own and carries them over a
// link to a target, which sees them as coming from here.
type relay struct {
	link     *link
	target   string
	listener net.Listener

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func startRelay(l *link, target string) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{link: l, target: target, listener: listener}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.wg.Go(r.serve)
	return r, nil
}

// address is where to connect to reach the target over the link.
func (r *relay) address() string { return r.listener.Addr().String() }

// close breaks all connections and returns when nothing is left of them.
func (r *relay) close() {
	r.cancel()
	r.listener.Close()
	r.wg.Wait()
}

func (r *relay) serve() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.carry(conn.(*net.TCPConn)) })
	}
}

// carry connects near with the target and returns when both directions have
// ended.
func (r *relay) carry(near *net.TCPConn) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	defer near.Close()
	out := r.read(ctx, near)

	// The kernel has accepted at once; over a real line that takes a round
	// trip, and longer than a cut if it comes to that. Who has given up by
	// then never gets through.
	if !r.sleepUntil(ctx, time.Now().Add(2*r.link.delay)) || out.ended.Load() {
		return
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.target)
	if err != nil {
		return
	}
	far := conn.(*net.TCPConn)
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()

	back := r.read(ctx, far)
	var both sync.WaitGroup
	both.Go(func() { r.write(ctx, far, out, near) })
	both.Go(func() { r.write(ctx, near, back, far) })
	both.Wait()
}

// A flow is one direction of a connection. Reading and writing are apart, with
// the time of arrival on every chunk, so that the delay does not cost
// throughput: as on a real line, much can be under way at the same time.
type flow struct {
	chunks chan chunk
	ended  atomic.Bool // the source has; its chunks may still be under way
}

// A chunk is some bytes under way, or the end of the stream.
type chunk struct {
	data []byte
	err  error // what ended the stream
	due  time.Time
}

// read lets what src sends flow, until it ends or ctx does.
func (r *relay) read(ctx context.Context, src *net.TCPConn) *flow {
	f := &flow{chunks: make(chan chunk, 256)}
	r.wg.Go(func() {
		buf := make([]byte, 16<<10)
		for !f.ended.Load() {
			n, err := src.Read(buf)
			f.ended.Store(err != nil)
			select {
			case f.chunks <- chunk{slices.Clone(buf[:n]), err, time.Now().Add(r.link.delay)}:
			case <-ctx.Done():
				return
			}
		}
	})
	return f
}

// write writes what flows to dst. If it cannot, or the flow breaks, it breaks
// the other direction from src too.
func (r *relay) write(ctx context.Context, dst *net.TCPConn, f *flow, src *net.TCPConn) {
	for {
		var c chunk
		select {
		case c = <-f.chunks:
		case <-ctx.Done():
			return // the connections are being closed
		}
		alive := r.sleepUntil(ctx, c.due)
		if alive && len(c.data) > 0 {
			_, err := dst.Write(c.data)
			alive = err == nil
		}
		switch {
		case alive && c.err == nil:
		case alive && errors.Is(c.err, io.EOF):
			dst.CloseWrite() // the other direction may go on
			return
		default:
			dst.Close()
			src.Close()
			return
		}
	}
}

// sleepUntil sleeps until the due time, or longer if the link is cut by then.
// It reports false if ctx ends.
func (r *relay) sleepUntil(ctx context.Context, due time.Time) bool {
	select {
	case <-time.After(time.Until(due)):
		return r.link.wait(ctx) == nil
	case <-ctx.Done():
		return false
	}
}
