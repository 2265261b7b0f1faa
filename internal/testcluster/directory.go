package testcluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/geocache/geocache/regions"
)

const (
	// checkTTL is how long a Directory lists a process that crashed.
	checkTTL = 10 * time.Second
	// reregister is how long nodes take to notice that they were forgotten.
	reregister = 5 * time.Second
)

// A Directory is a discovery that all nodes of a cluster share, and that fails on
// command in the ways Consul has been seen to. What it says may differ from node to node:
// see Lag, Hide and Reweigh.
type Directory struct {
	mu       sync.Mutex              // guards the following
	listed   map[string]regions.Node // by ID
	watchers map[string]*watcher     // by the ID of the node that watches
	expiring map[string]*time.Timer  // by the ID of a node that crashed
	state    state
	lags     map[string]time.Duration // by who watches
	hidden   map[secret]bool
	weights  map[string]float64 // by ID: what is listed instead of the node's own
	views    uint64             // told so far
}

// A secret is what somebody is not told of. Both are nodes, or regions that stand for all of theirs.
type secret struct{ from, what string }

type watcher struct {
	self  regions.Node
	found func(regions.View)
	err   chan error // ends the watcher's Run
	told  uint64     // the number of the view that it was told last
}

type state int

const (
	working state = iota
	silent
	failing
	answersEmpty
)

var errDirectory = errors.New("the directory is down")

func newDirectory() *Directory {
	return &Directory{
		listed:   make(map[string]regions.Node),
		watchers: make(map[string]*watcher),
		expiring: make(map[string]*time.Timer),
		lags:     make(map[string]time.Duration),
		hidden:   make(map[secret]bool),
		weights:  make(map[string]float64),
	}
}

// Region implements regions.Discovery. The Directory has no notion of regions.
func (d *Directory) Region(context.Context) (string, error) { return "", nil }

// Run implements regions.Discovery.
func (d *Directory) Run(ctx context.Context, self regions.Node, _ func() error, found func(regions.View)) error {
	w := &watcher{self: self, found: found, err: make(chan error, 1)}
	d.mu.Lock()
	if d.state == failing {
		d.mu.Unlock()
		return errDirectory
	}
	d.watchers[self.ID] = w
	d.listLocked(w)
	d.tellLocked()
	d.mu.Unlock()

	var err error
	select {
	case err = <-w.err:
	case <-ctx.Done():
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watchers[self.ID] != w {
		return err // it crashed, and has been started again
	}
	delete(d.watchers, self.ID)
	if err == nil && d.state == working && d.expiring[self.ID] == nil {
		delete(d.listed, self.ID)
		d.tellLocked()
	}
	return err
}

// listLocked registers a node if the directory takes that.
func (d *Directory) listLocked(w *watcher) {
	if d.state != working {
		return
	}
	if t := d.expiring[w.self.ID]; t != nil {
		t.Stop()
		delete(d.expiring, w.self.ID)
	}
	d.listed[w.self.ID] = w.self
}

// tellLocked tells all watchers what the directory has to say, always in the same order.
func (d *Directory) tellLocked() {
	if d.state == silent || d.state == failing {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(d.watchers)) {
		d.tellOneLocked(d.watchers[id])
	}
}

// tellOneLocked tells a watcher what it is to know, now or later.
func (d *Directory) tellOneLocked(w *watcher) {
	var view regions.View
	for _, id := range slices.Sorted(maps.Keys(d.listed)) {
		if n := d.listed[id]; d.state == working && !d.hiddenLocked(w.self, n) {
			if weight, ok := d.weights[id]; ok {
				n.Weight = weight
			}
			view.Nodes = append(view.Nodes, n)
		}
	}
	d.views++
	number := d.views
	lag := max(d.lags[w.self.ID], d.lags[w.self.Region])
	if lag == 0 {
		w.told = number
		w.found(view)
		return
	}
	time.AfterFunc(lag, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.watchers[w.self.ID] == w && w.told < number {
			w.told = number
			w.found(view)
		}
	})
}

func (d *Directory) hiddenLocked(from, what regions.Node) bool {
	for _, f := range []string{from.ID, from.Region} {
		if d.hidden[secret{f, what.ID}] || d.hidden[secret{f, what.Region}] {
			return true
		}
	}
	return false
}

// Lag has who, a node or all of a region, hear of everything that much later from now on. With 0
// it is told at once, what it has missed too.
func (d *Directory) Lag(who string, by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lags[who] = by
	if by == 0 {
		d.tellLocked()
	}
}

// Hide leaves what, a node or a region, out of what from is told, until Show. A node may be
// hidden from itself.
func (d *Directory) Hide(from, what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hidden[secret{from, what}] = true
	d.tellLocked()
}

// Show ends a Hide.
func (d *Directory) Show(from, what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.hidden, secret{from, what})
	d.tellLocked()
}

// Reweigh lists a node with another weight than it has itself; with 0, with its own again.
func (d *Directory) Reweigh(id string, weight float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if weight == 0 {
		delete(d.weights, id)
	} else {
		d.weights[id] = weight
	}
	d.tellLocked()
}

// Relist lists a node again that was unlisted and runs.
func (d *Directory) Relist(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.watchers[id]; w != nil {
		d.listLocked(w)
		d.tellLocked()
	}
}

// crashed has the node's registration expire.
func (d *Directory) crashed(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expiring[id] = time.AfterFunc(checkTTL, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.expiring[id] != nil {
			delete(d.expiring, id)
			delete(d.listed, id)
			d.tellLocked()
		}
	})
}

// Unlist removes a node that runs, as an operator or a failed check does.
func (d *Directory) Unlist(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.listed, id)
	d.tellLocked()
}

// Silence has the directory say nothing until Restore.
func (d *Directory) Silence() { d.enter(silent) }

// Fail has every call fail until Restore, those under way at once.
func (d *Directory) Fail() { d.enter(failing) }

// AnswerEmpty has the directory answer, correctly formed, that there are no
// nodes, until Restore.
func (d *Directory) AnswerEmpty() { d.enter(answersEmpty) }

// Restore has the directory work again as if nothing had been.
func (d *Directory) Restore() { d.enter(working) }

func (d *Directory) enter(s state) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = s
	for _, w := range d.watchers {
		switch s {
		case failing:
			w.err <- errDirectory
		case working:
			d.listLocked(w) // those that came meanwhile: an agent goes on trying
		}
	}
	d.tellLocked()
}

// Forget loses all registrations, as a Consul agent does that is restarted
// without its data. Nodes notice one after the other and register again.
func (d *Directory) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = working
	clear(d.listed)
	d.tellLocked()
	delay := reregister
	for _, id := range slices.Sorted(maps.Keys(d.watchers)) {
		w := d.watchers[id]
		time.AfterFunc(delay, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.watchers[w.self.ID] == w {
				d.listLocked(w)
				d.tellLocked()
			}
		})
		delay += 100 * time.Millisecond
	}
}
