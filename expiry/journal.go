package expiry

import "slices"

// A KeyFloor is the floor of one subject, which may be a scope.
type KeyFloor struct {
	Subject Subject
	Floor   Stamp
	Sender  uint64 // see Floors.Raise
}

// Journal returns a page of the floors held that are above the group's, in the order in which they were
// raised. Each subject occurs once, where it was last raised. The page begins at cursor, where 0 means
// the oldest floor, and has at most limit floors, but at least one if there is any. Journal also returns
// the cursor of the next page, and whether there is one. Floors raised in the meantime come at the end.
//
// A cursor counts raises since the Floors was created, and remains valid whatever is dropped. One that is
// too high must be from before a restart; it stands for the oldest floor.
//
// A floor that is collapsed between two pages may be in neither, but then the group's floor covers it. So to
// get all floors, call Group and Cleared after the last page, not before.
func (f *Floors) Journal(cursor uint64, limit int) (floors []KeyFloor, next uint64, more bool) {
	limit = max(limit, 1)
	for next, more = cursor, true; more && len(floors) < limit; {
		next, more = f.page(next, func(r *floorRecord) bool {
			floors = append(floors, KeyFloor{r.subject, r.Floor, r.sender})
			return len(floors) < limit
		})
	}
	return floors, next, more
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
