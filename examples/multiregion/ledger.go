package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/geocache/geocache"
)

// counts is what is added up for one region in one scene.
type counts struct {
	answered map[string]uint64 // reads, by source
	latency  histogram
	maxAge   time.Duration // of values not marked stale
	maxWait  time.Duration // for a key of the killed node
	errors   uint64        // reads that failed though a source was in reach
	noSource uint64        // reads that failed because there was none
	loads    uint64        // queries that the origin answered
	extra    uint64        // of these, before the value loaded last could have expired
}

func newCounts() *counts {
	return &counts{answered: make(map[string]uint64), latency: make(histogram)}
}

func (c *counts) merge(other *counts) {
	for source, n := range other.answered {
		c.answered[source] += n
	}
	c.latency.merge(other.latency)
	c.maxAge = max(c.maxAge, other.maxAge)
	c.maxWait = max(c.maxWait, other.maxWait)
	c.errors += other.errors
	c.noSource += other.noSource
	c.loads += other.loads
	c.extra += other.extra
}

func (c *counts) answers() (n uint64) {
	for _, m := range c.answered {
		n += m
	}
	return n
}

func (c *counts) reads() uint64 { return c.answers() + c.errors + c.noSource }

// share returns the share of reads that the sources answered.
func (c *counts) share(sources ...geocache.Source) float64 {
	var n uint64
	for _, s := range sources {
		n += c.answered[s.String()]
	}
	return ratio(n, c.reads())
}

// loadsPerKeyPerExpiry returns how often a key was loaded in the time in which
// once would do, on average over the keys and times at which it was needed.
func (c *counts) loadsPerKeyPerExpiry() float64 { return ratio(c.loads, c.loads-c.extra) }

func ratio(a, b uint64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// A breach is a promise broken.
type breach struct {
	Promise string `json:"promise"`
	Scene   string `json:"scene"`
	Region  string `json:"region"`
	Detail  string `json:"detail"`
}

// An outage is a time in which the origin, or a region, could not be reached.
type outage struct {
	region string // "" for the origin
	from   time.Time
	to     time.Time // zero while it lasts
}

// A ledger adds up what the processes report, and holds it against the promises.
type ledger struct {
	ttl      time.Duration
	patience patience
	names    []string // of the scenes
	accounts *register

	mu       sync.Mutex // guards the following
	counts   map[place]*counts
	outages  []*outage
	pending  []pendingFailure
	breaches map[string][]breach // by promise, up to maxBreaches each

	lastLoad map[int]time.Time            // by key
	known    map[string]map[int]time.Time // by region: since when a key has been read there
}

// A place is where counts belong: a region in a scene.
type place struct {
	scene  int
	region string
}

// pendingFailure is a failed read that is not judged yet.
type pendingFailure struct {
	failure
	place
	arrived time.Time
}

func newLedger(ttl time.Duration, patience patience, scenes []string) *ledger {
	l := &ledger{
		ttl: ttl, patience: patience, names: scenes,
		counts:   make(map[place]*counts),
		breaches: make(map[string][]breach),
		accounts: newRegister(),
		lastLoad: make(map[int]time.Time),
		known:    make(map[string]map[int]time.Time),
	}
	for _, region := range regionNames {
		l.known[region] = make(map[int]time.Time)
	}
	return l
}

func (l *ledger) atLocked(p place) *counts {
	c := l.counts[p]
	if c == nil {
		c = newCounts()
		l.counts[p] = c
	}
	return c
}

// The promises that are checked.
const (
	noErrors    = "no error to a reader while a source can be reached"
	fresh       = "no value older than its TTL unless it is marked stale"
	ackedSeen   = "no read that begins after an acknowledged write in its region gives something older"
	clearedGone = "no read that begins after a Clear has returned gives what was loaded before it"
	arrives     = "every acknowledged write gets to every region"
)

var promises = []string{noErrors, fresh, ackedSeen, clearedGone, arrives}

// maxBreaches bounds how many breaches of a promise are told: a broken cache can
// break it with every read.
const maxBreaches = 10

func (l *ledger) breakLocked(p place, promise, format string, args ...any) {
	if broken := l.breaches[promise]; len(broken) < maxBreaches {
		l.breaches[promise] = append(broken, breach{promise, l.names[p.scene], p.region, fmt.Sprintf(format, args...)})
	}
}

// addTally adds what a node of the region has seen.
func (l *ledger) addTally(region, node string, t *tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := place{t.Scene, region}
	l.atLocked(p).merge(&counts{answered: t.Answered, latency: t.Latency, maxAge: t.MaxAge, maxWait: t.MaxWait})
	for _, key := range t.First {
		if _, ok := l.known[region][key]; !ok {
			l.known[region][key] = t.At
		}
	}
	for _, old := range t.TooOld {
		l.breakLocked(p, fresh, "%s was given row %d from %s at the age of %v, TTL %v", node, old.Key, old.Source, old.Age, l.ttl)
	}
	for _, f := range t.Failures {
		f.Err = node + ": " + f.Err
		l.pending = append(l.pending, pendingFailure{f, p, time.Now()})
	}
	l.accounts.addReads(p, node, t.Seen...)
}

// addLoad adds a query that the origin answered in a scene.
//
// Keys live from 0.9 TTL on, so a load that follows another one of its key
// sooner than that was one too many. A little time is allowed for the way of the
// first to the origin.
func (l *ledger) addLoad(scene int, load *load) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.atLocked(place{scene, load.Region})
	c.loads++
	if last, ok := l.lastLoad[load.Key]; ok && load.At.Sub(last) < l.ttl*85/100 {
		c.extra++
	}
	l.lastLoad[load.Key] = load.At
}

// begin notes that the origin (""), or a region, cannot be reached from now on.
// The function it returns ends that.
func (l *ledger) begin(region string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := &outage{region: region, from: time.Now()}
	l.outages = append(l.outages, o)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		o.to = time.Now()
	}
}

// judge counts the failures that have arrived by then. A source counts as known
// when it has been reported, so a failure waits for the other nodes' reports.
func (l *ledger) judge(arrived time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wait []pendingFailure
	for _, f := range l.pending {
		switch c := l.atLocked(f.place); {
		case f.arrived.After(arrived):
			wait = append(wait, f)
		case l.reachableLocked(f):
			c.errors++
			l.breakLocked(f.place, noErrors, "row %d after %v: %s", f.Key, f.End.Sub(f.Start).Round(time.Millisecond), f.Err)
		default:
			c.noSource++
		}
	}
	l.pending = wait
}

// reachableLocked reports whether there was a source for the read that failed.
// With everything up the origin is one for every key. With the origin down, it
// is the nodes, for keys that any region had read before: stale values are
// allowed for longer than the demo lasts. For a region that is cut off, it is
// its own nodes, for keys that it had read itself.
func (l *ledger) reachableLocked(f pendingFailure) bool {
	for _, o := range l.outages {
		// A read after the end may have joined a load from before it.
		if !o.to.IsZero() && f.Start.After(o.to.Add(l.patience.load())) || f.End.Before(o.from) {
			continue
		}
		if o.region == "" && !l.knownLocked(f, regionNames...) || o.region == f.region && !l.knownLocked(f, f.region) {
			return false
		}
	}
	return true
}

func (l *ledger) knownLocked(f pendingFailure, regions ...string) bool {
	for _, region := range regions {
		if since, ok := l.known[region][f.Key]; ok && since.Before(f.Start) {
			return true
		}
	}
	return false
}

// sum adds up the places that match: all scenes if scene is negative, all
// regions if region is "".
func (l *ledger) sum(scene int, region string) *counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := newCounts()
	for p, c := range l.counts {
		if (scene < 0 || p.scene == scene) && (region == "" || p.region == region) {
			total.merge(c)
		}
	}
	return total
}

// judgeAccounts holds the reads of accounts so far against the writes. None may be
// under way.
func (l *ledger) judgeAccounts() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts.judge(func(p place, promise, detail string) { l.breakLocked(p, promise, "%s", detail) })
}

// addMissing adds what a node does not show of what has been acknowledged.
func (l *ledger) addMissing(p place, node string, missing []seen) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.accounts.addMissing(missing) {
		l.breakLocked(p, arrives, "%s still has version %d of row %d", node, s.Version, s.Row)
	}
}

// addClear adds a Clear. What is loaded after it has to be.
func (l *ledger) addClear(c *clearing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.lastLoad)
	l.accounts.addClear(c)
}

// broken returns the breaches so far, up to maxBreaches of each promise; never
// nil, which would be null in JSON.
func (l *ledger) broken() []breach {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := []breach{}
	for _, promise := range promises {
		all = append(all, l.breaches[promise]...)
	}
	return all
}
