package expiry

import (
	"fmt"
	"math"
	"time"
)

// A Generation is a timestamp of the cluster's hybrid logical clock. Every load and every write is stamped
// with the generation at which it began. Generations are totally ordered, and an event that may have been
// caused by another one has the higher generation. Zero is older than every event.
//
// The upper 52 bits are microseconds since 1970, which lasts until 2112. The lower 12 bits are a counter
// that distinguishes events within a microsecond. Only the conversions below depend on this split: a
// counter that overflows carries into the microseconds, and the order still holds.
//
// Hybrid logical clocks: Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical Physical Clocks and Consistent
// Snapshots in Globally Distributed Databases", OPODIS 2014.
type Generation uint64

// counterBits is the width of a Generation's logical part.
const counterBits = 12

// At returns the lowest generation of the microsecond that contains t. A time outside the range of a
// Generation gives the nearest one in range.
func At(t time.Time) Generation {
	us := min(max(t.UnixMicro(), 0), 1<<(64-counterBits)-1)
	return Generation(us) << counterBits
}

// Time returns the wall-clock time of g in UTC, to the microsecond.
func (g Generation) Time() time.Time {
	return time.UnixMicro(int64(g >> counterBits)).UTC()
}

// micros returns the microseconds from 1970 to g, and second the whole seconds.
func (g Generation) micros() uint64 { return uint64(g >> counterBits) }
func (g Generation) second() uint64 { return g.micros() / 1e6 }

// atSecond returns the lowest generation of a second since 1970.
func atSecond(second uint64) Generation { return Generation(second*1e6) << counterBits }

// Sub returns g-h, to the microsecond. It is negative if g is before h.
func (g Generation) Sub(h Generation) time.Duration {
	return time.Duration(int64(g>>counterBits)-int64(h>>counterBits)) * time.Microsecond
}

// Add returns g+d, with g's counter. d may be negative. The result saturates at the lowest and the highest
// generation.
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

// String formats g as a time and a counter, such as "2026-11-22T17:04:05.000123Z/7".
func (g Generation) String() string {
	counter := uint64(g) & (1<<counterBits - 1)
	return fmt.Sprintf("%s/%d", g.Time().Format("2006-01-02T15:04:05.000000Z07:00"), counter)
}
