package engine

// A term is a period in which no other node can take itself for the owner of what this node owns, so that
// this node may compare a key's value and swap it. Equal terms are the same period, without a break.
type term struct {
	view  *view
	epoch uint64
}

// term returns the present term, and false if there is none. The node must be in a term of its leases
// (rule 11 of package lease), and have been told of everything written before: it must not have lost its
// lease since it fetched the journals of all. docs/model/lease.pml says what happens without each part.
func (c *Cache) term() (term, bool) {
	t := term{c.view.Load(), c.leases.Epoch()}
	if c.transport == nil {
		return t, true
	}
	return t, !c.shuttingDown.Load() && c.leases.InTerm(t.view.View) && c.hasJournals(t.view) &&
		c.view.Load() == t.view && c.leases.Epoch() == t.epoch
}

// inTerm reports whether t has not ended.
func (c *Cache) inTerm(t term) bool {
	now, ok := c.term()
	return ok && now == t
}
