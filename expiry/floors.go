package expiry

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Floors remembers, for one group, the stamp that values of each written key and each
// removed scope must not be below. It is the journal of recent writes (see Journal), which nodes
// bring each other up to date with.
//
// It is bounded: a floor that has to go before its time is folded into the
// floor of the whole group, so what is forgotten turns into misses and never
// into stale values. All methods are safe for concurrent use.
type Floors struct {
	limit int

	// group is the floor of every key. It is read on every hit, hence atomic;
	// it is raised under mu. Invariant: it never falls.
	group atomic.Uint64

	// seq is how many floors were raised so far, the group's included; scoped is what
	// it was after the last raise of a scope's. Both are raised under mu, after what
	// they count can be seen.
	seq, scoped atomic.Uint64

	mu sync.RWMutex // guards the following
	// last is the raise that has made group what it is.
	last Raised
	// prefixes are the lengths of the prefixes that have floors, and of how many.
	prefixes map[int]int
	// cleared is the last Clear, and clearedBy its sender. Invariant: it never falls, and is at
	// most group.
	cleared   Generation
	clearedBy uint64
	// folded is up to which generation floors of each sender have been folded.
	folded map[uint64]Generation
	// keys holds the floors of keys and scopes, those above the group's and for a while
	// some that it has come to cover.
	// Invariant: the floor of a key, max(keys[key], group), never falls while
	// a value older than it may be alive somewhere.
	keys map[Subject]*raise
	// oldest is a heap of the same floors, by generation, and of void ones. Floors come late,
	// from other regions and in journals, so the order in which they were raised
	// is not the order in which they have to go. See dropLocked and Raise.
	//
	// What is replaced stays in it until it is on top or there are too many of its kind: mostly
	// floors come in order, and to put one at the end costs nothing. Taking the old one
	// out of the middle each time was a third of a Set.
	// Invariant: the one on top is not void.
	oldest byGeneration
	// raised is the journal: the same floors in the order in which they were
	// raised, which is that of their seq, and void ones between them.
	raised []*raise
}

// A raise is one floor of one subject. It is immutable but for what is guarded.
type raise struct {
	subject Subject
	Raised
	sender uint64 // see Raise; guarded by Floors.mu
	void   bool   // dropped, or replaced by a newer one of its subject; guarded by Floors.mu
}

// A Raised is a floor, and when this node came to know of it. It stands for all floors that it
// has replaced: a key's or a scope's for the earlier ones of its name, the group's for whatever it has
// come to cover, so that it counts as known from the start.
type Raised struct {
	Floor Stamp
	At    time.Duration // what Raise, RaiseGroup or Clear was called with
	Seq   Seq           // how many floors were raised before it
	First Seq           // the same of the first that was held of those it stands for, itself included
	Scope bool          // it is not the key's own: a prefix's, a tag's, or the group's
}

// A Mark is a moment in the life of Floors: how many have been raised by then.
type Seq uint64

// chunk is how many floors are looked at or dropped while the lock is held:
// much less than a millisecond's worth.
const chunk = 1024

// NewFloors returns Floors that hold at most limit keys. It panics if limit is
// not positive.
func NewFloors(limit int) *Floors {
	if limit <= 0 {
		panic("expiry: the limit of Floors must be positive")
	}
	return &Floors{
		limit:    limit,
		keys:     make(map[Subject]*raise),
		prefixes: make(map[int]int),
		folded:   make(map[uint64]Generation),
	}
}

// Floor returns the stamp that a value of key must not be below, unless it has tags:
// its own, that of a prefix, or the group's.
func (f *Floors) Floor(key string) Stamp {
	floor := Removal(0)
	f.Over(key, nil, func(r Raised) bool {
		floor = floor.Max(r.Floor)
		return true
	})
	return floor
}

// FloorOf returns the floor of a subject: that of a key as Floor does, that of a scope its own or
// the group's. No scope is within another: a prefix covers keys, and never a scope.
func (f *Floors) FloorOf(s Subject) Stamp {
	if !s.IsScope() {
		return f.Floor(s.Key())
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	floor := Removal(f.Group())
	if r, ok := f.keys[s]; ok {
		floor = floor.Max(r.Floor)
	}
	return floor
}

// Mark returns the present moment. It takes no lock.
func (f *Floors) Seq() Seq { return Seq(f.seq.Load()) }

// Group returns the generation that every value must be newer than. It takes
// no lock.
func (f *Floors) Group() Generation { return Generation(f.group.Load()) }

// Cleared returns the generation of the last Clear. Group is not below it, and
// above it if floors have been folded since.
func (f *Floors) Cleared() Generation {
	g, _ := f.ClearedBy()
	return g
}

// ClearedBy is Cleared, with the sender of that Clear.
func (f *Floors) ClearedBy() (g Generation, sender uint64) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.cleared, f.clearedBy
}

// TakeFolded returns, and clears, the highest generation of the floors that were folded into the
// group's of any sender that is gone.
func (f *Floors) TakeCollapsed(gone func(sender uint64) bool) (through Generation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.folded, func(sender uint64, g Generation) bool {
		if !gone(sender) {
			return false
		}
		through = max(through, g)
		return true
	})
	return through
}

// Raise lifts the floor of a subject to s, unless it is there or above already. It returns
// what FloorOf would have before. at is the present moment on a
// clock of the caller's, which is given back by Over. sender stands for the node whose task it is
// to send the floor to other regions, and is given back by Journal; 0 is nobody, as it has come
// from there.
//
// A lower s that comes late is a write too, which may have happened after the one that
// the floor is from, by another clock. The floor stays and counts as raised now; if it is
// the group's, then that does.
//
// If there are too many floors, the one of the lowest generation is folded into
// the group's, whenever it came. No other choice lifts the group's floor less.
// And what it is lifted to does not depend on the order in which floors came, so
// nodes that have the same floors have the same floor of the group.
func (f *Floors) Raise(subject Subject, s Stamp, at time.Duration, sender uint64) (was Stamp) {
	f.mu.Lock()
	defer f.mu.Unlock()
	own := Removal(f.Group())
	old, held := f.keys[subject]
	if held {
		own = own.Max(old.Floor)
	}
	was = own
	scope := subject.IsScope()
	if !scope {
		f.overPrefixesLocked(subject.Key(), func(r Raised) bool {
			was = was.Max(r.Floor)
			return true
		})
	}
	switch group := Removal(f.Group()); {
	case own.Below(s):
		own = s
	case s == own:
		if held && old.sender == 0 && s == old.Floor { // it came from somebody else first
			old.sender = sender
		}
		return was
	case own == group: // one of its own is below that, if it is still held
		f.lateLocked(at)
		if scope {
			f.scoped.Store(f.seq.Load())
		}
		return was
	}
	r := &raise{subject: subject, sender: sender,
		Raised: Raised{Floor: own, At: at, Seq: f.Seq(), First: f.Seq(), Scope: scope}}
	if held {
		if own == old.Floor {
			r.sender = old.sender
		}
		r.First = old.First
		old.void = true
	} else {
		f.countPrefixLocked(subject, 1)
	}
	f.oldest.push(r)
	f.cleanLocked()
	f.keys[subject] = r
	f.raised = append(f.raised, r)
	f.seq.Add(1)
	if scope {
		f.scoped.Store(f.seq.Load())
	}
	if len(f.keys) > f.limit && f.oldest[0].generation > f.Group() {
		if by := f.oldest[0].sender; by != 0 {
			f.folded[by] = f.oldest[0].generation
		}
		f.raiseGroupLocked(f.oldest[0].generation, f.oldest[0].At)
	}
	f.dropLocked(f.Group(), 2) // what raiseGroupLocked has left: faster than more can come
	return was
}

// RaiseGroup lifts the floor of every key to g, the group's floor of another
// node. It reports false if the group's floor is there or above already. A lower g that comes
// late has that count as raised now, as with Raise.
func (f *Floors) RaiseGroup(g Generation, at time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.raiseGroupLocked(g, at)
}

// Clear lifts the floor of every key to g and remembers g as the last Clear, and its sender. It
// reports false if that is g or later already. A lower g that comes late has the group's floor
// count as raised now, as with Raise.
func (f *Floors) Clear(g Generation, at time.Duration, sender uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g == f.cleared {
		return false // the same again
	}
	later := g > f.cleared
	if later {
		f.cleared, f.clearedBy = g, sender
	}
	f.raiseGroupLocked(g, at)
	return later
}

// Adopt makes another node the sender of a floor, if that is still there.
func (f *Floors) Adopt(w KeyFloor, sender uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r, ok := f.keys[w.Subject]; ok && r.Floor == w.Floor {
		r.sender = sender
	}
}

// AdoptClear is Adopt for the last Clear.
func (f *Floors) AdoptClear(g Generation, sender uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cleared == g {
		f.clearedBy = sender
	}
}

// Forget drops the floors below before, in whatever order they were raised, and
// those that the group's floor covers. It returns how many it dropped. The
// caller promises that every value loaded before then is dead by age: before
// must be older than the longest time to live and load timeout together.
func (f *Floors) Forget(before Generation) int {
	for dropped := 0; ; {
		f.mu.Lock()
		through := f.Group()
		if before > 0 {
			through = max(through, before-1)
		}
		n := f.dropLocked(through, chunk)
		maps.DeleteFunc(f.folded, func(_ uint64, g Generation) bool { return g < before })
		f.mu.Unlock()
		dropped += n
		if n < chunk {
			return dropped
		}
	}
}

// Len returns the number of keys whose floor is held, which counts some that
// the group's floor covers and that have not been dropped yet.
func (f *Floors) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.keys)
}

// lateLocked notes that a write has come that the group's floor covers. That one stays, and
// counts as raised now.
func (f *Floors) lateLocked(at time.Duration) {
	f.last.At, f.last.Seq = max(at, f.last.At), f.Seq()
	f.seq.Add(1)
}

// raiseGroupLocked lifts the group's floor and drops keys it covers. If they
// are many the rest goes by and by; Floor takes the higher one until then.
func (f *Floors) raiseGroupLocked(g Generation, at time.Duration) bool {
	if g <= f.Group() {
		if g < f.Group() {
			f.lateLocked(at)
		}
		return false
	}
	f.last = Raised{Floor: Removal(g), At: max(at, f.last.At), Seq: f.Seq(), Scope: true}
	f.group.Store(uint64(g))
	f.seq.Add(1)
	f.dropLocked(g, chunk)
	return true
}

// dropLocked drops the floors whose generation is at most through, no more than
// limit of them, oldest first. It returns how many it dropped.
func (f *Floors) dropLocked(through Generation, limit int) int {
	n := 0
	for ; n < limit && len(f.oldest) > 0 && f.oldest[0].generation <= through; n++ {
		r := f.oldest[0].raise
		r.void = true
		delete(f.keys, r.subject)
		f.countPrefixLocked(r.subject, -1)
		f.cleanLocked()
	}
	f.compactLocked()
	return n
}

// cleanLocked takes void floors off the top of the heap, and all of them once they are the
// larger part.
func (f *Floors) cleanLocked() {
	for len(f.oldest) > 0 && f.oldest[0].void {
		f.oldest.pop()
	}
	if len(f.oldest) < 2*len(f.keys)+64 {
		return
	}
	f.oldest = slices.DeleteFunc(f.oldest, func(a aged) bool { return a.void })
	f.oldest.init()
}
