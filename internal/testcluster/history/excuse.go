package history

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// recovery is how long a node must have been in contact with all others of its region before it
// must know what they know. A connection attempt that was begun during a cut takes up to 5 s to be
// given up and repeated; then views settle, and journals are fetched.
const recovery = 6 * time.Second

// away reports whether the node was down at some time.
func (h *History) away(node string, from, to time.Duration) bool {
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Kind == Down && f.A == node && f.overlaps(from, to)
	})
}

// wasUnlisted reports whether the node was unlisted at some time, or shortly before: then it may
// have been a guest of its region, which keeps nothing and is told of nothing.
func (h *History) wasUnlisted(node string, from, to time.Duration) bool {
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Kind == Unlisted && f.A == node && f.overlaps(from-recovery, to)
	})
}

// separates reports whether f keeps a and b, of one region, from talking.
func (f *Fault) separates(a, b string) bool {
	switch f.Kind {
	case Frozen:
		return f.A == a || f.A == b
	case Alone:
		return a != b && (f.A == a || f.A == b)
	case Cut, Unaware:
		return f.A == a && f.B == b || f.A == b && f.B == a
	}
	return false
}

// separated reports whether a and b, of one region, could not talk at some time. That one of them
// is down does not count.
func (h *History) separated(a, b string, from, to time.Duration) bool {
	return slices.ContainsFunc(h.separating, func(f *Fault) bool {
		return f.overlaps(from, to) && f.separates(a, b)
	})
}

// separatedThroughout reports whether a and b surely could not talk all the time, because of one
// fault. A node whose discovery lacks the other, or everything, may have learned of it from others.
func (h *History) separatedThroughout(a, b string, from, to time.Duration) bool {
	return slices.ContainsFunc(h.separating, func(f *Fault) bool {
		return (f.Kind == Cut || f.Kind == Frozen) && f.From <= from && f.To >= to && f.separates(a, b)
	})
}

// disturbed reports whether, at some time, the node was down or out of contact with any node of its
// region.
func (h *History) disturbed(node, region string, from, to time.Duration) bool {
	if h.away(node, from, to) {
		return true
	}
	for _, other := range h.Nodes[region] {
		if h.separated(node, other, from, to) {
			return true
		}
	}
	return false
}

// informed reports whether the node must have been told of the write before the write returned:
// unless the node was down, or out of contact with the writer, or with any node that the writer
// could reach and that may have owned the key.
func (h *History) informed(node, region string, w *Op) bool {
	from := w.Begin - recovery
	if w.Region != region {
		return !h.disturbed(node, region, from, w.End)
	}
	if h.away(node, from, w.End) || h.separated(node, w.Node, from, w.End) {
		return false
	}
	for _, owner := range h.Nodes[region] {
		if h.separated(node, owner, from, w.End) && !h.separatedThroughout(w.Node, owner, w.Begin, w.End) {
			return false
		}
	}
	return true
}

// excused reports whether the node of r cannot be expected to know of w, which had ended before r
// began. That is so only if the node of one of the two saw no majority of its region, and said so, and
//
//   - it was not told of w, or has been restarted since, and
//   - it has not been in contact with all of its region for the recovery time since then, and
//   - nor just before r, nor during it.
//
// Each part of a divided region may write what the other is not told of. A node that was told is never
// excused, however isolated it is afterwards, and the crash of a node excuses only that node.
func (h *History) excused(r, w *Op) bool {
	if !r.Unconfirmed && !w.Unconfirmed {
		return false
	}
	if h.informed(r.Node, r.Region, w) && !h.away(r.Node, w.End, r.Begin) {
		return false
	}
	caughtUp := func(since time.Duration) bool {
		return since >= w.End && since+recovery <= r.Begin &&
			!h.disturbed(r.Node, r.Region, since, since+recovery) && !h.away(r.Node, since, r.Begin)
	}
	if caughtUp(w.End) {
		return false
	}
	for _, f := range h.separating {
		if f.To != forEver && caughtUp(f.To+1) {
			return false
		}
	}
	return h.disturbed(r.Node, r.Region, r.Begin-recovery, r.End)
}

// homes returns the regions that may be a counter's home.
func (h *History) homes() []string {
	if h.Config.Home != "" {
		return []string{h.Config.Home}
	}
	return slices.Sorted(maps.Keys(h.Nodes))
}

// mayBeLost reports whether a counter may have been lost at that time, with the two nodes of its
// home region that keep it: its owner may not have been in contact with others of the region, or
// two of them may have been down or unlisted, even if one after the other.
func (h *History) mayBeLost(from, to time.Duration) bool {
	c := &h.Config
	// a node whose request is lost takes the owner for dead, and what is forgotten is missing
	if c.Mangle.Lose > 0 || c.Floors > 0 || c.Outbox > 0 {
		return true
	}
	for _, region := range h.homes() {
		if h.divided(region, from-recovery, to) {
			return true
		}
		down := make(map[string]bool)
		for _, f := range h.Faults {
			if f.Kind == Down && !f.New && slices.Contains(h.Nodes[region], f.A) && f.overlaps(from, to) {
				down[f.A] = true
			}
		}
		for _, n := range h.Nodes[region] {
			down[n] = down[n] || h.wasUnlisted(n, from, to)
		}
		maps.DeleteFunc(down, func(_ string, is bool) bool { return !is })
		if len(down) > 1 {
			return true
		}
	}
	return false
}

// interrupted reports whether a node of the home died while it may have been executing one of the
// Increments. Then some nodes may have been told of it, and a node that has the value before it may
// not know the value after it.
func (h *History) interrupted(ops []*Op, from, to time.Duration) bool {
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Kind == Down && !f.New && f.From >= from && f.From <= to &&
			slices.Contains(h.homes(), h.Nodes.regionOf(f.A)) &&
			slices.ContainsFunc(ops, func(u *Op) bool {
				return u.Kind == Increment && u.Begin <= f.From && u.End >= f.From
			})
	})
}

// divided reports whether two nodes of the region could not talk at some time: then a key may have
// had two owners there.
func (h *History) divided(region string, from, to time.Duration) bool {
	return slices.ContainsFunc(h.separating, func(f *Fault) bool {
		return f.Kind != Down && f.overlaps(from, to) && slices.Contains(h.Nodes[region], f.A) &&
			f.separates(f.A, cmp.Or(f.B, "any other"))
	})
}

// twoOwners reports whether a counter may have had two owners in a region that did not know of each
// other.
func (h *History) twoOwners(from, to time.Duration) bool {
	return slices.ContainsFunc(h.homes(), func(region string) bool {
		return h.divided(region, from-recovery, to)
	})
}

// regionsUnaware reports whether, at some time, a region did not know of another one, so that an
// Increment then may have counted where others did not. Only what was counted before is certain.
func (h *History) regionsUnaware(from, to time.Duration) bool {
	return h.Config.Home == "" && slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Kind == Unaware && h.Nodes[f.A] != nil && f.overlaps(from-recovery, to+time.Second)
	})
}

// wasFrozen reports whether the process of o was paused while o was in progress.
func (h *History) wasFrozen(o *Op) bool {
	return slices.ContainsFunc(h.Faults, func(f *Fault) bool {
		return f.Kind == Frozen && f.A == o.Node && f.overlaps(o.Begin, o.End)
	})
}
