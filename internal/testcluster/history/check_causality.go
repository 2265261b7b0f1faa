package history

import "fmt"

// Causality checks that a value does not come back that was overwritten by somebody who knew it: of a
// write that began at a node when a read there had returned the value, which
// therefore comes after it, whoever sends what again. Stamps are not looked at: they
// are what may be wrong.
func (h *History) Causality() (found []Violation) {
	for key, ops := range h.keys {
		known := h.firstReads(ops)
		for _, r := range ops {
			s := h.sets[r.Value.By]
			if !r.isRead() || r.Outcome != OK || s == nil {
				continue
			}
			for _, w := range ops {
				if w.Begin > r.Begin {
					break
				}
				if w == s || !w.covers(r.Region) || !r.after(w) {
					continue
				}
				before := known[valueAt{w.Node, s}]
				if before != nil && w.after(before) && !h.away(w.Node, before.Begin, w.End) && !h.excused(r, w) && !h.lost(w, r.Begin) {
					found = append(found, Violation{"5 order of causes", fmt.Sprintf("a read of %s returned what was overwritten by one who knew it", key), []*Op{s, before, w, r}})
					break
				}
			}
		}
	}
	return found
}

// seen is a value at a node.
type valueAt struct {
	node string
	set  *Op
}

// firstReads returns, of the reads of what was set, the one at each node that had ended first.
func (h *History) firstReads(ops []*Op) map[valueAt]*Op {
	first := make(map[valueAt]*Op)
	for _, r := range ops {
		s := h.sets[r.Value.By]
		if !r.isRead() || r.Outcome != OK || s == nil {
			continue
		}
		if was := first[valueAt{r.Node, s}]; was == nil || r.End < was.End {
			first[valueAt{r.Node, s}] = r
		}
	}
	return first
}
