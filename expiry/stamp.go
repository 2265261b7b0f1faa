package expiry

import (
	"cmp"
	"fmt"
	"math"

	"github.com/zeebo/xxh3"
)

// A Stamp says when a value came to be, and by whom: it orders all loads and
// writes of a key in the whole cluster. The higher one wins, on every node and
// whatever the order in which they arrive there.
//
// It also is what a floor is made of: a value is live while its stamp is not
// below the floor of its key. The zero Stamp is below all others.
type Stamp struct {
	Generation Generation

	// Origin decides between stamps of the same generation. It is 0 for a
	// load, OriginOf the write for a Set, and highest for a Remove or a Clear:
	// a Set beats a load of the same generation, and a Remove beats both. So it also
	// tells which Set a value or a floor is from.
	Origin uint64
}

// removed is the origin of what leaves no value.
const removed = math.MaxUint64

// Removal returns the stamp of a Remove or a Clear at generation g: every value
// of that generation or an older one is below it.
func Removal(g Generation) Stamp { return Stamp{g, removed} }

// Loaded returns the stamp of a load that began at generation g.
func Loaded(g Generation) Stamp { return Stamp{Generation: g} }

// OriginOf returns the Origin of the Set that a node has begun at generation g of its clock.
// Different Sets have different ones but for a chance of 2⁻⁶⁴.
func OriginOf(node string, g Generation) uint64 {
	return min(max(xxh3.HashStringSeed(node, uint64(g)), 1), removed-1)
}

// Compare returns -1, 0 or +1 as s is below, the same as or above t.
func (s Stamp) Compare(t Stamp) int {
	return cmp.Or(cmp.Compare(s.Generation, t.Generation), cmp.Compare(s.Origin, t.Origin))
}

// Below reports whether s comes before t. A value that is below its floor is
// dead.
func (s Stamp) Below(t Stamp) bool { return s.Compare(t) < 0 }

// Max returns the higher of the two.
func (s Stamp) Max(t Stamp) Stamp {
	if s.Below(t) {
		return t
	}
	return s
}

// IsRemoval reports whether s is a stamp that leaves no value.
func (s Stamp) IsRemoval() bool { return s.Origin == removed }

// IsLoad reports whether s is the stamp of a load.
func (s Stamp) IsLoad() bool { return s.Origin == 0 }

// IsSet reports whether s is the stamp of a Set. As a floor it says that there is a value.
func (s Stamp) IsSet() bool { return !s.IsLoad() && !s.IsRemoval() }

// String shows s as its generation and its origin.
func (s Stamp) String() string {
	switch {
	case s.IsRemoval():
		return s.Generation.String() + " removed"
	case s.IsLoad():
		return s.Generation.String() + " loaded"
	}
	return fmt.Sprintf("%s by %x", s.Generation, s.Origin)
}
