package network

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	port               = 7946  // where hosts listen
	firstEphemeralPort = 49152 // the local port of a host's first dial

	firstSYNTimeout = time.Second      // an unanswered SYN is sent again after it; then it doubles
	lastSYNTimeout  = 64 * time.Second // after it, the dial fails: 127 s in all
)

// A Host is one life of a machine with one process on it. A crashed host stays
// dead, so that goroutines of its process which do not know yet are harmless;
// Restart starts the next life.
type Host struct {
	net        *Network
	name, zone string
	died       chan struct{} // closed by Crash

	// The network's mu guards the following fields.
	dead     bool
	frozen   bool
	thawed   chan struct{} // closed while the host is not frozen
	port     int           // the last ephemeral port given out
	listener *listener     // nil if there is none

	// conns are the host's ends of connections.
	//
	// Invariant: an end is in conns from its handshake until it has been closed and, if the host
	// was frozen by then, thawed. So whatever waits on an end can be found here.
	conns map[*conn]struct{}
}

// startLocked creates the current host of this name.
func (n *Network) startLocked(name, zone string) *Host {
	h := &Host{
		net:    n,
		name:   name,
		zone:   zone,
		died:   make(chan struct{}),
		thawed: make(chan struct{}),
		port:   firstEphemeralPort - 1,
		conns:  make(map[*conn]struct{}),
	}
	close(h.thawed)
	n.hosts[name] = h
	return h
}

// is reports whether the name stands for the host: its own or its zone's.
func (h *Host) is(name string) bool { return h.name == name || h.zone == name }

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Addr returns the address at which the host listens: its name and port 7946.
func (h *Host) Addr() string { return h.address(port) }

func (h *Host) address(port int) string { return fmt.Sprintf("%s:%d", h.name, port) }

// Listen listens at the host's address. The errors are EADDRINUSE if the host listens already, and
// ENETDOWN after a crash.
func (h *Host) Listen() (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	switch {
	case h.dead:
		return nil, opError("listen", nil, addr(h.Addr()), syscall.ENETDOWN)
	case h.listener != nil:
		return nil, opError("listen", nil, addr(h.Addr()), syscall.EADDRINUSE)
	}
	h.listener = &listener{host: h, changed: sync.Cond{L: &h.net.mu}}
	return h.listener, nil
}

// Dial connects to the host with an address, which takes a round trip. The
// error is ECONNREFUSED if that host does not listen, ETIMEDOUT after 127 s
// without an answer, a *net.DNSError if there is no such address, ENETDOWN if
// this host has crashed, or ctx's.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := h.dial(ctx, address)
	if err != nil {
		return nil, opError("dial", nil, addr(address), err)
	}
	return c, nil
}

func (h *Host) dial(ctx context.Context, address string) (*conn, error) {
	if err := h.running(ctx); err != nil {
		return nil, err
	}
	client, server, err := h.prepare(address)
	if err != nil {
		return nil, err
	}
	for timeout := firstSYNTimeout; timeout <= lastSYNTimeout; timeout *= 2 {
		again := time.Now().Add(timeout)
		answered, err := h.handshake(ctx, client, server)
		if err != nil {
			return nil, err
		}
		if answered {
			// The answer is there, but a frozen process does not see it.
			if err := h.running(ctx); err != nil {
				return nil, err
			}
			return client, h.establish(client, server)
		}
		if err := h.sleep(ctx, time.Until(again)); err != nil {
			return nil, err
		}
	}
	return nil, syscall.ETIMEDOUT
}

// prepare creates the two ends of a connection to address, before there is one.
func (h *Host) prepare(address string) (client, server *conn, err error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	name, _, _ := net.SplitHostPort(address)
	target := n.hosts[name]
	if target == nil || target.Addr() != address {
		return nil, nil, &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}
	}
	h.port++
	client, server = newConn(h, h.address(h.port)), newConn(target, address)
	join(client, server)
	return client, server, nil
}

// handshake sends one SYN, and waits for as long as the answer takes. It reports whether the answer
// came, and fails if that was a refusal.
func (h *Host) handshake(ctx context.Context, client, server *conn) (answered bool, err error) {
	arrived, err := h.carry(ctx, client.out)
	if !arrived || err != nil {
		return false, err
	}
	h.net.mu.Lock()
	server.host = h.net.hosts[server.host.name] // it may have been restarted meanwhile
	listens := server.host.listener != nil
	h.net.mu.Unlock()

	answered, err = h.carry(ctx, server.out)
	if answered && !listens {
		return false, syscall.ECONNREFUSED
	}
	return answered, err
}

// carry waits for as long as a packet takes through p, and reports whether it arrives. It is sent
// only once.
func (h *Host) carry(ctx context.Context, p *pipe) (arrived bool, err error) {
	n := h.net
	n.mu.Lock()
	latency := n.latencyLocked(p.src.host, p.dst.host) + p.jitterLocked()
	arrived = !n.isCutLocked(p.src.host, p.dst.host) && !p.lostLocked()
	n.mu.Unlock()
	if err := h.sleep(ctx, latency); err != nil {
		return false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return arrived && !n.isCutLocked(p.src.host, p.dst.host), nil
}

// establish completes a handshake that was answered.
func (h *Host) establish(client, server *conn) error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.dead {
		return syscall.ENETDOWN
	}
	h.conns[client] = struct{}{}
	if !server.host.dead {
		server.host.conns[server] = struct{}{}
	}
	client.out.sendLocked(segment{kind: ack})
	return nil
}

// running waits while the host is frozen.
func (h *Host) running(ctx context.Context) error {
	h.net.mu.Lock()
	thawed := h.thawed
	h.net.mu.Unlock()
	select {
	case <-thawed:
	case <-ctx.Done():
	case <-h.died:
	}
	return h.check(ctx)
}

func (h *Host) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 { // no timer is set for what is due already, see pipe.armLocked
		return h.check(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-h.died:
	}
	return h.check(ctx)
}

// check returns why a dial must end, or nil.
func (h *Host) check(ctx context.Context) error {
	select {
	case <-h.died:
		return syscall.ENETDOWN
	default:
		return ctx.Err()
	}
}

// Crash kills the process. The host's connections are reset: at this end at once, and at the other
// ends one latency later unless the RST is lost. Its listener is closed, dials to it are refused,
// and its own dials fail. What is on its way arrives; what waits for the end of a cut does not.
//
// To make a machine vanish without a RST, cut it off first.
func (h *Host) Crash() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.crashLocked()
}

func (h *Host) crashLocked() {
	if h.dead {
		return
	}
	h.dead = true
	close(h.died)
	h.thawLocked()
	if h.listener != nil {
		h.listener.closeLocked()
	}
	for c := range h.conns {
		c.killLocked()
	}
}

// Restart crashes the host, unless it has crashed already, and starts one with the same name, zone
// and address. Cuts stay as they are. This Host stays dead.
func (h *Host) Restart() *Host {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[h.name] != h {
		panic(fmt.Sprintf("network: host %q has been restarted already", h.name))
	}
	h.crashLocked()
	next := n.startLocked(h.name, h.zone)
	next.port = h.port // otherwise it would repeat the losses of its former life
	return next
}

// Freeze stops the process as SIGSTOP does, as far as the network is concerned: until Thaw its
// Reads, Writes, Accepts and Dials wait. The host's operating system goes on: what was written
// before is sent, connections to the host are established, and arriving data is kept until the
// buffer is full.
//
// The network cannot stop the process's goroutines and clocks. Deadlines, contexts and Close end a
// wait on a frozen host, too, so that tests can shut down such a process. But the other end learns
// of a Close only after Thaw.
func (h *Host) Freeze() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.frozen || h.dead {
		return
	}
	h.frozen = true
	h.thawed = make(chan struct{})
}

// Thaw ends a Freeze.
func (h *Host) Thaw() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.thawLocked()
}

func (h *Host) thawLocked() {
	if !h.frozen {
		return
	}
	h.frozen = false
	close(h.thawed)
	if h.listener != nil {
		h.listener.changed.Broadcast()
	}
	for c := range h.conns {
		if c.closed {
			c.finishLocked()
		}
		c.changed.Broadcast()
	}
}
