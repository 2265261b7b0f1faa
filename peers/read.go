package peers

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// bufferSize is the size of a connection's read buffer. Frames that do not fit
// are read into memory of their own.
const bufferSize = 32 << 10

// A frame's memory is taken atOnce, or where that does not do, for timesRead as
// many bytes as have come: a length alone costs the reader little.
const (
	atOnce    = 1<<20 + 64<<10 // a value of a MiB, with what comes before it
	timesRead = 8
)

// errSilent says that nothing at all came for the reader's idle time.
var errSilent = errors.New("nothing was heard for too long")

// A reader reads frames. It is used by one goroutine.
//
// Nothing is allocated for a frame before accept has agreed to its kind and
// size, and a sender cannot hold the reader up: a frame must be complete in
// its time, counted from its first byte.
type reader struct {
	conn    net.Conn
	traffic *traffic

	// accept returns the largest body that a frame of this kind may have
	// here and now, or false if there must be none.
	accept func(kind) (size int, ok bool)

	idle  atomic.Int64  // how long there may be no byte at all, see setIdle
	frame time.Duration // how long a frame may take, see allowance
	until time.Time     // if not zero, when all reading must be over

	// beforeBlock is called when no complete frame is buffered, so that the
	// reader may have to wait. May be nil.
	beforeBlock func()

	// mayYield says that next is to give up, with errYield, at yieldAt if that is not zero, and
	// after interrupt. It can be called again then, and goes on where it was.
	mayYield bool
	yieldAt  time.Time
	yield    atomic.Bool

	buffer     []byte
	start, end int       // buffer[start:end] has been read and not returned
	began      time.Time // when a frame was first seen incomplete; zero if none is
	waiting    time.Time // since when there has been no byte, though one was waited for; zero if one was not

	// large is the header of a frame that does not fit the buffer and is being read, body is
	// its body, and got how much of that is there. body is nil if there is none.
	large header
	body  []byte
	got   int
}

// setIdle sets how long there may be no byte at all. Where somebody reads already, it counts
// from the next interrupt on.
func (r *reader) setIdle(d time.Duration) { r.idle.Store(int64(d)) }

// interrupt has next return errYield if it may. Unlike the other methods it may be called by
// any goroutine, also when nobody reads any more.
func (r *reader) interrupt() {
	r.yield.Store(true)
	_ = r.conn.SetReadDeadline(time.Unix(1, 0))
}

// empty reports whether nothing has been read that has not been returned.
func (r *reader) empty() bool { return r.start == r.end && r.body == nil }

// allowance is how long size bytes may take, given the time for few.
func allowance(few time.Duration, size int) time.Duration {
	return few + time.Duration(size)*time.Second>>20
}

// next returns the next frame. The body is the caller's own if owned is true;
// else it is overwritten by the next call.
//
// The error is io.EOF if the connection was closed between two frames,
// errSilent, errYield, a *refusal, or whatever the connection returned.
func (r *reader) next() (h header, body []byte, owned bool, err error) {
	if r.body != nil {
		return r.nextLarge()
	}
	for r.end-r.start < headerSize {
		if err := r.fill(r.room(headerSize), 0); err != nil {
			return header{}, nil, false, err
		}
	}
	h, err = parseHeader(r.buffer[r.start:r.end])
	if err != nil {
		return h, nil, false, refuseFor(ReasonProtocol, err)
	}
	if limit, ok := r.accept(h.kind); !ok {
		return h, nil, false, refuse(ReasonProtocol, "a frame of %v, which is unknown or out of order", h.kind)
	} else if h.size > limit {
		return h, nil, false, refuse(ReasonLimit, "a frame of %v with %d bytes, at most %d are allowed", h.kind, h.size, limit)
	}

	size := headerSize + h.size
	if size > bufferSize {
		r.large, r.body = h, make([]byte, min(h.size, atOnce))
		r.got = copy(r.body, r.buffer[r.start+headerSize:r.end])
		r.start, r.end = 0, 0
		return r.nextLarge()
	}
	for r.end-r.start < size {
		if err := r.fill(r.room(size), size); err != nil {
			return h, nil, false, err
		}
	}
	body = r.buffer[r.start+headerSize : r.start+size]
	r.start += size
	r.returned()
	return h, body, false, nil
}

// nextLarge is the rest of next for a frame that does not fit the buffer.
func (r *reader) nextLarge() (h header, body []byte, owned bool, err error) {
	h = r.large
	for r.got < h.size {
		if r.got == len(r.body) {
			more := append(make([]byte, 0, min(h.size, timesRead*r.got)), r.body...)
			r.body = more[:cap(more)]
		}
		n, err := r.read(r.body[r.got:], headerSize+h.size)
		if err != nil {
			return h, nil, false, err
		}
		r.got += n
	}
	body, r.body = r.body, nil
	r.returned()
	return h, body, true, nil
}

// returned notes that a frame is complete.
func (r *reader) returned() {
	r.began = time.Time{}
	r.traffic.framesIn.Add(1)
}

// room makes place in the buffer for a frame of size bytes that begins at
// start, and returns the free part of the buffer.
func (r *reader) room(size int) []byte {
	if r.buffer == nil {
		r.buffer = make([]byte, bufferSize)
	}
	if r.start == r.end {
		r.start, r.end = 0, 0
	} else if r.start+size > len(r.buffer) {
		r.end = copy(r.buffer, r.buffer[r.start:r.end])
		r.start = 0
	}
	return r.buffer[r.end:]
}

// fill reads more into free, which is the free part of the buffer.
func (r *reader) fill(free []byte, size int) error {
	n, err := r.read(free, size)
	r.end += n
	return err
}

// read reads some of a frame of size bytes in all.
func (r *reader) read(into []byte, size int) (int, error) {
	if r.beforeBlock != nil {
		r.beforeBlock()
	}
	partial := r.end > r.start || size > 0
	for {
		now, idle := time.Now(), time.Duration(r.idle.Load())
		if r.waiting.IsZero() {
			r.waiting = now // and not anew for who reads after a yield
		}
		deadline, late := r.waiting.Add(idle), errSilent
		if partial {
			if r.began.IsZero() {
				r.began = now
			}
			if end := r.began.Add(allowance(r.frame, size)); end.Before(deadline) {
				deadline, late = end, error(refuse(ReasonSlow, "a frame not complete in time"))
			}
		}
		if !r.until.IsZero() && !deadline.Before(r.until) {
			deadline, late = r.until, error(refuse(ReasonSlow, "a handshake not complete in time"))
		}
		if !r.yieldAt.IsZero() && r.yieldAt.Before(deadline) {
			deadline, late = r.yieldAt, errYield
		}
		if err := r.conn.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
		if r.mayYield && r.yield.Load() {
			return 0, errYield
		}
		n, err := r.conn.Read(into)
		r.traffic.bytesIn.Add(uint64(n))
		switch {
		case n > 0:
			r.waiting = time.Time{}
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			if r.mayYield && r.yield.Load() {
				return 0, errYield
			}
			if time.Now().Before(deadline) {
				continue // interrupt was meant for who has read before, or there is another idle
			}
			// If this process was held up itself (suspended, starved), it
			// has no right to speak of the other's silence before it has
			// listened for a while.
			if late == errSilent && time.Since(deadline) > idle/4 {
				r.waiting = time.Time{}
				continue
			}
			return 0, late
		case err == io.EOF && partial:
			return 0, refuse(ReasonProtocol, "the connection ended in the middle of a frame")
		case err != nil:
			return 0, err
		}
	}
}
