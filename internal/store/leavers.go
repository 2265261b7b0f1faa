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

// leavers are those that nobody has been told of yet, oldest first. Store.mu
// guards the queue, so that whoever takes an entry from it does not find it in the
// store.
type leavers struct {
	queue []Leaver
	ready chan struct{} // has one while queue is not empty
}

// put adds e. Store.mu is held.
func (l *leavers) put(e Leaver) {
	l.queue = append(l.queue, e)
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// Leavers makes the store keep the entries that leave it until take has fetched them,
// which empties the queue. ready has one element when there is something to fetch.
// It is called once, before the store is used. Nobody waits for whoever takes, so
// what has not been fetched is in memory beside what the store holds.
func (s *Store) Leavers() (ready <-chan struct{}, take func() []Leaver) {
	l := &leavers{ready: make(chan struct{}, 1)}
	s.leavers = l
	return l.ready, func() []Leaver {
		s.mu.Lock()
		defer s.mu.Unlock()
		queue := l.queue
		l.queue = nil
		return queue
	}
}
