package history

import "fmt"

// Causality checks that a value does not come back after it was overwritten by somebody who knew
// it: a write that began at a node after a read there had returned the value comes after that
// value, whoever retries what. The check does not look at stamps: they are what may be wrong.
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
				if before != nil && w.after(before) && !h.away(w.Node, before.Begin, w.End) &&
					!h.excused(r, w) && !h.lost(w, r.Begin) {
					what := fmt.Sprintf("a read of %s returned what was overwritten by a node that knew it", key)
					found = append(found, Violation{"5 order of causes", what, []*Op{s, before, w, r}})
					break
				}
			}
		}
	}
	return found
}

// valueAt is a value that was read at a node.
type valueAt struct {
	node string
	set  *Op
}

// firstReads returns, for each value that was set and each node, the read there that ended first.
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
