package store

import "fmt"

// A Reason says why an entry left the store.
type Reason uint8

const (
	Capacity Reason = iota // to make room
	Expired                // its time was over
	Removed                // somebody said so
	Replaced               // another entry of its key took its place
	reasons
)

func (r Reason) String() string {
	if r < reasons {
		return [...]string{"capacity", "expired", "removed", "replaced"}[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// A Leaver is an entry that has left, and why.
type Leaver struct {
	*Entry
	Reason Reason
}

// leavers are those that nobody has been told of yet, oldest first, within a bound: as
// many bytes as the store may have, so that there is room for all that it can lose at once.
// Store.mu guards the queue, so that whoever takes an entry from it does not find it in the
// store.
type leavers struct {
	queue  []Leaver
	bytes  int64         // their charges
	most   int64         // the store's bound, or its highest if it has been lowered
	untold uint64        // those there was no room for
	ready  chan struct{} // has one while queue is not empty, or has been until a moment ago
}

// put adds e, whose charge it is given, to a queue within a store's bound. Store.mu is held.
func (l *leavers) put(e Leaver, charge, bound int64) {
	l.most = max(l.most, bound)
	if l.bytes+charge > l.most {
		l.untold++
		return
	}
	l.queue = append(l.queue, e)
	l.bytes += charge
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// Leavers makes the store keep the entries that have a value and leave it until take has fetched
// them, the oldest first. ready has one element when there is something to fetch.
// It is called once, before the store is used. Nobody waits for whoever takes, so
// what has not been fetched is in memory beside what the store holds: as much again, at most.
// What leaves meanwhile is counted in Stats.Untold.
func (s *Store) Leavers() (ready <-chan struct{}, take func() (Leaver, bool)) {
	l := &leavers{ready: make(chan struct{}, 1)}
	s.leavers = l
	return l.ready, func() (first Leaver, ok bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(l.queue) == 0 {
			l.queue = nil
			return first, false
		}
		first, l.queue[0] = l.queue[0], Leaver{}
		l.queue = l.queue[1:]
		l.bytes -= s.charge(first.Entry)
		return first, true
	}
}
