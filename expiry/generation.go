package expiry

import (
	"fmt"
	"math"
	"time"
)

// A Generation is a moment of the cluster's hybrid logical clock: every load
// and every write is stamped with the one at which it began. Generations are
// totally ordered, and an event that could have known of another has the higher
// one. Zero is older than every event.
//
// The upper 52 bits are microseconds since 1970 (enough until 2112), the lower
// 12 a counter that keeps events within one microsecond apart. Nothing depends
// on the split but the conversions below: a counter that runs over carries into
// the microseconds and the order still holds.
//
// Hybrid logical clocks: Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical
// Physical Clocks and Consistent Snapshots in Globally Distributed Databases",
// OPODIS 2014.
type Generation uint64

// counterBits is the width of a Generation's logical part.
const counterBits = 12

// At returns the lowest generation of the microsecond that t falls in.
// Times that a Generation cannot tell give the nearest that it can.
func At(t time.Time) Generation {
	us := min(max(t.UnixMicro(), 0), 1<<(64-counterBits)-1)
	return Generation(us) << counterBits
}

// Time returns the wall-clock time of g, to the microsecond.
func (g Generation) Time() time.Time {
	return time.UnixMicro(int64(g >> counterBits)).UTC()
}

// Sub returns how much later g is than h, to the microsecond.
func (g Generation) Sub(h Generation) time.Duration {
	return time.Duration(int64(g>>counterBits)-int64(h>>counterBits)) * time.Microsecond
}

// Add returns the generation d after g, or before it if d is negative, keeping
// g's counter. It ends at the lowest and the highest generation.
func (g Generation) Add(d time.Duration) Generation {
	us := uint64(d.Abs().Microseconds())
	delta := Generation(us) << counterBits
	if us >= 1<<(64-counterBits) {
		delta = math.MaxUint64
	}
	switch {
	case d < 0:
		return g - min(delta, g)
	case delta > math.MaxUint64-g:
		return math.MaxUint64
	}
	return g + delta
}

// String shows g as a time and a counter, such as
// "2026-11-22T17:04:05.000123Z/7".
func (g Generation) String() string {
	return fmt.Sprintf("%s/%d", g.Time().Format("2006-01-02T15:04:05.000000Z07:00"), uint64(g)&(1<<counterBits-1))
}
