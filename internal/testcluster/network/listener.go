package network

import (
	"net"
	"sync"
)

// listener implements net.Listener. The network's mu guards its fields.
type listener struct {
	host    *Host
	changed sync.Cond // on changes of the following fields, and when host is thawed
	queue   []*conn   // established, but not accepted
	closed  bool
}

func (l *listener) Accept() (net.Conn, error) {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	for !l.closed && (l.host.frozen || len(l.queue) == 0) {
		l.changed.Wait()
	}
	if l.closed {
		return nil, opError("accept", nil, l.Addr(), net.ErrClosed)
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

// Close ends all Accepts and resets the connections that were not accepted.
func (l *listener) Close() error {
	l.host.net.mu.Lock()
	defer l.host.net.mu.Unlock()
	if l.closed {
		return opError("close", nil, l.Addr(), net.ErrClosed)
	}
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	l.closed = true
	l.host.listener = nil
	for _, c := range l.queue {
		c.killLocked()
	}
	l.queue = nil
	l.changed.Broadcast()
}

func (l *listener) Addr() net.Addr { return addr(l.host.Addr()) }
