package peers

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// bufferSize is the size of a connection's read buffer. Frames that do not fit
// are read into memory of their own.
const bufferSize = 32 << 10

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

	idle  time.Duration // how long there may be no byte at all
	frame time.Duration // how long a frame may take, see allowance
	until time.Time     // if not zero, when all reading must be over

	// beforeBlock is called when no complete frame is buffered, so that the
	// reader may have to wait. May be nil.
	beforeBlock func()

	buffer     []byte
	start, end int       // buffer[start:end] has been read and not returned
	began      time.Time // when a frame was first seen incomplete; zero if none is
}

// allowance is how long size bytes may take, given the time for few.
func allowance(few time.Duration, size int) time.Duration {
	return few + time.Duration(size)*time.Second>>20
}

// next returns the next frame. The body is the caller's own if owned is true;
// else it is overwritten by the next call.
//
// The error is io.EOF if the connection was closed between two frames,
// errSilent, a *RefusedError, or whatever the connection returned.
func (r *reader) next() (h header, body []byte, owned bool, err error) {
	for r.end-r.start < headerSize {
		if err := r.fill(r.room(headerSize), 0); err != nil {
			return header{}, nil, false, err
		}
	}
	h, err = parseHeader(r.buffer[r.start:r.end])
	if err != nil {
		return h, nil, false, refuse(ReasonProtocol, "a frame shorter than its header")
	}
	if limit, ok := r.accept(h.kind); !ok {
		return h, nil, false, refuse(ReasonProtocol, "a frame of %v, which is unknown or out of order", h.kind)
	} else if h.size > limit {
		return h, nil, false, refuse(ReasonLimit, "a frame of %v with %d bytes, at most %d are allowed", h.kind, h.size, limit)
	}

	if size := headerSize + h.size; size <= bufferSize {
		for r.end-r.start < size {
			if err := r.fill(r.room(size), size); err != nil {
				return h, nil, false, err
			}
		}
		body = r.buffer[r.start+headerSize : r.start+size]
		r.start += size
	} else {
		owned = true
		body = make([]byte, h.size)
		got := copy(body, r.buffer[r.start+headerSize:r.end])
		r.start, r.end = 0, 0
		for got < len(body) {
			n, err := r.read(body[got:], size)
			if err != nil {
				return h, nil, false, err
			}
			got += n
		}
	}
	r.began = time.Time{}
	r.traffic.framesIn.Add(1)
	return h, body, owned, nil
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
		now := time.Now()
		deadline, late := now.Add(r.idle), errSilent
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
		if err := r.conn.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
		n, err := r.conn.Read(into)
		r.traffic.bytesIn.Add(uint64(n))
		switch {
		case n > 0:
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			// If this process was held up itself (suspended, starved), it
			// has no right to speak of the other's silence before it has
			// listened for a while.
			if late == errSilent && time.Since(deadline) > r.idle/4 {
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
