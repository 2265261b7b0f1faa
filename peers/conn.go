package peers

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// A conn is a connection that frames go over, in either role.
type conn struct {
	net.Conn
	reader reader
	writer writer
	tasks  sync.WaitGroup // goroutines besides the one that reads
	closed chan struct{}
	once   sync.Once

	credential *credential // what the other side was let in by; nil without TLS
	number     uint64      // of an accepted one: higher than that of any that the client made before
	unbind     func()      // see Transport.bind; nil if it is not bound
}

// newConn makes a conn of c, which allows write for writing a small frame. The
// reader's accept, idle and until are still to be set.
func newConn(c net.Conn, limits *Limits, traffic *traffic, write time.Duration) *conn {
	nc := &conn{Conn: c, closed: make(chan struct{})}
	nc.reader = reader{conn: c, traffic: traffic, frame: limits.frameTimeout}
	nc.writer.init(c, traffic, write, &nc.tasks)
	return nc
}

// close ends the connection at once because of err, and returns why it ended:
// what the first to notice said, or err if that is a refusal. (Telling the
// other side of it often finds the connection gone.)
func (c *conn) close(err error) error {
	first := c.writer.fail(err)
	if !isRefusal(err) {
		err = first
	}
	c.once.Do(func() {
		close(c.closed)
		_ = closeNow(c.Conn)
		if c.unbind != nil {
			c.unbind()
		}
	})
	return err
}

// closeNow closes the connection under TLS: tls.Conn.Close would first try to
// say so, for up to five seconds.
func closeNow(c net.Conn) error {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.Close()
}
