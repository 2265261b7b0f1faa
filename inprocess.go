package geocache

import (
	"iter"
	"strings"
)

// What a Group has in this process's own memory, as a cache without a cluster has
// it. Nothing here asks another node or the getter, is counted, or changes the order
// of eviction.

// Contains reports whether Peek would return a value: whether this process has one in memory that may be served
// now. It does not decode it.
func (g *Group[V]) Contains(key string) bool {
	_, ok := g.core.Peek(key)
	return ok
}

// Len returns the number of keys of which this process has a value in memory that may be served now, its own
// and copies of other nodes' entries. Expired and stale values and absences do not count. It looks at every
// entry; Stats().Entries has the number of all entries, dead ones included, at no cost.
func (g *Group[V]) Len() int { return g.core.Len() }

// All returns the keys and values that Len counts. With LRU, LFU and FIFO they come in the order of eviction, the
// one that would leave last first, and copies of other nodes' entries at the end; that takes a list of all. With
// S3FIFO they come in no order.
//
// No lock is held while the loop's body runs, and it may use the Group. Keys that come or go meanwhile may be
// among them or not, and a key that is written may come twice, with its old and its new value. Values that do not
// decode are left out.
func (g *Group[V]) All() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for e := range g.core.All() {
			if v, ok := g.living(e); ok && !yield(strings.Clone(e.Key()), v) {
				return
			}
		}
	}
}
