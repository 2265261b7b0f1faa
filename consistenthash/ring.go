package consistenthash

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"slices"

	"github.com/zeebo/xxh3"
)

// A Member is one of those that keys are divided among.
type Member struct {
	// ID names the member. Its place on the ring follows from it, so a member
	// that leaves and returns under its old ID gets its old keys back.
	ID string

	// Weight is the member's share of the keys relative to that of the others,
	// from MinWeight to MaxWeight; 0 means 1. Memory and the time to build a
	// ring grow with the sum of the weights, so they are best kept around 1.
	Weight float64
}

// What New accepts.
const (
	MinWeight = 0.01 // of a member
	MaxWeight = 100  // of a member

	MaxMembers     = 1 << memberBits
	MaxTotalWeight = 10_000 // of all members together
)

const (
	// pointsPerWeight is how many points a member of weight 1 has. The standard
	// deviation of its share is 1/√pointsPerWeight of the mean, here 1.8%: the
	// busiest of 100 members has about 1.045 times the mean, and more than
	// 1.10 with one seed in 250,000. With 2,048 points that is one seed in
	// 1,700; with 1,024, one in 14. Memory and the time to build are
	// proportional to it.
	pointsPerWeight = 3072

	// slotBits is the width of a key's position. Points lie more finely, but a
	// ring so large that it has several to a slot need not tell keys apart
	// within it: the first point after the slot's start owns them all, and the
	// owner stands in a table. A lookup then takes 7 ns at 1,000 members;
	// searching the slot, with its cache misses and its branches that cannot be
	// predicted, took 60 to 90.
	//
	// Shares are whole numbers of slots. That does not show at 300 members; at
	// 1,000 it raises their standard deviation to 2.7%, at 3,000 to 5%.
	//
	// It is the same for all rings. If it grew with the ring, each step would
	// move keys between members that stay.
	slotBits = 20

	memberBits = 16
)

// A Ring divides keys among members. It is immutable and safe for concurrent
// use. The zero Ring has no members.
type Ring struct {
	seed    uint64
	members []Member // ascending by ID

	// points holds the points of all members, ascending by position, a number
	// of 32 bits, and where two coincide, by member. The upper bits of a point
	// are the lower bits of its position, namely those that the number of its
	// bucket does not tell; its lower memberBits are an index into members.
	//
	// Wider positions would take eight bytes a point where four do. Of 1,000
	// members one point in 1,400 coincides with another and is hidden by it.
	points []uint32

	// The bucket of a position is its upper bucketBits bits. The points of
	// bucket b are points[starts[b]:starts[b+1]].
	// Invariant: memberBits ≤ bucketBits ≤ slotBits. With fewer a point would
	// not fit into 32 bits; more would never be looked at.
	bucketBits int
	starts     []uint32

	// owners holds the owner of each slot, as an index into members, if buckets
	// are slots. Smaller rings do without: it would take more memory than all
	// the rest, and save 10 ns.
	owners []uint16
}

// New returns the ring of the given members. The owners it gives are a function
// of the seed and the set of members: their order does not matter.
//
// All who share keys must use the same seed. It should be kept from whoever
// could choose keys to harm: see the package comment.
//
// The error names every mistake in members, not just the first: an ID that is
// empty or not unique, a weight outside of MinWeight to MaxWeight, more than
// MaxMembers or MaxTotalWeight.
func New(seed uint64, members ...Member) (*Ring, error) {
	r := &Ring{seed: seed, members: slices.Clone(members)}
	if err := r.validate(); err != nil {
		return nil, err
	}
	if len(members) > 0 {
		r.build()
	}
	return r, nil
}

// validate checks the members, sorts them, and fills in the default weight.
func (r *Ring) validate() error {
	var errs []error
	total := 0.0
	for i := range r.members {
		m := &r.members[i]
		if m.ID == "" {
			errs = append(errs, fmt.Errorf("consistenthash: member %d of %d has an empty ID", i+1, len(r.members)))
		}
		if m.Weight == 0 {
			m.Weight = 1
		}
		if m.Weight >= MinWeight && m.Weight <= MaxWeight {
			total += m.Weight
		} else { // NaN too
			errs = append(errs, fmt.Errorf("consistenthash: member %q has weight %v, must be from %v to %v", m.ID, m.Weight, MinWeight, MaxWeight))
		}
	}
	slices.SortFunc(r.members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(r.members); i++ {
		if id := r.members[i].ID; id != "" && id == r.members[i-1].ID {
			errs = append(errs, fmt.Errorf("consistenthash: member %q is there more than once", id))
		}
	}
	if len(r.members) > MaxMembers {
		errs = append(errs, fmt.Errorf("consistenthash: %d members, at most %d are allowed", len(r.members), MaxMembers))
	}
	if total > MaxTotalWeight {
		errs = append(errs, fmt.Errorf("consistenthash: the weights sum up to %v, at most %v are allowed", total, MaxTotalWeight))
	}
	return errors.Join(errs...)
}

// build places the points: a counting sort by bucket and, because hashes are
// spread evenly, next to nothing to sort within one.
func (r *Ring) build() {
	total := 0
	for _, m := range r.members {
		total += m.points()
	}
	// At least two buckets to a point: most lookups then find none to pass over.
	r.bucketBits = min(max(bits.Len(uint(2*total)), memberBits), slotBits)
	r.points = make([]uint32, total)
	r.starts = make([]uint32, 1<<r.bucketBits+1)

	shift := 32 - r.bucketBits
	for _, m := range r.members {
		for position := range m.positions(r.seed) {
			r.starts[position>>shift]++
		}
	}
	end := uint32(0)
	for b, n := range r.starts {
		end += n
		r.starts[b] = end
	}
	// Each starts[b] is now the end of its bucket; filling the buckets from
	// behind makes it the start.
	for i, m := range r.members {
		for position := range m.positions(r.seed) {
			b := position >> shift
			r.starts[b]--
			r.points[r.starts[b]] = position<<r.bucketBits | uint32(i)
		}
	}
	for b := range len(r.starts) - 1 {
		if bucket := r.points[r.starts[b]:r.starts[b+1]]; len(bucket) > 1 {
			slices.Sort(bucket)
		}
	}
	if r.bucketBits == slotBits {
		r.owners = make([]uint16, 1<<slotBits)
		for slot := range r.owners {
			r.owners[slot] = uint16(r.member(r.first(uint32(slot))))
		}
	}
}

// points returns how many points m has on a ring.
func (m Member) points() int { return int(math.Round(m.Weight * pointsPerWeight)) }

// positions goes through the positions of m's points. A heavier m has those of
// a lighter one and more, and they do not depend on the other members.
func (m Member) positions(seed uint64) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		// SplitMix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number
		// Generators", OOPSLA 2014. Hashing the ID for each point again is no
		// better and takes several times as long.
		state := xxh3.HashStringSeed(m.ID, seed)
		for range m.points() {
			state += 0x9e3779b97f4a7c15
			z := state
			z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
			z = (z ^ z>>27) * 0x94d049bb133111eb
			if !yield(uint32((z ^ z>>31) >> 32)) {
				return
			}
		}
	}
}

// slot returns the slot that key falls in, a number of slotBits bits.
func (r *Ring) slot(key string) uint32 {
	return uint32(xxh3.HashStringSeed(key, r.seed) >> (64 - slotBits))
}

// first returns the index of the first point at or after the start of slot.
// The ring must have members.
func (r *Ring) first(slot uint32) int {
	position := slot << (32 - slotBits)
	b := position >> (32 - r.bucketBits)
	i, end := r.starts[b], r.starts[b+1]
	// Shifted, position has zeros where points have the member, so it is no
	// higher than a point at the same position.
	for from := position << r.bucketBits; i < end && r.points[i] < from; {
		i++
	}
	// If no point of the bucket is left, i is the first of the next bucket that
	// has any; after the last point of all comes the first.
	if int(i) == len(r.points) {
		return 0
	}
	return int(i)
}

// member returns whose point i is, as an index into members.
func (r *Ring) member(i int) int { return int(r.points[i] & (1<<memberBits - 1)) }

// Owner returns the ID of the member that owns key. It is not ok only if the
// ring has no members. It does not allocate.
func (r *Ring) Owner(key string) (id string, ok bool) {
	switch len(r.members) {
	case 0:
		return "", false
	case 1:
		return r.members[0].ID, true
	}
	slot := r.slot(key)
	if r.owners != nil {
		return r.members[r.owners[slot]].ID, true
	}
	return r.members[r.member(r.first(slot))].ID, true
}

// Owners returns the IDs of the first n members in the key's succession, or of
// all if there are fewer. First comes the owner; each other one is who would
// own the key if those before it were not there.
func (r *Ring) Owners(key string, n int) []string {
	n = min(n, len(r.members))
	if n <= 0 {
		return nil
	}
	return r.AppendOwners(make([]string, 0, n), key, n)
}

// AppendOwners appends to dst what Owners returns, and returns the result. It
// does not allocate if dst has room and n is small.
func (r *Ring) AppendOwners(dst []string, key string, n int) []string {
	n = min(n, len(r.members))
	if n <= 0 {
		return dst
	}
	var room [8]int
	seen := room[:0] // the members appended so far
	for i := r.first(r.slot(key)); ; {
		if m := r.member(i); !slices.Contains(seen, m) {
			dst = append(dst, r.members[m].ID)
			if seen = append(seen, m); len(seen) == n {
				return dst
			}
		}
		if i++; i == len(r.points) {
			i = 0
		}
	}
}

// layout stands for how points are placed. Whoever changes that raises it, so that
// rings placed differently have different fingerprints.
const layout = 1

// Fingerprint returns a hash of all that decides owners: the seed, and the IDs and weights
// of the members. Rings that have the same give every key the same owners; rings that
// do not have different ones, but for a chance of 2⁻⁶⁴.
func (r *Ring) Fingerprint() uint64 {
	b := binary.BigEndian.AppendUint64([]byte{layout}, r.seed)
	for _, m := range r.members { // ascending
		b = binary.BigEndian.AppendUint64(b, uint64(len(m.ID)))
		b = append(b, m.ID...)
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(m.Weight))
	}
	return xxh3.Hash(b)
}

// Len returns how many members the ring has.
func (r *Ring) Len() int { return len(r.members) }

// Members returns the members, ascending by ID, with the weights in force.
func (r *Ring) Members() []Member { return slices.Clone(r.members) }

// Shares returns the part of all possible keys that each member owns, in the
// order of Members. They sum up to 1. It takes a few milliseconds.
func (r *Ring) Shares() []float64 {
	shares := make([]float64, len(r.members))
	if len(shares) == 0 {
		return shares
	}
	const slots = 1 << slotBits
	for slot := range uint32(slots) {
		shares[r.member(r.first(slot))] += 1.0 / slots // exact: a power of two
	}
	return shares
}
