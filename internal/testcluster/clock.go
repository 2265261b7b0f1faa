package testcluster

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// A clock has the two readings of a real machine: a wall clock that is off and can be set while the
// machine runs, and a monotonic one that setting the wall clock does not affect.
type clock struct {
	offset  atomic.Int64
	stopped atomic.Pointer[time.Time] // when it stopped; nil while it runs
}

// reading has a monotonic reading. Times in a bubble have none.
var reading = time.Now()

// now returns a time with both readings. Package time can only move the two of a Time together, so
// now writes into the Time itself. TestClock fails if the layout of time.Time changes.
func (c *clock) now() time.Time {
	offset := c.offset.Load()
	now := time.Now()
	if at := c.stopped.Load(); at != nil {
		now = *at
	}
	t := reading.Add(now.Sub(reading.Round(0)) + time.Duration(offset))
	layout := (*struct {
		wall uint64
		ext  int64 // the monotonic reading
		loc  *time.Location
	})(unsafe.Pointer(&t))
	layout.ext -= offset
	return t
}

// Pause stops the node as SIGSTOP does, and stops its clock: the node itself does not notice until
// Resume. What its goroutines do meanwhile does not reach the network.
func (n *Node) Pause() {
	now := time.Now()
	n.clock.stopped.Store(&now)
	n.Freeze()
}

// Resume ends a Pause.
func (n *Node) Resume() {
	n.clock.stopped.Store(nil)
	n.Thaw()
}

// SetClock sets how far n's wall clock is off from now on, as an operator or NTP does.
func (n *Node) SetClock(offset time.Duration) { n.clock.offset.Store(int64(offset)) }
