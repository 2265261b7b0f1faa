package main

import "time"

// A timeline is when a process has served copies: its changes, in the order of time. Before the first
// it served none.
type timeline []change

type change struct {
	at     time.Time
	serves bool
}

// add adds what was seen at a time that is not before those of the changes so far.
func (t *timeline) add(at time.Time, serves bool) {
	if n := len(*t); n == 0 && serves || n > 0 && (*t)[n-1].serves != serves {
		*t = append(*t, change{at, serves})
	}
}

// A gap is a time without copies.
type gap struct{ from, to time.Time }

// gaps returns the times without copies between two times.
func (t timeline) gaps(from, to time.Time) (gaps []gap) {
	add := func(g gap) {
		if g.from.Before(from) {
			g.from = from
		}
		if g.to.After(to) {
			g.to = to
		}
		if g.from.Before(g.to) {
			gaps = append(gaps, g)
		}
	}
	since, away := time.Time{}, true
	for _, c := range t {
		if c.serves {
			add(gap{since, c.at})
		}
		since, away = c.at, !c.serves
	}
	if away {
		add(gap{since, to})
	}
	return gaps
}

// An outage is what a time without copies was like, for several processes.
type outage struct {
	lapsed  bool          // whether any process had such a time
	first   time.Duration // from the beginning until the first gap
	back    time.Duration // from the beginning until the end of the last
	longest time.Duration // that one process was without copies, in all
	away    time.Duration // that all of them were, added up
	there   time.Duration // that all of them ran, added up
}

// share returns the share of the time in which copies were served.
func (o outage) share() float64 { return 1 - float64(o.away)/float64(max(o.there, 1)) }

func (o *outage) add(other outage) {
	if other.lapsed && (!o.lapsed || other.first < o.first) {
		o.lapsed, o.first = true, other.first
	}
	o.back = max(o.back, other.back)
	o.longest = max(o.longest, other.longest)
	o.away += other.away
	o.there += other.there
}

// outageOf returns what processes were without between two times, as far as they were there.
func outageOf(of []*process, from, to time.Time) (sum outage) {
	for _, p := range of {
		t, born, ended := p.history()
		begin, end := from, to
		if born.After(begin) {
			begin = born
		}
		if !ended.IsZero() && ended.Before(end) {
			end = ended
		}
		if begin.Before(end) {
			sum.add(t.outage(begin, end))
		}
	}
	return sum
}

func (t timeline) outage(from, to time.Time) outage {
	o := outage{there: to.Sub(from)}
	for i, g := range t.gaps(from, to) {
		if i == 0 {
			o.lapsed, o.first = true, g.from.Sub(from)
		}
		o.back = g.to.Sub(from)
		o.away += g.to.Sub(g.from)
	}
	o.longest = o.away
	return o
}
