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

// A Member owns a share of the keys.
type Member struct {
	// ID identifies the member. It determines the member's points on the ring, so a member that leaves
	// and returns under the same ID gets the same keys back.
	ID string

	// Weight is the member's share of the keys relative to the other members' shares, from MinWeight to
	// MaxWeight. The default, 0, means 1. The memory a ring takes and the time to build it grow with the
	// sum of the weights, so keep weights around 1.
	Weight float64
}

// Limits that New enforces.
const (
	MinWeight      = 0.01   // of one member
	MaxWeight      = 100    // of one member
	MaxTotalWeight = 10_000 // of all members together

	maxMembers = 1 << memberBits
)

const (
	// pointsPerWeight is the number of points of a member of weight 1. The standard deviation of its share
	// is 1/√pointsPerWeight of the mean, here 1.8%: the busiest of 100 members has about 1.045 times the
	// mean, and more than 1.10 times with one seed in 250,000. With 2,048 points that is one seed in 1,700;
	// with 1,024, one in 14. Memory and build time are proportional to it.
	pointsPerWeight = 3072

	// slotBits is the width of a key's position. Points have finer positions, but a ring that is so large
	// that it has several points to a slot need not distinguish keys within the slot: the first point after
	// the slot's start owns them all, and a table holds the owner. A lookup then takes 7 ns at 1,000
	// members. Searching the slot, with its cache misses and unpredictable branches, took 60 to 90 ns.
	//
	// Shares are whole numbers of slots. That is not noticeable at 300 members. At 1,000 it raises the
	// standard deviation to 2.7%, at 3,000 to 5%.
	//
	// It is the same for all rings. If it grew with the ring, each step would move keys between members
	// that stay.
	slotBits = 20

	memberBits = 16
)

// A Ring assigns keys to members. It is immutable and safe for concurrent use. The zero Ring has no
// members.
type Ring struct {
	seed    uint64
	members []Member // ascending by ID

	// points holds the points of all members, ascending by position, which is a 32-bit number, and then by
	// member. The lower memberBits of a point are an index into members. Its upper bits are the lower bits
	// of its position; the bucket number supplies the rest.
	//
	// Wider positions would double the size of a point from four bytes to eight. With 1,000 members, one
	// point in 1,400 coincides with another one and is hidden by it.
	points []uint32

	// The bucket of a position is its upper bucketBits bits. The points of bucket b are
	// points[starts[b]:starts[b+1]].
	// Invariant: memberBits ≤ bucketBits ≤ slotBits. With fewer bits a point would not fit into 32 bits;
	// lookups would never use more.
	bucketBits int
	starts     []uint32

	// owners holds the owner of each slot, as an index into members, if buckets are slots. Smaller rings
	// do without: the table would take more memory than everything else, to save 10 ns.
	owners []uint16
}

// New returns the ring of the given members. Owners are a function of the seed and the set of members;
// the order of members does not matter. New does not retain or modify the slice.
//
// All nodes that share keys must use the same seed. Keep it from anyone who could choose keys to do harm;
// see the package comment.
//
// The error names every mistake in members, not just the first: an empty or duplicate ID, a weight outside
// MinWeight to MaxWeight, more than 65,536 members, or a total weight above MaxTotalWeight.
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
			errs = append(errs, fmt.Errorf("consistenthash: member %q has weight %v, must be from %v to %v",
				m.ID, m.Weight, MinWeight, MaxWeight))
		}
	}
	slices.SortFunc(r.members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(r.members); i++ {
		if id := r.members[i].ID; id != "" && id == r.members[i-1].ID {
			errs = append(errs, fmt.Errorf("consistenthash: member %q appears more than once", id))
		}
	}
	if len(r.members) > maxMembers {
		errs = append(errs, fmt.Errorf("consistenthash: %d members, the limit is %d", len(r.members), maxMembers))
	}
	if total > MaxTotalWeight {
		errs = append(errs, fmt.Errorf("consistenthash: the weights add up to %v, the limit is %v", total, MaxTotalWeight))
	}
	return errors.Join(errs...)
}

// build places the points. It is a counting sort by bucket. Hashes are spread evenly, so that leaves next
// to nothing to sort within a bucket.
func (r *Ring) build() {
	total := 0
	for _, m := range r.members {
		total += m.points()
	}
	// At least two buckets per point: most lookups then find the bucket empty and have nothing to skip.
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
	// Each starts[b] is now the end of bucket b. Filling the buckets from the back turns it into the start.
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

// points returns the number of points that m has on a ring.
func (m Member) points() int { return int(math.Round(m.Weight * pointsPerWeight)) }

// positions yields the positions of m's points. They do not depend on the other members, and those of a
// lighter m are a prefix of those of a heavier one. So members that stay never exchange keys.
func (m Member) positions(seed uint64) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		// SplitMix64: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
		// Rehashing the ID for each point is no better and takes several times as long.
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

// slot returns the slot of key, a number of slotBits bits.
func (r *Ring) slot(key string) uint32 {
	return uint32(xxh3.HashStringSeed(key, r.seed) >> (64 - slotBits))
}

// first returns the index of the first point at or after the start of slot. The ring must have members.
func (r *Ring) first(slot uint32) int {
	position := slot << (32 - slotBits)
	b := position >> (32 - r.bucketBits)
	i, end := r.starts[b], r.starts[b+1]
	// Once shifted, position has zeros where points have the member, so it does not exceed a point at the
	// same position.
	for from := position << r.bucketBits; i < end && r.points[i] < from; {
		i++
	}
	// If the rest of the bucket is empty, i is the first point of the next non-empty bucket. The last
	// point wraps around to the first.
	if int(i) == len(r.points) {
		return 0
	}
	return int(i)
}

// member returns the member that point i belongs to, as an index into members.
func (r *Ring) member(i int) int { return int(r.points[i] & (1<<memberBits - 1)) }

// Owner returns the ID of the member that owns key. ok is false only if the ring has no members. Owner
// does not allocate.
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

// Owners returns the IDs of the first n owners of key, or of all members if there are fewer than n. The
// owner comes first. Each of the others would own the key if the ones before it were gone.
func (r *Ring) Owners(key string, n int) []string {
	n = min(n, len(r.members))
	if n <= 0 {
		return nil
	}
	return r.appendOwners(make([]string, 0, n), key, n)
}

// appendOwners appends the result of Owners to dst and returns the extended slice. It does not allocate if
// dst has room and n is at most 8.
func (r *Ring) appendOwners(dst []string, key string, n int) []string {
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

// layout is the version of how points are placed. Increment it if the placement changes, so that rings with
// different placements have different fingerprints.
const layout = 1

// Fingerprint returns a hash of everything that determines owners: the seed, and the IDs and weights of
// the members. Rings with the same seed and members have the same fingerprint; others have different ones,
// except with probability 2⁻⁶⁴.
func (r *Ring) Fingerprint() uint64 {
	b := binary.BigEndian.AppendUint64([]byte{layout}, r.seed)
	for _, m := range r.members { // ascending by ID
		b = binary.BigEndian.AppendUint64(b, uint64(len(m.ID)))
		b = append(b, m.ID...)
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(m.Weight))
	}
	return xxh3.Hash(b)
}

// Shares returns the fraction of all possible keys that each member owns, in ascending order of the IDs.
// The shares add up to 1. It takes a few milliseconds.
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
