package testcluster

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// A clock has the two readings of a real machine's: a wall clock that is off, and may be set while
// the machine runs, and a monotonic one that is not touched by that.
type clock struct{ offset atomic.Int64 }

// reading has a monotonic one. Times in a bubble have none.
var reading = time.Now()

// now returns a reading of both. Package time moves the two of a Time together only, so now
// reaches into it; TestClock tells if the layout of time.Time has changed.
func (c *clock) now() time.Time {
	offset := c.offset.Load()
	t := reading.Add(time.Since(reading.Round(0)) + time.Duration(offset))
	layout := (*struct {
		wall uint64
		ext  int64 // the monotonic reading
		loc  *time.Location
	})(unsafe.Pointer(&t))
	layout.ext -= offset
	return t
}

// SetClock sets how far n's wall clock is off from now on, as its operator or NTP does.
func (n *Node) SetClock(offset time.Duration) { n.clock.offset.Store(int64(offset)) }
