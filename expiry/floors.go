package expiry

import (
	"sync"
	"sync/atomic"
)

// Floors remembers, for one group, the generation that each written key must be
// newer than. It is the journal of recent writes.
//
// It is bounded: a floor that has to go before its time is folded into the
// floor of the whole group, so what is forgotten turns into misses and never
// into stale values. All methods are safe for concurrent use.
type Floors struct {
	limit int

	// group is the floor of every key. It is read on every hit, hence atomic;
	// it is raised under mu. Invariant: it never falls.
	group atomic.Uint64

	mu sync.RWMutex // guards the following
	// keys holds the floors above the group's.
	// Invariant: the floor of a key, max(keys[key], group), never falls while
	// a value older than it may be alive somewhere.
	keys map[string]Generation
	// raised lists every raise in the order it came, oldest first, so that the
	// oldest can be dropped. An element whose key has a newer floor is void.
	raised []raise
}

type raise struct {
	key   string
	floor Generation
}

// NewFloors returns Floors that hold at most limit keys. It panics if limit is
// not positive.
func NewFloors(limit int) *Floors {
	if limit <= 0 {
		panic("expiry: the limit of Floors must be positive")
	}
	return &Floors{limit: limit, keys: make(map[string]Generation)}
}

// Floor returns the generation that a value of key must be newer than.
func (f *Floors) Floor(key string) Generation {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return max(f.keys[key], f.Group())
}

// Group returns the generation that every value must be newer than. It takes
// no lock.
func (f *Floors) Group() Generation { return Generation(f.group.Load()) }

// Raise lifts the floor of key to g. It reports false, and changes nothing, if
// the floor is there or above already.
func (f *Floors) Raise(key string, g Generation) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g <= max(f.keys[key], f.Group()) {
		return false
	}
	f.keys[key] = g
	f.raised = append(f.raised, raise{key, g})
	for len(f.keys) > f.limit {
		if oldest, ok := f.popLocked(); ok {
			f.raiseGroupLocked(oldest.floor)
		}
	}
	f.compactLocked()
	return true
}

// RaiseGroup lifts the floor of every key to g: a Clear. It reports false, and
// changes nothing, if the group's floor is there or above already.
func (f *Floors) RaiseGroup(g Generation) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g <= f.Group() {
		return false
	}
	f.raiseGroupLocked(g)
	return true
}

// Forget drops the floors below before and returns how many it dropped. The
// caller promises that every value loaded before then is dead by age: before
// must be older than the longest time to live and load timeout together.
func (f *Floors) Forget(before Generation) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.keys)
	for len(f.raised) > 0 && f.raised[0].floor < before {
		f.popLocked()
	}
	return n - len(f.keys)
}

// Len returns the number of keys that have a floor of their own.
func (f *Floors) Len() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.keys)
}

// raiseGroupLocked lifts the group's floor and drops the keys it covers, of
// those at the old end. The rest are dropped when they get there; Floor takes
// the higher one until then.
func (f *Floors) raiseGroupLocked(g Generation) {
	if g > f.Group() {
		f.group.Store(uint64(g))
	}
	for len(f.raised) > 0 && f.raised[0].floor <= f.Group() {
		f.popLocked()
	}
}

// popLocked takes the oldest raise off the list, and its key's floor with it.
// It reports false if the raise was void.
func (f *Floors) popLocked() (raise, bool) {
	oldest := f.raised[0]
	f.raised[0] = raise{} // lets go of the key
	f.raised = f.raised[1:]
	if f.keys[oldest.key] != oldest.floor {
		return oldest, false
	}
	delete(f.keys, oldest.key)
	return oldest, true
}

// compactLocked drops void raises once they are the larger part, so that
// writing one key for ever does not grow the list for ever.
func (f *Floors) compactLocked() {
	if len(f.raised) < 2*len(f.keys)+64 {
		return
	}
	live := make([]raise, 0, len(f.keys)+64)
	for _, r := range f.raised {
		if f.keys[r.key] == r.floor {
			live = append(live, r)
		}
	}
	f.raised = live
}
