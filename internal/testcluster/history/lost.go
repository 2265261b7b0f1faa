package history

import (
	"slices"
	"time"
)

// This file decides who knows of a write. If all nodes that know of it go down before any other can
// have learned of it, the write is lost, and nothing else was promised.

// lost reports whether there was a time, between the end of w and until, at which no node was up
// that surely knew of w.
func (h *History) lost(w *Op, until time.Duration) bool {
	since := make(map[string]time.Duration) // since when a node surely knows of w
	for region, nodes := range h.Nodes {
		for _, n := range nodes {
			if w.covers(region) && h.informed(n, region, w) && !h.wasUnlisted(n, w.Begin, w.End) {
				since[n] = w.End
			}
		}
	}
	if len(since) == 0 { // only its owner was told, which is unknown
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

// changes returns the times at which a node may have gone down, or learned something.
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

// learn adds the nodes that have had the time to learn of the write from one that has known of it.
func (h *History) learn(since map[string]time.Duration, now time.Duration) {
	from := now - recovery
	for region, nodes := range h.Nodes {
		for _, n := range nodes {
			if _, ok := since[n]; ok || h.disturbed(n, region, from, now) || h.wasUnlisted(n, from, now) {
				continue
			}
			for k, known := range since {
				of := h.Nodes.regionOf(k)
				if known <= from && !h.disturbed(k, of, from, now) && !h.regionsSeparated(of, region, from, now) {
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

// regionsSeparated reports whether two regions could not talk at some time, or some nodes of one
// did not know of the other.
func (h *History) regionsSeparated(a, b string, from, to time.Duration) bool {
	if a == b {
		return false
	}
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return (f.Kind == World || f.Kind == Unaware) && f.overlaps(from, to) &&
			(f.A == a && f.B == b || f.A == b && f.B == a)
	})
}
