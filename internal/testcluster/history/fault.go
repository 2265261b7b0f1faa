package history

import (
	"fmt"
	"math"
	"time"
)

// A Fault is something that was broken for a while.
type Fault struct {
	Kind     FaultKind
	A, B     string // nodes, in any order; of World, regions
	From, To time.Duration
	New      bool // of Down: the node has not joined yet
}

// A FaultKind says what is broken.
type FaultKind string

// The kinds.
const (
	Down        FaultKind = "down"        // A does not run: it has crashed, has left, or has not joined yet
	Frozen      FaultKind = "frozen"      // A is paused
	Alone       FaultKind = "alone"       // A started without a directory: it and others may not know each other
	Cut         FaultKind = "cut"         // no contact between A and B of one region, one way at least
	World       FaultKind = "world"       // no contact between regions A and B
	Directory   FaultKind = "directory"   // the directory fails
	Unaware     FaultKind = "unaware"     // A, a node or a region, is not told of B, which serves
	Unlisted    FaultKind = "unlisted"    // A runs, but is not listed, or not to others; excuses nothing
	Misreported FaultKind = "misreported" // A has several weights, or is told nothing; excuses nothing
	Stepped     FaultKind = "stepped"     // A's wall clock was set; excuses nothing
)

func (f *Fault) String() string {
	to := "the end"
	if f.To != forEver {
		to = f.To.String()
	}
	return fmt.Sprintf("%v–%s %s %s %s", f.From, to, f.Kind, f.A, f.B)
}

// forEver is the To of a fault that has not ended.
const forEver = time.Duration(math.MaxInt64)

// overlaps reports whether there was f at some time between from and to.
func (f *Fault) overlaps(from, to time.Duration) bool { return f.From <= to && f.To >= from }
