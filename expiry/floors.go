package expiry

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Floors remembers, for one group, the floor of each key written and of each scope removed: the stamp that
// values must not be below. It also is the journal of recent writes, with which nodes bring each other up
// to date; see Journal.
//
// Its size is bounded. If there are too many floors, one is collapsed into the floor of the whole group. So
// what is forgotten turns into misses, never into stale values.
//
// All methods are safe for concurrent use.
type Floors struct {
	limit int

	// group is the floor of every key. It is atomic because every hit reads it; it is raised under mu.
	// Invariant: it never falls.
	group atomic.Uint64

	// beforeClear is what newest was when a Clear last raised the group's floor. It is atomic because it is read
	// while Visit holds mu; it is set under mu. It is kept here and not in RaisedFloor, which each floor has one of.
	beforeClear atomic.Uint64

	// seq is the number of times that a floor was raised so far, the group's included. scopeSeq is the value
	// of seq after the floor of a scope was last raised. Both are updated under mu, after the raised floor
	// has become visible.
	seq, scopeSeq atomic.Uint64

	mu sync.RWMutex // guards the following

	// groupFloor is the last raise of group, and newest the highest generation that any floor has had.
	groupFloor RaisedFloor
	newest     Generation

	// prefixLengths counts the prefixes that have floors, by length.
	prefixLengths map[int]int

	// cleared is the generation of the last Clear, and clearedBy its sender.
	// Invariant: cleared never falls, and is at most group.
	cleared   Generation
	clearedBy uint64

	// collapsed has, for each sender, the highest generation of its floors that were collapsed into the
	// group's.
	collapsed map[uint64]Generation

	// held has the floors of keys and scopes: all that are above the group's, and temporarily some that the
	// group's floor has come to cover.
	// Invariant: the floor of a key, max(held[key], group), never falls while a value older than it may be
	// alive somewhere.
	held map[Subject]*floorRecord

	// byGeneration is a heap of the floors in held, and of dropped ones. Floors arrive late, from other
	// regions and from journals, so they are not raised in the order in which they have to go; see
	// dropLocked and Raise.
	//
	// A floor that was replaced stays in the heap until it is on top, or until there are too many of them.
	// Floors mostly arrive in order, and appending one to the heap costs next to nothing. Removing the old
	// one from the middle each time took a third of the time of a Set.
	// Invariant: the floor on top is not dropped.
	byGeneration floorHeap

	// journal has the same floors, with dropped ones in between, in the order in which they were raised,
	// which is the order of their Seq.
	journal []*floorRecord

	// sums are the hashes of the floors in held, see Digest.
	sums sums
}

// A floorRecord is a floor of one subject. The fields without a comment are immutable.
type floorRecord struct {
	subject Subject
	RaisedFloor
	sender  uint64 // see Raise; guarded by Floors.mu
	dropped bool   // no longer in Floors.held: forgotten, covered or replaced; guarded by Floors.mu
}

// A RaisedFloor is a floor, with when this node learnt of it. It stands for all floors that it replaced: the
// floor of a key or a scope stands for the earlier floors of that key or scope. The group's floor stands
// for everything that it has come to cover, so it counts as known from the start: its First is 0.
type RaisedFloor struct {
	Floor Stamp
	At    time.Duration // what Raise, RaiseGroup or Clear was called with
	Seq   Seq           // how many times a floor had been raised before
	First Seq           // the Seq of the first of the floors that this one stands for, itself included
	Scope bool          // it is not the key's own floor, but that of a prefix, a tag or the group

	// Clear says that it is the group's floor as a Clear has raised it, and that no floor below it has arrived
	// since. Then all floors that it stands for, except the Clear's own, are at most BeforeClear.
	Clear bool
}

// A Seq is a point in the history of a Floors: the number of times that a floor had been raised by then.
type Seq uint64

// chunk is the number of floors that are examined or dropped in one go while the lock is held. It takes
// much less than a millisecond.
const chunk = 1024

// NewFloors returns a Floors that holds the floors of at most limit keys and scopes. It panics if limit is
// not positive.
func NewFloors(limit int) *Floors {
	if limit <= 0 {
		panic("expiry: the limit of Floors must be positive")
	}
	return &Floors{
		limit:         limit,
		held:          make(map[Subject]*floorRecord),
		prefixLengths: make(map[int]int),
		collapsed:     make(map[uint64]Generation),
		sums:          sums{seconds: make(map[uint64]*secondSum)},
	}
}

// Floor returns the stamp that an untagged value of key must not be below. It is the highest of the floors
// of the key, of its prefixes and of the group.
func (f *Floors) Floor(key string) Stamp {
	floor := Removal(0)
	f.Visit(key, nil, func(r RaisedFloor) bool {
		floor = floor.Max(r.Floor)
		return true
	})
	return floor
}

// FloorOf returns the floor of a subject. For a key it is that of Floor. For a scope it is its own or the
// group's, whichever is higher: a prefix covers keys, and no scope covers another.
func (f *Floors) FloorOf(s Subject) Stamp {
	if !s.IsScope() {
		return f.Floor(s.Key())
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	floor := Removal(f.Group())
	if r, ok := f.held[s]; ok {
		floor = floor.Max(r.Floor)
	}
	return floor
}

// Seq returns the current Seq. It takes no lock.
func (f *Floors) Seq() Seq { return Seq(f.seq.Load()) }

// Group returns the floor of the group, which every value must be newer than. It takes no lock.
func (f *Floors) Group() Generation { return Generation(f.group.Load()) }

// BeforeClear returns the highest generation that any floor had when a Clear last raised the group's floor. It
// takes no lock, so the function that Visit calls may call it.
func (f *Floors) BeforeClear() Generation { return Generation(f.beforeClear.Load()) }

// Cleared returns the generation of the last Clear. Group is at least as high, and higher if floors have
// been collapsed since.
func (f *Floors) Cleared() Generation {
	g, _ := f.ClearedBy()
	return g
}

// ClearedBy returns the generation and the sender of the last Clear.
func (f *Floors) ClearedBy() (g Generation, sender uint64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.cleared, f.clearedBy
}

// TakeCollapsed returns the highest generation of the collapsed floors whose sender is gone, or 0 if there
// are none. It forgets them, so the next call does not return them again.
func (f *Floors) TakeCollapsed(gone func(sender uint64) bool) (through Generation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.collapsed, func(sender uint64, g Generation) bool {
		if !gone(sender) {
			return false
		}
		through = max(through, g)
		return true
	})
	return through
}

// Raise raises the floor of a subject to s, unless it is that high already. It returns what FloorOf would
// have returned before. at is the current time by a clock of the caller's, which Visit returns. sender
// stands for the node that must send the floor to the other regions, and is returned by Journal. It is 0
// if nobody must, because the floor came from another region.
//
// A lower s that arrives late is a write too. It may have happened after the one that the floor is from,
// whose clock may have been ahead. So the floor remains, but counts as raised now. If the group's floor
// covers s, that one counts as raised now.
//
// If there are too many floors, the one with the lowest generation is collapsed into the group's floor, no
// matter when it arrived. Any other choice would raise the group's floor further. The resulting group floor
// does not depend on the order in which floors arrive, so nodes with the same floors have the same one.
func (f *Floors) Raise(subject Subject, s Stamp, at time.Duration, sender uint64) (was Stamp) {
	f.mu.Lock()
	defer f.mu.Unlock()
	own := Removal(f.Group())
	old, held := f.held[subject]
	if held {
		own = own.Max(old.Floor)
	}
	was = own
	f.newest = max(f.newest, s.Generation)
	scope := subject.IsScope()
	if !scope {
		f.visitPrefixesLocked(subject.Key(), func(r RaisedFloor) bool {
			was = was.Max(r.Floor)
			return true
		})
	}
	switch group := Removal(f.Group()); {
	case own.Below(s):
		own = s
	case s == own:
		if held && old.sender == 0 && s == old.Floor { // it came from another region first
			old.sender = sender
		}
		return was
	case own == group: // a floor of its own, if it is still held, is below that
		f.lateLocked(at)
		if scope {
			f.scopeSeq.Store(f.seq.Load())
		}
		return was
	}
	r := &floorRecord{
		subject:     subject,
		sender:      sender,
		RaisedFloor: RaisedFloor{Floor: own, At: at, Seq: f.Seq(), First: f.Seq(), Scope: scope},
	}
	if held {
		if own == old.Floor {
			r.sender = old.sender
		}
		r.First = old.First
		old.dropped = true
		f.sums.remove(old)
	} else {
		f.countPrefixLocked(subject, 1)
	}
	f.byGeneration.push(r)
	f.compactHeapLocked()
	f.held[subject] = r
	f.sums.add(r)
	f.journal = append(f.journal, r)
	f.seq.Add(1)
	if scope {
		f.scopeSeq.Store(f.seq.Load())
	}
	if len(f.held) > f.limit && f.byGeneration[0].generation > f.Group() {
		if by := f.byGeneration[0].sender; by != 0 {
			f.collapsed[by] = f.byGeneration[0].generation
		}
		f.raiseGroupLocked(f.byGeneration[0].generation, f.byGeneration[0].At)
	}
	f.dropLocked(f.Group(), 2) // what raiseGroupLocked has left: two are dropped for each one added
	return was
}

// RaiseGroup raises the floor of every key to g, which is the group's floor of another node. It reports
// whether that raised the floor. If g is lower and arrives late, the floor counts as raised now, as with
// Raise.
func (f *Floors) RaiseGroup(g Generation, at time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.raiseGroupLocked(g, at)
}

// Clear raises the floor of every key to g, and records g as the last Clear and sender as its sender. It
// reports whether g is later than the last Clear before. If g is lower and arrives late, the group's floor
// counts as raised now, as with Raise.
func (f *Floors) Clear(g Generation, at time.Duration, sender uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g == f.cleared {
		return false // a duplicate
	}
	later := g > f.cleared
	if later {
		f.cleared, f.clearedBy = g, sender
	}
	before := f.newest
	if f.raiseGroupLocked(g, at) {
		f.groupFloor.Clear = true
		f.beforeClear.Store(uint64(before))
	}
	return later
}

// Adopt makes another node the sender of floor w, if that is still held.
func (f *Floors) Adopt(w KeyFloor, sender uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r, ok := f.held[w.Subject]; ok && r.Floor == w.Floor {
		r.sender = sender
	}
}

// AdoptClear makes another node the sender of the Clear at generation g, if that is still the last one.
func (f *Floors) AdoptClear(g Generation, sender uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cleared == g {
		f.clearedBy = sender
	}
}

// Forget drops the floors below before, in whatever order they were raised, and those that the group's
// floor covers. It returns the number of floors dropped. The caller guarantees that every value loaded
// before then is dead by age: before must be further back than the longest time to live plus the load
// timeout.
func (f *Floors) Forget(before Generation) int {
	for dropped := 0; ; {
		f.mu.Lock()
		through := f.Group()
		if before > 0 {
			through = max(through, before-1)
		}
		n := f.dropLocked(through, chunk)
		maps.DeleteFunc(f.collapsed, func(_ uint64, g Generation) bool { return g < before })
		f.mu.Unlock()
		dropped += n
		if n < chunk {
			return dropped
		}
	}
}

// Len returns the number of keys and scopes whose floors are held. It may count some that the group's floor
// covers and that have not been dropped yet.
func (f *Floors) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.held)
}

// lateLocked records the late arrival of a write that the group's floor covers. The floor remains, and
// counts as raised now.
func (f *Floors) lateLocked(at time.Duration) {
	f.groupFloor.At, f.groupFloor.Seq = max(at, f.groupFloor.At), f.Seq()
	f.groupFloor.Clear = false
	f.seq.Add(1)
}

// raiseGroupLocked raises the group's floor to g, and drops the floors that it covers. If there are many,
// later raises drop the rest; until then Floor takes the higher one. It reports whether g was above the
// group's floor.
func (f *Floors) raiseGroupLocked(g Generation, at time.Duration) bool {
	if g <= f.Group() {
		if g < f.Group() {
			f.lateLocked(at)
		}
		return false
	}
	f.groupFloor = RaisedFloor{Floor: Removal(g), At: max(at, f.groupFloor.At), Seq: f.Seq(), Scope: true}
	f.newest = max(f.newest, g)
	f.group.Store(uint64(g))
	f.seq.Add(1)
	f.dropLocked(g, chunk)
	return true
}

// dropLocked drops up to limit floors whose generation is at most through, lowest generation first. It
// returns the number of floors dropped.
func (f *Floors) dropLocked(through Generation, limit int) int {
	n := 0
	for ; n < limit && len(f.byGeneration) > 0 && f.byGeneration[0].generation <= through; n++ {
		r := f.byGeneration[0].floorRecord
		r.dropped = true
		delete(f.held, r.subject)
		f.sums.remove(r)
		f.countPrefixLocked(r.subject, -1)
		f.compactHeapLocked()
	}
	f.compactJournalLocked()
	return n
}

// compactHeapLocked removes dropped floors from the top of the heap, and all dropped floors once they are
// the majority.
func (f *Floors) compactHeapLocked() {
	for len(f.byGeneration) > 0 && f.byGeneration[0].dropped {
		f.byGeneration.pop()
	}
	if len(f.byGeneration) < 2*len(f.held)+64 {
		return
	}
	f.byGeneration = slices.DeleteFunc(f.byGeneration, func(item heapItem) bool { return item.dropped })
	f.byGeneration.init()
}
