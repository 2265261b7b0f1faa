package engine

// A term is a time for which no other node could take itself for the owner of what this one owns, so that
// this node may compare a key's value and swap it. Two that are equal are one, without a break.
type term struct {
	view  *view
	epoch uint64
}

// term returns the present one, if there is one: this node is in a term of the leases (rule 11 of package lease),
// and has been told of everything that was written before, since it has not lost its lease since it fetched the
// journals of all. docs/model/lease.pml says what happens without each part.
func (c *Cache) term() (term, bool) {
	t := term{c.view.Load(), c.leases.Epoch()}
	if c.transport == nil {
		return t, true
	}
	return t, !c.shuttingDown.Load() && c.leases.InTerm(t.view.View) && c.hasJournals(t.view) &&
		c.view.Load() == t.view && c.leases.Epoch() == t.epoch
}

// inTerm reports whether a term has not ended.
func (c *Cache) inTerm(t term) bool {
	now, ok := c.term()
	return ok && now == t
}
