package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A register has the writes of accounts and what was seen of them, and holds one
// against the other by the versions that the origin gave. Each row has one writer
// at a time, so its versions are in the order of its writes.
//
// Nothing is judged before everything that it depends on has been told: a read is
// put off until judge, which is called when no write is under way.
type register struct {
	mu       sync.Mutex // guards the following
	writes   map[int][]write
	outcomes map[outcome]uint64
	latency  histogram // of Sets that were acknowledged
	clears   []clearing

	pending   []read
	sightings []regionSighting
	checked   uint64 // reads that began after a write of their row had been acknowledged
	stale     uint64 // of these, those that gave something older
	inDoubt   uint64 // of these, those that gave what an uncertain write may have written later
	cleared   uint64 // reads that began after a Clear
	lost      map[int]bool

	errs map[outcome]map[string]int // what the others ended with: how many of each, without the row
}

// A write is one that was told of, and where.
type write struct {
	wrote
	region string
}

// A read is one that was told of, and where.
type read struct {
	seen
	place
	node string
}

type regionSighting struct {
	sighting
	region string
}

func newRegister() *register {
	return &register{
		writes:   make(map[int][]write),
		outcomes: make(map[outcome]uint64),
		latency:  make(histogram),
		lost:     make(map[int]bool),
		errs:     make(map[outcome]map[string]int),
	}
}

func (r *register) addWrite(region string, w *wrote) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[w.Outcome]++
	if w.Outcome == acked {
		r.latency.add(w.Ended.Sub(w.Began))
	} else {
		if r.errs[w.Outcome] == nil {
			r.errs[w.Outcome] = make(map[string]int)
		}
		r.errs[w.Outcome][strings.ReplaceAll(w.Err, strconv.Itoa(w.Row), "…")]++
	}
	if w.Version > 0 {
		r.writes[w.Row] = append(r.writes[w.Row], write{*w, region})
	}
}

func (r *register) addClear(c *clearing) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clears = append(r.clears, *c)
}

func (r *register) addReads(p place, node string, reads ...seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range reads {
		r.pending = append(r.pending, read{s, p, node})
	}
}

func (r *register) addSighting(region string, s *sighting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sightings = append(r.sightings, regionSighting{*s, region})
}

// judge calls stale for each read so far that gave what is older than it may be,
// with the reason. All writes that had ended when one of the reads began must have
// been added.
func (r *register) judge(stale func(p place, promise, detail string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.pending {
		r.judgeReadLocked(s, stale)
		r.judgeClearLocked(s, stale)
	}
	r.pending = nil
}

func (r *register) judgeReadLocked(s read, stale func(p place, promise, detail string)) {
	var newest *write
	for i, w := range r.writes[s.Row] {
		if w.Outcome == acked && w.region == s.region && w.Ended.Before(s.Start) {
			newest = &r.writes[s.Row][i]
		}
	}
	if newest == nil {
		return
	}
	r.checked++
	switch {
	case s.Version >= newest.Version:
	case r.doubtfulLocked(s.Row, s.Version):
		r.inDoubt++
	default:
		r.stale++
		stale(s.place, ackedSeen, fmt.Sprintf("%s was given version %d of row %d from %s in a read that began %v after the Set of version %d had returned",
			s.node, s.Version, s.Row, s.Source, s.Start.Sub(newest.Ended).Round(time.Microsecond), newest.Version))
	}
}

func (r *register) judgeClearLocked(s read, stale func(p place, promise, detail string)) {
	for _, c := range slices.Backward(r.clears) {
		if !c.Ended.Before(s.Start) {
			continue
		}
		r.cleared++
		if s.Read.Before(c.Began) {
			r.stale++
			stale(s.place, clearedGone, fmt.Sprintf("%s was given row %d from %s, of %v before the Clear began, in a read that began %v after it had returned",
				s.node, s.Row, s.Source, c.Began.Sub(s.Read).Round(time.Millisecond), s.Start.Sub(c.Ended).Round(time.Microsecond)))
		}
		return
	}
}

// doubtfulLocked reports whether it is not known when the version was set, if it
// was: then that may have been after later versions.
func (r *register) doubtfulLocked(row int, version uint64) bool {
	if version == 0 {
		return false
	}
	for _, w := range r.writes[row] {
		if w.Version == version {
			return w.Outcome == uncertain || w.Outcome == unconfirmed
		}
	}
	return true // its writer has been killed
}

// acknowledged returns, for each row with an acknowledged write, the last version.
func (r *register) acknowledged() map[int]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	versions := make(map[int]uint64)
	for row, writes := range r.writes {
		for _, w := range writes {
			if w.Outcome == acked {
				versions[row] = max(versions[row], w.Version)
			}
		}
	}
	return versions
}

// addMissing adds rows that a node does not show as they were acknowledged, and
// returns those for which there is no excuse.
func (r *register) addMissing(missing []seen) (lost []seen) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range missing {
		if !r.doubtfulLocked(s.Row, s.Version) {
			r.lost[s.Row] = true
			lost = append(lost, s)
		}
	}
	return lost
}

// visible returns how long after the beginning of a Set in one region another one
// showed it, by both.
func (r *register) visible() map[[2]string]histogram {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[[2]string]histogram)
	for _, s := range r.sightings {
		for _, w := range r.writes[s.Row] {
			if w.Version != s.Version || w.Outcome != acked {
				continue
			}
			way := [2]string{w.region, s.region}
			if all[way] == nil {
				all[way] = make(histogram)
			}
			all[way].add(s.At.Sub(w.Began))
		}
	}
	return all
}
