package peers

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// largeValue is the size from which on a value is handed to the kernel
	// from where it is instead of being copied behind its header.
	largeValue = 8 << 10

	// keptBuffer is the largest buffer that is kept for the next batch.
	keptBuffer = 256 << 10
)

var (
	// errStalled says that the other side has not taken what was written.
	errStalled = errors.New("what was sent was not read in time")

	// errQueueFull says that too much is waiting to be written.
	errQueueFull = errors.New("too many bytes are waiting to be sent")
)

// A writer writes frames, and makes one write of all that are there. Whoever
// has queued a frame calls flush: if no write is in progress it writes at once,
// with whatever the others have queued; if one is, the frame goes with the
// next, which begins as soon as that one ends. So one frame alone waits for
// nothing, and many share a system call.
//
// The rejected alternatives: a writer goroutine costs every frame two context
// switches and lets latencies grow tails; a timer that waits for more frames
// adds its period to each.
//
// Any number of goroutines may use it.
type writer struct {
	conn    net.Conn
	traffic *traffic
	frame   time.Duration   // how long a write may take, see allowance
	tasks   *sync.WaitGroup // the connection's goroutines

	mu      sync.Mutex // never held across I/O; guards the following
	queued  batch
	spare   batch // an empty one, to be swapped with queued
	current int   // bytes in the write in progress
	writing bool  // a goroutine has the task of emptying queued
	err     error // why nothing more is written; nil while the connection stands
	taken   sync.Cond

	buffers net.Buffers // for the write in progress, of which there is one
}

// A batch is some frames, ready to be written.
type batch struct {
	small []byte  // everything but the large values
	large []value // in order of at
	bytes int     // in all
}

// A value is a large value that comes after small[:at].
type value struct {
	at    int
	bytes []byte
}

func (w *writer) init(conn net.Conn, traffic *traffic, frame time.Duration, tasks *sync.WaitGroup) {
	w.conn, w.traffic, w.frame, w.tasks = conn, traffic, frame, tasks
	w.taken.L = &w.mu
}

// queue appends a frame. encode appends it to its argument, followed by value
// unless that is large. If limit is positive and that many bytes wait already,
// queue returns errQueueFull.
//
// encode is called with the lock held: it must do nothing but encode.
func (w *writer) queue(limit int, value []byte, encode func([]byte) []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if limit > 0 && w.queued.bytes+w.current >= limit {
		return errQueueFull
	}
	before := len(w.queued.small)
	w.queued.small = encode(w.queued.small)
	if len(value) < largeValue {
		w.queued.small = append(w.queued.small, value...)
		value = nil
	} else {
		w.queued.addLarge(value)
	}
	w.queued.bytes += len(w.queued.small) - before + len(value)
	w.traffic.framesOut.Add(1)
	return nil
}

func (b *batch) addLarge(bytes []byte) {
	b.large = append(b.large, value{at: len(b.small), bytes: bytes})
}

// flush writes what is queued unless a write is in progress, whose goroutine
// will see to it. It writes one batch at most: what has queued meanwhile is
// left to a goroutine, so that no caller works for the others for long.
//
// company says that others are likely to have something to write right now.
// Then flush first lets them run. With 128 callers on two cores that makes
// batches so much larger that a request costs 40% less; one caller alone would
// only lose by it on a busy machine.
func (w *writer) flush(company bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing || w.err != nil || w.queued.bytes == 0 {
		return
	}
	w.writing = true
	if company {
		w.mu.Unlock()
		runtime.Gosched()
		w.mu.Lock()
	}
	w.writeLocked()
	w.passOnLocked()
}

// flushSoon is flush for those who must not wait for a write.
func (w *writer) flushSoon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writing {
		return
	}
	w.writing = true
	w.passOnLocked()
}

// passOnLocked gives the task of writing to a goroutine if there is something
// to write, and ends it otherwise. Invariant: the goroutine is started only
// while err is nil, so that none appears once close has set it.
func (w *writer) passOnLocked() {
	if w.err != nil || w.queued.bytes == 0 {
		w.writing = false
		return
	}
	w.tasks.Go(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for w.err == nil && w.queued.bytes > 0 {
			w.writeLocked()
		}
		w.writing = false
	})
}

// writeLocked writes what is queued. It lets go of the lock meanwhile.
func (w *writer) writeLocked() {
	b := w.queued
	w.queued, w.spare = w.spare, batch{}
	w.current = b.bytes
	w.mu.Unlock()
	err := w.write(b)
	w.mu.Lock()
	w.current = 0
	if cap(b.small) <= keptBuffer {
		clear(b.large)
		w.spare = batch{small: b.small[:0], large: b.large[:0]}
	}
	if err != nil && w.err == nil {
		w.err = err
		_ = closeNow(w.conn)
	}
	w.taken.Broadcast()
}

func (w *writer) write(b batch) error {
	deadline := time.Now().Add(allowance(w.frame, b.bytes))
	if err := w.conn.SetWriteDeadline(deadline); err != nil {
		return err
	}
	var n int64
	var err error
	if len(b.large) == 0 {
		var m int
		m, err = w.conn.Write(b.small)
		n = int64(m)
	} else {
		buffers, from := w.buffers[:0], 0
		for _, v := range b.large {
			buffers = append(buffers, b.small[from:v.at], v.bytes)
			from = v.at
		}
		if from < len(b.small) {
			buffers = append(buffers, b.small[from:])
		}
		w.buffers = buffers // WriteTo forgets where the slice began, and clears it
		n, err = buffers.WriteTo(w.conn)
	}
	w.traffic.bytesOut.Add(uint64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalled
	}
	return err
}

// waitBelow waits until fewer than limit bytes are waiting to be written, or
// nothing will be.
func (w *writer) waitBelow(limit int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.queued.bytes+w.current >= limit {
		w.taken.Wait()
	}
}

// fail ends all writing with err, unless it has ended already, and returns why
// it has.
func (w *writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
		w.taken.Broadcast()
	}
	return w.err
}
