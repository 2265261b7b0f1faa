package history

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/geocache/geocache"
	"github.com/geocache/geocache/internal/testcluster"
)

// This file checks what is promised of costs: how often the origin is called, how long a write
// takes, and which reads fail.

// shapeSteady has no failures.
func shapeSteady(c *Config, random *rand.Rand) {
	quiet(c, 6*time.Second)
	c.Nodes = 2 + random.IntN(2)
	if len(c.Regions) == 3 {
		c.Nodes = 2
	}
	c.TTL = choose(random, 2*time.Second, 10*time.Second, 10*time.Minute)
	c.RefreshAhead, c.Revalidate = 0, min(c.Revalidate, c.TTL)
	c.Writes = choose(random, 0, 0.02, 0.3)
	c.Think = 30 * time.Millisecond
	c.OriginLag = choose(random, 10*time.Millisecond, 300*time.Millisecond)
	c.StableHome = true
}

// steady reports whether nothing was wrong in the region, or between it and others, for long enough
// for all nodes to have recovered from earlier faults.
func (h *History) steady(region string, from, to time.Duration) bool {
	for _, f := range h.separating {
		if !f.overlaps(from-recovery, to) {
			continue
		}
		switch f.Kind {
		case Directory:
			return false
		case World:
			if f.A == region || f.B == region {
				return false
			}
		default:
			if f.A == region || f.B == region || h.Nodes.regionOf(f.A) == region {
				return false
			}
		}
	}
	return true
}

// OneLoad checks promise 6: while a region is steady and nobody writes a key, the key is loaded
// there once for as long as its value lives, and not twice at a time.
func (h *History) OneLoad() (found []Violation) {
	c := &h.Config
	// what is missing is loaded again
	if c.Mangle.Lose > 0 || c.MaxBytes > 0 || c.Floors > 0 || c.Outbox > 0 || c.OddNames {
		return nil
	}
	lives := c.TTL - c.TTL/10 - c.TTL/100 // keys live up to a tenth shorter, and clocks differ in speed
	if c.RefreshAhead > 0 {
		lives = min(lives/2, lives-c.RefreshAhead)
	}
	keys := h.keys
	last := make(map[[2]string]testcluster.Load)
	doubting := make(map[[2]string]int)
	for _, l := range h.Loads {
		id := [2]string{l.Key, l.Region}
		first, ok := last[id]
		if at := l.Begun.Sub(h.Start); c.MaxOffset > 0 && h.writtenAbout(keys[l.Key], at-c.OriginLag, at) {
			// If its clock is ahead, only the node that loaded the value knows that this was after
			// the write. For each of the others the value may be older, so each may load it again.
			doubting[id] = len(h.Nodes[l.Region])
		}
		if l.OK {
			last[id] = l
		}
		if !ok || !l.OK {
			continue
		}
		from, to := first.Begun.Sub(h.Start), l.Begun.Sub(h.Start)
		if from < 0 || to-from >= lives || !h.steady(l.Region, from, to) ||
			h.writtenAbout(keys[l.Key], from-c.OriginLag-h.replicaLag(l.Region), to) {
			continue
		}
		if h.failedElsewhere(first) || h.failedElsewhere(l) { // it may be on behalf of that region
			continue
		}
		if doubting[id] > 0 {
			doubting[id]--
			continue
		}
		what := fmt.Sprintf("%s was loaded in %s at %v and again at %v", l.Key, l.Region, from, to)
		found = append(found, Violation{"6 one load", what, nil})
	}
	return found
}

// replicaLag returns for how long after a write values loaded in a region are not kept.
func (h *History) replicaLag(region string) time.Duration {
	if region == h.Config.Home {
		return 0
	}
	return h.Config.ReplicaLag
}

// failedElsewhere reports whether a load of the key had failed in another region shortly before
// this one.
func (h *History) failedElsewhere(l testcluster.Load) bool {
	return slices.ContainsFunc(h.Loads, func(f testcluster.Load) bool {
		since := l.Begun.Sub(f.Ended)
		return f.Key == l.Key && f.Region != l.Region && !f.OK && since >= 0 && since < time.Second
	})
}

// writtenAbout reports whether the key may have been written at a time when that made nodes drop
// what was loaded between from and to, or made it maybe older.
func (h *History) writtenAbout(ops []*Op, from, to time.Duration) bool {
	for _, w := range ops {
		if w.isWrite() && w.Begin <= to && (w.End >= from-settle || w.Outcome != OK) {
			return true
		}
	}
	return false
}

const (
	// promptly is how long a write takes at most if nothing is wrong: messages are delayed, and
	// other writes of the key come first.
	promptly = 500 * time.Millisecond
	// perDeath is how much longer a write may take for each death of a node: until it is noticed,
	// plus the rest of its leases, plus the time for which a request to it may be in transit.
	perDeath = 3 * time.Second
)

// WriteTimes checks how long writes take that do not wait for other regions. If several nodes die,
// each costs its time. What a cut costs is not known here.
func (h *History) WriteTimes() (found []Violation) {
	if h.Config.Mangle.Lose > 0 || h.Config.Writing == Behind { // such writes wait for room
		return nil
	}
	for _, w := range h.Ops {
		if !w.isTimed() {
			continue
		}
		deaths, known := h.deaths(w.Region, w.Begin, w.End)
		if !known {
			continue
		}
		if most := promptly + time.Duration(deaths)*perDeath; w.End-w.Begin > most {
			what := fmt.Sprintf("it took %v, and may take %v", w.End-w.Begin, most)
			found = append(found, Violation{"3 time of a write", what, []*Op{w}})
		}
	}
	return found
}

// isTimed reports whether o is a write that waits for nothing but its region.
func (o *Op) isTimed() bool {
	return (o.Kind == Set || o.Kind == Remove || o.Kind == Clear) && o.Ack != geocache.AckWorld &&
		(o.Outcome == OK || o.Outcome == Unconfirmed)
}

// deaths counts how often a node of the region died or joined at about that time. known is false if
// something else was wrong there.
func (h *History) deaths(region string, from, to time.Duration) (n int, known bool) {
	for _, f := range h.separating {
		switch {
		case !f.overlaps(from-recovery, to) || f.Kind == World:
		case f.Kind == Down:
			if h.Nodes.regionOf(f.A) == region {
				n++
			}
		case f.Kind == Directory || f.A == region || f.B == region || h.Nodes.regionOf(f.A) == region:
			return 0, false
		}
	}
	return n, true
}

// Availability checks promise 7: a read does not fail as long as the getter of its region works and
// its own process runs, whichever other nodes or regions are gone. A read may join a flight whose own load failed
// before the read began, and which has been asking the other regions since.
func (h *History) Availability() (found []Violation) {
	c := &h.Config
	if c.Mangle.Lose > 0 || c.ReplicaLag > 0 || c.Outages {
		return nil
	}
	shared := time.Second + time.Duration(len(c.Regions)-1)*c.OriginLag
	failed := make(map[string][]testcluster.Load)
	for _, l := range h.Loads {
		if !l.OK {
			failed[l.Key] = append(failed[l.Key], l)
		}
	}
	for _, r := range h.Ops {
		if !r.isRead() || r.Outcome != Failed || r.Limit < 10*time.Second ||
			h.wasFrozen(r) || h.away(r.Node, r.Begin, r.End) {
			continue
		}
		excused := false
		for _, l := range failed[r.Key] {
			excused = excused || l.Begun.Sub(h.Start) <= r.End &&
				(l.Ended.IsZero() || l.Ended.Sub(h.Start) >= r.Begin-shared)
		}
		if !excused {
			found = append(found, Violation{"7 availability", "a read failed while the origin worked", []*Op{r}})
		}
	}
	return found
}
