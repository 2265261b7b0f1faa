package expiry

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/zeebo/xxh3"
)

// Written is the floor of one subject.
type KeyFloor struct {
	Subject Subject
	Floor   Stamp
	Sender  uint64 // see Raise
}

// Journal returns the floors held whose generation is at least since, in the
// order in which they were raised and each subject once, at its last raise. It begins
// at cursor, where 0 is the oldest, and returns at most limit floors, the cursor
// at which to go on, and whether there is more. What is raised meanwhile comes
// at the end.
//
// A cursor counts raises since these Floors were made, and stays good whatever
// is dropped. One that they cannot have given yet is from before a restart, and
// begins at the oldest.
//
// A floor that is folded while somebody turns the pages is missing from them,
// and the group's floor covers it. So whoever wants to know all floors asks for
// Group and Cleared after the last page, not before.
func (f *Floors) Journal(since Generation, cursor uint64, limit int) (floors []KeyFloor, next uint64, more bool) {
	limit = max(limit, 1)
	for next, more = cursor, true; more && len(floors) < limit; {
		next, more = f.page(next, func(r *raise) bool {
			if r.Floor.Generation >= since {
				floors = append(floors, KeyFloor{r.subject, r.Floor, r.sender})
			}
			return len(floors) < limit
		})
	}
	return floors, next, more
}

// Between returns the floors whose generation is at least from and below to. If
// they are more than limit it returns as many of them, drawn at random: who asks
// again and again comes to know all, which would not be so of the first ones.
func (f *Floors) Between(from, to Generation, limit int) []KeyFloor {
	var floors []KeyFloor
	found := 0
	f.all(func(r *raise) {
		if r.Floor.Generation < from || r.Floor.Generation >= to {
			return
		}
		found++
		if len(floors) < limit {
			floors = append(floors, KeyFloor{r.subject, r.Floor, r.sender})
		} else if i := rand.IntN(found); i < limit { // reservoir sampling
			floors[i] = KeyFloor{r.subject, r.Floor, r.sender}
		}
	})
	return floors
}

// Digest returns, for each of so many consecutive slices of time, a hash of the
// floors whose generation is in it: slice i is from.Add(i*width) up to, and
// without, from.Add((i+1)*width). Width is in whole microseconds, and at least
// one. Two nodes that hold the same floors in a slice have the same hash for it,
// in whatever order they came; two that do not have different ones, but for a
// chance of 2⁻⁶⁴. No floors hash to 0.
//
// What is raised or dropped meanwhile may be counted or not.
func (f *Floors) Digest(from Generation, width time.Duration, slices int) []uint64 {
	digests := make([]uint64, slices)
	each := Generation(0).Add(max(width, time.Microsecond))
	f.all(func(r *raise) {
		if r.Floor.Generation < from {
			return
		}
		if i := uint64((r.Floor.Generation - from) / each); i < uint64(slices) {
			digests[i] += r.hash()
		}
	})
	return digests
}

// hash is the same for the same subject and floor on every node.
func (r *raise) hash() uint64 {
	var stamp [16]byte
	binary.BigEndian.PutUint64(stamp[:8], uint64(r.Floor.Generation))
	binary.BigEndian.PutUint64(stamp[8:], r.Floor.Origin)
	return xxh3.HashSeed(stamp[:], xxh3.HashString(string(r.subject)))
}

// all passes the floors that are above the group's to visit, and lets writers in
// between.
func (f *Floors) all(visit func(*raise)) {
	for next, more := uint64(0), true; more; {
		next, more = f.page(next, func(r *raise) bool {
			visit(r)
			return true
		})
	}
}

// page goes through a part of the journal, from cursor on. It passes to visit
// the floors that are above the group's, until visit returns false. It returns
// the cursor at which to go on and whether there is more. The lock is held for
// one chunk, so that a writer does not wait for the whole journal.
func (f *Floors) page(cursor uint64, visit func(*raise) bool) (next uint64, more bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if cursor > f.seq.Load() {
		cursor = 0
	}
	begin, _ := slices.BinarySearchFunc(f.raised, cursor, func(r *raise, cursor uint64) int {
		if uint64(r.Seq) < cursor {
			return -1
		}
		return 1
	})
	end := min(begin+chunk, len(f.raised))
	for i, r := range f.raised[begin:end] {
		if !r.void && r.Floor.Generation > f.Group() && !visit(r) {
			end = begin + i + 1
			break
		}
	}
	if end == len(f.raised) {
		return f.seq.Load(), false
	}
	return uint64(f.raised[end].Seq), true
}

// compactLocked takes void raises off the old end of the journal, and all of them
// once they are the larger part, so that writing one key for ever does not grow
// it for ever.
func (f *Floors) compactLocked() {
	for len(f.raised) > 0 && f.raised[0].void {
		f.raised[0] = nil // lets go of it
		f.raised = f.raised[1:]
	}
	if len(f.raised) < 2*len(f.keys)+64 {
		return
	}
	held := make([]*raise, 0, len(f.keys)+64)
	for _, r := range f.raised {
		if !r.void {
			held = append(held, r)
		}
	}
	f.raised = held
}
