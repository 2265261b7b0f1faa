package outbox

import "github.com/geocache/geocache/expiry"

// A waiter is one call of Confirmed that is not done.
//
// Invariant: w is in it.waiters exactly if it is in w.on, and done is closed
// when on becomes empty.
type waiter struct {
	done chan struct{}
	on   map[*item]struct{}
}

// Confirmed returns a channel that is closed when the region has confirmed
// everything about a subject that has been added until now; notes that are added later do not
// matter, but they may take the place of those. For a Clear it is the empty key.
//
// The caller calls stop when it no longer waits.
func (o *Outbox) Confirmed(group string, about expiry.Subject) (done <-chan struct{}, stop func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := &waiter{done: make(chan struct{}), on: make(map[*item]struct{})}
	w.join(o.slots[id{group: group, subject: about}])
	w.join(o.slots[id{group: group, clear: true}]) // perhaps with a note of it folded in
	if len(w.on) == 0 {
		close(w.done)
	}
	return w.done, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		for it := range w.on {
			delete(it.waiters, w)
		}
		clear(w.on)
	}
}

// join makes w wait for everything in s.
func (w *waiter) join(s *slot) {
	if s == nil {
		return
	}
	if s.queued != nil {
		s.queued.add(w)
	}
	for _, it := range s.flying {
		it.add(w)
	}
}

func (it *item) add(w *waiter) {
	if it.waiters == nil {
		it.waiters = make(map[*waiter]struct{})
	}
	it.waiters[w] = struct{}{}
	w.on[it] = struct{}{}
}

// leave makes all who wait for the item wait for heir instead, or not at all if heir is nil.
func (it *item) leave(heir *item) {
	for w := range it.waiters {
		delete(w.on, it)
		if heir != nil {
			heir.add(w)
		}
		if len(w.on) == 0 {
			close(w.done)
		}
	}
	it.waiters = nil
}
