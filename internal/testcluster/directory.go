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
	// checkTTL is how long a Directory still lists a process that crashed.
	checkTTL = 10 * time.Second
	// reregister is how long nodes take to notice that the directory has forgotten them.
	reregister = 5 * time.Second
)

// A Directory is a discovery that all nodes of a cluster share, and that fails on command in the
// ways in which Consul has been seen to fail. What it reports may differ from node to node: see
// Lag, Hide and Reweigh. Its methods are safe for concurrent use.
type Directory struct {
	mu       sync.Mutex              // guards the following
	listed   map[string]regions.Node // by ID
	watchers map[string]*watcher     // by the ID of the node that watches
	expiring map[string]*time.Timer  // by the ID of a node that crashed
	state    state
	lags     map[string]time.Duration // by node or region
	hidden   map[hiding]bool
	weights  map[string]float64 // by ID; overrides the node's own
	views    uint64             // numbers the views that were reported
}

// hiding says that from is not told of what. Each is a node, or a region that stands for all of its
// nodes.
type hiding struct{ from, what string }

type watcher struct {
	self     regions.Node
	found    func(regions.View)
	err      chan error // ends the watcher's Run
	notified uint64     // the number of the last view that it was told
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
		hidden:   make(map[hiding]bool),
		weights:  make(map[string]float64),
	}
}

// Region implements regions.Discovery. The Directory has no notion of regions.
func (d *Directory) Region(context.Context) (string, error) { return "", nil }

// Run implements regions.Discovery. It does not call healthy.
func (d *Directory) Run(
	ctx context.Context, self regions.Node, _ func() error, found func(regions.View),
) error {
	w := &watcher{self: self, found: found, err: make(chan error, 1)}
	d.mu.Lock()
	if d.state == failing {
		d.mu.Unlock()
		return errDirectory
	}
	d.watchers[self.ID] = w
	d.listLocked(w)
	d.notifyLocked()
	d.mu.Unlock()

	var err error
	select {
	case err = <-w.err:
	case <-ctx.Done():
	}

	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watchers[self.ID] != w {
		return err // the node crashed, and has been started again
	}
	delete(d.watchers, self.ID)
	if err == nil && d.state == working && d.expiring[self.ID] == nil {
		delete(d.listed, self.ID)
		d.notifyLocked()
	}
	return err
}

// listLocked registers a node, if the directory accepts registrations.
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

// notifyLocked tells all watchers what the directory reports, always in the same order.
func (d *Directory) notifyLocked() {
	if d.state == silent || d.state == failing {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(d.watchers)) {
		d.notifyOneLocked(d.watchers[id])
	}
}

// notifyOneLocked tells one watcher what it may know, now or after its lag.
func (d *Directory) notifyOneLocked(w *watcher) {
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
		w.notified = number
		w.found(view)
		return
	}
	time.AfterFunc(lag, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.watchers[w.self.ID] == w && w.notified < number {
			w.notified = number
			w.found(view)
		}
	})
}

func (d *Directory) hiddenLocked(from, what regions.Node) bool {
	for _, f := range []string{from.ID, from.Region} {
		if d.hidden[hiding{f, what.ID}] || d.hidden[hiding{f, what.Region}] {
			return true
		}
	}
	return false
}

// Lag delays by this much everything that a node, or all nodes of a region, are told from now on.
// With 0 they are told at once, including what they have missed.
func (d *Directory) Lag(name string, by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lags[name] = by
	if by == 0 {
		d.notifyLocked()
	}
}

// Hide leaves what, a node or a region, out of what from, a node or a region, is told until Show. A
// node may be hidden from itself.
func (d *Directory) Hide(from, what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hidden[hiding{from, what}] = true
	d.notifyLocked()
}

// Show ends a Hide.
func (d *Directory) Show(from, what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.hidden, hiding{from, what})
	d.notifyLocked()
}

// Reweigh lists a node with this weight instead of its own, or with its own again if weight is 0.
func (d *Directory) Reweigh(id string, weight float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if weight == 0 {
		delete(d.weights, id)
	} else {
		d.weights[id] = weight
	}
	d.notifyLocked()
}

// Relist lists a running node again that was unlisted.
func (d *Directory) Relist(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.watchers[id]; w != nil {
		d.listLocked(w)
		d.notifyLocked()
	}
}

// crashed lets the node's registration expire.
func (d *Directory) crashed(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expiring[id] = time.AfterFunc(checkTTL, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.expiring[id] != nil {
			delete(d.expiring, id)
			delete(d.listed, id)
			d.notifyLocked()
		}
	})
}

// Unlist removes a running node, as an operator or a failed check does.
func (d *Directory) Unlist(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.listed, id)
	d.notifyLocked()
}

// Silence makes the directory say nothing until Restore.
func (d *Directory) Silence() { d.enter(silent) }

// Fail makes every call fail until Restore. Calls in progress fail at once.
func (d *Directory) Fail() { d.enter(failing) }

// AnswerEmpty makes the directory report, in a well-formed answer, that there are no nodes, until
// Restore.
func (d *Directory) AnswerEmpty() { d.enter(answersEmpty) }

// Restore makes the directory work again, with all running nodes registered.
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
			d.listLocked(w) // including those that have started meanwhile: an agent keeps trying
		}
	}
	d.notifyLocked()
}

// Forget loses all registrations, as a Consul agent does that is restarted without its data. The
// nodes notice one after the other, and register again.
func (d *Directory) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = working
	clear(d.listed)
	d.notifyLocked()
	delay := reregister
	for _, id := range slices.Sorted(maps.Keys(d.watchers)) {
		w := d.watchers[id]
		time.AfterFunc(delay, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.watchers[w.self.ID] == w {
				d.listLocked(w)
				d.notifyLocked()
			}
		})
		delay += 100 * time.Millisecond
	}
}
