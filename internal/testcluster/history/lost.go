package history

import (
	"slices"
	"time"
)

// This file is who knows of a write. If all who do go down before anybody else can have learned of it,
// it is lost, and nobody has promised otherwise.

// lost reports whether there was a time, from the end of w until the given one, at which nobody
// was up who surely knew of w.
func (h *History) lost(w *Op, until time.Duration) bool {
	since := make(map[string]time.Duration) // from when on a node surely knows
	for region, nodes := range h.Nodes {
		for _, n := range nodes {
			if w.covers(region) && h.informed(n, region, w) && !h.wasUnlisted(n, w.Begin, w.End) {
				since[n] = w.End
			}
		}
	}
	if len(since) == 0 { // told to its owner, which is not known
		return true
	}
	for _, now := range h.changes(w.End, until) {
		for n := range since {
			if h.away(n, now, now) || h.wasUnlisted(n, now, now) {
				delete(since, n)
			}
		}
		if len(since) == 0 {
			return true
		}
		h.learn(since, now)
	}
	return false
}

// turns returns the times at which somebody may have gone, or learned something.
func (h *History) changes(from, to time.Duration) (at []time.Duration) {
	for _, f := range h.Faults {
		for _, t := range []time.Duration{f.From, f.To, f.To + recovery + 1} {
			if f.To != forEver && t >= from && t <= to || t == f.From && t >= from && t <= to {
				at = append(at, t)
			}
		}
	}
	at = append(at, from+recovery)
	slices.Sort(at)
	return at
}

// learn adds who has had the time to learn of it from one who has known it.
func (h *History) learn(since map[string]time.Duration, now time.Duration) {
	from := now - recovery
	for region, nodes := range h.Nodes {
		for _, n := range nodes {
			if _, ok := since[n]; ok || h.disturbed(n, region, from, now) || h.wasUnlisted(n, from, now) {
				continue
			}
			for k, known := range since {
				if of := h.Nodes.regionOf(k); known <= from && !h.disturbed(k, of, from, now) && !h.regionsSeparated(of, region, from, now) {
					since[n] = now
					break
				}
			}
		}
	}
}

// Nodes are the names of nodes by their regions.
type Nodes map[string][]string

func (ns Nodes) regionOf(node string) string {
	for region, nodes := range ns {
		if slices.Contains(nodes, node) {
			return region
		}
	}
	return ""
}

// farApart reports whether two regions could not talk at some time, or some nodes of one did not
// know of the other.
func (h *History) regionsSeparated(a, b string, from, to time.Duration) bool {
	if a == b {
		return false
	}
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return (f.Kind == World || f.Kind == Unaware) && f.overlaps(from, to) && (f.A == a && f.B == b || f.A == b && f.B == a)
	})
}
