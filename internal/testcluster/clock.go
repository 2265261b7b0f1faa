package testcluster

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// A clock has the two readings of a real machine's: a wall clock that is off, and may be set while
// the machine runs, and a monotonic one that is not touched by that.
type clock struct {
	offset  atomic.Int64
	stopped atomic.Pointer[time.Time] // when it was, while it stands still
}

// reading has a monotonic one. Times in a bubble have none.
var reading = time.Now()

// now returns a reading of both. Package time moves the two of a Time together only, so now
// reaches into it; TestClock tells if the layout of time.Time has changed.
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

// Pause stops the node as SIGSTOP does, in its own eyes too: its clock stands still until Resume, and has
// then gone on. What its goroutines do meanwhile is cut off from the network.
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

// SetClock sets how far n's wall clock is off from now on, as its operator or NTP does.
func (n *Node) SetClock(offset time.Duration) { n.clock.offset.Store(int64(offset)) }
