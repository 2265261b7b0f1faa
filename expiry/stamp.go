package expiry

import (
	"cmp"
	"fmt"
	"math"

	"github.com/zeebo/xxh3"
)

// A Stamp says when a value was loaded or written, and by which write. Stamps totally order the loads and
// writes of a key across the cluster. The higher one wins on every node, in whatever order they arrive.
//
// A floor is a Stamp too: a value is live only if its stamp is not below its floor. The zero Stamp is
// below all others.
type Stamp struct {
	Generation Generation

	// Origin breaks ties between stamps of the same generation. It is 0 for a load, OriginOf the write for
	// a Set, and the highest value for a Remove or a Clear. So a Set beats a load of the same generation,
	// and a Remove beats both. It also identifies the Set that a value or a floor comes from.
	Origin uint64
}

// removed is the Origin of writes that leave no value.
const removed = math.MaxUint64

// Removal returns the stamp of a Remove or a Clear at generation g. Every value of that generation or an
// older one is below it.
func Removal(g Generation) Stamp { return Stamp{g, removed} }

// Loaded returns the stamp of a load that began at generation g.
func Loaded(g Generation) Stamp { return Stamp{Generation: g} }

// OriginOf returns the Origin of the Set that a node began at generation g of its clock. Different Sets
// have different origins, except with probability 2⁻⁶⁴.
func OriginOf(node string, g Generation) uint64 {
	return min(max(xxh3.HashStringSeed(node, uint64(g)), 1), removed-1)
}

// Below reports whether s is ordered before t. A value whose stamp is below its floor is dead.
func (s Stamp) Below(t Stamp) bool {
	return cmp.Or(cmp.Compare(s.Generation, t.Generation), cmp.Compare(s.Origin, t.Origin)) < 0
}

// Max returns the higher of s and t.
func (s Stamp) Max(t Stamp) Stamp {
	if s.Below(t) {
		return t
	}
	return s
}

// IsRemoval reports whether s is the stamp of a Remove or a Clear, which leave no value.
func (s Stamp) IsRemoval() bool { return s.Origin == removed }

// IsLoad reports whether s is the stamp of a load.
func (s Stamp) IsLoad() bool { return s.Origin == 0 }

// IsSet reports whether s is the stamp of a Set. A floor with such a stamp means that the key has a value.
func (s Stamp) IsSet() bool { return !s.IsLoad() && !s.IsRemoval() }

// String formats s as its generation and its origin.
func (s Stamp) String() string {
	switch {
	case s.IsRemoval():
		return s.Generation.String() + " removed"
	case s.IsLoad():
		return s.Generation.String() + " loaded"
	}
	return fmt.Sprintf("%s by %x", s.Generation, s.Origin)
}
