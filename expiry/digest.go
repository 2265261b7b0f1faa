package expiry

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"time"

	"github.com/zeebo/xxh3"
)

// A Digest stands for the floors of a node, so that another node can tell which of its own that one lacks.
// It divides time into consecutive slices: some wide ones, then some narrow ones. For each slice it has a
// hash of the floors whose generation is in it. Two nodes with the same floors in a slice have the same
// hash for it, in whatever order the floors arrived. Otherwise the hashes differ, except with probability
// 2⁻⁶⁴. The hash of no floors is 0.
//
// A write takes the floor of its key from one slice to another. So where writes are under way, some slices
// differ of which the nodes hold nearly the same floors. Of a wide slice that differs, the answering node
// therefore returns the hashes of its parts: a part has the floors whose keys hash to it. The asking node
// compares them with its own, and asks for the floors of those that differ.
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

// Parts is how many parts a wide slice has.
const Parts = 64

// Hashes has the hashes of the parts of a wide slice.
type Hashes struct {
	Second uint64 // since 1970, where the slice begins
	Parts  [Parts]uint64
}

// A Selection selects parts of a wide slice.
type Selection struct {
	Second uint64 // since 1970, where the slice begins
	Parts  uint64 // part i is selected if bit i is set
}

// A Cursor is where a page of missing floors begins: at the first floor of a second, counted since 1970, that was
// raised at Seq or later.
type Cursor struct{ Second, Seq uint64 }

// wholeSlice is the most floors that a slice may have to be sent as a whole: hashes of its parts would be no smaller.
const wholeSlice = 16

// narrow returns the number of the narrow slice that g is in, counted from 1970.
func (g Generation) narrow() uint64 { return g.micros() * narrowPerSecond / 1e6 }

// slice returns the index of the slice that g is in, the wide ones first. It is -1 before the first slice,
// and the number of slices after the last one.
func (d *Digest) slice(g Generation) int {
	i, ok := d.wide(g.second())
	if ok || i < 0 {
		return i
	}
	narrow := g.narrow() - (d.Start+uint64(len(d.Wide))*d.Width)*narrowPerSecond
	return len(d.Wide) + int(min(narrow, uint64(len(d.Narrow))))
}

// wide returns the index of the wide slice that a second is in. If there is none, the index is -1 before the first
// slice, and the number of wide slices after the last one.
func (d *Digest) wide(second uint64) (i int, ok bool) {
	if second < d.Start {
		return -1, false
	}
	n := (second - d.Start) / d.Width
	return int(min(n, uint64(len(d.Wide)))), n < uint64(len(d.Wide))
}

// Digest returns the digest of the floors held, with wide and narrow slices. The first begins at the second
// start, and the wide ones are width seconds long. Floors that the group's floor has come to cover may be included.
func (f *Floors) Digest(start, width uint64, wide, narrow int) Digest {
	d := Digest{Start: start, Width: max(width, 1), Wide: make([]uint64, wide), Narrow: make([]uint64, narrow)}
	f.mu.RLock()
	defer f.mu.RUnlock()
	f.sums.fill(&d)
	return d
}

// Missing returns a page of the floors that a node with this digest lacks: those above the group's floor in slices whose
// hashes differ, except for the wide slices of which Hashes returns the parts. They include floors that the other
// node has, and, if the digest says so, all those after its last slice.
//
// A page has at most limit floors, but at least one if there is any. Missing also returns where the next page begins,
// and whether there is one. A floor that is raised in the meantime is in a later page if its slice differs then, and
// was not passed. One that is replaced moves to a slice that is not passed.
func (f *Floors) Missing(d *Digest, at Cursor, limit int) (floors []KeyFloor, next Cursor, more bool) {
	f.mu.RLock()
	whole := f.comparedLocked(d).whole
	f.mu.RUnlock()
	missing := func(r *floorRecord) bool {
		i := d.slice(r.Floor.Generation)
		return i >= 0 && whole[i]
	}
	return f.collectSeconds(at, limit, func(second uint64) func(*floorRecord) bool {
		if first, last := d.slicesOf(second); !slices.Contains(whole[max(first, 0):last+1], true) {
			return nil
		}
		return missing
	})
}

// slicesOf returns the first and the last slice that a second is in, or -1.
func (d *Digest) slicesOf(second uint64) (first, last int) {
	begin := atSecond(second)
	return d.slice(begin), d.slice(begin.Add(time.Second) - 1)
}

// Hashes returns the hashes of the parts of the wide slices that differ from the digest's.
func (f *Floors) Hashes(d *Digest) (parts []Hashes) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for i, parted := range f.comparedLocked(d).parted {
		if parted {
			parts = append(parts, f.sums.parts(d.Start+uint64(i)*d.Width, d.Width))
		}
	}
	return parts
}

// Differing returns the parts whose hashes differ from those of the floors held here. The slices are width seconds
// long.
func (f *Floors) Differing(theirs []Hashes, width uint64) (differ []Selection) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	for i := range theirs {
		ours := f.sums.parts(theirs[i].Second, width)
		s := Selection{Second: theirs[i].Second}
		for j := range Parts {
			if ours.Parts[j] != theirs[i].Parts[j] {
				s.Parts |= 1 << j
			}
		}
		if s.Parts != 0 {
			differ = append(differ, s)
		}
	}
	return differ
}

// Selected returns a page of the floors in the selected parts that are above the group's floor. The slices are width
// seconds long. Paging is as for Missing.
func (f *Floors) Selected(
	selected []Selection, width uint64, at Cursor, limit int,
) (floors []KeyFloor, next Cursor, more bool) {
	return f.collectSeconds(at, limit, func(second uint64) func(*floorRecord) bool {
		parts := uint64(0)
		for _, s := range selected {
			if second >= s.Second && second-s.Second < width {
				parts |= s.Parts
			}
		}
		if parts == 0 {
			return nil
		}
		return func(r *floorRecord) bool { return parts&(1<<r.part()) != 0 }
	})
}

// collectSeconds returns a page of floors, second by second. wanted returns the filter for the floors of a second,
// or nil to skip it.
func (f *Floors) collectSeconds(
	at Cursor, limit int, wanted func(second uint64) func(*floorRecord) bool,
) (floors []KeyFloor, next Cursor, more bool) {
	limit = max(limit, 1)
	f.mu.RLock()
	defer f.mu.RUnlock()
	var seconds []uint64
	for second := range f.sums.seconds {
		if second >= max(at.Second, f.Group().second()) {
			seconds = append(seconds, second)
		}
	}
	slices.Sort(seconds)
	for _, second := range seconds {
		wanted := wanted(second)
		if wanted == nil {
			continue
		}
		for _, r := range f.sums.seconds[second].floors {
			switch {
			case r.dropped, r.Floor.Generation <= f.Group(), second == at.Second && uint64(r.Seq) < at.Seq, !wanted(r):
			case len(floors) == limit:
				return floors, Cursor{second, uint64(r.Seq)}, true
			default:
				floors = append(floors, KeyFloor{r.subject, r.Floor, r.sender})
			}
		}
	}
	return floors, Cursor{}, false
}

// compared says which slices differ from those of a digest.
type compared struct {
	whole  []bool // all slices, and what comes after them: their floors are sent
	parted []bool // the wide ones: the hashes of their parts are sent
}

func (f *Floors) comparedLocked(d *Digest) compared {
	here := Digest{Start: d.Start, Width: d.Width, Wide: make([]uint64, len(d.Wide)), Narrow: make([]uint64, len(d.Narrow))}
	unknown := f.sums.fill(&here)
	floors := make([]int, len(d.Wide))
	for second, s := range f.sums.seconds {
		if i, ok := d.wide(second); ok {
			floors[i] += s.held
		}
	}
	c := compared{make([]bool, len(d.Wide)+len(d.Narrow)+1), make([]bool, len(d.Wide))}
	for i := range d.Wide {
		differs := d.Wide[i] != here.Wide[i]
		c.whole[i] = differs && (d.Wide[i] == 0 || floors[i] <= wholeSlice)
		c.parted[i] = differs && !c.whole[i]
	}
	for i := range d.Narrow {
		c.whole[len(d.Wide)+i] = d.Narrow[i] != here.Narrow[i] || i < unknown
	}
	c.whole[len(d.Wide)+len(d.Narrow)] = d.Later
	return c
}

// sums are the floors held, and their hashes, by time.
type sums struct {
	seconds map[uint64]*secondSum // by second since 1970; those without floors are not there

	// narrow has the narrow slice n at n%len, unless a later one has taken its place.
	narrow [16 * narrowPerSecond]narrowSum
}

// A secondSum has the floors of a second, in the order in which they were raised, with dropped ones in between.
type secondSum struct {
	sum    uint64 // of their hashes
	held   int    // how many are not dropped
	floors []*floorRecord
}

// A narrowSum is the sum of the hashes of the floors of a narrow slice.
type narrowSum struct{ slice, sum uint64 }

// add takes in a floor that is held from now on.
func (s *sums) add(r *floorRecord) {
	hash := r.hash()
	second := r.Floor.Generation.second()
	sum, ok := s.seconds[second]
	if !ok {
		sum = new(secondSum)
		s.seconds[second] = sum
	}
	sum.sum += hash
	sum.held++
	sum.floors = append(sum.floors, r)
	slice := r.Floor.Generation.narrow()
	n := &s.narrow[slice%uint64(len(s.narrow))]
	if n.slice < slice {
		*n = narrowSum{slice: slice}
	}
	if n.slice == slice {
		n.sum += hash
	}
}

// remove takes out a floor that has been dropped.
func (s *sums) remove(r *floorRecord) {
	hash := r.hash()
	second := r.Floor.Generation.second()
	sum := s.seconds[second]
	sum.sum -= hash
	switch sum.held--; {
	case sum.held == 0:
		delete(s.seconds, second)
	case len(sum.floors) > 2*sum.held+wholeSlice:
		sum.floors = slices.Clip(slices.DeleteFunc(sum.floors, func(r *floorRecord) bool { return r.dropped }))
	}
	slice := r.Floor.Generation.narrow()
	if n := &s.narrow[slice%uint64(len(s.narrow))]; n.slice == slice {
		n.sum -= hash
	}
}

// fill sets the hashes of d's slices. It returns how many narrow slices, from the first on, may be forgotten.
func (s *sums) fill(d *Digest) (unknown int) {
	for second, sum := range s.seconds {
		if i, ok := d.wide(second); ok {
			d.Wide[i] += sum.sum
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

// parts returns the hashes of the parts of the slice of so many seconds that begins at a second.
func (s *sums) parts(second, width uint64) Hashes {
	h := Hashes{Second: second}
	add := func(sum *secondSum) {
		for _, r := range sum.floors {
			if !r.dropped {
				h.Parts[r.part()] += r.hash()
			}
		}
	}
	if width > uint64(len(s.seconds)) { // it takes fewer steps to go through all seconds that have floors
		for at, sum := range s.seconds {
			if at >= second && at-second < width {
				add(sum)
			}
		}
		return h
	}
	for i := range width {
		if sum, ok := s.seconds[second+i]; ok {
			add(sum)
		}
	}
	return h
}

// part returns the part of its slice that a floor is in. It is the same on every node.
func (r *floorRecord) part() int {
	return int(xxh3.HashString(string(r.subject)) >> (64 - bits.Len(Parts-1)))
}

// hash returns a hash of the subject and the floor. It is the same on every node.
func (r *floorRecord) hash() uint64 {
	var stamp [16]byte
	binary.BigEndian.PutUint64(stamp[:8], uint64(r.Floor.Generation))
	binary.BigEndian.PutUint64(stamp[8:], r.Floor.Origin)
	return xxh3.HashSeed(stamp[:], xxh3.HashString(string(r.subject)))
}
