package history

import (
	"fmt"
	"math"
	"time"
)

// A Fault is something that was broken for a while.
type Fault struct {
	Kind     FaultKind
	A, B     string // nodes, in any order; for World, regions
	From, To time.Duration
	New      bool // of Down: it has not joined yet
}

// A FaultKind says what is broken.
type FaultKind string

// The kinds.
const (
	Down        FaultKind = "down"        // A does not run: it has crashed, left, or not joined yet
	Frozen      FaultKind = "frozen"      // A is stopped
	Alone       FaultKind = "alone"       // A was started without a directory, and may not know others, nor they it
	Cut         FaultKind = "cut"         // between A and B of one region, one way at least
	World       FaultKind = "world"       // between regions A and B
	Directory   FaultKind = "directory"   // the directory
	Unaware     FaultKind = "unaware"     // A, a node or region, is not told that B is there, and B serves
	Unlisted    FaultKind = "unlisted"    // A runs, and the directory lists it no more, or not to the others; excuses nothing
	Misreported FaultKind = "misreported" // A's weight is one to some and another to others; excuses nothing
	Stepped     FaultKind = "stepped"     // the wall clock of A has been set; excuses nothing
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

// overlaps reports whether f was there at some time from from to to.
func (f *Fault) overlaps(from, to time.Duration) bool { return f.From <= to && f.To >= from }
