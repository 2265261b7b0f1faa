package store

// A policy decides which entry of a class is evicted next. It orders entries
// and nothing else: what there is room for is the Store's to decide, and it
// asks for one victim at a time until there is enough.
//
// Every method but touch is called with Store.mu held.
//
// touch is called by readers, without a lock and at the same time as anything
// else, also for an entry that has just left the policy. It may write e.mark,
// atomically, and nothing else. That is enough for exact orders, too: a policy
// that must know every read marks the entry with what it orders by (LRU: the
// next number of a counter; LFU: one more than before) and keeps its entries in
// a heap by the marks it saw last. Marks only rise, so evict takes the entry
// with the lowest one seen, and if its mark has risen since puts it back under
// that: the first whose mark has not is the true minimum. Letting touch take
// the lock and reorder at once would be simpler, and make every read a write.
type policy interface {
	// touch notes a read of e.
	touch(e *Entry)

	// add takes in e, which is in no policy. The mark it brings means nothing.
	add(e *Entry)

	// replace puts e in the place of old: the same key's entry, which leaves.
	// e inherits what reads have earned old. That it was written anew earns it
	// nothing: a key that is refreshed often and never read is not worth more.
	replace(old, e *Entry)

	// remove lets go of e, which is in the policy, for another reason than
	// room.
	remove(e *Entry)

	// evict chooses an entry, lets go of it and returns it; nil if there is
	// none.
	evict() *Entry
}
