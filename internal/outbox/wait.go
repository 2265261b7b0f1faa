package outbox

import "github.com/geocache/geocache/expiry"

// A waiter is a call of Confirmed that still waits.
//
// Invariant: w is in it.waiters exactly if it is in w.on, and done is closed
// when on becomes empty.
type waiter struct {
	done chan struct{}
	on   map[*item]struct{}
}

// Confirmed returns a channel that is closed when the region has confirmed every write of subject that
// has been added so far, or a later one of it. The wait may include a newer write that has replaced one of
// them, but no other writes added later. For a Clear, subject is the empty key.
//
// The caller must call stop when it no longer waits; calling it again does nothing.
func (o *Outbox) Confirmed(group string, subject expiry.Subject) (done <-chan struct{}, stop func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := &waiter{done: make(chan struct{}), on: make(map[*item]struct{})}
	w.waitFor(o.slots[id{group: group, subject: subject}])
	w.waitFor(o.slots[id{group: group, clear: true}]) // a write of subject may have collapsed into it
	if _, unknown := o.doubts.forgotten[group]; len(w.on) == 0 && !unknown {
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

// waitFor makes w wait for every item in s.
func (w *waiter) waitFor(s *slot) {
	if s == nil {
		return
	}
	if s.queued != nil {
		s.queued.addWaiter(w)
	}
	if s.doubted != nil {
		s.doubted.addWaiter(w)
	}
	for _, it := range s.inFlight {
		it.addWaiter(w)
	}
}

func (it *item) addWaiter(w *waiter) {
	if it.waiters == nil {
		it.waiters = make(map[*waiter]struct{})
	}
	it.waiters[w] = struct{}{}
	w.on[it] = struct{}{}
}

// transferWaiters makes the item's waiters wait for cover instead. If cover is nil they stop waiting
// for the item, and those that wait for nothing else are done.
func (it *item) transferWaiters(cover *item) {
	for w := range it.waiters {
		delete(w.on, it)
		if cover != nil {
			cover.addWaiter(w)
		}
		if len(w.on) == 0 {
			close(w.done)
		}
	}
	it.waiters = nil
}
