package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// Check returns every broken promise in the history.
func (h *History) Check() (all []Violation) {
	h.index()
	for _, check := range []func() []Violation{
		h.Values, h.Age, h.Order, h.Fencing, h.Region, h.World, h.Agreement, h.Causality, h.Atomicity, h.Origin,
		h.AfterWrites, h.OneLoad, h.WriteTimes, h.Availability, h.Register, h.Counters, h.Twice, h.Linear,
	} {
		all = append(all, check()...)
	}
	return all
}

// clockGrain is how far apart two times may be that were the same: see testcluster.Cluster.Now.
const clockGrain = 100 * time.Microsecond

// Values checks that what is read is a value of its key, and that it was loaded, or set by a Set
// that may have happened, and that this had begun by then. And a write that happened has a
// generation.
func (h *History) Values() (found []Violation) {
	bad := func(what string, ops ...*Op) { found = append(found, Violation{"values", what, ops}) }
	for _, o := range h.Ops {
		switch {
		case o.isWrite() && o.Generation == 0 && (o.Outcome == OK || o.Outcome == Unconfirmed):
			bad("a write has happened and has no generation", o)
		case !o.isRead() || o.Outcome != OK:
		case o.Value.Key != o.Key:
			bad("a read returned the value of another key, or none", o)
		case o.Value.Loaded():
			if h.begun(o) > o.End {
				bad("a read returned what was loaded later", o)
			}
		default:
			s := h.sets[o.Value.By]
			switch {
			case s == nil:
				bad("a read returned what nobody set", o)
			case s.Outcome == Failed:
				bad("a read returned what a Set that failed has set", o, s)
			case s.Begin > o.End:
				bad("a read returned what was set later", o, s)
			}
		}
	}
	return found
}

// Age checks promise 1: no value is read that was loaded or set longer ago than it may live.
// Nothing is known of a Set that may have happened at any later time. A GetMany may wait for one
// key longer than another one lives that was loaded for it. A node that was paused may return what
// it had read before.
func (h *History) Age() (found []Violation) {
	for _, r := range h.Ops {
		if !r.isRead() || r.Outcome != OK || r.Stale || r.Kind == GetMany && h.begun(r) >= r.Begin {
			continue
		}
		if h.wasFrozen(r) { // it may have been read before the pause
			continue
		}
		life, since := h.Config.TTL, h.begun(r)
		ops := []*Op{r}
		if s := h.sets[r.Value.By]; s != nil {
			if s.Outcome == Uncertain {
				continue
			}
			life, since = s.Life, s.End // it lives from when its owner received it, which may be later
			ops = append(ops, s)
		}
		if r.Kind == Get || r.Kind == GetMany { // these do not say whether a value is stale
			life += max(h.Config.Revalidate, h.Config.StaleIfError)
		}
		if age := r.End - since; age > life+clockGrain {
			found = append(found,
				Violation{"1 bounded staleness",
					fmt.Sprintf("a value of age %v was read, and may live %v", age, life), ops})
		}
	}
	return found
}

// older returns why the value that r has read is older than the write w, or "" if it is not known
// to be.
func (h *History) older(r, w *Op) string { return h.olderValue(r.Value, w) }

func (h *History) olderValue(v testcluster.Value, w *Op) string {
	if v.Loaded() {
		if v.Begun.Sub(h.Start) < w.Begin {
			return "loaded before the write began"
		}
		return ""
	}
	s := h.sets[v.By]
	if s == nil || s == w || s.Generation == 0 || s.Generation >= w.Generation {
		return ""
	}
	if s.mayBeRetried() && !w.after(s) {
		return "" // the first attempt may have a higher stamp than the acknowledged one
	}
	return "set with a lower generation than the write's"
}

// mayBeRetried reports whether s may have been sent to a second owner. That happens only once the
// first one cannot execute it any more.
func (s *Op) mayBeRetried() bool { return s.End-s.Begin >= time.Second }

// covers reports whether w, once it had ended, had to be visible to all later reads in the region:
// its caller was told so.
func (w *Op) covers(region string) bool {
	return w.isWrite() && (w.Outcome == OK || w.Outcome == Unconfirmed) && slices.Contains(w.Confirmed, region)
}

// checkReads checks reads against the writes that had ended before.
func (h *History) checkReads(
	promise string, read func(r *Op) bool, write func(r, w *Op) bool,
) (found []Violation) {
	for key, ops := range h.keys {
		for _, r := range ops {
			if !r.isRead() || r.Outcome != OK || !read(r) {
				continue
			}
			for _, w := range ops {
				if w.Begin > r.Begin {
					break // they are in order of their beginnings
				}
				if !w.isWrite() || !r.after(w) || !write(r, w) {
					continue
				}
				if why := h.older(r, w); why != "" && !h.excused(r, w) && !h.lost(w, r.Begin) {
					what := fmt.Sprintf("a read of %s returned what was %s", key, why)
					found = append(found, violation(promise, what, h, r, w))
					break // one violation for each read is enough
				}
			}
		}
	}
	return found
}

// violation returns the violation of a read that is older than a write, with all that helps to
// understand it.
func violation(promise, what string, h *History, r, w *Op) Violation {
	v := Violation{promise, what, []*Op{r, w}}
	s := h.sets[r.Value.By]
	if s == nil {
		return v
	}
	v.Ops = append(v.Ops, s)
	for _, o := range h.Ops { // the value may have got another generation later
		if o.Kind == GetItem && o.Value == s.Value && o.Generation != s.Generation {
			v.Ops = append(v.Ops, o)
			break
		}
	}
	return v
}

// Fencing checks promise 2: a read that begins after a write has ended does not return what was
// loaded before the write began. In other regions that holds once they have confirmed the write, or
// from Healed on (see World).
func (h *History) Fencing() []Violation {
	return h.checkReads("2 fencing",
		func(r *Op) bool { return r.Value.Loaded() },
		func(r, w *Op) bool { return w.covers(r.Region) })
}

// Region checks promise 3: a read that begins after a write has ended does not return what was set
// with a lower generation.
func (h *History) Region() []Violation {
	return h.checkReads("3 read your region's writes",
		func(r *Op) bool { return !r.Value.Loaded() },
		func(r, w *Op) bool { return w.covers(r.Region) })
}

// AfterWrites checks that no read is older than the write that it was told to come after, wherever that was,
// and whatever has happened since.
func (h *History) AfterWrites() (found []Violation) {
	for _, r := range h.Ops {
		if r.After == nil || !r.isRead() || r.Outcome != OK {
			continue
		}
		if why := h.older(r, r.After); why != "" {
			what := fmt.Sprintf("a read of %s after a write returned what was %s", r.Key, why)
			found = append(found, violation("4 after", what, h, r, r.After))
		}
	}
	return found
}

// World checks promise 4: once all is well again, nobody, in whatever region, reads what is older
// than an acknowledged write. Only a write that did not wait for more than its owner may have been
// lost with it.
func (h *History) World() []Violation {
	return h.checkReads("4 the world has it",
		func(r *Op) bool { return r.Begin >= h.Healed },
		func(r, w *Op) bool { return w.Outcome == OK && w.Ack != geocache.AckOwner })
}

// Order checks what promises 3 and 5 rest on: of two writes in one region, of which the second
// began after the first had ended, the second has the higher generation. Otherwise it would be
// lost.
func (h *History) Order() (found []Violation) {
	for key, ops := range h.keys {
		for _, second := range ops {
			if !second.isWrite() || second.Outcome != OK {
				continue
			}
			for _, first := range ops {
				if first.Begin > second.Begin {
					break
				}
				if first.covers(second.Region) && second.after(first) &&
					second.Generation <= first.Generation && !h.excused(second, first) && !h.lost(first, second.Begin) {
					what := "a later write of " + key + " has no higher generation"
					found = append(found, Violation{"3 order", what, []*Op{first, second}})
				}
			}
		}
	}
	return found
}

// Agreement checks promise 5: at the end all nodes have the same value. Each read of the last round
// returns what the highest write has set, or what was loaded since that write began. Two nodes do
// not return the values of two writes, nor one a write's value and the other an older load. That it
// is the right write is checked by World.
func (h *History) Agreement() (found []Violation) {
	const promise = "5 convergence"
	for key, ops := range h.keys {
		var set *Op // a read of a value that was set
		for _, r := range ops {
			if !r.isRead() || r.Outcome != OK || r.Begin < h.Last || r.Value.Loaded() {
				continue
			}
			if set == nil {
				set = r
			} else if set.Value != r.Value {
				found = append(found, Violation{promise, "two nodes have different values of " + key, []*Op{set, r}})
			}
		}
		for _, r := range ops {
			if set == nil || !r.isRead() || r.Outcome != OK || r.Begin < h.Last || !r.Value.Loaded() {
				continue
			}
			if h.begun(r) < h.begun(set) {
				what := "one node has a value set for " + key + ", another one that was loaded before"
				found = append(found, Violation{promise, what, []*Op{set, r}})
			}
		}
	}
	return found
}
