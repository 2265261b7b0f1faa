package expiry

import (
	"encoding/binary"
	"time"

	"github.com/zeebo/xxh3"
)

// A Digest stands for the floors of a node, so that another node can tell which of its own that one lacks.
// It divides time into consecutive slices: some wide ones, then some narrow ones. For each slice it has a
// hash of the floors whose generation is in it. Two nodes with the same floors in a slice have the same
// hash for it, in whatever order the floors arrived. Otherwise the hashes differ, except with probability
// 2⁻⁶⁴. The hash of no floors is 0.
type Digest struct {
	Start  uint64   // where the first slice begins, in seconds since 1970
	Width  uint64   // of a wide slice, in seconds; at least 1
	Wide   []uint64 // the hashes of the wide slices
	Narrow []uint64 // the hashes of the narrow slices, which follow; each is a NarrowSlice long

	// Later says that the node asks for all floors after the last slice, too.
	Later bool
}

// NarrowSlice is the length of a narrow slice. It is short so that nodes that differ only in what is on its
// way between them exchange little.
const NarrowSlice = time.Second / narrowPerSecond

const narrowPerSecond = 16

// second returns the second since 1970 that g is in.
func (g Generation) second() uint64 { return uint64(g>>counterBits) / 1e6 }

// narrow returns the number of the narrow slice that g is in, counted from 1970.
func (g Generation) narrow() uint64 { return uint64(g>>counterBits) * narrowPerSecond / 1e6 }

// slice returns the index of the slice that g is in, the wide ones first. It is -1 before the first slice,
// and the number of slices after the last one.
func (d *Digest) slice(g Generation) int {
	second := g.second()
	if second < d.Start {
		return -1
	}
	i := (second - d.Start) / d.Width
	if i < uint64(len(d.Wide)) {
		return int(i)
	}
	narrow := g.narrow() - (d.Start+uint64(len(d.Wide))*d.Width)*narrowPerSecond
	return len(d.Wide) + int(min(narrow, uint64(len(d.Narrow))))
}

// slices returns the number of slices.
func (d *Digest) slices() int { return len(d.Wide) + len(d.Narrow) }

// Digest returns the digest of the floors held, with so many slices. The first begins at the second start,
// and the wide ones are width seconds long. Floors that the group's floor has come to cover may be included.
func (f *Floors) Digest(start, width uint64, wide, narrow int) Digest {
	d := Digest{Start: start, Width: max(width, 1), Wide: make([]uint64, wide), Narrow: make([]uint64, narrow)}
	f.mu.RLock()
	defer f.mu.RUnlock()
	f.sums.fill(&d)
	return d
}

// Missing returns a page of the floors that a node with this digest lacks: those above the group's floor in
// the slices whose hashes differ. They include floors that the other node has, and, if the digest says so,
// all those after its last slice. Paging is as for Journal. A floor that is raised in the meantime is in a
// later page if it is one of a slice that differs then.
func (f *Floors) Missing(d Digest, cursor uint64, limit int) (floors []KeyFloor, next uint64, more bool) {
	differs, from := f.differing(&d)
	return f.collect(max(cursor, from), limit, func(r *floorRecord) bool {
		i := d.slice(r.Floor.Generation)
		return i >= 0 && differs[i]
	})
}

// differing returns for each slice of d whether its hash is another here, and at last whether what comes
// after it is asked for. All floors in such slices have been raised at from or later. It is the present Seq
// if there are none.
func (f *Floors) differing(d *Digest) (differs []bool, from uint64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	here := Digest{Start: d.Start, Width: d.Width, Wide: make([]uint64, len(d.Wide)), Narrow: make([]uint64, len(d.Narrow))}
	unknown := f.sums.fill(&here)
	differs = make([]bool, d.slices()+1)
	for i := range d.Wide {
		differs[i] = d.Wide[i] != here.Wide[i]
	}
	for i := range d.Narrow {
		differs[len(d.Wide)+i] = d.Narrow[i] != here.Narrow[i] || i < unknown
	}
	differs[d.slices()] = d.Later
	from = f.seq.Load()
	for second, sum := range f.sums.seconds {
		first := d.slice(At(time.Unix(int64(second), 0)))
		last := d.slice(At(time.Unix(int64(second+1), 0)) - 1)
		for i := max(first, 0); i <= last; i++ {
			if differs[i] {
				from = min(from, uint64(sum.first))
			}
		}
	}
	return differs, from
}

// sums are the hashes of all floors held, by time.
type sums struct {
	seconds map[uint64]secondSum // by second since 1970; those without floors are not there

	// narrow has the narrow slice n at n%len, unless a later one has taken its place.
	narrow [16 * narrowPerSecond]narrowSum
}

// A secondSum is the sum of the hashes of the floors of a second.
type secondSum struct {
	sum    uint64
	floors int
	first  Seq // no floor of this second that is held was raised before
}

// A narrowSum is the sum of the hashes of the floors of a narrow slice.
type narrowSum struct{ slice, sum uint64 }

// add takes in a floor that is held from now on.
func (s *sums) add(r *floorRecord) {
	hash := r.hash()
	second := r.Floor.Generation.second()
	sum, ok := s.seconds[second]
	if !ok {
		sum.first = r.Seq
	}
	sum.sum += hash
	sum.floors++
	s.seconds[second] = sum
	slice := r.Floor.Generation.narrow()
	n := &s.narrow[slice%uint64(len(s.narrow))]
	if n.slice < slice {
		*n = narrowSum{slice: slice}
	}
	if n.slice == slice {
		n.sum += hash
	}
}

// remove takes out a floor that is no longer held.
func (s *sums) remove(r *floorRecord) {
	hash := r.hash()
	second := r.Floor.Generation.second()
	sum := s.seconds[second]
	sum.sum -= hash
	if sum.floors--; sum.floors == 0 {
		delete(s.seconds, second)
	} else {
		s.seconds[second] = sum
	}
	slice := r.Floor.Generation.narrow()
	if n := &s.narrow[slice%uint64(len(s.narrow))]; n.slice == slice {
		n.sum -= hash
	}
}

// fill sets the hashes of d's slices. The first narrow ones, so many as it returns, are no longer known.
func (s *sums) fill(d *Digest) (unknown int) {
	for second, sum := range s.seconds {
		if second >= d.Start && (second-d.Start)/d.Width < uint64(len(d.Wide)) {
			d.Wide[(second-d.Start)/d.Width] += sum.sum
		}
	}
	first := (d.Start + uint64(len(d.Wide))*d.Width) * narrowPerSecond
	for i := range d.Narrow {
		switch n := s.narrow[(first+uint64(i))%uint64(len(s.narrow))]; {
		case n.slice == first+uint64(i):
			d.Narrow[i] = n.sum
		case n.slice > first+uint64(i):
			unknown = i + 1
		}
	}
	return unknown
}

// hash returns a hash of the subject and the floor. It is the same on every node.
func (r *floorRecord) hash() uint64 {
	var stamp [16]byte
	binary.BigEndian.PutUint64(stamp[:8], uint64(r.Floor.Generation))
	binary.BigEndian.PutUint64(stamp[8:], r.Floor.Origin)
	return xxh3.HashSeed(stamp[:], xxh3.HashString(string(r.subject)))
}
