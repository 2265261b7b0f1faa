package store

import (
	"cmp"
	"slices"
)

// InOrder returns the entries in reverse order of eviction, the one to be evicted last coming first: all
// owned entries, then the copies. It returns nil for S3FIFO, which does not determine an order before it
// evicts. It holds the lock while it lists the entries, and sorts them afterwards.
func (s *Store) InOrder() []*Entry {
	var all []*Entry
	for _, p := range s.policies {
		switch p := p.(type) {
		case *ordered:
			all = append(all, p.inOrder(s)...)
		case *fifo:
			all = append(all, p.inOrder(s)...)
		}
	}
	return all
}

func (p *ordered) inOrder(s *Store) []*Entry {
	s.mu.Lock()
	all := slices.Clone(p.heap)
	s.mu.Unlock()
	for i := range all {
		all[i].priority = all[i].entry.ext().priority.Load() // reads may have raised it
	}
	slices.SortFunc(all, func(a, b heapItem) int { return cmp.Compare(b.priority, a.priority) })
	entries := make([]*Entry, len(all))
	for i := range all {
		entries[i] = all[i].entry
	}
	return entries
}

func (p *fifo) inOrder(s *Store) []*Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]*Entry, 0, p.length)
	for e := p.front; e != nil; e = e.next {
		entries = append(entries, e)
	}
	return entries
}
