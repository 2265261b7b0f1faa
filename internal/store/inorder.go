package store

import (
	"cmp"
	"slices"
)

// InOrder returns the entries in the order of eviction, the one that would leave last
// first: all owned ones, then the copies. It returns nil for S3FIFO, which has no order to speak
// of before it evicts. It holds the lock while it takes the entries down, and sorts them after.
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
		all[i].mark = all[i].entry.ext().used.Load() // what reads have made of it
	}
	slices.SortFunc(all, func(a, b seen) int { return cmp.Compare(b.mark, a.mark) })
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
