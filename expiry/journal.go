package expiry

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/zeebo/xxh3"
)

// A KeyFloor is the floor of one subject, which may be a scope.
type KeyFloor struct {
	Subject Subject
	Floor   Stamp
	Sender  uint64 // see Floors.Raise
}

// Journal returns a page of the floors held whose generation is at least since, in the order in which they
// were raised. Each subject occurs once, where it was last raised. The page begins at cursor, where 0 means
// the oldest floor, and has at most limit floors, but at least one if there is any. Journal also returns
// the cursor of the next page, and whether there is one. Floors raised in the meantime come at the end.
//
// A cursor counts raises since the Floors was created, and remains valid whatever is dropped. One that is
// too high must be from before a restart; it stands for the oldest floor.
//
// A floor that is collapsed between two pages may be in neither, but then the group's floor covers it. So to
// get all floors, call Group and Cleared after the last page, not before.
func (f *Floors) Journal(
	since Generation, cursor uint64, limit int,
) (floors []KeyFloor, next uint64, more bool) {
	limit = max(limit, 1)
	for next, more = cursor, true; more && len(floors) < limit; {
		next, more = f.page(next, func(r *floorRecord) bool {
			if r.Floor.Generation >= since {
				floors = append(floors, KeyFloor{r.subject, r.Floor, r.sender})
			}
			return len(floors) < limit
		})
	}
	return floors, next, more
}

// Between returns the floors whose generation is at least from and below to. If there are more than limit,
// it returns a random sample of that many. So a caller that asks repeatedly gets to see all of them, which
// it would not if it always got the first ones.
func (f *Floors) Between(from, to Generation, limit int) []KeyFloor {
	var floors []KeyFloor
	found := 0
	f.visitAll(func(r *floorRecord) {
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

// Digest divides time into consecutive slices, and returns for each a hash of the floors whose generation is
// in it. Slice i begins at from.Add(i*width) and ends before from.Add((i+1)*width). width is truncated to
// whole microseconds, and is at least one. Two nodes that hold the same floors in a slice have the same
// hash for it, in whatever order the floors arrived. Otherwise the hashes differ, except with probability
// 2⁻⁶⁴. The hash of no floors is 0.
//
// Floors that are raised or dropped in the meantime may or may not be included.
func (f *Floors) Digest(from Generation, width time.Duration, slices int) []uint64 {
	digests := make([]uint64, slices)
	sliceWidth := Generation(0).Add(max(width, time.Microsecond))
	f.visitAll(func(r *floorRecord) {
		if r.Floor.Generation < from {
			return
		}
		if i := uint64((r.Floor.Generation - from) / sliceWidth); i < uint64(slices) {
			digests[i] += r.hash()
		}
	})
	return digests
}

// hash returns a hash of the subject and the floor. It is the same on every node.
func (r *floorRecord) hash() uint64 {
	var stamp [16]byte
	binary.BigEndian.PutUint64(stamp[:8], uint64(r.Floor.Generation))
	binary.BigEndian.PutUint64(stamp[8:], r.Floor.Origin)
	return xxh3.HashSeed(stamp[:], xxh3.HashString(string(r.subject)))
}

// visitAll calls visit with each floor that is above the group's. It releases the lock regularly, so that
// writers need not wait for all of it.
func (f *Floors) visitAll(visit func(*floorRecord)) {
	for next, more := uint64(0), true; more; {
		next, more = f.page(next, func(r *floorRecord) bool {
			visit(r)
			return true
		})
	}
}

// page visits up to one chunk of the journal, beginning at cursor. It calls visit with each floor that is
// above the group's, until visit returns false. It returns the cursor to continue at, and whether there is
// more. It holds the lock for one chunk only, so that a writer need not wait for the whole journal.
func (f *Floors) page(cursor uint64, visit func(*floorRecord) bool) (next uint64, more bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if cursor > f.seq.Load() {
		cursor = 0
	}
	begin, _ := slices.BinarySearchFunc(f.journal, cursor, func(r *floorRecord, cursor uint64) int {
		if uint64(r.Seq) < cursor {
			return -1
		}
		return 1
	})
	end := min(begin+chunk, len(f.journal))
	for i, r := range f.journal[begin:end] {
		if !r.dropped && r.Floor.Generation > f.Group() && !visit(r) {
			end = begin + i + 1
			break
		}
	}
	if end == len(f.journal) {
		return f.seq.Load(), false
	}
	return uint64(f.journal[end].Seq), true
}

// compactJournalLocked removes dropped floors from the old end of the journal, and all of them once they are
// the majority. Otherwise writing the same key forever would grow the journal forever.
func (f *Floors) compactJournalLocked() {
	for len(f.journal) > 0 && f.journal[0].dropped {
		f.journal[0] = nil // releases it to the garbage collector
		f.journal = f.journal[1:]
	}
	if len(f.journal) < 2*len(f.held)+64 {
		return
	}
	held := make([]*floorRecord, 0, len(f.held)+64)
	for _, r := range f.journal {
		if !r.dropped {
			held = append(held, r)
		}
	}
	f.journal = held
}
