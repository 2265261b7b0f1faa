package history

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Coverage counts, by promise, how much was checked and how much was excused, so that excuses
// cannot grow unnoticed.
type Coverage map[Promise]Tally

// A Promise is a promise that has excuses.
type Promise string

// The promises. What is excused is said behind each.
const (
	Writes   Promise = "2 and 3, reads after a write"    // reads at nodes that could not know the newest write
	Counting Promise = "updates, counters after a count" // counters that may have been lost
	Loading  Promise = "6, loads"                        // loads in unsteady regions, or of written keys
	Reading  Promise = "7, reads"                        // reads that failed with the origin
	Timing   Promise = "the time of a write"             // writes while something else than a node failed
)

// A Tally counts what was checked and what was excused.
type Tally struct{ Checked, Excused int }

// add counts one check, or one excuse.
func (c Coverage) add(p Promise, excused bool) {
	t := c[p]
	if excused {
		t.Excused++
	} else {
		t.Checked++
	}
	c[p] = t
}

// Add adds the coverage of another history.
func (c Coverage) Add(other Coverage) {
	for p, t := range other {
		c[p] = Tally{c[p].Checked + t.Checked, c[p].Excused + t.Excused}
	}
}

// least is the minimal share that must have been checked, over many histories.
var least = map[Promise]float64{Writes: 0.6, Counting: 0.6, Loading: 0.02, Reading: 0.9, Timing: 0.3}

// Check returns what is wrong with the coverage of many histories.
func (c Coverage) Check() (wrong []string) {
	for p, share := range least {
		if t := c[p]; float64(t.Checked) <= share*float64(t.Checked+t.Excused) {
			wrong = append(wrong,
				fmt.Sprintf("too little of promise %s is checked: %d of %d", p, t.Checked, t.Checked+t.Excused))
		}
	}
	return wrong
}

func (c Coverage) String() string {
	var lines []string
	for p, t := range c {
		lines = append(lines, fmt.Sprintf("%s: %d checked, %d excused", p, t.Checked, t.Excused))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Coverage counts what was checked in the history, and what was excused.
func (h *History) Coverage() Coverage {
	h.index()
	c := make(Coverage)
	keys := h.keys
	for _, ops := range keys {
		h.coverWrites(c, ops)
	}
	for _, ops := range h.counts() {
		surely := h.counted(ops)
		for _, r := range ops {
			known := slices.ContainsFunc(surely, func(u certainty) bool { return r.after(u.Op) })
			if known && r.Outcome == OK {
				c.add(Counting, h.least(r, ops, surely) == 0 || h.twoOwners(ops[0].Begin, r.End))
			}
		}
	}
	for _, l := range h.Loads {
		if begun := l.Begun.Sub(h.Start); begun >= 0 {
			until := begun + time.Second
			c.add(Loading, !h.steady(l.Region, begun, until) || h.writtenAbout(keys[l.Key], begun, until))
		}
	}
	for _, o := range h.Ops {
		switch {
		case o.isRead() && (o.Outcome == OK || o.Outcome == Failed && o.Limit >= 10*time.Second):
			c.add(Reading, o.Outcome != OK)
		case o.isTimed():
			_, known := h.deaths(o.Region, o.Begin, o.End)
			c.add(Timing, !known)
		}
	}
	return c
}

func (h *History) coverWrites(c Coverage, ops []*Op) {
	for _, r := range ops {
		if !r.isRead() || r.Outcome != OK {
			continue
		}
		var newest *Op
		for _, w := range ops {
			if w.Begin > r.Begin {
				break
			}
			if w.covers(r.Region) && r.after(w) && (newest == nil || w.Generation > newest.Generation) {
				newest = w
			}
		}
		if newest != nil {
			c.add(Writes, h.excused(r, newest))
		}
	}
}
